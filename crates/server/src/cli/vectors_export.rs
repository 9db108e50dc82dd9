//! `skeg vectors export`: a generation's vectors for another program.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;
use skeg_lab::exchange::{FileFormat, exported};
use skeg_vector_store::{Category, load_generation};

use super::vectors::{StoreFlags, chosen};
use crate::output;

/// Write vectors of a generation as .gguf (a control vector for llama.cpp and repeng), .safetensors or .npz.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ExportArgs {
    /// A generation's id [default: the live one]
    generation: Option<String>,
    /// Category; may be given several times, but not for gguf, which holds one vector
    #[arg(long, value_name = "NAME", required = true)]
    category: Vec<Category>,
    /// gguf, safetensors or npz
    #[arg(long)]
    format: FileFormat,
    /// File to write; must not be there
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The kind of model, for programs that ask for it
    #[arg(long, value_name = "NAME", default_value = "llama")]
    model_hint: String,
    #[command(flatten)]
    store: StoreFlags,
}

const AFTER_HELP: &str = "\
Examples:
  skeg vectors export --category fraud_deception --format safetensors --out fraud.safetensors
  skeg vectors export --category fraud_deception --format gguf --out fraud.gguf
  llama-cli -m MODEL.gguf --control-vector-scaled fraud.gguf:0.5

A control vector is added to the residual stream, nothing else: --format gguf takes site `resid_post` and operator `add` alone. The
numbers are as stored: strength is told beside them and is for the other program to apply.";

pub(super) fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let root = args.store.root()?;
    let id = chosen(&root, args.generation.as_deref())?;
    let generation = load_generation(&root, &id, None)?;
    let file = exported(&generation, &args.category, (args.format, &args.model_hint))?;
    let bytes = file.to_bytes(args.format)?;
    write_new(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;
    let manifest = &generation.manifest;
    if args.store.json {
        let value = json!({
            "generation": id.to_string(),
            "file": args.out,
            "site": manifest.site,
            "operator": manifest.operator,
            "orientation": manifest.orientation,
            "layers": manifest.layers,
            "strengths": file.declared.strengths,
        });
        return Ok(output::json(&value)?);
    }
    output::line(&format!(
        "{}: {} at {}, layers {:?}; positive is the safer side",
        args.out.display(),
        manifest.operator,
        manifest.site,
        manifest.layers
    ))?;
    for strength in file.declared.strengths.values() {
        output::line(&format!(
            "strength {} ({} to {}) by policy, not in the numbers",
            strength.default, strength.floor, strength.ceiling
        ))?;
    }
    Ok(())
}

/// Whole or not at all, and never over another file.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or_else(|| Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}
