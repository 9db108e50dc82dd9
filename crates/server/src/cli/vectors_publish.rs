//! `skeg vectors publish|rollback`: which generation serves, changed by compare-and-set after its difference was shown.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;
use skeg_lab::probe::Probe;
use skeg_vector_store::place::{self, Place};
use skeg_vector_store::{
    Change, ChangeKind, Current, Difference, Error, Files, Generation, GenerationId, SecretKey,
    TrustedKeys, load_files, rollback_target, sign_files, with_card, with_probe,
};

use super::policy;
use super::vectors::StoreFlags;
use super::vectors_sign;
use crate::output;

/// How far back a rollback looks for what served before.
const ROLLBACK_CHANGES: usize = 200;

/// Which store, wherever it lies.
#[derive(Debug, clap::Args)]
pub(super) struct PlaceFlags {
    /// Store: a folder, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix` [default: that of --vectors]
    #[arg(long, value_name = "PLACE")]
    store: Option<String>,
    #[command(flatten)]
    pub(super) flags: StoreFlags,
}

impl PlaceFlags {
    pub(super) fn open(&self) -> anyhow::Result<Box<dyn Place>> {
        match &self.store {
            Some(store) => Ok(place::open(store)?),
            None => Ok(Box::new(place::LocalPlace::new(self.flags.root()?))),
        }
    }
}

/// How `CURRENT` is changed.
#[derive(Debug, clap::Args)]
struct ChangeFlags {
    /// Change it only if it still has this sequence; 0 = nothing was published [default: the one that is found]
    #[arg(long, value_name = "SEQUENCE")]
    expected: Option<u64>,
    /// Check everything and print the difference, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Who, for the history
    #[arg(long, value_name = "NAME", env = "USER", default_value = "")]
    actor: String,
}

/// Make a generation the one that serves, after printing what that changes; exits with 1 if another publisher was first.
#[derive(Debug, clap::Args)]
#[command(after_help = PUBLISH_HELP)]
pub(super) struct PublishArgs {
    /// A generation's id [default: the one that serves, of --from with it, or with --policy or --probe of this store]
    #[arg(required_unless_present_any = ["from", "policy", "probe"])]
    generation: Option<String>,
    /// Copy the generation from this store first: a folder or an address, as --store
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Sign it first with the secret key in this file, from `skeg vectors keygen`
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Make a new generation of it first: the same vectors with this policy, a TOML file
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Make a new generation of it first: the same vectors with this probe, a file from `skeg probe train`
    #[arg(long, value_name = "FILE")]
    probe: Option<PathBuf>,
    /// What was measured of that probe, for the card: `report.md` of `skeg probe evaluate --out`
    #[arg(long, value_name = "FILE", requires = "probe")]
    probe_report: Option<PathBuf>,
    #[command(flatten)]
    change: ChangeFlags,
    #[command(flatten)]
    place: PlaceFlags,
}

impl PublishArgs {
    /// Whether a new generation is made of the one that is named.
    fn changes_files(&self) -> bool {
        self.policy.is_some() || self.probe.is_some()
    }
}

const PUBLISH_HELP: &str = "\
Examples:
  skeg vectors publish 0123456789abcdef --vectors my-vectors --dry-run
  skeg vectors publish --from my-vectors --store s3://bucket/vectors --reason \"floor of fraud raised\"
  skeg vectors publish --policy policy.toml --vectors my-vectors --dry-run
  skeg vectors publish --probe probe.safetensors --probe-report report/report.md --vectors my-vectors

Readers see the old content of CURRENT or the whole new one. A generation that cannot be loaded is never published, nor with
trusted keys one that none of them signed.";

/// Go back to the generation that served before the present one was published; exits with 1 if another publisher was first.
#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// A generation's id [default: by the history; rolling back again goes one further]
    generation: Option<String>,
    #[command(flatten)]
    change: ChangeFlags,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn publish(args: &PublishArgs) -> anyhow::Result<()> {
    let place = args.place.open()?;
    let source = args.from.as_deref().map(place::open).transpose()?;
    let found = place.find_current()?;
    let holder = source.as_deref().unwrap_or(place.as_ref());
    let id = match &args.generation {
        Some(id) => GenerationId::parse(id)?,
        None if source.is_none() && !args.changes_files() => {
            bail!("name a generation, a store to take it --from, a --policy or a --probe")
        }
        None => holder.current()?.generation,
    };
    let key = args.key.as_deref().map(SecretKey::read).transpose()?;
    let mut files = holder.read_files(&id)?;
    let mut path = place.path_of(&format!("generations/{id}"));
    // The probe first: a policy may ask for one.
    if let Some(file) = &args.probe {
        files = probed(&files, file, args.probe_report.as_deref())
            .with_context(|| format!("{} cannot be the probe of {id}", file.display()))?;
        path = file.clone();
    }
    if let Some(file) = &args.policy {
        files = policy::replaced(&files, &id, file, &policy::read(file)?)?;
        path = file.clone();
    }
    let mut candidate = load_files(&path, (!args.changes_files()).then_some(&id), &files)?;
    if let Some(key) = &key {
        sign_files(&mut files, &candidate, key)?;
        candidate = load_files(&path, Some(&candidate.id), &files)?;
    }
    policy::note_on_auto(&candidate);
    let is_new = source.is_some() || args.changes_files() || key.is_some();
    let copied = is_new.then_some(&files);
    let trusted = &args.place.flags.trusted_keys()?;
    let step = Step { place: place.as_ref(), found, candidate: &candidate, copied, trusted };
    step.take(&args.change, ChangeKind::Publish, args.place.flags.json)
}

