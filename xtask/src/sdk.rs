//! `cargo xtask sdk`: the official OpenAI client against a running server.

use std::process::Command;

use anyhow::Result;

use crate::server::Server;
use crate::{cargo, model, python};

pub(crate) fn run() -> Result<()> {
    let folder = cargo::root().join("tests/sdk");
    let python = python::with_requirements(&folder)?;
    let skeg = cargo::build_skeg(&[])?;
    let model = model::fetch(&skeg)?;
    let server = Server::start(&skeg, &model, 0)?;
    cargo::run(Command::new(&python).arg(folder.join("openai_client.py")).arg(&server.url))
}
