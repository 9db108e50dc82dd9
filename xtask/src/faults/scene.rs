//! Who is interrupted at what, and what a reader finds afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skeg_vector_store::mirror::Mirror;
use skeg_vector_store::place::{LocalPlace, Place as _};
use skeg_vector_store::{
    Action, Category, CategoryPolicy, CategoryProvenance, CategoryVectors, Current,
    DEFAULT_REFUSAL, ModelBinding, NewGeneration, Operator, Orientation, Policy, Positions,
    Provenance, SafeWindow, Site, Store, Strength, gc, read_current, set_current, verify,
    write_generation,
};

const CATEGORIES: [&str; 2] = ["fraud_deception", "malware_viruses"];
const HIDDEN_SIZE: usize = 16;
const LAYERS: [usize; 2] = [1, 3];
const OLD: u8 = 0;
const NEW: u8 = 1;

/// A process that changes a store, and is interrupted.
#[derive(Debug)]
pub(super) enum Victim {
    /// `skeg vectors publish`, which copies a generation from another store and makes it serve.
    Publisher {
        /// The binary.
        skeg: PathBuf,
    },
    /// A replica that follows a folder and opens its copy.
    Replica {
        /// This program.
        xtask: PathBuf,
    },
}

/// A store in which the old generation serves, and a victim that is to make the new one serve.
#[derive(Debug)]
pub(super) struct Scene {
    victim: Victim,
    /// Where the new generation comes from.
    source: PathBuf,
    /// The store as it is before the victim is started.
    template: PathBuf,
    /// The store that the victim changes.
    pub(super) store: PathBuf,
    old: Current,
    new: Current,
}

/// How far a victim came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It changed nothing.
    Before,
    /// It left something, and the old generation serves.
    InsideOld,
    /// It did not end by itself, and the new generation serves.
    InsideNew,
    /// It was done.
    After,
}

impl Scene {
    /// In a folder that is made for it.
    pub(super) fn new(folder: &Path, victim: Victim) -> Result<Self> {
        let [source, template, store] =
            ["source", "template", "store"].map(|name| folder.join(name));
        for path in [&source, &template] {
            fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        }
        let old = write_generation(&source, &generation(OLD)?)?;
        let new = write_generation(&source, &generation(NEW)?)?;
        let old = set_current(&source, &old, None)?;
        match &victim {
            Victim::Publisher { .. } => {
                let files = LocalPlace::new(&source).read_files(&old.generation)?;
                LocalPlace::new(&template).add_files(&files)?;
                set_current(&template, &old.generation, None)?;
            }
            Victim::Replica { .. } => {
                Mirror::new(Box::new(LocalPlace::new(&source)), &template)?.sync()?;
            }
        }
        let new = set_current(&source, &new, None)?;
        Ok(Self { victim, source, template, store, old, new })
    }

