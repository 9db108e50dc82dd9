//! CSV and TSV: a header row with the names, then one row an item, with quotes as in RFC 4180 in either.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::path::Path;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::{Map, Value};

use super::bounded::Bounded;
use super::{MAX_ROW_BYTES, OnRow, Row, too_long};
use crate::error::{Error, Place, Result};

/// How far the parser reads ahead.
const BUFFER_BYTES: usize = 8 << 10;
/// What may be read for one row: the row and what is read ahead. The row itself is measured when it is complete.
const ALLOWANCE: usize = MAX_ROW_BYTES + BUFFER_BYTES + 1;

/// Reads rows of cells; blank lines are passed over.
pub(super) fn each(
    reader: impl Read,
    delimiter: u8,
    path: &Path,
    on_row: &mut OnRow<'_>,
) -> Result<()> {
    let left = Cell::new(0);
    let newlines = RefCell::new(Newlines::default());
    let bounded = Bounded { inner: reader, left: &left };
    // Flexible, and in bytes: what is wrong with a row is found here, where its line is known.
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(BUFFER_BYTES)
        .from_reader(Watched { inner: bounded, newlines: &newlines });
    let mut record = ByteRecord::new();
    let mut names: Option<Vec<String>> = None;
    let mut next_line = 1;
    // The header is row 0.
    for number in 0.. {
        left.set(ALLOWANCE);
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(refusal(path, Place::Line(next_line), &left, error)),
        }
        let last_line = newlines.borrow_mut().line_of_end(reader.position().byte());
        let num_inside = record.as_slice().iter().filter(|&&byte| byte == b'\n').count();
        let place = Place::Line(last_line - num_inside);
        next_line = last_line + 1;
        if record.as_slice().len() > MAX_ROW_BYTES {
            return Err(too_long(path, place));
        }
        let bad_row = |reason| Error::bad_row(path, place, reason);
        match &names {
            None => names = Some(header(&record).map_err(bad_row)?),
            Some(names) => {
                let fields = fields(names, &record).map_err(bad_row)?;
                on_row(Row { number, place, fields })?;
            }
        }
    }
    Ok(())
}

/// Where lines end. The parser counts lines too, but a row's count there is one short after CRLF and does not
/// know of blank lines before the row.
#[derive(Default)]
struct Newlines {
    num_read: u64,
    /// Of the bytes read ahead and of the row at hand, so that there are never many.
    offsets: VecDeque<u64>,
    num_passed: usize,
}

impl Newlines {
    /// The line on which a row ends, from the offset behind its end: the last byte before it is of the line end,
    /// or of the row where the file ends.
    fn line_of_end(&mut self, end: u64) -> usize {
        while self.offsets.front().is_some_and(|offset| offset + 1 < end) {
            self.offsets.pop_front();
            self.num_passed += 1;
        }
        self.num_passed + 1
    }
}

/// Notes the ends of lines that are read.
struct Watched<'a, R> {
    inner: R,
    newlines: &'a RefCell<Newlines>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let mut newlines = self.newlines.borrow_mut();
        for byte in &buffer[..length] {
            if *byte == b'\n' {
                let offset = newlines.num_read;
                newlines.offsets.push_back(offset);
            }
            newlines.num_read += 1;
        }
        Ok(length)
    }
}

/// The names, which must differ. A column without one, such as the index that some programs write, is passed over.
fn header(record: &ByteRecord) -> Result<Vec<String>, String> {
    let mut seen = HashSet::new();
    let names = record.iter().enumerate().map(|(idx, cell)| {
        let name = text(idx, cell)?.trim();
        if name.is_empty() || seen.insert(name) {
            return Ok(name.to_owned());
        }
        let column = idx + 1;
        Err(format!(
            "column {column} of the header has the name of an earlier one; expected a row of different names"
        ))
    });
    names.collect()
}

fn fields(names: &[String], record: &ByteRecord) -> Result<Map<String, Value>, String> {
    if record.len() != names.len() {
        return Err(format!(
            "the number of cells is {}; expected {}, as in the header (a cell with a delimiter, a quote or a line end \
             in it stands in quotes)",
            record.len(),
            names.len()
        ));
    }
    let cells = names.iter().zip(record).enumerate().filter(|(_, (name, _))| !name.is_empty());
    cells
        .map(|(idx, (name, cell))| {
            let content = text(idx, cell)?;
            let value = if content.is_empty() { Value::Null } else { content.into() };
            Ok((name.clone(), value))
        })
        .collect()
}

fn text(idx: usize, cell: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(cell).map_err(|_| format!("cell {} of the row is not UTF-8", idx + 1))
}

fn refusal(path: &Path, place: Place, left: &Cell<usize>, error: csv::Error) -> Error {
    match error.into_kind() {
        ErrorKind::Io(_) if left.get() == 0 => too_long(path, place),
        ErrorKind::Io(error) => Error::io(path, error),
        _ => Error::bad_row(path, place, "the row cannot be parsed"),
    }
}
