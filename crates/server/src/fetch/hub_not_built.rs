//! In place of the hub client in builds without the feature `hub`: says which feature is missing.

use std::path::{Path, PathBuf};

use super::{CatalogueEntry, FetchError, FetchOptions};

pub(super) fn fetch(
    owner: &str,
    name: &str,
    _cache_dir: &Path,
    _options: &FetchOptions,
) -> Result<PathBuf, FetchError> {
    Err(FetchError::HubNotBuilt { repository: format!("{owner}/{name}") })
}

pub(super) fn fetch_entry(entry: &CatalogueEntry, _target: &Path) -> Result<(), FetchError> {
    Err(FetchError::HubNotBuilt { repository: entry.hub.repository.to_owned() })
}
