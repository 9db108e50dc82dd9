//! Weights from a GGUF file, read tensor by tensor.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::gguf_config::{TensorFacts, config_from_metadata};
use super::gguf_names::{checkpoint_name, gguf_name};
use super::{TensorShapes, WeightForm};
use crate::config::{Architecture, LlamaConfig};
use crate::error::{Error, Result};
use crate::llama::{Weight, WeightSource};

/// An open GGUF file.
#[derive(Debug)]
pub(crate) struct GgufSource {
    path: PathBuf,
    file: BufReader<File>,
    content: Content,
    config: LlamaConfig,
    form: WeightForm,
}

impl GgufSource {
    /// Reads the header: metadata and the list of tensors.
    pub(crate) fn open(path: &Path, form: WeightForm) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        // candle checks lengths against the file, but a crafted alignment or shape can still make its
        // arithmetic panic.
        let content = catch_unwind(AssertUnwindSafe(|| Content::read(&mut file)))
            .map_err(|_| "its header holds numbers that make no sense".to_owned())
            .and_then(|content| content.map_err(|error| error.to_string()))
            .map_err(|reason| Error::BadFile {
                path: path.to_owned(),
                reason: format!("is no readable GGUF file: {reason}; fetch it again"),
            })?;
        check_shapes(path, &content, &mut file)?;
        let facts = facts(path, &content, &mut file)?;
        let config = config_from_metadata(path, &content.metadata, &facts)?;
        Ok(Self { path: path.to_owned(), file, content, config, form })
    }

    pub(crate) fn config(&self) -> &LlamaConfig {
        &self.config
    }

    pub(crate) fn metadata(
        &self,
    ) -> &std::collections::HashMap<String, candle_core::quantized::gguf_file::Value> {
        &self.content.metadata
    }

    /// Logical names and shapes of the tensors a llama uses.
    pub(crate) fn tensor_shapes(&self) -> TensorShapes {
        let infos = self.content.tensor_infos.iter();
        infos
            .filter_map(|(name, info)| Some((checkpoint_name(name)?, info.shape.dims().to_vec())))
            .collect()
    }

    /// The type of each tensor in the file.
    pub(super) fn tensor_types(&self) -> Vec<String> {
        let infos = self.content.tensor_infos.values();
        infos.map(|info| format!("{:?}", info.ggml_dtype)).collect()
    }

    fn error(&self, name: &str, reason: impl Into<String>) -> Error {
        let tensor = gguf_name(name).unwrap_or_else(|| name.to_owned());
        Error::Weight { path: self.path.clone(), tensor, reason: reason.into() }
    }

    /// Reads one tensor whole, checking its shape first.
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<QTensor> {
        let Some(info) = gguf_name(name).and_then(|name| self.content.tensor_infos.get(&name))
        else {
            return Err(self.error(name, format!("is missing; expected shape {shape:?}")));
        };
        if info.shape.dims() != shape {
            return Err(self.error(
                name,
                format!("has shape {:?}; the configuration says {shape:?}", info.shape.dims()),
            ));
        }
        info.read(&mut self.file, self.content.tensor_data_offset, &Device::Cpu).map_err(|error| {
            self.error(name, format!("cannot be read: {error}; is the file whole?"))
        })
    }

    /// Whether a tensor's rows are permuted for interleaved RoPE, and in how many heads.
    fn permuted_heads(&self, name: &str) -> Option<usize> {
        if self.config.architecture != Architecture::Llama {
            return None;
        }
        if name.ends_with("self_attn.q_proj.weight") {
            Some(self.config.num_attention_heads)
        } else if name.ends_with("self_attn.k_proj.weight") {
            Some(self.config.num_key_value_heads)
        } else {
            None
        }
    }
}

