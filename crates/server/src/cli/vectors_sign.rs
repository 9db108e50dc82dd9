//! `skeg vectors keygen|sign`: a key to sign generations with, and signatures of it.

use std::path::PathBuf;

use serde_json::json;
use skeg_vector_store::{GenerationId, SecretKey, Signatures, TrustedKeys, load_files, sign_files};

use super::vectors_publish::PlaceFlags;
use crate::output;

/// Make a key to sign generations with; prints its public half, as `trusted_keys` takes it.
#[derive(Debug, clap::Args)]
#[command(after_help = KEYGEN_HELP)]
pub(super) struct KeygenArgs {
    /// File for the secret key; must not be there
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Name of the key, for whoever trusts it
    #[arg(long)]
    name: Option<String>,
}

const KEYGEN_HELP: &str = "\
Examples:
  skeg vectors keygen --out signing.key --name team-2026

The file is for its owner alone. Whoever can read it can make vectors that every server takes which trusts the key.";

/// Sign a generation where it lies, beside whoever signed it already; its id stays.
#[derive(Debug, clap::Args)]
#[command(after_help = SIGN_HELP)]
pub(super) struct SignArgs {
    /// A generation's id [default: the one that serves]
    generation: Option<String>,
    /// File with the secret key, from `skeg vectors keygen`
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    place: PlaceFlags,
}

const SIGN_HELP: &str = "\
Examples:
  skeg vectors sign --key signing.key --vectors my-vectors
  skeg vectors sign 0123456789abcdef --key signing.key --store s3://bucket/vectors";

pub(super) fn keygen(args: &KeygenArgs) -> anyhow::Result<()> {
    let key = SecretKey::generate()?;
    let public = key.public_key();
    let entry = match &args.name {
        Some(name) => format!("{name}:{public}"),
        None => public.to_string(),
    };
    // Before the file is there: a name that no configuration takes is no use.
    TrustedKeys::parse(&[&entry])?;
    key.write_new(&args.out)?;
    output::note(&format!(
        "the secret key is in {}; put this line among `trusted_keys` of the servers:",
        args.out.display()
    ));
    Ok(output::line(&entry)?)
}

pub(super) fn sign(args: &SignArgs) -> anyhow::Result<()> {
    let key = SecretKey::read(&args.key)?;
    let place = args.place.open()?;
    let id = match &args.generation {
        Some(id) => GenerationId::parse(id)?,
        None => place.current()?.generation,
    };
    let mut files = place.read_files(&id)?;
    let path = place.path_of(&format!("generations/{id}"));
    let generation = load_files(&path, Some(&id), &files)?;
    sign_files(&mut files, &generation, &key)?;
    place.add_files(&files)?;
    let trusted = args.place.flags.trusted_keys()?;
    let signatures = load_files(&path, Some(&id), &files)?.signatures;
    if args.place.flags.json {
        let signed_by = signers(&trusted, &signatures);
        let value = json!({"place": place.name(), "generation": id, "signed_by": signed_by});
        return Ok(output::json(&value)?);
    }
    let signed_by = words(&trusted, &signatures);
    Ok(output::line(&format!("{}: {id} is signed by {signed_by}", place.name()))?)
}

/// Who signed: the name of a key that is trusted, else the key.
pub(super) fn signers(trusted: &TrustedKeys, signatures: &Signatures) -> Vec<String> {
    signatures.keys().map(|key| trusted.name_of(key)).collect()
}

/// [`signers`] for people; says as well where nobody trusted is among them.
pub(super) fn words(trusted: &TrustedKeys, signatures: &Signatures) -> String {
    if signatures.is_empty() {
        return "nobody".to_owned();
    }
    let names = signers(trusted, signatures).join(", ");
    let is_in_doubt = !trusted.is_empty() && trusted.signers(signatures).is_empty();
    if is_in_doubt { format!("{names} (not trusted)") } else { names }
}
