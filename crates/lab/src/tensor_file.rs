//! safetensors files in one fixed order: the same content gives the same bytes.
//!
//! The header is our own, because the crate safetensors writes metadata in no fixed order.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::exchange::float_bytes;

/// One f32 tensor of a file.
pub(crate) struct NamedTensor<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// Row-major, as many as the shape says.
    pub(crate) values: &'a [f32],
}

/// The file: metadata in order of its keys, tensors in the order given.
pub(crate) fn to_bytes(texts: &BTreeMap<String, String>, tensors: &[NamedTensor<'_>]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!(texts));
    let mut start = 0;
    for NamedTensor { name, shape, values } in tensors {
        let end = start + size_of_val(*values);
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
        start = end;
    }
    let mut header = Value::Object(header).to_string();
    // Values begin at a multiple of 8.
    let num_padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', num_padded - header.len()));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend(tensors.iter().flat_map(|tensor| float_bytes(tensor.values)));
    bytes
}