impl WeightSource for GgufSource {
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let tensor = match self.permuted_heads(name) {
            None => self.read(name, &[rows, cols])?,
            Some(num_heads) => {
                let tensor = self.read(name, &[rows, cols])?;
                let bytes = tensor.data()?;
                let unpermuted = unpermute_rows(&bytes, num_heads, rows);
                let storage =
                    QStorage::from_data(Cow::Owned(unpermuted), &Device::Cpu, tensor.dtype())?;
                QTensor::new(storage, (rows, cols))?
            }
        };
        let dense = match (tensor.dtype(), self.form) {
            (_, WeightForm::F32) | (GgmlDType::F32, WeightForm::AsStored) => Some(DType::F32),
            (GgmlDType::F16, WeightForm::AsStored) => Some(DType::F16),
            (GgmlDType::BF16, WeightForm::AsStored) => Some(DType::BF16),
            (_, WeightForm::AsStored) => None,
        };
        match dense {
            // Widening to f32 and back to the stored dtype is exact.
            Some(dtype) => Ok(Weight::Dense(tensor.dequantize(&Device::Cpu)?.to_dtype(dtype)?)),
            None => {
                if !cols.is_multiple_of(tensor.dtype().block_size()) {
                    return Err(self.error(
                        name,
                        format!("rows of {cols} are not whole {:?} blocks", tensor.dtype()),
                    ));
                }
                Ok(Weight::Quantized(Arc::new(tensor)))
            }
        }
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor> {
        let vector = self.read(name, &[len])?.dequantize(&Device::Cpu)?;
        super::safetensors::check_finite(&vector).map_err(|reason| self.error(name, reason))?;
        Ok(vector)
    }
}

/// Puts rows stored for interleaved RoPE, (head, pair, side), into checkpoint order, (head, side, pair).
///
/// The inverse of `permute` in llama.cpp's `convert_hf_to_gguf.py`. Quantised blocks lie along rows, so
/// whole rows of bytes move.
fn unpermute_rows(bytes: &[u8], num_heads: usize, rows: usize) -> Vec<u8> {
    let head_dim = rows / num_heads;
    let half = head_dim / 2;
    let row_bytes = bytes.len() / rows;
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..num_heads {
        for side in 0..2 {
            for pair in 0..half {
                let stored = (head * head_dim + 2 * pair + side) * row_bytes;
                out.extend_from_slice(&bytes[stored..stored + row_bytes]);
            }
        }
    }
    out
}

/// Fails for a tensor of more elements than the file has bits. candle multiplies dimensions without a look at the product, and a
/// product that wraps round would pass for a small tensor.
fn check_shapes(path: &Path, content: &Content, file: &mut BufReader<File>) -> Result<()> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let num_bits = file.seek(SeekFrom::End(0)).map_err(io)?.saturating_mul(8);
    for (name, info) in &content.tensor_infos {
        let dims = info.shape.dims();
        let num = dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        if num.is_none_or(|num| num as u64 > num_bits) {
            return Err(Error::Weight {
                path: path.to_owned(),
                tensor: name.clone(),
                reason: format!("has shape {dims:?}, more than the file holds; fetch it again"),
            });
        }
    }
    Ok(())
}

/// What the configuration needs to know of the tensors.
fn facts(path: &Path, content: &Content, file: &mut BufReader<File>) -> Result<TensorFacts> {
    let weight = |tensor: &str, reason: String| Error::Weight {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        reason,
    };
    let embedding = content
        .tensor_infos
        .get("token_embd.weight")
        .ok_or_else(|| weight("token_embd.weight", "is missing".to_owned()))?;
    let (vocab_size, _) = embedding
        .shape
        .dims2()
        .map_err(|error| weight("token_embd.weight", format!("is no matrix: {error}")))?;
    file.rewind().map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let rope_factors = match content.tensor_infos.get("rope_freqs.weight") {
        None => None,
        Some(info) => {
            let tensor = info
                .read(file, content.tensor_data_offset, &Device::Cpu)
                .and_then(|tensor| tensor.dequantize(&Device::Cpu))
                .map_err(|error| weight("rope_freqs.weight", format!("cannot be read: {error}")))?;
            #[expect(clippy::disallowed_methods, reason = "a few numbers, once, at load")]
            Some(tensor.flatten_all()?.to_vec1::<f32>()?)
        }
    };
    Ok(TensorFacts {
        vocab_size,
        has_output: content.tensor_infos.contains_key("output.weight"),
        rope_factors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpermuting_undoes_the_converters_permutation() {
        // Two heads of four rows of one byte; the converter maps (head, side, pair) to (head, pair, side).
        let checkpoint: Vec<u8> = (0..8).collect();
        let stored: Vec<u8> = vec![0, 2, 1, 3, 4, 6, 5, 7];
        assert_eq!(unpermute_rows(&stored, 2, 8), checkpoint);
    }
}
