//! Where the vectors of a server come from: named by the configuration, opened once the model is known.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::Context;
use skeg_server::Origin;
use skeg_vector_store::mirror::Synced;
use skeg_vector_store::place::{self, LocalPlace};
use skeg_vector_store::{
    Error, Generation, Mirror, ModelBinding, Store, TrustedKeys, read_current,
};

use crate::config::{ConfigError, ModelConfig};

/// Time for the first look of a server that has a copy: longer than a canary takes, shorter than a probe waits for a server to
/// start.
const PATIENCE: Duration = Duration::from_secs(15);

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

    /// Makes sure that there is a store in a folder: that of a place that is to be followed is copied, unless it was before.
    pub(super) fn open(
        self,
        model: &ModelBinding,
        trusted: &TrustedKeys,
    ) -> anyhow::Result<Origin> {
        let (address, copy) = match self {
            Self::Folder(root) => return Ok(Origin::Folder(LocalPlace::new(root))),
            Self::Followed { address, copy } => (address, copy),
        };
        let mirror = Mirror::new(place::open(&address)?, &copy)
            .with_context(|| format!("the copy of {address}"))?
            .for_model(model.clone())
            .trusting(trusted.clone());
        if read_current(&copy).is_err() {
            mirror.sync().with_context(|| {
                format!("{address} cannot be copied, and there is no copy of it yet")
            })?;
        }
        Ok(Origin::Followed(Arc::new(mirror)))
    }
}

/// Opens the store of an origin. A place that is followed is looked at now: what it names goes live if it can be served, else
/// what was copied before stays, as in a server that was running.
pub(super) fn open_store<T: Send + Sync + 'static>(
    origin: &Origin,
    (binding, trusted): (&ModelBinding, &TrustedKeys),
    prepare: impl Fn(&Generation) -> Result<T, String> + Send + Sync + Clone + 'static,
) -> anyhow::Result<Arc<Store<T>>> {
    let open =
        || Store::open_trusting(origin.root(), binding.clone(), trusted.clone(), prepare.clone());
    let mut opened = open();
    if let (Origin::Followed(mirror), Err(error)) = (origin, &opened) {
        // What was copied cannot be served; the place may name something else by now.
        tracing::warn!(%error, "the copy cannot be served");
        let lacks_signature = matches!(error, Error::Untrusted { .. });
        match mirror.sync() {
            Ok(Synced::Followed(_)) => opened = open(),
            // It may have been signed since, which the copy has now.
            Ok(Synced::Unchanged) if lacks_signature => opened = open(),
            Ok(Synced::Unchanged) | Err(_) => {}
        }
    }
    let store = opened.with_context(|| format!("vector store {}", origin.root().display()))?;
    let store = Arc::new(store);
    if let Origin::Followed(mirror) = origin {
        mirror.lead(&store);
        look_before_serving(mirror)?;
    }
    Ok(store)
}

/// Looks at the place, so that a server begins with what serves elsewhere; but for so long only, since a place may take connections
/// and not answer. The look then goes on beside the serving.
fn look_before_serving(mirror: &Arc<Mirror>) -> anyhow::Result<()> {
    let (done, looked) = sync_channel(1);
    let mirror = Arc::clone(mirror);
    let look = move || drop(done.send(mirror.sync()));
    let thread = std::thread::Builder::new().name("skeg-first-look".to_owned());
    thread.spawn(look).context("cannot start a thread that looks at the store")?;
    match looked.recv_timeout(PATIENCE) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "starting from the copy, since the store cannot be followed now");
        }
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            tracing::warn!(seconds, "starting from the copy, since the store does not answer");
        }
    }
    Ok(())
}
