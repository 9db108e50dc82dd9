//! The two ids that bind vectors to a model.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use super::TensorShapes;
use crate::config::LlamaConfig;
use crate::error::{Error, Result};

/// Bytes read at once; large enough that hashing, not reading, is what takes time.
const BUFFER_BYTES: usize = 1 << 20;

/// SHA-256 over the configuration, the tensors' names and shapes, and the tokenizer; lower-case hex.
///
/// Dtypes and file layout are left out, so a GGUF and its safetensors twin share the id.
pub(crate) fn architecture_id(
    config: &LlamaConfig,
    shapes: &TensorShapes,
    tokenizer_fingerprint: &str,
) -> String {
    // serde_json writes struct fields in declaration order and BTreeMap keys sorted: canonical.
    let description = serde_json::json!({
        "config": config,
        "tensors": shapes,
        "tokenizer": tokenizer_fingerprint,
    });
    encode_string(&Sha256::digest(description.to_string()))
}

/// SHA-256 over the weight files' bytes, one after the other; lower-case hex.
pub(crate) fn weights_id(files: &[PathBuf]) -> Result<String> {
    let mut hasher = Sha256::new();
    for file in files {
        hash_file(file, &mut hasher).map_err(|source| Error::Io { path: file.clone(), source })?;
    }
    Ok(encode_string(&hasher.finalize()))
}

fn hash_file(path: &Path, hasher: &mut Sha256) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..read]);
    }
}
