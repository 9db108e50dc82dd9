//! Python with the packages that a script asks for.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo;

/// The interpreter of a virtual environment in the target folder with what `folder/requirements.txt` names; made and filled
/// where it is not.
pub(crate) fn with_requirements(folder: &Path) -> Result<PathBuf> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let venv = cargo::target_dir()?.join(format!("{name}-venv"));
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        cargo::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let requirements = folder.join("requirements.txt");
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements);
    cargo::run(&mut install).with_context(|| format!("installing {}", requirements.display()))?;
    Ok(python)
}
