//! JSON: one object a line, or one array of objects.

use std::cell::Cell;
use std::fmt;
use std::io::{BufRead, Read};
use std::path::Path;

use serde::Deserializer as _;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};

use super::bounded::Bounded;
use super::{MAX_ROW_BYTES, OnRow, Row, kind, too_long};
use crate::error::{Error, Place, Result};

/// One byte more than allowed, so that a row of exactly the bound still passes.
const ALLOWANCE: usize = MAX_ROW_BYTES + 1;

/// Reads lines, or an array where the file begins with `[`.
pub(super) fn each(reader: &mut impl BufRead, path: &Path, on_row: &mut OnRow<'_>) -> Result<()> {
    let start = reader.fill_buf().map_err(|error| Error::io(path, error))?;
    if start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        each_element(reader, path, on_row)
    } else {
        each_line(reader, path, on_row)
    }
}

/// Reads one object a line; blank lines are passed over.
pub(super) fn each_line(
    reader: &mut impl BufRead,
    path: &Path,
    on_row: &mut OnRow<'_>,
) -> Result<()> {
    let mut bytes = Vec::new();
    let mut number = 0;
    for line in 1.. {
        let place = Place::Line(line);
        bytes.clear();
        let mut bounded = reader.by_ref().take(ALLOWANCE as u64);
        let length =
            bounded.read_until(b'\n', &mut bytes).map_err(|error| Error::io(path, error))?;
        if length == 0 {
            break;
        }
        if length > MAX_ROW_BYTES {
            return Err(too_long(path, place));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        number += 1;
        let fields = object(&bytes).map_err(|reason| Error::bad_row(path, place, reason))?;
        on_row(Row { number, place, fields })?;
    }
    Ok(())
}

/// The fields of one line. Messages of the parser are not passed on: they quote.
fn object(line: &[u8]) -> Result<Map<String, Value>, String> {
    let text =
        std::str::from_utf8(line).map_err(|error| format!("the line is not UTF-8: {error}"))?;
    let value = serde_json::from_str(text).map_err(|error| {
        let place = match error.classify() {
            Category::Eof => "it ends before the object does".to_owned(),
            Category::Io | Category::Syntax | Category::Data => {
                format!("it is wrong at column {}", error.column())
            }
        };
        format!("the line is not JSON: {place}; expected one object a line")
    })?;
    fields(value)
}

fn fields(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(format!("expected a JSON object, found {}", kind(&other))),
    }
}

/// Reads an array element by element, so that the file need not fit the memory.
fn each_element(reader: &mut impl BufRead, path: &Path, on_row: &mut OnRow<'_>) -> Result<()> {
    let (left, number) = (Cell::new(ALLOWANCE), Cell::new(0));
    let mut refused = None;
    let mut json = serde_json::Deserializer::from_reader(Bounded { inner: reader, left: &left });
    let elements = Elements { path, left: &left, number: &number, on_row, refused: &mut refused };
    let read = json.deserialize_seq(elements).and_then(|()| json.end());
    if let Some(error) = refused {
        return Err(error);
    }
    read.map_err(|error| {
        let place = Place::Row(number.get() + 1);
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            Category::Io if left.get() == 0 => too_long(path, place),
            Category::Io => Error::io(path, error.into()),
            Category::Eof => {
                Error::bad_row(path, place, "the file ends before its JSON array does")
            }
            Category::Syntax | Category::Data => Error::bad_row(
                path,
                place,
                format!("the file is not JSON: it is wrong at line {line}, column {column}"),
            ),
        }
    })
}

/// Hands over the elements of an array.
struct Elements<'a, 'f> {
    path: &'a Path,
    left: &'a Cell<usize>,
    /// Elements parsed so far.
    number: &'a Cell<usize>,
    on_row: &'a mut OnRow<'f>,
    /// Why an element was refused: the parser's error type cannot carry it.
    refused: &'a mut Option<Error>,
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(value) = elements.next_element::<Value>()? {
            self.left.set(ALLOWANCE);
            let number = self.number.get() + 1;
            self.number.set(number);
            let place = Place::Row(number);
            let done = fields(value)
                .map_err(|reason| Error::bad_row(self.path, place, reason))
                .and_then(|fields| (self.on_row)(Row { number, place, fields }));
            if let Err(error) = done {
                *self.refused = Some(error);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
