//! `skeg vectors import`: a vector that another program made becomes a generation.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use skeg_lab::exchange::{FileFormat, ImportOptions, VectorFile, activation_norms};
use skeg_model::{LoadOptions, LoadedModel, WeightForm};
use skeg_vector_store::{Category, Site};

use super::ModelFlags;
use super::layers::parse_layers;
use super::progress::Bar;
use super::running::model_path;
use super::written::Written;
use crate::output;

/// Make a generation of a vector in a .gguf (control vector), .safetensors or .npz file.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ImportArgs {
    /// The file
    file: PathBuf,
    /// Category that the vector is for
    #[arg(long, value_name = "NAME")]
    category: Category,
    /// The vector's name in the file [default: the category's; a .gguf file has one without a name]
    #[arg(long, value_name = "NAME")]
    vector: Option<String>,
    /// Where it acts, `attn_out` or `resid_post` [default: what the file says; .gguf is always `resid_post`]
    #[arg(long, value_parser = parse_site)]
    site: Option<Site>,
    /// Layers from 0, for example `8-19` or `4,8,12`: some of the file's, or which its rows are where it does not say [default: all]
    #[arg(long)]
    layers: Option<String>,
    /// Turn the vector round: the file's positive side is the less safe one
    #[arg(long)]
    negate: bool,
    /// Steer with this default strength, also the highest that is allowed; without it the policy only logs, since nothing is
    /// measured yet
    #[arg(long)]
    strength: Option<f32>,
    /// Vector store to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Make the generation live, if the store has a live one already (a first one always goes live)
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    model: ModelFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  skeg vectors import honesty.gguf --category fraud_deception --out my-vectors --strength 0.5
  skeg vectors import mine.npz --category malware_viruses --site attn_out --out my-vectors

A control vector's `direction.N` acts after block N, counted from 0. Positive strength must be the safer side: measure it (skeg calibrate,
skeg chat --compare), and turn the vector round by --negate where it is not. Activation norms are measured on the model, in f32.";

/// As `extract` reads it, in the store's words.
fn parse_site(name: &str) -> Result<Site, String> {
    match name {
        "attn_out" => Ok(Site::AttnOut),
        "resid_post" => Ok(Site::ResidPost),
        _ => Err("expected attn_out or resid_post".to_owned()),
    }
}

pub(super) fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let format = FileFormat::of_path(&args.file)?;
    let options = ImportOptions {
        category: args.category.clone(),
        name: args.vector.clone(),
        site: args.site,
        layers: args.layers.as_deref().map(parse_layers).transpose()?,
        negate: args.negate,
    };
    let (file, bytes) = VectorFile::read(&args.file, format)?;
    // Before the model is loaded, which may take a while.
    let imported = file.choose(&options).with_context(|| args.file.display().to_string())?;
    let config = args.model.config(None)?;
    let path = model_path(&config.model, args.model.fetch)?;
    let load = LoadOptions { weights: WeightForm::F32, ..config.model.load_options() };
    let model = LoadedModel::load(&path, &load)?;
    let norms = activation_norms(&model, &imported, &mut Bar::new()?)?;
    let generation = imported.generation(&norms, args.strength, (format, &bytes));
    let written = Written::new(&args.out, &generation, args.publish)?;
    if args.json {
        let value = json!({
            "generation": written.id.to_string(),
            "live": written.is_live,
            "category": args.category,
            "site": imported.site(),
            "operator": imported.operator(),
            "layers": imported.layers(),
        });
        return Ok(output::json(&value)?);
    }
    output::line(&format!(
        "`{}`: {} at {}, layers {:?}; its effect was not measured",
        args.category,
        imported.operator(),
        imported.site(),
        imported.layers()
    ))?;
    Ok(output::line(&written.sentence())?)
}
