//! `cargo xtask faults`: publishers and replicas that die or run out of disk; a reader finds the old generation or the new one.
//!
//! Everything happens below the target folder, on a small file system that is made for it, and in child processes of this one.

mod calls;
mod full;
mod kills;
mod scene;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use skeg_vector_store::mirror::Mirror;
use skeg_vector_store::place::LocalPlace;
use skeg_vector_store::{Generation, Store};

use crate::{cargo, output};
use scene::{Scene, Victim};

/// How often a victim is killed at a random time.
const PUBLISHER_KILLS: usize = 200;
const REPLICA_KILLS: usize = 50;

/// Arguments of `cargo xtask faults`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seed of the times at which processes are killed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Be the replica that is killed: follow the first folder into the second one, open that, and end.
    #[arg(long, hide = true, num_args = 2, value_names = ["PLACE", "CACHE"])]
    replica: Option<Vec<PathBuf>>,
    /// Run the part with the full disk alone, with this binary, in a namespace that may mount.
    #[arg(long, hide = true, value_name = "SKEG")]
    full: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some([place, cache]) = args.replica.as_deref() {
        return replica(place, cache);
    }
    let scratch = cargo::target_dir()?.join("faults");
    if let Some(skeg) = &args.full {
        return full::run_mounted(&scratch.join("full"), skeg);
    }
    let skeg = cargo::build_skeg(&[])?;
    let [publisher, replica] = scenes(&scratch, &skeg)?;
    kills::run(&publisher, PUBLISHER_KILLS, args.seed)?;
    kills::run(&replica, REPLICA_KILLS, args.seed)?;
    calls::run(&publisher)?;
    calls::run(&replica)?;
    full::run(&scratch.join("full"), &skeg)
}

/// Both victims in a folder, which is cleared first.
fn scenes(folder: &Path, skeg: &Path) -> Result<[Scene; 2]> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("clearing {}", folder.display()))?;
    }
    Ok([
        Scene::new(&folder.join("publisher"), Victim::Publisher { skeg: skeg.to_owned() })?,
        Scene::new(&folder.join("replica"), Victim::Replica { xtask: cargo::binary("xtask")? })?,
    ])
}

/// One look at a place and one start of a replica: copy what is new, open the copy as a server does.
fn replica(place: &Path, cache: &Path) -> Result<()> {
    let mirror = Mirror::new(Box::new(LocalPlace::new(place)), cache)?.for_model(scene::model());
    let synced = mirror.sync();
    let attach = |generation: &Generation| Ok(generation.card.clone());
    let store = Store::open(mirror.root(), scene::model(), attach)?;
    output::line(&format!("{} serves", store.current().generation.id));
    match synced {
        Ok(_) => Ok(()),
        Err(error) => bail!("cannot follow: {error}"),
    }
}
