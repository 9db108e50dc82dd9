//! From values to files: deterministic bytes, checked as a reader would, in place at once or not at all.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, fs};

use super::Generation;
use super::load::{load_from, load_generation};
use crate::current::Lock;
use crate::error::{BadValue, Error, Result};
use crate::files::{self, Files, GenerationDir, sync_dir};
use crate::vectors::{encode, norm, to_f32};
use crate::{
    Category, CategoryVectors, FORMAT_VERSION, GenerationId, LayerNorm, Manifest, Measurement,
    ModelBinding, Operator, Orientation, Policy, Provenance, SafeWindow, Site, hash,
};

/// What a generation is made of; the rest of the manifest follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewGeneration {
    /// The model that the vectors were made for.
    pub model: ModelBinding,
    /// Other weights on which their effect was measured.
    pub also_measured_on: Vec<String>,
    /// Where they act.
    pub site: Site,
    /// What is done with them.
    pub operator: Operator,
    /// Which difference they are.
    pub orientation: Orientation,
    /// The vectors, all for the same layers.
    pub vectors: BTreeMap<Category, CategoryVectors>,
    /// For each category, one a layer: the mean norm of the activations at the site.
    pub activation_norms: BTreeMap<Category, Vec<f32>>,
    /// The measured strengths, for every category that the policy steers.
    pub safe_windows: BTreeMap<Category, SafeWindow>,
    /// How the vectors were made.
    pub provenance: Provenance,
    /// What was measured.
    pub measured: Vec<Measurement>,
    /// What is done with them.
    pub policy: Policy,
    /// The bytes of `probe.safetensors`, if there is a probe.
    pub probe: Option<Vec<u8>>,
    /// The text of `CARD.md`.
    pub card: String,
    /// The bytes of `figures.json`, if there are figures: an object in JSON with
    /// [`format_version`](crate::FIGURES_FORMAT_VERSION), at most 16 MiB.
    pub figures: Option<Vec<u8>>,
}

/// Writes a generation into a store and says its id; equal content has an equal id and is written once.
///
/// The files are written into a folder beside, flushed, read back and checked as [`load_generation`] does, and only then
/// renamed into place. `CURRENT` is [`set_current`](crate::set_current)'s.
///
/// # Errors
/// Every error of [`load_generation`], and [`Error::Io`]. Nothing is left behind then.
pub fn write_generation(root: &Path, generation: &NewGeneration) -> Result<GenerationId> {
    put_in_place(root, &generation.contents()?)
}

/// Writes files that are a generation already, as [`read_files`](super::read_files) gives them, into a store. What is there already is
/// written once, and gets the signatures that it lacks.
///
/// # Errors
/// [`Error::Layout`] for a name that no generation has, and as [`write_generation`]. Nothing is left behind then.
pub fn add_generation(root: &Path, contents: &Files) -> Result<GenerationId> {
    check_names(contents)?;
    put_in_place(root, contents)
}

/// Fails for a name that no file of a generation has.
pub(crate) fn check_names(contents: &Files) -> Result<()> {
    let is_known = |name: &str| {
        name == files::MANIFEST || name == files::SIGNATURES || files::is_listed_name(name)
    };
    if let Some(name) = contents.keys().find(|name| !is_known(name)) {
        let reason = "no file of a generation has this name; give its files alone";
        return Err(Error::layout(Path::new(name), reason));
    }
    Ok(())
}

fn put_in_place<N: AsRef<Path>>(
    root: &Path,
    contents: &BTreeMap<N, Vec<u8>>,
) -> Result<GenerationId> {
    let generations = files::generations_dir(root);
    fs::create_dir_all(&generations).map_err(Error::io("create", &generations))?;
    let staging = Staging::create(&generations)?;
    for (name, bytes) in contents {
        let path = staging.path.join(name);
        let mut file = fs::File::create(&path).map_err(Error::io("create", &path))?;
        file.write_all(bytes).map_err(Error::io("write", &path))?;
        file.sync_all().map_err(Error::io("write", &path))?;
    }
    sync_dir(&staging.path)?;
    let written = load_from(&GenerationDir::staged(&staging.path)?, None, None)?;
    let target = generations.join(written.id.as_str());
    if let Err(error) = fs::rename(&staging.path, &target) {
        if !target.exists() {
            return Err(Error::io("create", target)(error));
        }
        // Someone wrote the same content before; its id says so once its bytes are checked.
        let there = load_generation(root, &written.id, None)?;
        add_signatures(root, &there, &written)?;
    }
    sync_dir(&generations)?;
    Ok(written.id)
}

/// Gives a generation in a folder the signatures of another copy that it lacks. Signers take turns by the lock of `CURRENT`.
fn add_signatures(root: &Path, there: &Generation, other: &Generation) -> Result<()> {
    let id = &there.id;
    let generations = files::generations_dir(root);
    let dir = generations.join(id.as_str());
    let path = dir.join(files::SIGNATURES);
    if there.signatures.and(&other.signatures, &path)? == there.signatures {
        return Ok(());
    }
    let _lock = Lock::take(root)?;
    let all = load_generation(root, id, None)?.signatures.and(&other.signatures, &path)?;
    let beside = generations.join(format!(".{id}-{}.tmp", files::SIGNATURES));
    files::replace_from(&beside, &dir, files::SIGNATURES, &all.to_json()?)
}

