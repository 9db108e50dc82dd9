//! Generations that the crate would not write: valid but for one edit, with digests and id made right again, so that
//! what is found is the edit and not the broken digest. The root hash is computed here by its definition.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use sha2::{Digest, Sha256};
use skeg_vector_store::{Error, GenerationId, ModelBinding, load_generation, write_generation};

use crate::support::{HIDDEN_SIZE, LAYERS, model, new_generation};

/// A generation's files, to be edited.
pub(crate) struct Forged {
    pub(crate) manifest: Value,
    /// All files but the manifest.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Whether the manifest's digests are made right after the edit.
    pub(crate) fix_digests: bool,
}

impl Forged {
    /// Replaces part of a text file, which must be there.
    pub(crate) fn replace(&mut self, name: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.files[name].clone()).unwrap();
        assert!(text.contains(from), "{name} has no {from:?}:\n{text}");
        self.files.insert(name.to_owned(), text.replace(from, to).into_bytes());
    }

    pub(crate) fn replace_policy(&mut self, from: &str, to: &str) {
        self.replace("policy.toml", from, to);
    }

    /// Replaces the tensors.
    pub(crate) fn set_tensors(&mut self, tensors: &[Tensor]) {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), bytes).unwrap();
            (tensor.name.clone(), view)
        });
        let file = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
        self.files.insert("vectors.safetensors".to_owned(), file);
    }
}

/// A tensor to be written.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// The tensor that the generation of mark 0 has for a category.
pub(crate) fn tensor(category: &str) -> Tensor {
    Tensor {
        name: format!("{category}/attn_out"),
        dtype: Dtype::F32,
        shape: vec![LAYERS.len(), HIDDEN_SIZE],
        values: vec![1.0; LAYERS.len() * HIDDEN_SIZE],
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha256::digest(bytes))
}

/// Writes the generation of mark 0 with one edit, under the id that its bytes then have.
pub(crate) fn forge(root: &Path, edit: impl FnOnce(&mut Forged)) -> GenerationId {
    let clean = tempfile::tempdir().unwrap();
    let id = write_generation(clean.path(), &new_generation(0)).unwrap();
    let dir = clean.path().join("generations").join(id.as_str());
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        files.insert(name, fs::read(entry.path()).unwrap());
    }
    let manifest = serde_json::from_slice(&files.remove("manifest.json").unwrap()).unwrap();
    let mut forged = Forged { manifest, files, fix_digests: true };
    edit(&mut forged);
    if forged.fix_digests {
        let digests = forged.files.iter();
        let digests = digests.map(|(name, bytes)| (name.clone(), Value::from(sha256(bytes))));
        forged.manifest["files"] = Value::Object(digests.collect());
    }
    put(root, &forged)
}

fn put(root: &Path, forged: &Forged) -> GenerationId {
    let manifest = serde_json::to_vec(&forged.manifest).unwrap();
    let mut lines = String::new();
    let mut files = forged.files.clone();
    files.insert("manifest.json".to_owned(), manifest);
    for (name, bytes) in &files {
        lines.push_str(&format!("{name}\0{}\n", sha256(bytes)));
    }
    let id = GenerationId::parse(&sha256(lines.as_bytes())[..16]).unwrap();
    let dir = root.join("generations").join(id.as_str());
    fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in &files {
        fs::write(dir.join(name), bytes).unwrap();
    }
    id
}

/// Loading the edited generation fails with exactly this text, the folder's path left out.
pub(crate) fn check(edit: impl FnOnce(&mut Forged), expected: &str) {
    check_for(&model(), edit, expected);
}

/// [`check`] for another loaded model.
pub(crate) fn check_for(model: &ModelBinding, edit: impl FnOnce(&mut Forged), expected: &str) {
    let root = tempfile::tempdir().unwrap();
    let id = forge(root.path(), edit);
    let error = load_generation(root.path(), &id, Some(model)).unwrap_err();
    assert_eq!(message(&error, root.path(), &id), expected);
}

/// An error's text without the place of the store.
pub(crate) fn message(error: &Error, root: &Path, id: &GenerationId) -> String {
    let dir = root.join("generations").join(id.as_str());
    error
        .to_string()
        .replace(&format!("{}/", dir.display()), "")
        .replace(&dir.display().to_string(), "DIR")
}

/// An unedited forgery is what the crate writes, so the checks above test their edits alone.
#[test]
fn a_generation_hashed_by_the_definition_loads() {
    let root = tempfile::tempdir().unwrap();
    let id = forge(root.path(), |_| {});
    let generation = load_generation(root.path(), &id, Some(&model())).unwrap();
    assert_eq!(generation.id, id);
    assert!(generation.root_hash.starts_with(id.as_str()));
}
