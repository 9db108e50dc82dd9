//! Stop strings across token boundaries: text that may be the beginning of one is held back.
//!
//! The match that is complete first ends the answer (of two that end at one place, the longer one), so the
//! result does not depend on how the text was cut into tokens.

/// Holds back text until it is certain that it is not part of a stop string.
#[derive(Debug)]
pub(crate) struct StopJail {
    stops: Vec<String>,
    held: String,
}

/// What came of one piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// This much is certain; possibly empty.
    Text(String),
    /// A stop string was completed; this is the text before it, and nothing follows.
    Stopped(String),
}

impl StopJail {
    /// A jail for these stop strings, none of them empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes a piece of text and gives out what is certain.
    pub(crate) fn push(&mut self, text: &str) -> Released {
        self.held.push_str(text);
        if let Some(start) = self.first_stop() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Released::Stopped(text);
        }
        let held = self.held.split_off(self.held.len() - self.undecided_bytes());
        Released::Text(std::mem::replace(&mut self.held, held))
    }

    /// The end of the answer: what was held back is text.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the stop string that is complete first begins.
    fn first_stop(&self) -> Option<usize> {
        let matches = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        matches.min().map(|(_, start)| start)
    }

    /// Length of the longest end of the held text that is the beginning of a stop string.
    fn undecided_bytes(&self) -> usize {
        let beginnings = self.stops.iter().filter_map(|stop| {
            stop.char_indices()
                .map(|(end, _)| end)
                .rev()
                .find(|&end| self.held.ends_with(&stop[..end]))
        });
        beginnings.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds the pieces; the text that came out, and whether a stop string ended it.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut jail = StopJail::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut out = String::new();
        for piece in pieces {
            match jail.push(piece) {
                Released::Text(text) => out.push_str(&text),
                Released::Stopped(text) => return (out + &text, true),
            }
        }
        (out + &jail.finish(), false)
    }

    /// The rule itself, on the whole text: grow the text character by character until it ends with a stop.
    fn expected(stops: &[String], text: &str) -> (String, bool) {
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
        for end in ends {
            let longest = stops
                .iter()
                .filter(|stop| text[..end].ends_with(stop.as_str()))
                .max_by_key(|s| s.len());
            if let Some(stop) = longest {
                return (text[..end - stop.len()].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces() {
        assert_eq!(run(&["END"], &["hello E", "N", "D more"]), ("hello ".to_owned(), true));
        assert_eq!(run(&["END"], &["hello E", "N", "T"]), ("hello ENT".to_owned(), false));
        assert_eq!(run(&["END"], &["EN"]), ("EN".to_owned(), false));
        assert_eq!(run(&[], &["a", "b"]), ("ab".to_owned(), false));
    }

    #[test]
    fn nothing_of_a_possible_stop_string_leaves_early() {
        let mut jail = StopJail::new(vec!["\n\n".to_owned()]);
        assert_eq!(jail.push("line\n"), Released::Text("line".to_owned()));
        assert_eq!(jail.push("next"), Released::Text("\nnext".to_owned()));
    }

    proptest! {
        #[test]
        fn text_out_is_text_in_up_to_the_first_stop(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            let piece_refs: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stop_refs, &piece_refs), expected(&stops, &pieces.concat()));
        }
    }
}
