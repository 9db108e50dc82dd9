//! From a file to rows of named fields, whatever the format.

mod bounded;
mod delimited;
mod json;
mod parquet_file;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use base16ct::lower::encode_string;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::{Error, Place, Result};

/// Longest row that is read, in bytes (of Parquet: of its values): a prompt with a long answer takes a few
/// thousand, and a file without line ends, or a quote that never closes, must not fill the memory.
pub const MAX_ROW_BYTES: usize = 1 << 20;

/// What some editors put before the first character of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    /// From 1, header and blank lines not counted.
    pub(super) number: usize,
    /// For errors.
    pub(super) place: Place,
    /// A cell of CSV is text, or null where it is empty.
    pub(super) fields: Map<String, Value>,
}

/// Takes the rows one by one; an error ends the reading.
type OnRow<'a> = dyn FnMut(Row) -> Result<()> + 'a;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    JsonLines,
    /// Lines or one array, which the first character tells.
    Json,
    Csv,
    Tsv,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" => Ok(Self::JsonLines),
            "json" => Ok(Self::Json),
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "parquet" => Ok(Self::Parquet),
            _ => Err(Error::Data(format!(
                "{}: the name does not say the format; expected one that ends in .jsonl, .ndjson, .json, .csv, \
                 .tsv or .parquet",
                path.display()
            ))),
        }
    }
}

/// Gives every row of a file to `on_row`, in order, and returns the file's lower-case hex SHA-256.
pub(super) fn for_each(path: &Path, on_row: &mut OnRow<'_>) -> Result<String> {
    let format = Format::of(path)?;
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let hashed = Hashed { inner: &file, hasher: Sha256::new() };
    let mut reader = BufReader::new(hashed);
    if format != Format::Parquet {
        let start = reader.fill_buf().map_err(|error| Error::io(path, error))?;
        if start.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
        }
    }
    match format {
        Format::JsonLines => json::each_line(&mut reader, path, on_row)?,
        Format::Json => json::each(&mut reader, path, on_row)?,
        Format::Csv => delimited::each(&mut reader, b',', path, on_row)?,
        Format::Tsv => delimited::each(&mut reader, b'\t', path, on_row)?,
        // It reads the open file by position, and what is hashed below is the same file.
        Format::Parquet => parquet_file::each(&file, path, on_row)?,
    }
    if format == Format::Parquet {
        std::io::Seek::rewind(&mut &file).map_err(|error| Error::io(path, error))?;
    }
    // What a format did not look at belongs to the hash all the same.
    std::io::copy(&mut reader, &mut std::io::sink()).map_err(|error| Error::io(path, error))?;
    Ok(encode_string(&reader.into_inner().hasher.finalize()))
}

/// Hashes what is read.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

/// A row is longer than [`MAX_ROW_BYTES`].
fn too_long(path: &Path, place: Place) -> Error {
    Error::bad_row(path, place, format!("the row is longer than {MAX_ROW_BYTES} bytes"))
}

/// What a value is, without its content.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