    /// The victim's name, for people.
    pub(super) fn name(&self) -> &'static str {
        match self.victim {
            Victim::Publisher { .. } => "publisher",
            Victim::Replica { .. } => "replica",
        }
    }

    /// The store as it was before.
    pub(super) fn reset(&self) -> Result<()> {
        if self.store.exists() {
            fs::remove_dir_all(&self.store)
                .with_context(|| format!("clearing {}", self.store.display()))?;
        }
        copy_folder(&self.template, &self.store)
    }

    /// Moves the store under test elsewhere, to another file system.
    pub(super) fn move_store(&mut self, store: PathBuf) {
        self.store = store;
    }

    /// What is interrupted.
    pub(super) fn command(&self) -> Result<Command> {
        let mut command = match &self.victim {
            Victim::Publisher { skeg } => {
                let mut command = Command::new(skeg);
                command.args(["vectors", "publish", self.new.generation.as_str(), "--from"]);
                command.arg(&self.source).arg("--store").arg(&self.store);
                command
            }
            Victim::Replica { xtask } => {
                let mut command = Command::new(xtask);
                command.args(["faults", "--replica"]).arg(&self.source).arg(&self.store);
                command
            }
        };
        command.env("RUST_BACKTRACE", "0").env("RUST_LOG", "error");
        Ok(command)
    }

    /// Runs the victim to its end; what it printed on standard error where it failed.
    pub(super) fn attempt(&self) -> Result<Option<String>> {
        let output = self.command()?.output().context("cannot start the victim")?;
        let failed = !output.status.success();
        Ok(failed.then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// How far a victim came, once a reader found the old generation or the new one, whole and unmixed.
    pub(super) fn stage(&self, succeeded: bool) -> Result<Stage> {
        let new_serves = self.check()?;
        Ok(match (succeeded, new_serves) {
            (true, true) => Stage::After,
            (true, false) => bail!("the {} ended well, and the old generation serves", self.name()),
            (false, true) => Stage::InsideNew,
            (false, false) if self.leftovers()?.is_empty() => Stage::Before,
            (false, false) => Stage::InsideOld,
        })
    }

    /// The next attempt works, and of what the one before left nothing stays for ever; how much that was.
    pub(super) fn recover(&self) -> Result<usize> {
        if let Some(stderr) = self.attempt()? {
            bail!("the next {} failed: {stderr}", self.name());
        }
        ensure!(self.check()?, "the next {} ended well, and the old one serves", self.name());
        let place = LocalPlace::new(&self.store);
        let collected = gc::collect_leftovers(&place, Duration::ZERO)?.len();
        let left: Vec<String> = self
            .leftovers()?
            .into_iter()
            .filter(|name| !name.starts_with('.') && *name != self.new.generation.as_str())
            .collect();
        ensure!(left.is_empty(), "left for ever: {left:?}");
        Ok(collected)
    }

    /// Whether the new generation serves; an error where it is neither of the two, or not as it was written.
    fn check(&self) -> Result<bool> {
        let current = read_current(&self.store)?;
        let is_new = current == self.new;
        ensure!(
            is_new || current == self.old,
            "found {current:?}, neither the old nor the new one"
        );
        let report = verify(&self.store, &current.generation, Some(&model()))?;
        ensure!(report.is_sound(), "what serves is not sound: {report:?}");
        let store = Store::open(&self.store, model(), |_| Ok(()))?;
        let live = store.current();
        let mark = if is_new { NEW } else { OLD };
        ensure!(live.generation.card == card(mark), "the card is of another generation");
        for vectors in live.generation.vectors.values() {
            ensure!(*vectors == rows(mark), "the vectors are of another generation");
        }
        let history = LocalPlace::new(&self.store).history(10)?;
        ensure!(history.iter().all(|entry| entry.sequence <= current.sequence), "{history:?}");
        Ok(is_new)
    }

    /// Names in the store's folders that were not there before, but the new history.
    fn leftovers(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for below in ["", "generations"] {
            let before = names_in(&self.template.join(below))?;
            let now = names_in(&self.store.join(below))?;
            names.extend(now.into_iter().filter(|name| !before.contains(name)));
        }
        Ok(names)
    }
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("making {}", to.display()))?;
    for name in names_in(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        }
    }
    Ok(())
}

/// The model that the generations are for.
pub(super) fn model() -> ModelBinding {
    ModelBinding {
        architecture_id: "architecture".to_owned(),
        weights_id: "weights".to_owned(),
        hidden_size: HIDDEN_SIZE,
        num_hidden_layers: 4,
    }
}

fn card(mark: u8) -> String {
    format!("# Generation {mark}\n")
}

/// The rows of every category.
fn rows(mark: u8) -> CategoryVectors {
    let values = vec![f32::from(mark) + 1.0; LAYERS.len() * HIDDEN_SIZE];
    CategoryVectors { layers: LAYERS.to_vec(), values }
}

/// A small generation whose every part tells its mark.
fn generation(mark: u8) -> Result<NewGeneration> {
    let categories =
        CATEGORIES.iter().map(|slug| slug.parse()).collect::<Result<Vec<Category>, _>>()?;
    fn each<T: Clone>(categories: &[Category], value: &T) -> BTreeMap<Category, T> {
        categories.iter().map(|category| (category.clone(), value.clone())).collect()
    }
    let default = if mark == OLD { 0.5 } else { 0.75 };
    let rule = CategoryPolicy {
        auto: None,
        action: Action::Steer,
        strength: Strength { default, floor: 0.25, ceiling: 1.0 },
        positions: Positions::All,
        refusal: DEFAULT_REFUSAL.to_owned(),
    };
    let record = CategoryProvenance {
        num_safe: 2,
        num_unsafe: 2,
        split_half_cosine: vec![0.5; LAYERS.len()],
    };
    Ok(NewGeneration {
        model: model(),
        also_measured_on: Vec::new(),
        site: Site::AttnOut,
        operator: Operator::Add,
        orientation: Orientation::SafeMinusUnsafe,
        vectors: each(&categories, &rows(mark)),
        activation_norms: each(&categories, &vec![8.0; LAYERS.len()]),
        safe_windows: each(&categories, &SafeWindow { min: 0.25, max: 1.0 }),
        provenance: Provenance {
            method: "difference_of_means".to_owned(),
            tokens: "response".to_owned(),
            prompt_form: "chat_template".to_owned(),
            data_sha256: vec!["00".repeat(32)],
            inputs_sha256: "11".repeat(32),
            made_by: "cargo xtask faults".to_owned(),
            made_at: None,
            categories: each(&categories, &record),
        },
        measured: Vec::new(),
        policy: Policy::open(each(&categories, &rule)),
        probe: None,
        card: card(mark),
        figures: None,
    })
}
