//! The tensors of an encoder's file by name, and the file that they make again.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use crate::tensor_file::{NamedTensor, to_bytes};

/// What may stand before the names of an encoder's tensors.
const PREFIXES: [&str; 2] = ["", "bert."];

/// The floats of a file; what else is in it (position ids) no reader needs.
pub(super) struct Weights {
    tensors: BTreeMap<String, Tensor>,
    prefix: &'static str,
}

impl Weights {
    /// Reads a safetensors file; all of it becomes f32.
    pub(super) fn from_bytes(bytes: &[u8]) -> candle_core::Result<Self> {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
        let tensors = tensors
            .into_iter()
            .filter(|(_, tensor)| tensor.dtype().is_float())
            .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?)))
            .collect::<candle_core::Result<BTreeMap<_, _>>>()?;
        let has = |prefix: &&str| {
            tensors.contains_key(&format!("{prefix}embeddings.word_embeddings.weight"))
        };
        let prefix = PREFIXES.into_iter().find(has).unwrap_or_default();
        Ok(Self { tensors, prefix })
    }

    /// A tensor by its name without a prefix.
    pub(super) fn get(&self, name: &str) -> candle_core::Result<Tensor> {
        self.tensors.get(&format!("{}{name}", self.prefix)).cloned().ok_or_else(|| {
            candle_core::Error::Msg(format!("no tensor `{}{name}` of floats", self.prefix))
        })
    }

    /// The file with these tensors in place of those of their names: f32, in the order of names.
    #[expect(clippy::disallowed_methods, reason = "the weights are the result; CPU only")]
    pub(super) fn to_bytes(&self, tuned: &[(String, Var)]) -> candle_core::Result<Vec<u8>> {
        let mut tensors = self.tensors.clone();
        for (name, var) in tuned {
            tensors.insert(format!("{}{name}", self.prefix), var.as_tensor().clone());
        }
        let values = tensors
            .values()
            .map(|tensor| tensor.flatten_all()?.to_vec1())
            .collect::<candle_core::Result<Vec<Vec<f32>>>>()?;
        let named: Vec<NamedTensor<'_>> = tensors
            .iter()
            .zip(&values)
            .map(|((name, tensor), values)| NamedTensor {
                name: name.clone(),
                shape: tensor.dims().to_vec(),
                values,
            })
            .collect();
        // What other readers of such files ask for.
        let format = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(to_bytes(&format, &named))
    }
}
