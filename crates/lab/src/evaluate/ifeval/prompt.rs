//! Arguments of constraints, read from a prompt's wording; nothing is guessed.

/// Words that may stand between a number and the unit it counts.
const BETWEEN: [&str; 15] = [
    "very",
    "short",
    "long",
    "text",
    "highlighted",
    "italic",
    "italicized",
    "bold",
    "markdown",
    "different",
    "distinct",
    "total",
    "separate",
    "small",
    "full",
];

const NUMBER_WORDS: [&str; 20] = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// Words before a number that make another reading of it than the number alone.
const UNKNOWN_RELATIONS: [&str; 9] =
    ["than", "about", "around", "approximately", "roughly", "or", "nearly", "first", "last"];

/// How many there may be, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) min: usize,
    pub(super) max: Option<usize>,
}

impl Bounds {
    pub(super) fn hold(self, number: usize) -> bool {
        self.min <= number && self.max.is_none_or(|max| number <= max)
    }
}

/// What a number means by itself, and which other readings a constraint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Only with words that say so, such as `at least`.
    Stated,
    /// Exactly that many; the constraint has no other reading.
    Exact,
    /// At least that many; the constraint has no other reading.
    AtLeast,
}

/// The bounds on a number of `units` (singular, lower case); `None` where the prompt states none, or several that differ.
///
/// With `about`, only sentences count that have a word which begins with one of them.
pub(super) fn bounds(
    prompt: &str,
    units: &[&str],
    about: &[&str],
    reading: Reading,
) -> Option<Bounds> {
    let is_about = |sentence: &Vec<Token>| {
        let begins = |token: &Token| about.iter().any(|word| token.text.starts_with(word));
        about.is_empty() || sentence.iter().any(begins)
    };
    let sentences: Vec<Vec<Token>> = sentences(prompt).into_iter().filter(is_about).collect();
    bounds_in(&sentences, units, reading)
}

/// The letter that an answer is to have so many times, in lower case: `the letter q appears at least 4 times`. `None` where
/// the prompt names none, or several, or its bounds cannot be read.
pub(super) fn letter_bounds(prompt: &str) -> Option<(char, Bounds)> {
    let mut named = Vec::new();
    let mut about = Vec::new();
    for sentence in sentences(prompt) {
        let letters = sentence.windows(2).filter(|pair| pair[0].text == "letter");
        let letters: Vec<char> = letters.filter_map(|pair| pair[1].text.parse().ok()).collect();
        if !letters.is_empty() {
            named.extend(letters);
            about.push(sentence);
        }
    }
    named.dedup();
    let [letter] = named.as_slice() else { return None };
    Some((*letter, bounds_in(&about, &["time"], Reading::Stated)?))
}

/// [`bounds`] in sentences.
fn bounds_in(sentences: &[Vec<Token>], units: &[&str], reading: Reading) -> Option<Bounds> {
    let mut found: Vec<(Bounds, bool)> = Vec::new();
    for sentence in sentences {
        for (idx, token) in sentence.iter().enumerate() {
            let is_unit = units.iter().any(|unit| {
                token.text.strip_prefix(unit).is_some_and(|ending| matches!(ending, "" | "s"))
            });
            if is_unit {
                found.extend(around_unit(sentence, idx, reading));
            }
        }
    }
    // A bare number is an aside where another place states a bound: `less than 3 sentences (1 or 2 sentences)`.
    if found.iter().any(|(_, is_stated)| *is_stated) {
        found.retain(|(_, is_stated)| *is_stated);
    }
    let (first, is_stated) = *found.first()?;
    let agree = found.iter().all(|(bounds, _)| *bounds == first);
    (agree && (is_stated || reading != Reading::Stated)).then_some(first)
}

/// Whether a postscript is to be `P.P.S` and not `P.S.`; `None` where the prompt names neither or both.
pub(super) fn has_double_postscript(prompt: &str) -> Option<bool> {
    let double = prompt.contains("P.P.S");
    let single = prompt.replace("P.P.S", "").contains("P.S");
    (double != single).then_some(double)
}

