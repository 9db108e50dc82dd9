//! Which model is meant, where its file and its vectors are looked for.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use skeg_model::{CpuKernels, CpuOptions, DeviceChoice, GpuOptions, LoadOptions, WeightForm};
use skeg_vector_store::mirror::FollowOptions;

use super::{ConfigError, RawConfig, seconds};
use crate::fetch::{CatalogueEntry, catalogue};

/// Folder with one store a model, by slug, in the places where vectors are looked for.
const VECTORS_FOLDER: &str = "vectors";
/// Folder with the copies of places that are followed, in the cache.
const COPIES_FOLDER: &str = "stores";

/// Which model, how it is loaded, and what steers it.
#[derive(Debug, Clone)]
pub(crate) struct ModelConfig {
    pub(crate) source: ModelSource,
    pub(crate) device: DeviceChoice,
    pub(crate) weights: WeightForm,
    pub(crate) cpu: CpuOptions,
    pub(crate) gpu: GpuOptions,
    /// GPUs that the model is split over.
    pub(crate) tensor_parallel: NonZeroUsize,
    /// Where fetched models are kept.
    pub(crate) cache_dir: PathBuf,
    /// The store that was named, if one was: a folder or an address.
    vectors: Option<PathBuf>,
    /// The folder for the copy of a place that is followed, if one was named.
    vectors_copy: Option<PathBuf>,
    /// Mean time between two looks at a place that is followed.
    pub(crate) poll_interval: Duration,
}

/// What `model` stands for.
#[derive(Debug, Clone)]
pub(crate) enum ModelSource {
    /// A name of the catalogue; its file is in the cache once fetched.
    Catalogue(&'static CatalogueEntry),
    /// A file or folder.
    Path(PathBuf),
}

impl ModelSource {
    /// A file or folder that exists goes before a name.
    fn parse(model: &str) -> Result<Self, ConfigError> {
        let path = Path::new(model);
        if path.exists() {
            return Ok(Self::Path(path.to_owned()));
        }
        catalogue::find(model).map(Self::Catalogue).ok_or_else(|| ConfigError::UnknownModel {
            model: model.to_owned(),
            known: catalogue::names(),
        })
    }

    /// The name that vector stores and the API use: lower case, `-` between words.
    pub(crate) fn slug(&self) -> String {
        match self {
            Self::Catalogue(entry) => entry.name.to_owned(),
            Self::Path(path) => {
                let file_name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                match catalogue::ENTRIES.iter().find(|entry| entry.file_name == file_name) {
                    Some(entry) => entry.name.to_owned(),
                    None => file_name.trim_end_matches(".gguf").to_lowercase(),
                }
            }
        }
    }
}

impl std::fmt::Display for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Catalogue(entry) => f.write_str(entry.name),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl ModelConfig {
    pub(super) fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let source = match &raw.model {
            Some(model) => ModelSource::parse(model)?,
            None => ModelSource::Catalogue(catalogue::default_entry()),
        };
        let device = raw.device.as_deref().unwrap_or("cpu").parse::<DeviceChoice>();
        Ok(Self {
            source,
            device: device.map_err(|error| ConfigError::Invalid {
                setting: "device",
                reason: error.to_string(),
            })?,
            weights: parse_weights(raw.weights.as_deref())?,
            cpu: parse_cpu(raw)?,
            gpu: GpuOptions {
                batch_invariant: raw.batch_invariant.unwrap_or(false),
                cuda_graphs: !raw.no_cuda_graphs.unwrap_or(false),
                programmatic_launches: raw
                    .programmatic_launches
                    .unwrap_or(GpuOptions::default().programmatic_launches),
            },
            tensor_parallel: match raw.tensor_parallel {
                None => NonZeroUsize::MIN,
                Some(number) => NonZeroUsize::new(number).ok_or_else(|| ConfigError::Invalid {
                    setting: "tensor_parallel",
                    reason: "is 0; expected the number of GPUs, at least 1".to_owned(),
                })?,
            },
            cache_dir: cache_dir(raw.cache_dir.as_deref())?,
            vectors: raw.vectors.clone(),
            vectors_copy: raw.vectors_copy.clone(),
            poll_interval: seconds(
                "vectors_poll_interval",
                raw.vectors_poll_interval,
                FollowOptions::default().interval,
            )?,
        })
    }

