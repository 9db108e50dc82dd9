//! `skeg vectors list|inspect|figures|verify`: what is in a vector store. What changes one is in the files beside.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use skeg_model::LoadedModel;
use skeg_vector_store::{
    CategoryVectors, FileReport, Generation, GenerationId, ModelBinding, TrustedKeys, Verification,
    list_generations, load_generation, read_current,
};

use super::ModelFlags;
use super::running::{binding, model_path};
use super::vectors_export::{self, ExportArgs};
use super::vectors_history::{self, DiffArgs, GcArgs, HistoryArgs};
use super::vectors_import::{self, ImportArgs};
use super::vectors_publish::{self, PublishArgs, RollbackArgs};
use super::vectors_recompute::RecomputeFlags;
use super::vectors_sign::{self, KeygenArgs, SignArgs};
use crate::output::{self, Table};

/// See what is in a vector store, check it, and change what it serves.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    List(ListArgs),
    Inspect(InspectArgs),
    Figures(FiguresArgs),
    Verify(Box<VerifyArgs>),
    Publish(Box<PublishArgs>),
    Rollback(Box<RollbackArgs>),
    History(Box<HistoryArgs>),
    Diff(Box<DiffArgs>),
    Gc(Box<GcArgs>),
    Import(Box<ImportArgs>),
    Export(Box<ExportArgs>),
    Keygen(KeygenArgs),
    Sign(Box<SignArgs>),
}

/// Which store.
#[derive(Debug, clap::Args)]
pub(super) struct StoreFlags {
    #[command(flatten)]
    model: ModelFlags,
    /// Vector store [default: vectors/MODEL here, then beside the program]
    #[arg(long, env = "SKEG_VECTORS", value_name = "DIR")]
    vectors: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl StoreFlags {
    pub(super) fn root(&self) -> anyhow::Result<PathBuf> {
        Ok(self.model.config(self.vectors.clone())?.model.vectors_root()?)
    }

    /// The keys, one of which must have signed what a server takes.
    pub(super) fn trusted_keys(&self) -> anyhow::Result<TrustedKeys> {
        Ok(self.model.trusted_keys()?)
    }
}

/// List the generations of a store; `*` marks the live one.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    store: StoreFlags,
}

/// Show one generation: where it acts, and each category's policy and norms.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// A generation's id [default: the live one]
    generation: Option<String>,
    /// Print the card as well: how the vectors were made and what was measured
    #[arg(long)]
    card: bool,
    #[command(flatten)]
    store: StoreFlags,
}

/// Print one generation's figures as they are stored: JSON, what was measured
#[derive(Debug, clap::Args)]
pub(super) struct FiguresArgs {
    /// A generation's id [default: the live one]
    generation: Option<String>,
    #[command(flatten)]
    store: StoreFlags,
}

/// Check hashes, shapes, values and policy of every generation, and on request figures of one; exits with 1 if something
/// is unsound.
#[derive(Debug, clap::Args)]
#[command(after_help = VERIFY_HELP)]
pub(super) struct VerifyArgs {
    /// A generation's id [default: all of them; with --recompute the live one]
    generation: Option<String>,
    /// Load the model and check as well that the generations were made for it
    #[arg(long)]
    with_model: bool,
    #[command(flatten)]
    store: StoreFlags,
    // Last: the heading of its judges holds for all flags after it.
    #[command(flatten)]
    recompute: RecomputeFlags,
}

const VERIFY_HELP: &str = "\
Examples:
  skeg vectors verify
  skeg vectors verify --recompute 50 --data catqa.jsonl --embedder all-MiniLM-L6-v2 --heads heads.json

--recompute needs the model, the weights form and the judges of the calibration, and the data that it was given. It reads no
kept answers. On the CPU outcomes do not depend on threads, kernels or batch, so each must be as recorded.";

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list(&args.store),
        Command::Inspect(args) => inspect(&args),
        Command::Figures(args) => figures(&args),
        Command::Verify(args) => verify(&args),
        Command::Publish(args) => vectors_publish::publish(&args),
        Command::Rollback(args) => vectors_publish::rollback(&args),
        Command::History(args) => vectors_history::history(&args),
        Command::Diff(args) => vectors_history::diff(&args),
        Command::Gc(args) => vectors_history::gc(&args),
        Command::Import(args) => vectors_import::import(&args),
        Command::Export(args) => vectors_export::export(&args),
        Command::Keygen(args) => vectors_sign::keygen(&args),
        Command::Sign(args) => vectors_sign::sign(&args),
    }
}

