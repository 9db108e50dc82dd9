//! `cargo xtask golden`: the reference values in `tests/golden`, made again by the scripts beside them.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, model, output};

/// The scripts, each of which takes the model file and the folder to write into.
const SCRIPTS: [&str; 2] = ["gen_text.py", "gen_logits.py"];

pub(crate) fn run() -> Result<()> {
    let folder = cargo::root().join("tests/golden");
    if !cargo::answers("python3", &["-c", "import torch, transformers, gguf"]) {
        bail!(
            "the scripts in {} need Python with the packages in requirements.txt beside them: \
             python3 -m pip install -r tests/golden/requirements.txt",
            folder.display()
        );
    }
    let skeg = cargo::build_skeg(&[])?;
    let model = model::fetch(&skeg)?;
    for script in SCRIPTS {
        cargo::run(Command::new("python3").arg(folder.join(script)).arg(&model).arg(&folder))
            .with_context(|| format!("making the golden files of {script}"))?;
    }
    output::line("golden files made; `git diff --stat tests/golden` shows what changed");
    Ok(())
}
