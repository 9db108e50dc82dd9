//! Publications that must take effect nowhere, made as no tool of this project would make them.

use std::fs;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use skeg_vector_store::{
    Error, Files, GenerationId, ModelBinding, NewGeneration, read_current, read_files,
    write_generation,
};

use super::generations::{NUM_GOOD, binding, generation};

/// One way to publish something that is not good.
pub(super) struct Bad {
    name: &'static str,
    /// What `CURRENT` says, given its next sequence.
    current: Box<dyn Fn(u64) -> String + Send>,
    /// Whether a reload fails for the right reason.
    is_reason: fn(&Error) -> bool,
}

/// All of them, with what they need in the store.
pub(super) fn write_bad(root: &Path) -> Vec<Bad> {
    let flipped = write_generation(root, &generation(NUM_GOOD)).unwrap();
    edit_file(&folder(root, &flipped).join("vectors.safetensors"), |bytes| {
        *bytes.last_mut().unwrap() ^= 1;
    });
    let not_finite = forge(root, "vectors.safetensors", |bytes| {
        let start = bytes.len() - size_of::<f32>();
        bytes[start..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let outside_window = forge(root, "policy.toml", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains("ceiling = 1.5"), "{text}");
        *bytes = text.replacen("ceiling = 1.5", "ceiling = 2.5", 1).into_bytes();
    });
    let other = ModelBinding { architecture_id: "c".repeat(64), ..binding() };
    let other = NewGeneration { model: other, ..generation(NUM_GOOD + 1) };
    let other_model = write_generation(root, &other).unwrap();
    let nowhere = GenerationId::parse("0123456789abcdef").unwrap();
    vec![
        named("a flipped byte", flipped, |error| matches!(error, Error::Damaged { .. })),
        named("a NaN", not_finite, |error| matches!(error, Error::Tensor(_))),
        named("another model", other_model, |error| matches!(error, Error::WrongModel(_))),
        named("no such generation", nowhere, |error| matches!(error, Error::Layout { .. })),
        named("outside the window", outside_window, |error| matches!(error, Error::Field(_))),
        Bad {
            name: "a torn CURRENT",
            current: Box::new(|sequence| format!("{{\"sequence\": {sequence}, \"gener")),
            is_reason: |error| matches!(error, Error::Syntax { .. }),
        },
    ]
}

fn named(name: &'static str, id: GenerationId, is_reason: fn(&Error) -> bool) -> Bad {
    let line = move |sequence| format!("{{\"sequence\": {sequence}, \"generation\": \"{id}\"}}\n");
    Bad { name, current: Box::new(line), is_reason }
}

impl Bad {
    /// Publishes it, has `reload` fail for the right reason, and puts the former `CURRENT` back.
    pub(super) fn publish<T: std::fmt::Debug>(
        &self,
        root: &Path,
        reload: impl FnOnce() -> Result<T, Error>,
    ) {
        let before = fs::read(root.join("CURRENT")).unwrap();
        let sequence = read_current(root).unwrap().sequence + 1;
        replace_current(root, (self.current)(sequence).as_bytes());
        let error = reload().expect_err(self.name);
        assert!((self.is_reason)(&error), "{}: {error}", self.name);
        replace_current(root, &before);
    }
}

fn replace_current(root: &Path, bytes: &[u8]) {
    let beside = root.join("CURRENT.beside");
    fs::write(&beside, bytes).unwrap();
    fs::rename(&beside, root.join("CURRENT")).unwrap();
}

fn folder(root: &Path, id: &GenerationId) -> std::path::PathBuf {
    root.join("generations").join(id.as_str())
}

fn edit_file(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// A generation with an edit in one file, and digests and id made right again, so that the edit is what is found.
fn forge(root: &Path, name: &str, edit: impl FnOnce(&mut Vec<u8>)) -> GenerationId {
    const MANIFEST: &str = "manifest.json";
    let clean = tempfile::tempdir().unwrap();
    let id = write_generation(clean.path(), &generation(NUM_GOOD)).unwrap();
    let mut files: Files = read_files(clean.path(), &id).unwrap();
    edit(files.get_mut(name).unwrap());
    let mut manifest: Value = serde_json::from_slice(&files[MANIFEST]).unwrap();
    manifest["files"][name] = sha256(&files[name]).into();
    files.insert(MANIFEST.to_owned(), manifest.to_string().into_bytes());
    let lines = files.iter().map(|(name, bytes)| format!("{name}\0{}\n", sha256(bytes)));
    let id = &sha256(lines.collect::<String>().as_bytes())[..16];
    let id = GenerationId::parse(id).unwrap();
    fs::create_dir(folder(root, &id)).unwrap();
    for (name, bytes) in &files {
        fs::write(folder(root, &id).join(name), bytes).unwrap();
    }
    id
}

fn sha256(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha256::digest(bytes))
}