fn list(flags: &StoreFlags) -> anyhow::Result<()> {
    let root = flags.root()?;
    let current = read_current(&root)?;
    let trusted = flags.trusted_keys()?;
    let columns = ["", "GENERATION", "CATEGORIES", "SITE", "OPERATOR", "LAYERS", "SIGNED BY"];
    let mut table = Table::new(&columns);
    let mut rows = Vec::new();
    for id in list_generations(&root)? {
        let is_current = id == current.generation;
        let (facts, cells) = match load_generation(&root, &id, None) {
            Ok(generation) => {
                let (mut facts, mut cells) = describe(&generation);
                facts["signed_by"] = json!(vectors_sign::signers(&trusted, &generation.signatures));
                cells.push(vectors_sign::words(&trusted, &generation.signatures));
                (facts, cells)
            }
            Err(error) => {
                let message = error.to_string();
                (json!({"error": message}), vec![format!("unsound: {message}")])
            }
        };
        rows.push(json!({"generation": id.to_string(), "current": is_current, "facts": facts}));
        let mark = if is_current { "*" } else { "" };
        table.row([vec![mark.to_owned(), id.to_string()], cells].concat());
    }
    if flags.json {
        return Ok(output::json(&rows)?);
    }
    Ok(table.print()?)
}

fn describe(generation: &Generation) -> (Value, Vec<String>) {
    let manifest = &generation.manifest;
    let cells = vec![
        manifest.categories.len().to_string(),
        manifest.site.as_str().to_owned(),
        manifest.operator.as_str().to_owned(),
        format!("{:?}", manifest.layers),
    ];
    let facts = json!({
        "categories": manifest.categories,
        "site": manifest.site,
        "operator": manifest.operator,
        "layers": manifest.layers,
        "architecture_id": manifest.architecture_id,
        "weights_id": manifest.weights_id,
    });
    (facts, cells)
}

fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let root = args.store.root()?;
    let id = chosen(&root, args.generation.as_deref())?;
    let generation = load_generation(&root, &id, None)?;
    let trusted = args.store.trusted_keys()?;
    let categories: Vec<Value> = generation
        .vectors
        .iter()
        .map(|(category, vectors)| {
            let rule = generation.policy.categories.get(category);
            let policy = rule.map(|rule| {
                json!({
                    "action": rule.action,
                    "strength": rule.strength,
                    "positions": rule.positions,
                })
            });
            json!({"category": category, "policy": policy, "norms": norms(vectors)})
        })
        .collect();
    if args.store.json {
        let value = json!({
            "generation": id.to_string(),
            "manifest": generation.manifest,
            "categories": categories,
            "has_figures": generation.has_figures(),
            "signed_by": vectors_sign::signers(&trusted, &generation.signatures),
            "card": generation.card,
        });
        return Ok(output::json(&value)?);
    }
    let (_, cells) = describe(&generation);
    output::line(&format!("generation {id}: {} at {}, layers {}", cells[2], cells[1], cells[3]))?;
    output::line(&format!("architecture {}", generation.manifest.architecture_id))?;
    output::line(&format!("weights      {}", generation.manifest.weights_id))?;
    let signed_by = vectors_sign::words(&trusted, &generation.signatures);
    output::line(&format!("signed by    {signed_by}"))?;
    let figures = if generation.has_figures() { "yes, see `skeg vectors figures`" } else { "none" };
    output::line(&format!("figures      {figures}\n"))?;
    category_table(&categories).print()?;
    if args.card {
        output::line(&format!("\n{}", generation.card))?;
    }
    Ok(())
}

/// Not printed anew: the bytes are those whose digest is on record.
fn figures(args: &FiguresArgs) -> anyhow::Result<()> {
    let root = args.store.root()?;
    let id = chosen(&root, args.generation.as_deref())?;
    let Some(figures) = load_generation(&root, &id, None)?.figures else {
        bail!(
            "generation {id} has no figures.json; its card says what was measured: \
             skeg vectors inspect {id} --card"
        );
    };
    Ok(output::line(figures.trim_end())?)
}

