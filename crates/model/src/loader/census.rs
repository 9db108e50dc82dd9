//! Which types a model's weights are stored in, for people who look at a file.

use std::collections::BTreeMap;

use super::{GgufSource, ModelFiles, SafetensorsSource, WeightForm};
use crate::error::Result;

impl ModelFiles {
    /// How many tensors the files hold of each type, by the format's own name (`Q4_1`, `BF16`). Reads headers
    /// only.
    ///
    /// # Errors
    /// As loading the model, for a header that cannot be read.
    pub fn weight_types(&self) -> Result<BTreeMap<String, usize>> {
        let names = match self {
            Self::Gguf { file } => GgufSource::open(file, WeightForm::AsStored)?.tensor_types(),
            Self::Safetensors { folder, shards } => {
                SafetensorsSource::open(folder, shards, WeightForm::AsStored)?.tensor_types()
            }
        };
        let mut counts = BTreeMap::new();
        for name in names {
            *counts.entry(name).or_insert(0) += 1;
        }
        Ok(counts)
    }
}
