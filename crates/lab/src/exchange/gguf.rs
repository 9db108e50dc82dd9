//! GGUF `controlvector`: the files of llama.cpp (`--control-vector`) and repeng.
//!
//! ```text
//! general.architecture      = "controlvector"
//! controlvector.model_hint  = "llama"          the kind of model; llama.cpp does not read it, repeng must have it
//! controlvector.layer_count = 4                tensors in the file; nobody reads it
//! direction.<layer>                            f32 [hidden_size]
//! skeg.<key>                                   what `Declared` says; others pass over it
//! ```
//!
//! **Layer numbers.** `direction.N` is added to the residual stream after the block of index N, counted from 0: our `resid_post` of
//! layer N, without an offset. llama.cpp's `common_control_vector_load` puts `direction.N` at row N - 1 of a buffer, and
//! `llama_adapter_cvec::apply` fills block `il` from row `il - 1`: the two shifts cancel, and the graph adds it to block `il`'s
//! output. repeng's `directions[N]` is computed from `hidden_states[N + 1]`, the output of block N, and added to `model.layers[N]`'s
//! output. `direction.0` does not exist for llama.cpp, which refuses a file that has it ("there's never a tensor for
//! layer 0"), so a vector that acts after block 0 cannot be exported. By its source, llama.cpp's own generator names the difference after
//! block N `direction.(N + 1)`; what such a file holds is what llama.cpp applies, and it is imported as llama.cpp applies it.
//!
//! The reader is our own, since candle's divides by the file's alignment, which may be 0, and lets a later tensor take the
//! place of an earlier one of the same name. Files are written by candle's.

use std::collections::BTreeMap;
use std::io;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use skeg_vector_store::{Operator, Site};

use super::cursor::Cursor;
use super::{Declared, FileVector, Parsed, VectorFile, floats};

/// The name that the one vector of a file has here; the format has none.
pub const NAME: &str = "direction";

const ARCHITECTURE: &str = "general.architecture";
const CONTROL_VECTOR: &str = "controlvector";
const MODEL_HINT: &str = "controlvector.model_hint";
const LAYER_COUNT: &str = "controlvector.layer_count";
const ALIGNMENT: &str = "general.alignment";
/// Before the keys of [`Declared`].
const OURS: &str = "skeg.";
const DEFAULT_ALIGNMENT: usize = 32;
/// ggml's longest tensor name, its end included.
const MAX_NAME_BYTES: usize = 64;
const MAX_DIMENSIONS: usize = 4;
const F32: u32 = 0;

/// A tensor's place, before its values are read.
#[derive(Debug)]
struct Direction {
    layer: usize,
    hidden_size: usize,
    offset: usize,
}

/// Reads a file.
pub(super) fn parse(bytes: &[u8]) -> Parsed<VectorFile> {
    let mut cursor = Cursor::at(bytes, 0);
    if cursor.take(4, "the magic number")? != b"GGUF" {
        return Err("not a GGUF file: it does not begin with `GGUF`".to_owned());
    }
    let version = cursor.u32("the version")?;
    if !matches!(version, 2 | 3) {
        return Err(format!("GGUF version {version}; expected 2 or 3, little-endian"));
    }
    let num_tensors = cursor.u64("the number of tensors")?;
    let num_entries = cursor.u64("the number of metadata entries")?;
    let metadata = read_metadata(&mut cursor, num_entries)?;
    let declared = declared(&metadata)?;
    let alignment = metadata.get(ALIGNMENT).map_or(Ok(DEFAULT_ALIGNMENT), alignment)?;
    // No capacity from the file's counts: each round takes bytes from the file, or ends.
    let mut directions = Vec::new();
    for _ in 0..num_tensors {
        directions.push(read_direction(&mut cursor)?);
    }
    let start = cursor.position().next_multiple_of(alignment);
    let vector = read_values(bytes, start, alignment, directions)?;
    Ok(VectorFile { declared, vectors: BTreeMap::from([(NAME.to_owned(), vector)]) })
}

/// A metadata value, as far as anybody here looks at it.
#[derive(Debug, Clone, Copy)]
enum Entry<'a> {
    Text(&'a str),
    Number(u32),
    Other,
}

fn read_metadata<'a>(
    cursor: &mut Cursor<'a>,
    num_entries: u64,
) -> Parsed<BTreeMap<&'a str, Entry<'a>>> {
    let mut metadata = BTreeMap::new();
    for _ in 0..num_entries {
        let key = read_text(cursor, "a metadata key")?;
        let kind = cursor.u32("a metadata type")?;
        if metadata.insert(key, read_entry(cursor, kind)?).is_some() {
            return Err("a metadata key is there twice".to_owned());
        }
    }
    Ok(metadata)
}