fn category_table(categories: &[Value]) -> Table {
    let mut table =
        Table::new(&["CATEGORY", "ACTION", "DEFAULT", "FLOOR", "CEILING", "POSITIONS", "NORM"]);
    for row in categories {
        let (policy, strength) = (&row["policy"], &row["policy"]["strength"]);
        let norms: Vec<f64> =
            row["norms"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let min = norms.iter().copied().fold(f64::INFINITY, f64::min);
        let max = norms.iter().copied().fold(0.0, f64::max);
        table.row(vec![
            plain(&row["category"]),
            plain(&policy["action"]),
            plain(&strength["default"]),
            plain(&strength["floor"]),
            plain(&strength["ceiling"]),
            plain(&policy["positions"]),
            format!("{min:.2}..{max:.2}"),
        ]);
    }
    table
}

fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let root = args.store.root()?;
    let binding = if args.with_model { Some(model_binding(&args.store.model)?) } else { None };
    let current = read_current(&root)?;
    let ids = match &args.generation {
        None if !args.recompute.is_wanted() => list_generations(&root)?,
        id => vec![chosen(&root, id.as_deref())?],
    };
    if !ids.contains(&current.generation) && args.generation.is_none() {
        bail!("{}: CURRENT names {}, which is not there", root.display(), current.generation);
    }
    let trusted = args.store.trusted_keys()?;
    let report = |id| {
        let mut report = skeg_vector_store::verify(&root, id, binding.as_ref())?;
        if report.is_sound() {
            let checked = trusted.check_signatures(id, &report.signatures);
            report.fault = checked.err().map(|error| error.to_string());
        }
        Ok(report)
    };
    let reports = ids.iter().map(report).collect::<anyhow::Result<Vec<_>>>()?;
    let json = reports.iter().map(|report| report_json(report, &trusted)).collect::<Vec<_>>();
    let num_unsound = reports.iter().filter(|report| !report.is_sound()).count();
    if !args.store.json {
        report_table(&reports, &trusted).print()?;
    } else if num_unsound > 0 || !args.recompute.is_wanted() {
        output::json(&json)?;
    }
    if num_unsound > 0 {
        bail!("{num_unsound} of {} generations in {} are unsound", ids.len(), root.display());
    }
    recompute(args, &root, &ids, &json)
}

/// Measures figures of the one generation again, if that is wanted.
fn recompute(
    args: &VerifyArgs,
    root: &std::path::Path,
    ids: &[GenerationId],
    reports: &[Value],
) -> anyhow::Result<()> {
    let Some(id) = ids.first().filter(|_| args.recompute.is_wanted()) else { return Ok(()) };
    let generation = load_generation(root, id, None)?;
    let config = args.store.model.config(args.store.vectors.clone())?;
    let report = args.recompute.run(&generation, (&config, &args.store.model))?;
    let Some(report) = report else { return Ok(()) };
    if args.store.json {
        output::json(&json!({"generations": reports, "recomputed": report.json()}))?;
    } else {
        report.print()?;
    }
    report.check()
}

fn report_json(report: &Verification, trusted: &TrustedKeys) -> Value {
    let file = |file: &FileReport| {
        json!({
            "name": file.name,
            "sound": file.is_sound(),
            "found_sha256": file.found,
            "expected_sha256": file.expected,
        })
    };
    json!({
        "generation": report.id.to_string(),
        "sound": report.is_sound(),
        "fault": report.fault,
        "root_hash": report.root_hash,
        "signed_by": vectors_sign::signers(trusted, &report.signatures),
        "files": report.files.iter().map(file).collect::<Vec<_>>(),
    })
}

/// One row a file, and one with what else is wrong.
fn report_table(reports: &[Verification], trusted: &TrustedKeys) -> Table {
    let mut table = Table::new(&["GENERATION", "FILE", "SHA256", "RESULT"]);
    for report in reports {
        for file in &report.files {
            let found = file.found.clone().unwrap_or_else(|| "(missing)".to_owned());
            let result = if file.is_sound() { "sound" } else { "differs from the manifest" };
            table.row(vec![report.id.to_string(), file.name.clone(), found, result.to_owned()]);
        }
        let sound = || match report.signatures.is_empty() {
            true => "sound".to_owned(),
            false => {
                format!("sound, signed by {}", vectors_sign::words(trusted, &report.signatures))
            }
        };
        let result = report.fault.clone().unwrap_or_else(sound);
        table.row(vec![report.id.to_string(), "(all)".to_owned(), String::new(), result]);
    }
    table
}

fn model_binding(flags: &ModelFlags) -> anyhow::Result<ModelBinding> {
    let config = flags.config(None)?;
    let path = model_path(&config.model, flags.fetch)?;
    Ok(binding(&LoadedModel::load(&path, &config.model.load_options())?.identity))
}

/// The generation of that id, or the live one.
pub(super) fn chosen(root: &std::path::Path, id: Option<&str>) -> anyhow::Result<GenerationId> {
    let Some(id) = id else { return Ok(read_current(root)?.generation) };
    let known = list_generations(root)?;
    known.iter().find(|known| known.to_string() == id).cloned().with_context(|| {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        format!("{} has no generation `{id}`; it has {}", root.display(), known.join(", "))
    })
}

/// The Euclidean norm of each layer's row.
fn norms(vectors: &CategoryVectors) -> Vec<f64> {
    let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    (0..vectors.layers.len()).map(|idx| norm(vectors.row(idx))).collect()
}

/// A JSON value as a person writes it.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}
