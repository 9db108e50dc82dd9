//! The rules themselves: an answer, and what IFEval counts in it.

/// What `constrained_response` asks for one of.
const CONSTRAINED_RESPONSES: [&str; 3] =
    ["My answer is yes.", "My answer is no.", "My answer is maybe."];

/// What may stand before a code block of JSON.
const FENCES: [&str; 4] = ["```json", "```Json", "```JSON", "```"];

/// Parts the two answers of `two_responses`.
const RESPONSE_DIVIDER: &str = "******";

/// Parts the paragraphs of `number_paragraphs`.
const PARAGRAPH_DIVIDER: &str = "***";

/// Words before a full stop that does not end a sentence, in lower case.
const ABBREVIATIONS: [&str; 21] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "etc", "e.g", "i.e", "inc", "ltd",
    "co", "u.s", "a.m", "p.m", "p.s", "p.p.s", "cf",
];

/// Runs of letters, digits and underscores, as IFEval counts words: `don't` is two.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Some letter is lower case and none is upper case.
pub(super) fn is_lower(answer: &str) -> bool {
    answer.chars().any(char::is_lowercase) && !answer.chars().any(char::is_uppercase)
}

/// Some letter is upper case and none is lower case.
pub(super) fn is_upper(answer: &str) -> bool {
    answer.chars().any(char::is_uppercase) && !answer.chars().any(char::is_lowercase)
}

/// JSON as a whole, bare or in a code block.
pub(super) fn is_json(answer: &str) -> bool {
    let text = answer.trim();
    let text = FENCES.iter().find_map(|fence| text.strip_prefix(fence)).unwrap_or(text);
    let text = text.strip_suffix("```").unwrap_or(text).trim();
    serde_json::from_str::<serde_json::Value>(text).is_ok()
}

/// Some line has `<<title>>` with a title in it.
pub(super) fn has_title(answer: &str) -> bool {
    answer.lines().any(|line| {
        let inner = line.find("<<").and_then(|start| {
            let rest = &line[start + 2..];
            rest.rfind(">>").map(|end| &rest[..end])
        });
        inner.is_some_and(|title| {
            !title.trim_start_matches('<').trim_end_matches('>').trim().is_empty()
        })
    })
}

/// The whole stands in double quotation marks.
pub(super) fn is_quoted(answer: &str) -> bool {
    let text = answer.trim();
    text.len() > 1 && text.starts_with('"') && text.ends_with('"')
}

/// Two different answers with the divider between them, and no empty one in the middle.
pub(super) fn has_two_responses(answer: &str) -> bool {
    let Some(parts) = parts_between(answer, RESPONSE_DIVIDER) else { return false };
    matches!(parts.as_slice(), [first, second] if first != second)
}

/// The number of paragraphs; `None` where one in the middle is empty.
pub(super) fn num_paragraphs(answer: &str) -> Option<usize> {
    parts_between(answer, PARAGRAPH_DIVIDER).map(|parts| parts.len())
}

/// The parts that a divider makes, trimmed. Empty ones at either end do not count; `None` where one in the
/// middle is empty.
fn parts_between<'a>(answer: &'a str, divider: &str) -> Option<Vec<&'a str>> {
    let mut parts: Vec<&str> = answer.split(divider).map(str::trim).collect();
    if parts.last().is_some_and(|part| part.is_empty()) {
        parts.pop();
    }
    if parts.first().is_some_and(|part| part.is_empty()) {
        parts.remove(0);
    }
    (!parts.iter().any(|part| part.is_empty())).then_some(parts)
}

/// One of the three answers stands somewhere.
pub(super) fn has_constrained_response(answer: &str) -> bool {
    CONSTRAINED_RESPONSES.iter().any(|response| answer.contains(response))
}

/// Lines that begin with `-`, or with one `*` and something after it.
pub(super) fn num_bullets(answer: &str) -> usize {
    let is_bullet = |line: &str| {
        let line = line.trim_start();
        let after_star = line.strip_prefix('*').and_then(|rest| rest.chars().next());
        line.starts_with('-') || after_star.is_some_and(|next| next != '*')
    };
    answer.lines().filter(|line| is_bullet(line)).count()
}

