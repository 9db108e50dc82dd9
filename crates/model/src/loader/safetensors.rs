//! Weights from safetensors files, memory-mapped.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use super::{TensorShapes, WeightForm};
use crate::error::{Error, Result};
use crate::llama::{Weight, WeightSource};

/// Length of the number in front of a safetensors header.
const HEADER_LEN_BYTES: usize = 8;

/// One mapped file with its header.
struct Shard {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// Where tensor data begins.
    data_start: usize,
}

/// Open safetensors files of one checkpoint.
pub(crate) struct SafetensorsSource {
    folder: PathBuf,
    shards: Vec<Shard>,
    /// Tensor name to index in `shards`.
    home: HashMap<String, usize>,
    form: WeightForm,
}

impl SafetensorsSource {
    /// Maps the files and reads their headers.
    pub(crate) fn open(folder: &Path, files: &[PathBuf], form: WeightForm) -> Result<Self> {
        let shards: Vec<Shard> =
            files.iter().map(|file| open_shard(file)).collect::<Result<_>>()?;
        let mut home = HashMap::new();
        for (idx, shard) in shards.iter().enumerate() {
            for name in shard.metadata.tensors().into_keys() {
                if let Some(other) = home.insert(name.clone(), idx) {
                    return Err(Error::Weight {
                        path: shard.path.clone(),
                        tensor: name,
                        reason: format!("is also in {}", shards[other].path.display()),
                    });
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), shards, home, form })
    }

    /// Names and shapes of all tensors.
    pub(crate) fn tensor_shapes(&self) -> TensorShapes {
        let tensors = self.shards.iter().flat_map(|shard| shard.metadata.tensors());
        // Some checkpoints keep the fixed RoPE frequencies; they are computed here.
        tensors
            .filter(|(name, _)| !name.ends_with("rotary_emb.inv_freq"))
            .map(|(name, info)| (name, info.shape.clone()))
            .collect()
    }

    /// The type of each tensor in the files.
    pub(super) fn tensor_types(&self) -> Vec<String> {
        let tensors = self.shards.iter().flat_map(|shard| shard.metadata.tensors().into_values());
        tensors.map(|info| format!("{:?}", info.dtype)).collect()
    }

    /// Copies one tensor out of the map, in the dtype it is stored in.
    fn read(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let missing = || Error::Weight {
            path: self.folder.clone(),
            tensor: name.to_owned(),
            reason: format!("is missing; expected shape {shape:?}"),
        };
        let shard = self.home.get(name).map(|&idx| &self.shards[idx]).ok_or_else(missing)?;
        let info = shard.metadata.info(name).ok_or_else(missing)?;
        let error = |reason: String| Error::Weight {
            path: shard.path.clone(),
            tensor: name.to_owned(),
            reason,
        };
        if info.shape != shape {
            let found = &info.shape;
            return Err(error(format!("has shape {found:?}; the configuration says {shape:?}")));
        }
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(error(format!("has dtype {other:?}; read are F32, F16 and BF16")));
            }
        };
        let (start, end) = info.data_offsets;
        let bytes = shard
            .map
            .get(shard.data_start + start..shard.data_start + end)
            .ok_or_else(|| error("lies beyond the file's end; fetch it again".to_owned()))?;
        Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)
            .map_err(|cause| error(format!("cannot be read: {cause}")))
    }
}

impl WeightSource for SafetensorsSource {
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let tensor = self.read(name, &[rows, cols])?;
        Ok(Weight::Dense(match self.form {
            WeightForm::AsStored => tensor,
            // f32: the portable path computes in f32 throughout.
            WeightForm::F32 => tensor.to_dtype(DType::F32)?,
        }))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor> {
        // f32: norms and biases are applied in f32 whatever the matrices are.
        let vector = self.read(name, &[len])?.to_dtype(DType::F32)?;
        check_finite(&vector).map_err(|reason| Error::Weight {
            path: self.folder.clone(),
            tensor: name.to_owned(),
            reason,
        })?;
        Ok(vector)
    }
}

/// Says which value of a vector, `[len]` f32, is not finite.
pub(super) fn check_finite(vector: &Tensor) -> Result<(), String> {
    #[expect(clippy::disallowed_methods, reason = "one small vector, once, at load")]
    let values = vector.to_vec1::<f32>().map_err(|error| error.to_string())?;
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(idx) => Err(format!("value {idx} is {}; all must be finite", values[idx])),
    }
}

fn open_shard(path: &Path) -> Result<Shard> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the map is read-only and private to this process. As with every mapped checkpoint, a file
    // that somebody truncates while it is loaded ends the process; it is copied out at load and not kept.
    #[expect(unsafe_code, reason = "memory-mapping is the way to read large checkpoints once")]
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    let (header_len, metadata) =
        SafeTensors::read_metadata(&map).map_err(|error| Error::BadFile {
            path: path.to_owned(),
            reason: format!("is no readable safetensors file: {error}; fetch it again"),
        })?;
    Ok(Shard { path: path.to_owned(), map, metadata, data_start: HEADER_LEN_BYTES + header_len })
}
