//! `.npz`: an array `layers` `[num_layers]` of integers, and for each category an array f32 `[num_layers, hidden_size]` of its name.
//!
//! What the vectors are is a JSON object of texts with [`Declared`]'s keys, as bytes in an array `__metadata__`; files of others have
//! none. Not the other way of one array a layer, `<category>/<layer>`: this one is two lines of `NumPy` to make and to use.
//! Files are not compressed (`numpy.savez`), so that what a reader takes is bounded by what the file has.

use std::collections::BTreeMap;

use super::npy::{self, Array, Numbers};
use super::{Declared, FileVector, Parsed, VectorFile, floats, zip};

const LAYERS: &str = "layers";
const METADATA: &str = "__metadata__";
const SUFFIX: &str = ".npy";

/// Reads a file.
pub(super) fn parse(bytes: &[u8]) -> Parsed<VectorFile> {
    let (mut layers, mut declared) = (None, Declared::default());
    let mut rows = BTreeMap::new();
    for (member, content) in zip::members(bytes)? {
        let name = member.strip_suffix(SUFFIX).ok_or_else(|| {
            let member: String = member.chars().take(64).collect();
            format!("member {member:?}; expected arrays alone, `<name>{SUFFIX}`")
        })?;
        let array = npy::parse(content).map_err(|reason| format!("array `{name}`: {reason}"))?;
        match name {
            LAYERS => layers = Some(read_layers(&array)?),
            METADATA => declared = read_declared(&array)?,
            _ => {
                let (Numbers::F32, &[num_rows, _]) = (array.numbers, array.shape.as_slice()) else {
                    let found = array.found();
                    return Err(format!(
                        "array `{name}` is {found}; expected f32 [layers, hidden_size]"
                    ));
                };
                rows.insert(name, (num_rows, array.data));
            }
        }
    }
    let vectors = rows.into_iter().map(|(name, (num_rows, data))| {
        let vector = FileVector::new(name, layers.as_deref(), num_rows, floats(data))?;
        Ok((name.to_owned(), vector))
    });
    Ok(VectorFile { declared, vectors: vectors.collect::<Parsed<_>>()? })
}

fn read_layers(array: &Array<'_>) -> Parsed<Vec<usize>> {
    let numbers: Vec<i64> = match (array.numbers, array.shape.as_slice()) {
        (Numbers::I64, [_]) => {
            array.data.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
        }
        (Numbers::I32, [_]) => {
            let (chunks, _) = array.data.as_chunks::<4>();
            chunks.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect()
        }
        _ => {
            let found = array.found();
            return Err(format!("array `{LAYERS}` is {found}; expected i64 or i32 [layers]"));
        }
    };
    let layer = |number: i64| {
        usize::try_from(number)
            .map_err(|_| format!("array `{LAYERS}` has {number}; expected blocks from 0"))
    };
    numbers.into_iter().map(layer).collect()
}

fn read_declared(array: &Array<'_>) -> Parsed<Declared> {
    if !matches!(array.numbers, Numbers::U8) {
        let found = array.found();
        return Err(format!(
            "array `{METADATA}` is {found}; expected u8, the bytes of a JSON object"
        ));
    }
    let texts: BTreeMap<String, String> = serde_json::from_slice(array.data)
        .map_err(|error| format!("array `{METADATA}`: {error}; expected a JSON object of texts"))?;
    Declared::from_texts(texts.iter().map(|(key, text)| (key.as_str(), text.as_str())))
}

/// Writes a file.
pub(super) fn write(file: &VectorFile) -> Parsed<Vec<u8>> {
    let mut members = Vec::new();
    let mut add = |name: &str, array: Vec<u8>| members.push((format!("{name}{SUFFIX}"), array));
    let metadata = serde_json::to_vec(&file.declared.to_texts()?).map_err(|e| e.to_string())?;
    add(METADATA, npy::write(Numbers::U8, &[metadata.len()], metadata));
    let layers = file.common_layers()?.iter().map(|&layer| {
        i64::try_from(layer).map_err(|_| format!("layer {layer}: no model has so many"))
    });
    let layers = layers.collect::<Parsed<Vec<i64>>>()?;
    let bytes = layers.iter().flat_map(|layer| layer.to_le_bytes());
    add(LAYERS, npy::write(Numbers::I64, &[layers.len()], bytes));
    for (name, vector) in &file.vectors {
        if [LAYERS, METADATA].contains(&name.as_str()) {
            return Err(format!("a vector of the name `{name}`, which is the format's own"));
        }
        let shape = [vector.num_rows, vector.hidden_size()];
        add(name, npy::write(Numbers::F32, &shape, super::float_bytes(&vector.values)));
    }
    zip::write(&members)
}
