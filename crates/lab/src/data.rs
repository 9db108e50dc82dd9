//! Data files: JSON Lines, one item a line, with the fields of [`Item`].
//!
//! Public safety sets (CatQA, BeaverTails, `XSTest`, Alpaca and others) are brought to this form by whoever
//! has them; none of their texts is part of this repository.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use base16ct::lower::encode_string;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use skeg_vector_store::Category;

use crate::category::category_of_catqa_name;
use crate::error::{Error, Result};

/// Longest line that is read, in bytes: a prompt with a long answer takes a few thousand, and a file
/// without line ends must not fill the memory.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// One line of a data file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Item {
    /// Unique in its set.
    pub id: String,
    /// The prompt.
    pub text: String,
    /// The set's own name of the category, if it has one.
    pub category: Option<String>,
    /// The set's own name of a finer category.
    pub subcategory: Option<String>,
    /// Whether the prompt is harmful; `None` where the set does not say.
    pub harmful: Option<bool>,
    /// An answer to the prompt.
    pub response: Option<String>,
    /// The set's label of that answer: `safe`, `unsafe`, `refusal`, `compliance` and others.
    pub response_label: Option<String>,
    /// Where the item is from.
    pub source: String,
}

impl Item {
    /// The category, where it is one of CatQA's (display name or slug).
    #[must_use]
    pub fn catqa_category(&self) -> Option<Category> {
        category_of_catqa_name(self.category.as_deref()?)
    }
}

/// A data file as read.
#[derive(Debug, Clone)]
pub struct DataSet {
    /// Items in the file's order, without repeats.
    pub items: Vec<Item>,
    /// Lines left out because prompt and answer were those of an earlier line.
    pub num_repeats: usize,
    /// Lower-case hex SHA-256 of the file.
    pub sha256: String,
}

/// Reads a data file.
///
/// # Errors
/// [`Error::Io`], or [`Error::BadLine`] for a line that is longer than [`MAX_LINE_BYTES`], is not
/// UTF-8, is not a JSON object with the fields of [`Item`], or has an empty `text` or a used `id`.
pub fn read_jsonl(path: &Path) -> Result<DataSet> {
    let io_error = |source| Error::Io { path: path.to_owned(), source };
    let bad_line = |line, reason| Error::BadLine { path: path.to_owned(), line, reason };
    let mut reader = BufReader::new(File::open(path).map_err(io_error)?);
    let mut hasher = Sha256::new();
    let (mut items, mut num_repeats) = (Vec::new(), 0);
    let (mut seen_ids, mut seen_texts) = (HashSet::new(), HashSet::new());
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        // One byte more than allowed, so that a line of exactly the bound still passes.
        let limit = MAX_LINE_BYTES as u64 + 1;
        let length = reader.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(io_error)?;
        if length == 0 {
            break;
        }
        hasher.update(&bytes);
        if length > MAX_LINE_BYTES {
            return Err(bad_line(line, format!("the line is longer than {MAX_LINE_BYTES} bytes")));
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| bad_line(line, format!("the line is not UTF-8: {error}")))?;
        if text.trim().is_empty() {
            continue;
        }
        let item = parse_item(text).map_err(|reason| bad_line(line, reason))?;
        if !seen_ids.insert(item.id.clone()) {
            let reason = format!("id `{}` was used by an earlier line; ids must differ", item.id);
            return Err(bad_line(line, reason));
        }
        if seen_texts.insert((item.text.clone(), item.response.clone())) {
            items.push(item);
        } else {
            num_repeats += 1;
        }
    }
    Ok(DataSet { items, num_repeats, sha256: encode_string(&hasher.finalize()) })
}

/// Parses one line. The message names the place and never quotes the text.
fn parse_item(text: &str) -> Result<Item, String> {
    let item: Item = serde_json::from_str(text).map_err(|error| {
        format!(
            "not an item: {error}; expected a JSON object with id, text and source, and category, \
             subcategory, harmful, response, response_label, each of which may be null"
        )
    })?;
    if item.text.trim().is_empty() {
        return Err(format!("item `{}` has an empty `text`", item.id));
    }
    Ok(item)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(content: &[u8]) -> Result<DataSet> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        read_jsonl(file.path())
    }

    fn line(id: &str, text: &str, response: &str) -> String {
        format!(
            "{{\"id\":\"{id}\",\"text\":\"{text}\",\"category\":\"Malware Viruses\",\
             \"response\":{response},\"source\":\"own\"}}\n"
        )
    }

    #[test]
    fn repeats_of_prompt_and_answer_are_dropped_and_counted() {
        let content = line("a", "x", "null")
            + &line("b", "x", "null")
            + "\n"
            + &line("c", "x", "\"yes\"")
            + &line("d", "y", "null");
        let set = read(content.as_bytes()).unwrap();
        let ids: Vec<&str> = set.items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["a", "c", "d"]);
        assert_eq!(set.num_repeats, 1);
        assert_eq!(set.items[0].catqa_category().unwrap().as_str(), "malware_viruses");
    }

    #[test]
    fn the_hash_is_that_of_the_file() {
        // sha256 of no bytes at all
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(read(b"").unwrap().sha256, empty);
    }

    #[test]
    fn errors_name_the_line() {
        let good = line("a", "x", "null");
        for (bad, expected) in [
            ("{\"id\": 3}\n".to_owned(), "not an item"),
            (line("b", " ", "null"), "empty `text`"),
            (line("a", "other", "null"), "id `a` was used"),
            ("x".repeat(MAX_LINE_BYTES + 1), "longer than 1048576 bytes"),
        ] {
            let error = read((good.clone() + &bad).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(":2: ") && error.contains(expected), "{error}");
        }
        let error = read(&[good.as_bytes(), &[0xff, b'\n']].concat()).unwrap_err().to_string();
        assert!(error.contains("not UTF-8"), "{error}");
    }
}
