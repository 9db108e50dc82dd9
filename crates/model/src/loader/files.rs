//! Which files a path means.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The files of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFiles {
    /// One GGUF file, which holds configuration, tokenizer and template as well. A `tokenizer.json`
    /// or `tokenizer_config.json` beside it is used in preference to its own.
    Gguf {
        /// The file.
        file: PathBuf,
    },
    /// A Hugging Face folder.
    Safetensors {
        /// The folder, with `config.json` and `tokenizer.json`.
        folder: PathBuf,
        /// The weight files in file-name order.
        shards: Vec<PathBuf>,
    },
}

/// Lists the shards of a large checkpoint.
const INDEX: &str = "model.safetensors.index.json";
/// The weights of a small checkpoint.
const SINGLE: &str = "model.safetensors";

impl ModelFiles {
    /// Finds a model at `path`: a `.gguf` file, a folder with one, or a Hugging Face folder.
    ///
    /// # Errors
    /// [`Error::BadFile`] naming what is missing, what was found and what was expected.
    pub fn discover(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|source| io(path, source))?;
        if metadata.is_file() {
            return if has_extension(path, "gguf") {
                Ok(Self::Gguf { file: path.to_owned() })
            } else {
                Err(bad(
                    path,
                    "not a model; expected a .gguf file or a folder with config.json and safetensors",
                ))
            };
        }
        if path.join("config.json").is_file() {
            return Self::hugging_face(path);
        }
        let mut gguf: Vec<PathBuf> =
            entries(path)?.into_iter().filter(|entry| has_extension(entry, "gguf")).collect();
        gguf.sort();
        match <[PathBuf; 1]>::try_from(gguf) {
            Ok([file]) => Ok(Self::Gguf { file }),
            Err(found) if found.is_empty() => Err(bad(
                path,
                "holds neither config.json nor a .gguf file; give a model's folder or file",
            )),
            Err(found) => {
                Err(bad(path, &format!("holds {} .gguf files; name the one to load", found.len())))
            }
        }
    }

    fn hugging_face(folder: &Path) -> Result<Self> {
        let folder = folder.to_owned();
        if !folder.join("tokenizer.json").is_file() {
            return Err(bad(
                &folder,
                "holds config.json but no tokenizer.json; fetch it with the model, or convert the \
                 slow tokenizer with transformers (`AutoTokenizer(..., use_fast=True).save_pretrained`)",
            ));
        }
        let index = folder.join(INDEX);
        if index.is_file() {
            let shards = shards_of(&folder, &index)?;
            return Ok(Self::Safetensors { folder, shards });
        }
        let single = folder.join(SINGLE);
        if single.is_file() {
            return Ok(Self::Safetensors { folder, shards: vec![single] });
        }
        Err(bad(&folder, &format!("holds config.json but neither {SINGLE} nor {INDEX}")))
    }

    /// The weight files in file-name order.
    #[must_use]
    pub fn weight_files(&self) -> &[PathBuf] {
        match self {
            Self::Gguf { file } => std::slice::from_ref(file),
            Self::Safetensors { shards, .. } => shards,
        }
    }

    /// The folder that holds the files beside the weights.
    #[must_use]
    pub fn folder(&self) -> &Path {
        match self {
            Self::Gguf { file } => file.parent().unwrap_or(Path::new(".")),
            Self::Safetensors { folder, .. } => folder,
        }
    }
}

/// The shards an index names, each once, in file-name order.
fn shards_of(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(serde_json::Value::as_object)
        .ok_or_else(|| bad(index, "has no object `weight_map`"))?;
    let mut names: Vec<&str> = map.values().filter_map(serde_json::Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(bad(index, "`weight_map` names no file"));
    }
    names
        .into_iter()
        .map(|name| {
            // A shard lies in the folder itself: an index cannot reach for other files.
            if Path::new(name).file_name().is_none_or(|file| file != name) {
                return Err(bad(index, &format!("names `{name}`, which is not a plain file name")));
            }
            let shard = folder.join(name);
            if shard.is_file() {
                Ok(shard)
            } else {
                Err(bad(
                    index,
                    &format!("names `{name}`, which is not in the folder; fetch it again"),
                ))
            }
        })
        .collect()
}

/// Reads a JSON file whole.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read(path).map_err(|source| io(path, source))?;
    serde_json::from_slice(&text).map_err(|error| bad(path, &format!("is not JSON: {error}")))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|source| io(folder, source))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

fn bad(path: &Path, reason: &str) -> Error {
    Error::BadFile { path: path.to_owned(), reason: reason.to_owned() }
}