/// `*one*` and `**one**`, not empty and within a line.
pub(super) fn num_highlights(answer: &str) -> usize {
    num_marked(answer, "*") + num_marked(answer, "**")
}

/// Texts between two marks with neither a star nor a line's end in them, from left to right without overlap;
/// blank ones are passed over and not counted.
fn num_marked(answer: &str, mark: &str) -> usize {
    let mut number = 0;
    let mut rest = answer;
    while let Some(start) = rest.find(mark) {
        let inner = &rest[start + mark.len()..];
        let end = inner.find(['*', '\n']).unwrap_or(inner.len());
        if let Some(after) = inner[end..].strip_prefix(mark) {
            number += usize::from(!inner[..end].trim().is_empty());
            rest = after;
        } else {
            // The next place at which a mark may begin.
            rest = &rest[start + 1..];
        }
    }
    number
}

/// `[like this]`, within a line; an empty one counts.
pub(super) fn num_placeholders(answer: &str) -> usize {
    let in_line = |line: &str| {
        let mut number = 0;
        let mut rest = line;
        while let Some((_, inner)) = rest.split_once('[') {
            let Some((_, after)) = inner.split_once(']') else { break };
            number += 1;
            rest = after;
        }
        number
    };
    answer.lines().map(in_line).sum()
}

/// `P.S.`, or `P.P.S` where `double`, in any case and with a space after a full stop or without.
pub(super) fn has_postscript(answer: &str, double: bool) -> bool {
    let answer = answer.to_lowercase();
    let (first, others): (&str, &[&str]) =
        if double { ("p.", &["p.", "s"]) } else { ("p.", &["s."]) };
    answer.match_indices(first).any(|(start, _)| {
        let mut rest = &answer[start + first.len()..];
        others.iter().all(|part| {
            let spaced = rest.strip_prefix(char::is_whitespace).unwrap_or(rest);
            spaced.strip_prefix(part).map(|after| rest = after).is_some()
        })
    })
}

/// How often a letter (lower case) stands in an answer, in either case.
pub(super) fn num_letters(answer: &str, letter: char) -> usize {
    answer.chars().flat_map(char::to_lowercase).filter(|c| *c == letter).count()
}

/// The last words are these, whatever their case; quotation marks around the answer do not count.
pub(super) fn ends_with(answer: &str, phrase: &str) -> bool {
    let answer = answer.trim().trim_matches('"').to_lowercase();
    answer.ends_with(&phrase.trim().to_lowercase())
}

/// Sentences: pieces that end with `.`, `!` or `?` before a space, or with the text, and have a letter or digit.
///
/// No sentence ends after an abbreviation, an initial, or the number of a list's item. The original uses
/// NLTK's trained splitter, which knows more abbreviations; like it this one takes a heading without a full stop
/// together with what follows.
pub(super) fn num_sentences(answer: &str) -> usize {
    let mut number = 0;
    let mut has_content = false;
    for piece in answer.split_whitespace() {
        let bare = piece.trim_end_matches(['"', '\'', ')', ']', '*', '_', '\u{201d}', '\u{2019}']);
        let is_marker = !has_content && is_list_marker(bare);
        has_content |= piece.chars().any(char::is_alphanumeric) && !is_marker;
        let ends = bare.ends_with(['!', '?', '\u{2026}'])
            || (bare.ends_with('.') && !is_abbreviation(bare));
        if ends && has_content {
            number += 1;
            has_content = false;
        }
    }
    number + usize::from(has_content)
}

/// `1.` or `a.`, as it stands before an item of a list.
fn is_list_marker(piece: &str) -> bool {
    let Some(name) = piece.strip_suffix('.') else { return false };
    (!name.is_empty() && name.chars().all(|c| c.is_ascii_digit()))
        || (name.len() == 1 && name.chars().all(char::is_alphabetic))
}

/// A word whose full stop does not end a sentence: an abbreviation, or an initial (but not `I`).
fn is_abbreviation(piece: &str) -> bool {
    let word = piece.trim_end_matches('.').trim_start_matches(|c: char| !c.is_alphanumeric());
    let mut letters = word.chars();
    let is_initial = letters.next().is_some_and(|c| c.is_uppercase() && c != 'I')
        && letters.next().is_none()
        && !piece.ends_with("..");
    is_initial || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}
