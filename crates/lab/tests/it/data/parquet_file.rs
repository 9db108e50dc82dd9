//! Small Parquet files, written by the crate's own writer.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// One leaf column; `None` is null, of an optional leaf in required groups.
pub(crate) enum Column {
    Texts(Vec<Option<&'static str>>),
    Bytes(Vec<&'static [u8]>),
    Flags(Vec<bool>),
    Numbers(Vec<i64>),
}

/// Writes `num_groups` row groups, each with all rows of the columns.
pub(crate) fn write(path: &Path, schema: &str, columns: &[Column], num_groups: usize) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for _ in 0..num_groups {
        let mut group = writer.next_row_group().unwrap();
        for column in columns {
            let mut leaf = group.next_column().unwrap().unwrap();
            match column {
                Column::Texts(texts) => {
                    let present: Vec<ByteArray> =
                        texts.iter().flatten().map(|&text| text.into()).collect();
                    let levels: Vec<i16> = texts.iter().map(|text| text.is_some().into()).collect();
                    leaf.typed::<ByteArrayType>()
                        .write_batch(&present, Some(&levels), None)
                        .unwrap();
                }
                Column::Bytes(texts) => {
                    let texts: Vec<ByteArray> =
                        texts.iter().map(|text| text.to_vec().into()).collect();
                    leaf.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
                }
                Column::Flags(flags) => {
                    leaf.typed::<BoolType>().write_batch(flags, None, None).unwrap();
                }
                Column::Numbers(numbers) => {
                    leaf.typed::<Int64Type>().write_batch(numbers, None, None).unwrap();
                }
            }
            leaf.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}