fn read_text<'a>(cursor: &mut Cursor<'a>, what: &str) -> Parsed<&'a str> {
    let num_bytes = cursor.u64_size(what)?;
    let text = std::str::from_utf8(cursor.take(num_bytes, what)?);
    text.map_err(|_| format!("{what} is not UTF-8"))
}

fn read_entry<'a>(cursor: &mut Cursor<'a>, kind: u32) -> Parsed<Entry<'a>> {
    const WHAT: &str = "a metadata value";
    match kind {
        4 => return Ok(Entry::Number(cursor.u32(WHAT)?)),
        8 => return Ok(Entry::Text(read_text(cursor, WHAT)?)),
        9 => {}
        kind => {
            cursor.take(scalar_bytes(kind)?, WHAT)?;
            return Ok(Entry::Other);
        }
    }
    let (kind, num) = (cursor.u32("an array's type")?, cursor.u64_size("an array's length")?);
    if kind == 8 {
        for _ in 0..num {
            read_text(cursor, "a text of an array")?;
        }
    } else {
        let num_bytes = num.checked_mul(scalar_bytes(kind)?);
        cursor.take(num_bytes.unwrap_or(usize::MAX), "an array")?;
    }
    Ok(Entry::Other)
}

/// Bytes of GGUF's fixed-size types.
fn scalar_bytes(kind: u32) -> Parsed<usize> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(format!("metadata of type {kind}; expected one of GGUF's types")),
    }
}

fn declared(metadata: &BTreeMap<&str, Entry<'_>>) -> Parsed<Declared> {
    let texts = || {
        metadata.iter().filter_map(|(key, entry)| match entry {
            Entry::Text(text) => Some((*key, *text)),
            Entry::Number(_) | Entry::Other => None,
        })
    };
    let found = texts().find(|(key, _)| *key == ARCHITECTURE).map(|(_, text)| text);
    if found != Some(CONTROL_VECTOR) {
        let found: String = found.unwrap_or("nothing").chars().take(64).collect();
        return Err(format!(
            "`{ARCHITECTURE}` is {found:?}; expected {CONTROL_VECTOR:?}: this is no file of steering vectors"
        ));
    }
    let ours = texts().filter_map(|(key, text)| match key {
        MODEL_HINT => Some(("model_hint", text)),
        key => Some((key.strip_prefix(OURS)?, text)),
    });
    let mut declared = Declared::from_texts(ours)?;
    check_applied(&declared)?;
    // What the format means, whether or not it is said.
    declared.site = Some(Site::ResidPost);
    declared.operator = Some(Operator::Add);
    Ok(declared)
}

/// A control vector is added to the residual stream; a file that says otherwise would be applied wrongly by all others.
fn check_applied(declared: &Declared) -> Parsed<()> {
    let Declared { site, operator, .. } = declared;
    if let Some(site) = site.filter(|site| *site != Site::ResidPost) {
        return Err(format!(
            "vectors for `{site}`; a control vector acts at `resid_post` alone: use safetensors or npz"
        ));
    }
    if let Some(operator) = operator.filter(|operator| *operator != Operator::Add) {
        return Err(format!(
            "vectors for operator `{operator}`; a control vector is added, nothing else: use safetensors or npz"
        ));
    }
    Ok(())
}

fn alignment(entry: &Entry<'_>) -> Parsed<usize> {
    const MOST: usize = 1 << 16;
    let alignment = match entry {
        Entry::Number(number) => usize::try_from(*number).ok(),
        Entry::Text(_) | Entry::Other => None,
    };
    let alignment = alignment.filter(|alignment| alignment.is_power_of_two() && *alignment <= MOST);
    alignment.ok_or_else(|| format!("`{ALIGNMENT}`: expected a u32, a power of two up to {MOST}"))
}

