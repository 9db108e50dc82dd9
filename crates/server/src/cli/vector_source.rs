//! Where the vectors of a server come from: named by the configuration, opened once the model is known.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use skeg_server::Origin;
use skeg_vector_store::place::{self, LocalPlace};
use skeg_vector_store::{Mirror, ModelBinding, read_current};

use crate::config::{ConfigError, ModelConfig};

/// A store as the configuration names it.
pub(super) enum VectorSource {
    Folder(PathBuf),
    Followed { address: String, copy: PathBuf },
}

impl VectorSource {
    pub(super) fn of(model: &ModelConfig) -> Result<Self, ConfigError> {
        Ok(match model.vectors_address() {
            None => Self::Folder(model.vectors_root()?),
            Some(address) => {
                Self::Followed { address: address.to_owned(), copy: model.copy_root(address) }
            }
        })
    }

    /// Looks at a place that is to be followed. When that fails and there is a copy, the copy has to do until the place is
    /// there again.
    pub(super) fn open(self, model: &ModelBinding) -> anyhow::Result<Origin> {
        let (address, copy) = match self {
            Self::Folder(root) => return Ok(Origin::Folder(LocalPlace::new(root))),
            Self::Followed { address, copy } => (address, copy),
        };
        let mirror = Mirror::new(place::open(&address)?, &copy)
            .with_context(|| format!("the copy of {address}"))?
            .for_model(model.clone());
        if let Err(error) = mirror.sync() {
            let Ok(current) = read_current(&copy) else {
                let context = format!("{address} cannot be copied, and there is no copy of it yet");
                return Err(anyhow::Error::new(error).context(context));
            };
            let generation = &current.generation;
            tracing::warn!(%generation, "starting from the copy, since the store cannot be followed now");
        }
        Ok(Origin::Followed(Arc::new(mirror)))
    }
}