/// The files of a generation with the probe in `file`, and a card that names it.
fn probed(files: &Files, file: &Path, report: Option<&Path>) -> anyhow::Result<Files> {
    let bytes = Probe::read_file(file)?;
    let report = report
        .map(|report| {
            std::fs::read_to_string(report)
                .with_context(|| format!("cannot read {}", report.display()))
        })
        .transpose()?;
    let probe = Probe::from_bytes(&bytes)?;
    let changed = with_probe(files, &bytes)?;
    let before = load_files(file, None, &changed)?;
    Ok(with_card(&changed, &probe.card(&before.card, report.as_deref()))?)
}

pub(super) fn rollback(args: &RollbackArgs) -> anyhow::Result<()> {
    let place = args.place.open()?;
    let current = place.current()?;
    let id = match &args.generation {
        Some(id) => GenerationId::parse(id)?,
        None => {
            let history = place.history(ROLLBACK_CHANGES)?;
            rollback_target(&current, &history).with_context(|| {
                format!(
                    "the history of {} does not say what served before {}; name a generation: \
                     skeg vectors history, skeg vectors list",
                    place.name(),
                    current.generation
                )
            })?
        }
    };
    let candidate = place.load(&id)?;
    let found = Some(current);
    let trusted = &args.place.flags.trusted_keys()?;
    let step = Step { place: place.as_ref(), found, candidate: &candidate, copied: None, trusted };
    step.take(&args.change, ChangeKind::Rollback, args.place.flags.json)
}

/// A change of `CURRENT` that is about to be made.
struct Step<'a> {
    place: &'a dyn Place,
    /// What was found, from which the change is made.
    found: Option<Current>,
    candidate: &'a Generation,
    /// The candidate's files, where they come from another place or were signed here.
    copied: Option<&'a Files>,
    /// Keys, one of which must have signed the candidate.
    trusted: &'a TrustedKeys,
}

impl Step<'_> {
    /// Prints the difference, then makes the change from what was found and from nothing else.
    fn take(&self, flags: &ChangeFlags, kind: ChangeKind, as_json: bool) -> anyhow::Result<()> {
        let sequence = self.found.as_ref().map_or(0, |found| found.sequence);
        if let Some(expected) = flags.expected.filter(|expected| *expected != sequence) {
            let path = self.place.path_of("CURRENT");
            return Err(Error::Conflict { path, found: sequence, expected }.into());
        }
        self.trusted.check(self.candidate)?;
        let id = &self.candidate.id;
        let serves = self.found.as_ref().is_some_and(|found| found.generation == *id);
        let difference = self.difference();
        if !as_json {
            self.print(difference.as_ref())?;
        }
        // What serves already may get a signature.
        if let Some(files) = self.copied.filter(|_| !flags.dry_run) {
            self.place.add_files(files)?;
        }
        let current = if serves || flags.dry_run {
            None
        } else {
            let (actor, reason) = (flags.actor.clone(), flags.reason.clone());
            let change = Change { kind, actor, reason };
            Some(self.place.set_current(id, Some(sequence), &change)?)
        };
        if as_json {
            return Ok(output::json(&json!({
                "place": self.place.name(),
                "from": self.found.as_ref().map(|found| &found.generation),
                "to": id,
                "dry_run": flags.dry_run,
                "changed": current.is_some(),
                "signed_by": vectors_sign::signers(self.trusted, &self.candidate.signatures),
                "sequence": current.map_or(sequence, |current| current.sequence),
                "difference": difference,
                "words": difference.as_ref().map(Difference::words),
            }))?);
        }
        Ok(output::line(&match current {
            Some(current) => format!("{id} serves now, sequence {}", current.sequence),
            None if serves => {
                format!("{id} serves already, sequence {sequence}; CURRENT was not changed")
            }
            None => format!("dry run: {id} would serve; nothing was changed"),
        })?)
    }

    /// What the change changes; `None` where nothing serves, or what serves cannot be read.
    fn difference(&self) -> Option<Difference> {
        let found = self.found.as_ref()?;
        match self.place.load(&found.generation) {
            Ok(before) => Some(Difference::between(&before, self.candidate)),
            Err(error) => {
                output::note(&format!("cannot compare with what serves: {error}"));
                None
            }
        }
    }

    fn print(&self, difference: Option<&Difference>) -> anyhow::Result<()> {
        let place = self.place.name();
        let Some(difference) = difference else {
            return Ok(output::line(&format!("{place}: nothing to compare with"))?);
        };
        output::line(&format!("{place}: {} -> {}", difference.from, difference.to))?;
        for words in difference.words() {
            output::line(&format!("  {words}"))?;
        }
        Ok(())
    }
}