fn read_direction(cursor: &mut Cursor<'_>) -> Parsed<Direction> {
    let num_bytes = cursor.u64_size("a tensor's name")?;
    if num_bytes >= MAX_NAME_BYTES {
        return Err(format!("a tensor's name of {num_bytes} bytes; expected `direction.<layer>`"));
    }
    let name = String::from_utf8_lossy(cursor.take(num_bytes, "a tensor's name")?).into_owned();
    let layer = name.strip_prefix("direction.").and_then(|layer| {
        let parsed = layer.parse::<usize>().ok()?;
        (parsed.to_string() == layer).then_some(parsed)
    });
    let layer = layer.ok_or_else(|| format!("tensor {name:?}; expected `direction.<layer>`"))?;
    if layer == 0 {
        return Err("tensor `direction.0`; layers of a control vector begin with 1: the format has none for \
                    the output of the first block"
            .to_owned());
    }
    let num_dimensions = cursor.u32_size("a number of dimensions")?;
    if !(1..=MAX_DIMENSIONS).contains(&num_dimensions) {
        return Err(format!("`{name}` has {num_dimensions} dimensions; expected 1"));
    }
    let hidden_size = cursor.u64_size("a dimension")?;
    for _ in 1..num_dimensions {
        // ggml counts dimensions without ones at the end.
        if cursor.u64("a dimension")? != 1 {
            return Err(format!(
                "`{name}` has {num_dimensions} dimensions; expected [hidden_size]"
            ));
        }
    }
    let kind = cursor.u32("a tensor's type")?;
    if kind != F32 {
        return Err(format!("`{name}` has ggml's type {kind}; expected {F32}, f32"));
    }
    Ok(Direction { layer, hidden_size, offset: cursor.u64_size("a tensor's offset")? })
}

/// The tensors lie one after another, each on the next multiple of the alignment: as ggml requires.
fn read_values(
    bytes: &[u8],
    start: usize,
    alignment: usize,
    directions: Vec<Direction>,
) -> Parsed<FileVector> {
    let hidden_size = directions.first().map_or(0, |direction| direction.hidden_size);
    let mut rows = BTreeMap::new();
    let mut next = 0_usize;
    for Direction { layer, hidden_size: found, offset } in directions {
        if found != hidden_size || found == 0 {
            return Err(format!(
                "`direction.{layer}` has {found} values, the first tensor {hidden_size}; expected as many, more than 0"
            ));
        }
        if offset != next {
            return Err(format!("`direction.{layer}` is at offset {offset}; expected {next}"));
        }
        let too_many = || format!("`direction.{layer}` has {found} values; no memory has so many");
        let num_bytes = found.checked_mul(4).ok_or_else(too_many)?;
        let from = start.checked_add(offset).ok_or_else(too_many)?;
        let row = Cursor::at(bytes, from).take(num_bytes, "a tensor's data")?;
        next = offset + num_bytes.next_multiple_of(alignment);
        if rows.insert(layer, row).is_some() {
            return Err(format!("`direction.{layer}` is there twice"));
        }
    }
    let num_more = bytes.len().saturating_sub(start.saturating_add(next));
    if num_more > 0 {
        return Err(format!("{num_more} bytes after the last tensor; expected none"));
    }
    Ok(FileVector {
        layers: Some(rows.keys().copied().collect()),
        num_rows: rows.len(),
        values: rows.into_values().flat_map(floats).collect(),
    })
}

/// Writes the one vector of `file`; layers whose row is all zeros are left out, as they do nothing.
pub(super) fn write(file: &VectorFile) -> Parsed<Vec<u8>> {
    check_applied(&file.declared)?;
    if file.vectors.len() != 1 {
        let num = file.vectors.len();
        return Err(format!("{num} vectors; a file holds one: export one category at a time"));
    }
    let failed = |error: candle_core::Error| format!("cannot write: {error}");
    let layers = file.common_layers()?;
    let mut tensors = Vec::new();
    for vector in file.vectors.values() {
        for (&layer, row) in layers.iter().zip(vector.values.chunks(vector.hidden_size())) {
            if row.iter().all(|value| *value == 0.0) {
                continue;
            }
            if layer == 0 {
                return Err("the vector acts in layer 0, for which a control vector has no place (llama.cpp refuses \
                            `direction.0`): use safetensors or npz, or vectors that leave layer 0 alone"
                    .to_owned());
            }
            let row = Tensor::from_slice(row, row.len(), &Device::Cpu).map_err(failed)?;
            let row = QTensor::quantize(&row, GgmlDType::F32).map_err(failed)?;
            tensors.push((format!("direction.{layer}"), row));
        }
    }
    let num_layers = u32::try_from(tensors.len()).map_err(|error| error.to_string())?;
    let hint = file.declared.model_hint.clone().unwrap_or_else(|| "llama".to_owned());
    let mut metadata = vec![
        (ARCHITECTURE.to_owned(), Value::String(CONTROL_VECTOR.to_owned())),
        (MODEL_HINT.to_owned(), Value::String(hint)),
        (LAYER_COUNT.to_owned(), Value::U32(num_layers)),
    ];
    let texts = file.declared.to_texts()?.into_iter().filter(|(key, _)| key != "model_hint");
    metadata.extend(texts.map(|(key, text)| (format!("{OURS}{key}"), Value::String(text))));
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, row)| (name.as_str(), row)).collect();
    let mut bytes = io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).map_err(failed)?;
    Ok(bytes.into_inner())
}