impl From<Generation> for NewGeneration {
    /// What another generation can be made of, with changes.
    fn from(generation: Generation) -> Self {
        let Generation { manifest, policy, vectors, card, figures, probe, .. } = generation;
        let activations =
            |norms: Vec<LayerNorm>| norms.iter().map(|norm| norm.activation).collect();
        Self {
            model: manifest.model(),
            also_measured_on: manifest.also_measured_on,
            site: manifest.site,
            operator: manifest.operator,
            orientation: manifest.orientation,
            vectors,
            activation_norms: manifest
                .norms
                .into_iter()
                .map(|(category, norms)| (category, activations(norms)))
                .collect(),
            safe_windows: manifest.safe_windows,
            provenance: manifest.provenance,
            measured: manifest.measured,
            policy,
            probe,
            card,
            figures: figures.map(String::into_bytes),
        }
    }
}

impl NewGeneration {
    /// Every file's bytes by name.
    fn contents(&self) -> Result<BTreeMap<&'static str, Vec<u8>>> {
        let mut manifest = self.manifest()?;
        let mut contents = BTreeMap::from([
            (files::POLICY, self.policy.to_toml()?.into_bytes()),
            (files::VECTORS, encode(&self.vectors, &manifest)?),
            (files::CARD, self.card.clone().into_bytes()),
        ]);
        contents.extend(self.probe.clone().map(|probe| (files::PROBE, probe)));
        contents.extend(self.figures.clone().map(|figures| (files::FIGURES, figures)));
        let digests =
            contents.iter().map(|(name, bytes)| ((*name).to_owned(), hash::sha256(bytes)));
        manifest.files = digests.collect();
        contents.insert(files::MANIFEST, manifest.to_json()?);
        Ok(contents)
    }

    /// The manifest without the files' digests.
    fn manifest(&self) -> Result<Manifest> {
        Ok(Manifest {
            format_version: FORMAT_VERSION,
            architecture_id: self.model.architecture_id.clone(),
            weights_id: self.model.weights_id.clone(),
            also_measured_on: self.also_measured_on.clone(),
            hidden_size: self.model.hidden_size,
            num_hidden_layers: self.model.num_hidden_layers,
            categories: self.vectors.keys().cloned().collect(),
            layers: self.layers()?,
            site: self.site,
            operator: self.operator,
            orientation: self.orientation,
            safe_windows: self.safe_windows.clone(),
            norms: self.norms()?,
            files: BTreeMap::new(),
            provenance: self.provenance.clone(),
            measured: self.measured.clone(),
        })
    }

    /// The layers that all categories have.
    fn layers(&self) -> Result<Vec<usize>> {
        let mut layers: Option<&Vec<usize>> = None;
        for (category, vectors) in &self.vectors {
            let expected = *layers.get_or_insert(&vectors.layers);
            if vectors.layers != *expected {
                let found = format!("layers {:?}", vectors.layers);
                return Err(self.bad_tensor(
                    category,
                    found,
                    format!("layers {expected:?}, as the others"),
                ));
            }
            let values = vectors.values.len();
            if values != vectors.layers.len() * self.model.hidden_size {
                let expected = format!("[{}, {}]", vectors.layers.len(), self.model.hidden_size);
                return Err(self.bad_tensor(category, format!("{values} values"), expected));
            }
            if let Some(value) = vectors.values.iter().find(|value| !value.is_finite()) {
                return Err(self.bad_tensor(
                    category,
                    value.to_string(),
                    "finite values".to_owned(),
                ));
            }
        }
        Ok(layers.cloned().unwrap_or_default())
    }

    fn norms(&self) -> Result<BTreeMap<Category, Vec<LayerNorm>>> {
        let norms = self.vectors.iter().map(|(category, vectors)| {
            let activations = self.activation_norms.get(category).map_or(&[][..], Vec::as_slice);
            if activations.len() != vectors.layers.len() {
                let found = format!("{} activation norms", activations.len());
                let expected = format!("{}, one a layer", vectors.layers.len());
                return Err(self.bad_tensor(category, found, expected));
            }
            let rows = vectors.rows().zip(activations);
            let norms = rows
                .map(|((_, row), &activation)| LayerNorm { vector: to_f32(norm(row)), activation });
            Ok((category.clone(), norms.collect()))
        });
        norms.collect()
    }

    fn bad_tensor(
        &self,
        category: &Category,
        found: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Error {
        let name = format!("{category}/{}", self.site);
        let bad = BadValue::new(name, found, expected, "extract the vectors again");
        Error::Tensor(bad.in_file(files::VECTORS))
    }
}

/// A folder beside the generations that goes away unless it was renamed.
#[derive(Debug)]
struct Staging {
    path: PathBuf,
}

impl Staging {
    fn create(generations: &Path) -> Result<Self> {
        // Distinct within this process; the process id keeps others apart.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = generations.join(format!("{}{}-{count}", files::STAGING, std::process::id()));
        // A process that had the same id may have died here.
        files::remove_all(&path)?;
        fs::create_dir(&path).map_err(Error::io("create", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a staging folder was left behind");
        }
    }
}
