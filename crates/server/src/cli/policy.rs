//! `skeg policy check|schema`: is a policy file right, does it fit a generation, and what does it do?

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use skeg_vector_store::{
    Files, Generation, GenerationId, Policy, load_files, place, policy_schema, with_policy,
};

use crate::output;

/// Check a policy file before it is published, and print the JSON schema of such files.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Check(CheckArgs),
    /// Print the JSON schema of policy.toml, for editors and other programs
    Schema,
}

/// Check a policy file and print in plain words what it does; exits with 1 if it is not right, or does not fit the store's
/// generation.
#[derive(Debug, clap::Args)]
#[command(after_help = CHECK_HELP)]
pub(super) struct CheckArgs {
    /// The policy, a TOML file
    file: PathBuf,
    /// Check it against the generation that serves in this store as well: its categories, safe windows, norms and figures.
    /// A folder, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`
    #[arg(long, value_name = "PLACE")]
    store: Option<String>,
    /// Another generation of the store, by its id
    #[arg(long, value_name = "ID", requires = "store")]
    generation: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const CHECK_HELP: &str = "\
Examples:
  skeg policy check policy.toml
  skeg policy check policy.toml --store vectors/smollm2-135m-instruct

To make it the policy that serves: skeg vectors publish --policy policy.toml";

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Check(args) => check(args),
        Command::Schema => Ok(output::json(&policy_schema())?),
    }
}

/// The text of a policy file.
pub(super) fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The files of the generation `id` with the policy that was read from `file`.
pub(super) fn replaced(
    files: &Files,
    id: &GenerationId,
    file: &Path,
    text: &str,
) -> anyhow::Result<Files> {
    with_policy(files, text)
        .with_context(|| format!("{} cannot be the policy of {id}", file.display()))
}

fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let text = read(&args.file)?;
    let policy =
        Policy::parse(&text).with_context(|| format!("{} is not a policy", args.file.display()))?;
    let fits = args.store.as_deref().map(|store| check_against(args, store, &text)).transpose()?;
    if args.json {
        return Ok(output::json(&json!({
            "file": args.file,
            "generation": fits.as_ref().map(|(before, _)| before),
            "would_be": fits.as_ref().map(|(_, after)| after),
            "words": policy.words(),
        }))?);
    }
    for words in policy.words() {
        output::line(&words)?;
    }
    Ok(output::line(&match fits {
        Some((before, after)) => format!(
            "\n{} fits {before}: its categories, safe windows and norms; with it, {before} would be {after}",
            args.file.display()
        ),
        None => format!(
            "\n{} is a policy; --store says whether it fits the vectors",
            args.file.display()
        ),
    })?)
}

/// The generation that the policy was checked against, and what it would be with this policy.
fn check_against(
    args: &CheckArgs,
    store: &str,
    text: &str,
) -> anyhow::Result<(GenerationId, GenerationId)> {
    let place = place::open(store)?;
    let id = match &args.generation {
        Some(id) => GenerationId::parse(id)?,
        None => place.current()?.generation,
    };
    let files = replaced(&place.read_files(&id)?, &id, &args.file, text)?;
    let after = load_files(&place.path_of("generations"), None, &files)?;
    note_on_auto(&after);
    Ok((id, after.id))
}

/// Says so where not every server can serve a generation.
pub(super) fn note_on_auto(generation: &Generation) {
    if generation.needs_classifier() {
        output::note(
            "`when_missing` is `auto` and the generation has no probe.safetensors: only servers with `--classifier http` serve it, and \
             others refuse it",
        );
    }
}