/// The phrase in double quotation marks that an answer is to end with: the one after `end`, `finish` or `last sentence`
/// in the same sentence. `None` where there is none, or several that differ.
pub(super) fn end_phrase(prompt: &str) -> Option<String> {
    let prompt = prompt.replace(['\u{201c}', '\u{201d}'], "\"");
    let pieces: Vec<&str> = prompt.split('"').collect();
    // Every second piece stands in quotation marks, if every mark has its other one.
    if pieces.len().is_multiple_of(2) {
        return None;
    }
    let quoted = pieces.chunks_exact(2).filter(|pair| asks_for_end(pair[0])).map(|pair| pair[1]);
    let mut phrases: Vec<&str> = quoted.map(str::trim).collect();
    phrases.dedup();
    match phrases.as_slice() {
        [phrase] if !phrase.is_empty() && !phrase.contains('\n') => Some((*phrase).to_owned()),
        _ => None,
    }
}

/// Whether the sentence that a text breaks off in says how an answer is to end.
fn asks_for_end(text: &str) -> bool {
    let sentence = text.rsplit(['.', '!', '?', '\n']).next().unwrap_or(text).to_lowercase();
    let mut words = sentence.split(|c: char| !c.is_alphanumeric());
    words.any(|word| matches!(word, "end" | "ends" | "finish"))
        || sentence.contains("last sentence")
}

/// A word of a prompt.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    /// Lower case, without punctuation at its ends.
    text: String,
    /// `600+`.
    has_plus: bool,
}

/// The prompt's sentences in words: they end with a line, and with a sign that ends one.
fn sentences(prompt: &str) -> Vec<Vec<Token>> {
    let mut sentences = Vec::new();
    for line in prompt.lines() {
        let mut sentence = Vec::new();
        for piece in line.split_whitespace() {
            // `200-word` is a number and a unit; `twenty-five` stays one word, and so no number.
            let parts = match piece.split_once('-') {
                Some((number, unit)) if number.parse::<usize>().is_ok() => vec![number, unit],
                _ => vec![piece],
            };
            sentence.extend(parts.into_iter().map(|part| Token {
                text: part.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase(),
                has_plus: part.contains('+'),
            }));
            let bare = piece.trim_end_matches(['"', '\'', ')', '*', ']']);
            if bare.ends_with(['.', '!', '?', ':', ';']) {
                sentences.push(std::mem::take(&mut sentence));
            }
        }
        sentences.push(sentence);
    }
    for sentence in &mut sentences {
        sentence.retain(|token| !token.text.is_empty());
    }
    sentences
}