    /// The weights' form, as the flag has it.
    pub(crate) const fn weights_name(&self) -> &'static str {
        match self.weights {
            WeightForm::AsStored => "as-stored",
            WeightForm::F32 => "f32",
        }
    }

    /// Another model, run as this one is: a catalogue name, a file or a folder.
    pub(crate) fn another(&self, model: &str) -> Result<Self, ConfigError> {
        Ok(Self { source: ModelSource::parse(model)?, ..self.clone() })
    }

    /// How the model is loaded.
    pub(crate) const fn load_options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            tensor_parallel: self.tensor_parallel,
            weights: self.weights,
            cpu: self.cpu,
            gpu: self.gpu,
        }
    }

    /// The model's file or folder.
    ///
    /// Only its presence and size are checked: the hash was checked when it was fetched, and vectors are
    /// bound to the weights' own hash.
    pub(crate) fn path(&self) -> Result<PathBuf, ConfigError> {
        match &self.source {
            ModelSource::Path(path) => Ok(path.clone()),
            ModelSource::Catalogue(entry) => {
                let expected = entry.cache_path(&self.cache_dir);
                if entry.is_complete(&expected) {
                    return Ok(expected);
                }
                Err(ConfigError::ModelNotFetched { name: entry.name.to_owned(), expected })
            }
        }
    }

    /// The root of the vector store: the one that was named; else the first of `vectors/<slug>` in the
    /// working directory, beside the program, and in `../share/skeg` from there.
    pub(crate) fn vectors_root(&self) -> Result<PathBuf, ConfigError> {
        if let Some(address) = self.vectors_address() {
            let reason = format!(
                "is the address {address}, expected a folder: this command works on files; \
                 give a folder with --vectors, or where there is one use --store"
            );
            return Err(ConfigError::Invalid { setting: "vectors", reason });
        }
        if let Some(named) = &self.vectors {
            return Ok(named.clone());
        }
        let below = Path::new(VECTORS_FOLDER).join(self.source.slug());
        let program = std::env::current_exe().ok();
        let program_folder = program.as_deref().and_then(Path::parent);
        let places = [
            Some(below.clone()),
            program_folder.map(|folder| folder.join(&below)),
            program_folder.map(|folder| folder.join("../share/skeg").join(&below)),
        ];
        let places: Vec<PathBuf> = places.into_iter().flatten().collect();
        match places.iter().find(|place| place.is_dir()) {
            Some(root) => Ok(root.clone()),
            None => Err(ConfigError::NoVectors { looked_at: places }),
        }
    }

    /// The address of the place to follow, if one was named in place of a folder.
    pub(crate) fn vectors_address(&self) -> Option<&str> {
        self.vectors.as_deref()?.to_str().filter(|named| named.contains("://"))
    }

    /// The folder for the copy of a place: the one that was named, else one in the cache that is the place's alone.
    pub(crate) fn copy_root(&self, address: &str) -> PathBuf {
        let by_place = || {
            let digest: [u8; 32] = Sha256::digest(address).into();
            let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            self.cache_dir.join(COPIES_FOLDER).join(name)
        };
        self.vectors_copy.clone().unwrap_or_else(by_place)
    }

    /// The store that was named, for display.
    pub(super) fn named_vectors(&self) -> Option<&Path> {
        self.vectors.as_deref()
    }
}

/// The folder for fetched models: the one given, else the platform's.
pub(crate) fn cache_dir(given: Option<&Path>) -> Result<PathBuf, ConfigError> {
    let platform = || directories::ProjectDirs::from("", "", "skeg");
    given
        .map(Path::to_owned)
        .or_else(|| platform().map(|dirs| dirs.cache_dir().to_owned()))
        .ok_or(ConfigError::NoCacheDir)
}

fn parse_cpu(raw: &RawConfig) -> Result<CpuOptions, ConfigError> {
    let kernels = raw.cpu_kernels.as_deref().map(str::parse::<CpuKernels>).transpose();
    let invalid = |setting, reason| ConfigError::Invalid { setting, reason };
    Ok(CpuOptions {
        kernels: kernels.map_err(|error| invalid("cpu_kernels", error.to_string()))?,
        num_threads: match raw.threads {
            None => None,
            Some(threads) => Some(
                NonZeroUsize::new(threads)
                    .ok_or_else(|| invalid("threads", "is 0; expected at least 1".to_owned()))?,
            ),
        },
    })
}

fn parse_weights(form: Option<&str>) -> Result<WeightForm, ConfigError> {
    match form {
        None | Some("as-stored" | "as_stored") => Ok(WeightForm::AsStored),
        Some("f32") => Ok(WeightForm::F32),
        Some(other) => Err(ConfigError::Invalid {
            setting: "weights",
            reason: format!("`{other}` is unknown; expected `as-stored` or `f32`"),
        }),
    }
}
