//! Import and export: steering vectors in the files of other programs.
//!
//! [`VectorFile`] is what such a file holds, [`FileFormat`] which kind it is:
//! - GGUF `controlvector`, as llama.cpp and repeng have it: one direction, for `resid_post` and `add` alone ([`gguf`]);
//! - safetensors: one tensor a category, what they are in `__metadata__`;
//! - `.npz`: one array a category, and an array `layers`.
//!
//! A file is data from elsewhere. It is read whole, up to [`MAX_FILE_BYTES`]; every length in it is compared with what is left
//! of the file before anything of that length is made, so memory is bounded by the file's size. What a file declares and
//! this program cannot do (a site, an operator) is an error. Strength is never folded into the numbers, in either direction: it
//! stands beside them.
//!
//! [`VectorFile::choose`] takes one vector out for import, [`Imported::generation`] makes a generation of it, and
//! [`exported`] goes the other way.

mod cursor;
mod declared;
mod export;
pub mod gguf;
mod import;
mod neutral;
mod npy;
mod npz;
mod safetensors;
mod zip;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

pub use declared::{Declared, DeclaredStrength};
pub use export::exported;
pub use import::{ActivationNorms, ImportOptions, Imported, activation_norms};

/// The most bytes a file may have: an f32 row of 16,384 for each of 512 layers and 8 categories.
pub const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// Why bytes are not a file of the format; [`VectorFile::parse`] says which file.
type Parsed<T> = Result<T, String>;

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// GGUF with `general.architecture = "controlvector"`.
    Gguf,
    /// safetensors.
    Safetensors,
    /// `NumPy`'s `.npz`, not compressed.
    Npz,
}

impl FileFormat {
    /// The word for it, also the extension of its files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
            Self::Npz => "npz",
        }
    }

    /// By the extension of a file's name.
    ///
    /// # Errors
    /// [`Error::VectorFile`] for another extension.
    pub fn of_path(path: &Path) -> Result<Self> {
        let extension = path.extension().map(|extension| extension.to_string_lossy());
        let format = extension.as_deref().and_then(|extension| extension.parse().ok());
        format.ok_or_else(|| {
            Error::vector_file(path, "expected a name that ends in .gguf, .safetensors or .npz")
        })
    }
}

impl FromStr for FileFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "gguf" => Ok(Self::Gguf),
            "safetensors" => Ok(Self::Safetensors),
            "npz" => Ok(Self::Npz),
            _ => Err(Error::Spec(format!(
                "vector file format `{name}`; expected gguf, safetensors or npz"
            ))),
        }
    }
}

/// One vector of a file: a row for each of some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct FileVector {
    /// Blocks from 0, ascending, one a row; `None` where the file does not say.
    pub layers: Option<Vec<usize>>,
    /// Rows.
    pub num_rows: usize,
    /// `[num_rows, hidden_size]`, row-major, finite.
    pub values: Vec<f32>,
}

impl FileVector {
    /// Rows read from a file. That they are as many as the layers is known before the layers are copied, so that many
    /// vectors without rows cannot copy many layers.
    fn new(
        name: &str,
        layers: Option<&[usize]>,
        num_rows: usize,
        values: Vec<f32>,
    ) -> Parsed<Self> {
        if num_rows == 0 || values.is_empty() {
            return Err(format!("`{name}` is empty; expected [layers, hidden_size]"));
        }
        if let Some(layers) = layers.filter(|layers| layers.len() != num_rows) {
            let found = shortened(layers);
            return Err(format!("`{name}` has {num_rows} rows for layers {found}"));
        }
        Ok(Self { layers: layers.map(<[usize]>::to_vec), num_rows, values })
    }

    /// Length of a row.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        self.values.len().checked_div(self.num_rows).unwrap_or(0)
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VectorFile {
    /// What it says of all of its vectors.
    pub declared: Declared,
    /// The vectors by name; a GGUF file's one has the name [`gguf::NAME`].
    pub vectors: BTreeMap<String, FileVector>,
}

impl VectorFile {
    /// Reads a file and the bytes it was made of, whose SHA-256 a generation records.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::VectorFile`] for what is too large or as [`Self::parse`].
    pub fn read(path: &Path, format: FileFormat) -> Result<(Self, Vec<u8>)> {
        let bytes = read_bounded(path, MAX_FILE_BYTES, |reason| Error::vector_file(path, reason))?;
        Ok((Self::parse(&bytes, format, path)?, bytes))
    }

