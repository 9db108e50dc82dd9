//! `cargo xtask hub`: `skeg model fetch` against a hub on loopback that can be broken.

mod bench;
mod checks;

use anyhow::{Result, ensure};

use crate::{cargo, output};
use bench::Bench;

pub(crate) fn run() -> Result<()> {
    let skeg = cargo::build_skeg(&["--features=skeg-server/hub"])?;
    let scratch = cargo::target_dir()?.join("hub-check");
    let mut num_failed = 0;
    for (idx, (name, check)) in checks::ALL.iter().enumerate() {
        let folder = scratch.join(idx.to_string());
        match Bench::new(&skeg, &folder).and_then(|bench| check(&bench)) {
            Ok(()) => output::line(&format!("ok: {name}")),
            Err(error) => {
                num_failed += 1;
                output::line(&format!("FAILED: {name}: {error:#} (see {})", folder.display()));
            }
        }
    }
    ensure!(
        num_failed == 0,
        "{num_failed} of {} checks of the hub client failed",
        checks::ALL.len()
    );
    Ok(())
}
