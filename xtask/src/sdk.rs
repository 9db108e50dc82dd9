//! `cargo xtask sdk`: the official OpenAI client against a running server.

use std::process::Command;

use anyhow::{Context, Result};

use crate::server::Server;
use crate::{cargo, model};

pub(crate) fn run() -> Result<()> {
    let folder = cargo::root().join("tests/sdk");
    let venv = cargo::target_dir()?.join("sdk-venv");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        cargo::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    cargo::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(folder.join("requirements.txt")),
    )
    .context("installing the openai package")?;
    let skeg = cargo::build_skeg(&[])?;
    let model = model::fetch(&skeg)?;
    let server = Server::start(&skeg, &model, 0)?;
    cargo::run(Command::new(&python).arg(folder.join("openai_client.py")).arg(&server.url))
}