/// The bounds that stand around the unit at `unit` of a sentence, and whether words state them.
fn around_unit(sentence: &[Token], unit: usize, reading: Reading) -> Option<(Bounds, bool)> {
    let word = |idx: usize| sentence.get(idx).map(|token| token.text.as_str());
    let mut at = unit.checked_sub(1)?;
    while BETWEEN.contains(&sentence[at].text.as_str()) {
        at = at.checked_sub(1)?;
    }
    // `400 or more words` has the number two words before; `150 words or less` says it afterwards.
    let inside = at.checked_sub(1).and_then(|or| or_relation(word(or), word(at)));
    if inside.is_some() {
        at = at.checked_sub(2)?;
    }
    let number = number(&sentence[at])?;
    let before = &sentence[..at];
    let is_of_a_part = before.iter().any(|token| matches!(token.text.as_str(), "each" | "every"))
        || matches!(word(unit + 1), Some("per" | "each") if unit + 2 >= sentence.len())
        || word(unit + 1) == Some("per");
    if is_of_a_part {
        return None;
    }
    let after = or_relation(word(unit + 1), word(unit + 2));
    let plus = sentence[at].has_plus.then_some(Relation::AtLeast);
    let relation = match inside.or(after).or(plus) {
        Some(relation) => Some(relation),
        None => match range(before, number) {
            // The other constraints have no reading for a range.
            Some(range) => return (reading == Reading::Stated).then_some((range, true)),
            None => relation(before)?,
        },
    };
    Some((reading.bounds(relation, number)?, relation.is_some()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    AtLeast,
    MoreThan,
    AtMost,
    LessThan,
    Exactly,
}

impl Reading {
    /// What a number means with its relation, if it has one; `None` where the constraint knows no such relation.
    fn bounds(self, relation: Option<Relation>, number: usize) -> Option<Bounds> {
        match (self, relation) {
            (Self::AtLeast, None) | (Self::Stated | Self::AtLeast, Some(Relation::AtLeast)) => {
                Some(Bounds { min: number, max: None })
            }
            (Self::Stated | Self::Exact, None | Some(Relation::Exactly)) => {
                Some(Bounds { min: number, max: Some(number) })
            }
            (Self::Stated, Some(Relation::MoreThan)) => Some(Bounds { min: number + 1, max: None }),
            (Self::Stated, Some(Relation::AtMost)) => Some(Bounds { min: 0, max: Some(number) }),
            (Self::Stated, Some(Relation::LessThan)) => {
                Some(Bounds { min: 0, max: Some(number.checked_sub(1)?) })
            }
            (Self::Exact | Self::AtLeast, Some(_)) => None,
        }
    }
}

/// `or more` and the like.
fn or_relation(or: Option<&str>, word: Option<&str>) -> Option<Relation> {
    match (or, word) {
        (Some("or"), Some("more")) => Some(Relation::AtLeast),
        (Some("or"), Some("less" | "fewer")) => Some(Relation::AtMost),
        _ => None,
    }
}

/// What the words before a number say of it: `Some(None)` where nothing does, `None` where what they say is not among
/// the known, such as `longer than`, or where they deny it.
fn relation(before: &[Token]) -> Option<Option<Relation>> {
    let words: Vec<&str> = before.iter().rev().map(|token| token.text.as_str()).take(6).collect();
    let (relation, further) = match words.as_slice() {
        ["least", "at", further @ ..] => (Relation::AtLeast, further),
        ["of", "minimum", "a", further @ ..] => (Relation::AtLeast, further),
        ["most", "at", further @ ..] => (Relation::AtMost, further),
        ["of", "maximum", "a", further @ ..] => (Relation::AtMost, further),
        ["to", "up", further @ ..] => (Relation::AtMost, further),
        ["than", "less" | "fewer", "no" | "not", further @ ..] => (Relation::AtLeast, further),
        ["than", "more", "no" | "not", further @ ..] => (Relation::AtMost, further),
        ["than", "less" | "fewer", further @ ..] => (Relation::LessThan, further),
        ["than", "more", further @ ..] => (Relation::MoreThan, further),
        ["under" | "below", further @ ..] => (Relation::LessThan, further),
        ["over" | "above", further @ ..] => (Relation::MoreThan, further),
        ["exactly", further @ ..] => (Relation::Exactly, further),
        [word, ..] if UNKNOWN_RELATIONS.contains(word) || word.parse::<usize>().is_ok() => {
            return None;
        }
        _ => return Some(None),
    };
    let denies = |word: &&str| {
        matches!(*word, "no" | "not" | "never")
            || word.ends_with("n't")
            || word.ends_with("n\u{2019}t")
    };
    (!further.iter().take(3).any(denies)).then_some(Some(relation))
}

/// `5 to 10` and `between 5 and 10`: the bounds, given the second number.
fn range(before: &[Token], max: usize) -> Option<Bounds> {
    let (word, before) = before.split_last()?;
    let (first, before) = before.split_last()?;
    let is_range = match word.text.as_str() {
        "to" => true,
        "and" => before.last().is_some_and(|ahead| ahead.text == "between"),
        _ => false,
    };
    let min = number(first).filter(|min| is_range && *min <= max)?;
    Some(Bounds { min, max: Some(max) })
}

fn number(token: &Token) -> Option<usize> {
    if let Some(idx) = NUMBER_WORDS.iter().position(|word| *word == token.text) {
        return Some(idx + 1);
    }
    token.text.replace(',', "").parse().ok()
}
