//! The identity of a vocabulary: a hash that does not depend on the file it came from.

use sha2::{Digest as _, Sha256};
use tokenizers::Tokenizer as Inner;

/// SHA-256 over every `(id, token)` in order of ids, then every merge in order of rank.
///
/// Each string goes in with its length before it, so that no two vocabularies give the same bytes.
pub(super) fn fingerprint(inner: &Inner) -> String {
    let mut vocabulary: Vec<(u32, String)> =
        inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
    vocabulary.sort_unstable();
    let mut hasher = Sha256::new();
    for (id, token) in &vocabulary {
        hasher.update(id.to_le_bytes());
        add_string(&mut hasher, token);
    }
    hasher.update(b"merges");
    for (left, right) in merges(inner) {
        add_string(&mut hasher, &left);
        add_string(&mut hasher, &right);
    }
    base16ct::lower::encode_string(&hasher.finalize())
}

fn add_string(hasher: &mut Sha256, text: &str) {
    hasher.update((text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// The merges in order of rank. The library keeps them private but writes them out in that order.
fn merges(inner: &Inner) -> Vec<(String, String)> {
    let Ok(mut model) = serde_json::to_value(inner.get_model()) else { return Vec::new() };
    serde_json::from_value(model["merges"].take()).unwrap_or_default()
}
