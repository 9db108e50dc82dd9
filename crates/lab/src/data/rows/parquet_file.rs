//! Parquet, by its record interface, which needs no Arrow.

use std::fs::File;
use std::path::Path;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row as Record};
use serde_json::{Map, Number, Value};

use super::{MAX_ROW_BYTES, OnRow, Row, too_long};
use crate::error::{Error, Place, Result};

/// Why a row gives no fields.
enum Bad {
    TooLong,
    Reason(String),
}

/// Reads rows of all row groups.
pub(super) fn each(file: &File, path: &Path, on_row: &mut OnRow<'_>) -> Result<()> {
    let refused = |reason: String| Error::Data(format!("{}: {reason}", path.display()));
    let file = file.try_clone().map_err(|error| Error::io(path, error))?;
    let reader = SerializedFileReader::new(file)
        .map_err(|error| refused(format!("cannot be read as Parquet: {error}")))?;
    check_compression(reader.metadata()).map_err(refused)?;
    let rows = reader
        .get_row_iter(None)
        .map_err(|error| refused(format!("its columns cannot be read as rows: {error}")))?;
    for (idx, record) in rows.enumerate() {
        let number = idx + 1;
        let place = Place::Row(number);
        let mut left = MAX_ROW_BYTES;
        let fields = record.map_err(|error| Bad::Reason(undecoded(&error)));
        match fields.and_then(|record| object(record, &mut left)) {
            Ok(fields) => on_row(Row { number, place, fields })?,
            Err(Bad::TooLong) => return Err(too_long(path, place)),
            Err(Bad::Reason(reason)) => return Err(Error::bad_row(path, place, reason)),
        }
    }
    Ok(())
}

/// Says before the first row what cannot be decoded: other compressions would bring C code or more crates.
fn check_compression(metadata: &ParquetMetaData) -> Result<(), String> {
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    for column in columns {
        if !matches!(column.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY) {
            return Err(format!(
                "column `{}` is compressed with {}; expected SNAPPY or UNCOMPRESSED; write the file again \
                 with one of them, or as JSON Lines",
                column.column_path().string(),
                column.compression_codec()
            ));
        }
    }
    Ok(())
}

/// The parser's own message is passed on only where it speaks of the format: others quote bytes of the row.
fn undecoded(error: &ParquetError) -> String {
    match error {
        ParquetError::NYI(what) => format!("the row uses what is not supported: {what}"),
        _ => "the row cannot be decoded: the file is damaged, or a text is not UTF-8".to_owned(),
    }
}

fn object(record: Record, left: &mut usize) -> Result<Map<String, Value>, Bad> {
    let columns = record.into_columns().into_iter();
    columns
        .map(|(name, field)| {
            spend(left, name.len())?;
            Ok((name, value(field, left)?))
        })
        .collect()
}

/// The value as JSON has it; times and dates as their numbers. What has no counterpart is null: columns that
/// no layout reads must not keep a file from being read, and one that a layout needs is then missed by name.
fn value(field: Field, left: &mut usize) -> Result<Value, Bad> {
    spend(left, 1)?;
    Ok(match field {
        Field::Bool(value) => value.into(),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) | Field::Date(number) | Field::TimeMillis(number) => number.into(),
        Field::Long(number)
        | Field::TimeMicros(number)
        | Field::TimestampMillis(number)
        | Field::TimestampMicros(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float(number) => float(f64::from(number)),
        Field::Double(number) => float(number),
        Field::Str(text) => {
            spend(left, text.len())?;
            text.into()
        }
        // Text without the mark that it is text, as older programs write it.
        Field::Bytes(bytes) => {
            spend(left, bytes.len())?;
            std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from)
        }
        Field::Group(record) => object(record, left)?.into(),
        Field::ListInternal(list) => {
            let elements = list.elements().iter();
            let values: Result<Vec<Value>, Bad> =
                elements.map(|element| value(element.clone(), left)).collect();
            values?.into()
        }
        Field::Null | Field::Float16(_) | Field::Decimal(_) | Field::MapInternal(_) => Value::Null,
    })
}

/// JSON has no infinities and no NaN.
fn float(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn spend(left: &mut usize, num_bytes: usize) -> Result<(), Bad> {
    *left = left.checked_sub(num_bytes).ok_or(Bad::TooLong)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::ZstdLevel;
    use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, RowGroupMetaData};
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;

    use super::*;

    fn metadata(compression: Compression) -> ParquetMetaData {
        let schema = parse_message_type("message rows { required binary text (UTF8); }").unwrap();
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
        let column = ColumnChunkMetaData::builder(schema.column(0));
        let column = column.set_compression(compression).build().unwrap();
        let group = RowGroupMetaData::builder(Arc::clone(&schema)).add_column_metadata(column);
        let file = FileMetaData::new(1, 0, None, None, schema, None);
        ParquetMetaData::new(file, vec![group.build().unwrap()])
    }

    #[test]
    fn a_compression_that_is_not_built_in_is_named_with_its_column() {
        check_compression(&metadata(Compression::SNAPPY)).unwrap();
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let reason = check_compression(&metadata(zstd)).unwrap_err();
        for part in ["`text`", "with ZSTD;", "expected SNAPPY or UNCOMPRESSED"] {
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn the_bytes_of_a_text_that_is_not_utf8_are_not_quoted() {
        let error = ParquetError::General("Bytes: [115, 101]".to_owned());
        assert!(!undecoded(&error).contains("115"));
    }

    #[test]
    fn lists_are_measured_with_what_is_in_them() {
        let text = || Field::Str("x".repeat(10));
        assert!(value(text(), &mut 11).is_ok());
        assert!(matches!(value(text(), &mut 10), Err(Bad::TooLong)));
    }
}