    /// Reads a file's bytes; `path` is for errors.
    ///
    /// # Errors
    /// [`Error::VectorFile`] for anything that is not exactly such a file, a value that is not finite, and a declared site,
    /// operator or orientation that this program does not know.
    pub fn parse(bytes: &[u8], format: FileFormat, path: &Path) -> Result<Self> {
        let parsed = match format {
            FileFormat::Gguf => gguf::parse(bytes),
            FileFormat::Safetensors => safetensors::parse(bytes),
            FileFormat::Npz => npz::parse(bytes),
        };
        let checked = parsed.and_then(|file| file.check().map(|()| file));
        checked.map_err(|reason| Error::vector_file(path, reason))
    }

    /// The bytes of such a file; equal content gives equal bytes.
    ///
    /// # Errors
    /// [`Error::Spec`] for what the format cannot hold: GGUF has one vector, at `resid_post`, with `add`, not in layer 0; the
    /// others need the layers, the same ones for all vectors.
    pub fn to_bytes(&self, format: FileFormat) -> Result<Vec<u8>> {
        let refused = |reason: String| Error::Spec(format!("{}: {reason}", format.as_str()));
        self.check().map_err(refused)?;
        let written = match format {
            FileFormat::Gguf => gguf::write(self),
            FileFormat::Safetensors => safetensors::write(self),
            FileFormat::Npz => npz::write(self),
        };
        written.map_err(refused)
    }

    /// What holds of every file.
    fn check(&self) -> Parsed<()> {
        if self.vectors.is_empty() {
            return Err("no vector in it; expected at least one".to_owned());
        }
        for (name, vector) in &self.vectors {
            if vector.num_rows == 0
                || vector.hidden_size() == 0
                || vector.num_rows * vector.hidden_size() != vector.values.len()
            {
                return Err(format!("`{name}` is empty; expected [layers, hidden_size]"));
            }
            if let Some(layers) = &vector.layers
                && (layers.len() != vector.num_rows || !layers.is_sorted_by(|a, b| a < b))
            {
                let (rows, found) = (vector.num_rows, shortened(layers));
                return Err(format!(
                    "`{name}` has {rows} rows for layers {found}; expected one layer a row, ascending, each once"
                ));
            }
            if let Some(idx) = vector.values.iter().position(|value| !value.is_finite()) {
                let (row, column) = (idx / vector.hidden_size(), idx % vector.hidden_size());
                let value = vector.values[idx];
                return Err(format!(
                    "`{name}` has {value} in row {row}, coordinate {column}; expected finite values"
                ));
            }
        }
        Ok(())
    }

    /// The layers of all vectors, where a format has them once.
    fn common_layers(&self) -> Parsed<&[usize]> {
        let mut common: Option<&[usize]> = None;
        for (name, vector) in &self.vectors {
            let layers = vector.layers.as_deref().ok_or("vectors without layers")?;
            let expected = *common.get_or_insert(layers);
            if layers != expected {
                return Err(format!("`{name}` has layers {layers:?}, the others {expected:?}"));
            }
        }
        Ok(common.unwrap_or_default())
    }
}

/// The bytes of a regular file that has at most so many; `refused` makes an error of the reason why not.
pub(crate) fn read_bounded(
    path: &Path,
    max_bytes: u64,
    refused: impl Fn(String) -> Error,
) -> Result<Vec<u8>> {
    let io = |error| Error::io(path, error);
    let too_large = || refused(format!("more than {max_bytes} bytes; no such file is so large"));
    // Before it is opened: a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(refused("expected a regular file".to_owned()));
    }
    if metadata.len() > max_bytes {
        return Err(too_large());
    }
    // It may grow.
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max_bytes { Err(too_large()) } else { Ok(bytes) }
}

/// A list from a file for a message, which it must not fill.
pub(crate) fn shortened<T: std::fmt::Debug>(list: &[T]) -> String {
    const SHOWN: usize = 16;
    match list.get(..SHOWN) {
        Some(first) if list.len() > SHOWN => format!("{first:?} and {} more", list.len() - SHOWN),
        _ => format!("{list:?}"),
    }
}

/// Bytes of little-endian f32; `bytes` is a multiple of 4.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The bytes of little-endian f32.
pub(crate) fn float_bytes(values: &[f32]) -> impl Iterator<Item = u8> + '_ {
    values.iter().flat_map(|value| value.to_le_bytes())
}
