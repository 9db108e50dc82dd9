//! Texts spelt otherwise, and cut in parts.

/// Letters as the digits that look like them; others stay.
pub(super) fn leetspeak(text: &str) -> String {
    let digit = |letter: char| match letter.to_ascii_lowercase() {
        'a' => '4',
        'e' => '3',
        'i' => '1',
        'o' => '0',
        's' => '5',
        't' => '7',
        _ => letter,
    };
    text.chars().map(digit).collect()
}

/// ASCII letters moved by 13 places; twice gives the text again.
pub(super) fn rot13(text: &str) -> String {
    let moved = |letter: char| match letter {
        'a'..='m' | 'A'..='M' => char::from(letter as u8 + 13),
        'n'..='z' | 'N'..='Z' => char::from(letter as u8 - 13),
        _ => letter,
    };
    text.chars().map(moved).collect()
}

/// A space between any two characters of a word, three between words.
pub(super) fn spaced(text: &str) -> String {
    let apart = |word: &str| {
        let letters: Vec<String> = word.chars().map(String::from).collect();
        letters.join(" ")
    };
    let words: Vec<String> = text.split_whitespace().map(apart).collect();
    words.join("   ")
}

/// At most `num` parts of about as many words each, without the space at the cuts. A text of fewer words than parts is cut
/// between characters: some scripts have no space between words.
pub(super) fn in_parts(text: &str, num: usize) -> Vec<&str> {
    let text = text.trim();
    let starts = word_starts(text);
    let starts =
        if starts.len() < num { text.char_indices().map(|(at, _)| at).collect() } else { starts };
    let num = num.min(starts.len());
    let cut = |part: usize| starts.get(part * starts.len() / num).copied().unwrap_or(text.len());
    (0..num).map(|part| text[cut(part)..cut(part + 1)].trim()).collect()
}

/// Byte offsets at which words begin.
fn word_starts(text: &str) -> Vec<usize> {
    let mut was_space = true;
    let mut starts = Vec::new();
    for (at, letter) in text.char_indices() {
        if was_space && !letter.is_whitespace() {
            starts.push(at);
        }
        was_space = letter.is_whitespace();
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_the_known_ones() {
        assert_eq!(leetspeak("How to Bake Sweet Rolls?"), "H0w 70 B4k3 5w337 R0ll5?");
        assert_eq!(rot13("How to Bake?"), "Ubj gb Onxr?");
        assert_eq!(rot13(&rot13("Lazy Mango, 13 Nuts")), "Lazy Mango, 13 Nuts");
        assert_eq!(spaced("How to\n bake"), "H o w   t o   b a k e");
    }

    #[test]
    fn parts_are_cut_at_words_and_have_about_as_many() {
        assert_eq!(in_parts("one two  three four\nfive", 3), ["one", "two  three", "four\nfive"]);
        assert_eq!(in_parts(" one two three ", 3), ["one", "two", "three"]);
        let text = "word ".repeat(100);
        let sizes: Vec<usize> =
            in_parts(&text, 3).iter().map(|part| part.split_whitespace().count()).collect();
        assert_eq!(sizes, [33, 33, 34]);
    }

    #[test]
    fn texts_of_few_words_are_cut_between_characters() {
        assert_eq!(in_parts("怎样烤面包呢", 3), ["怎样", "烤面", "包呢"]);
        assert_eq!(in_parts("ab", 3), ["a", "b"]);
        assert_eq!(in_parts("a", 3), ["a"]);
    }
}
