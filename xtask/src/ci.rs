//! `cargo xtask ci`: what must be green before a change lands, cheapest first.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, demo, output, test, tidy};

/// The cargo-deny that CI installs where none is there. A release that reads this lock file's version.
const CARGO_DENY: &str = "cargo-deny@0.20.2";

pub(crate) fn run() -> Result<()> {
    cargo::run(&mut cargo::cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    cargo::run(
        cargo::cargo(&["clippy", "--quiet", "--all-targets"])
            .args(cargo::BUILD_FLAGS)
            .args(["--", "-D", "warnings"]),
    )?;
    cargo::run(
        cargo::cargo(&["doc", "--quiet", "--no-deps"])
            .args(cargo::BUILD_FLAGS)
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    deny()?;
    // The hub client is in no other build; checked here so that it cannot rot.
    let hub = ["check", "--quiet", "--features=skeg-server/hub"];
    cargo::run(cargo::cargo(&hub).args(cargo::BUILD_FLAGS))?;
    demo::run(&demo::Args::once())?;
    test::run(&test::Args::everything())
}

/// Licences, sources and banned crates: the parts of cargo-deny that need no advisory database.
fn deny() -> Result<()> {
    let program = cargo_deny()?;
    // Offline it still wants every crate of the lock file, other platforms' included.
    cargo::run(&mut cargo::cargo(&["fetch", "--locked", "--quiet"]))?;
    cargo::run(Command::new(program).current_dir(cargo::root()).args([
        "--offline",
        "--workspace",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

/// cargo-deny from PATH, or from the tools folder in the user's cache, where it is installed once.
fn cargo_deny() -> Result<PathBuf> {
    if cargo::answers("cargo-deny", &["--version"]) {
        return Ok(PathBuf::from("cargo-deny"));
    }
    let home = cargo::env("HOME").or_else(|| cargo::env("USERPROFILE"));
    let root = PathBuf::from(home.context("neither HOME nor USERPROFILE is set")?)
        .join(".cache/skeg/tools");
    let program = root.join("bin").join(format!("cargo-deny{}", std::env::consts::EXE_SUFFIX));
    if !program.exists() {
        output::step("installing cargo-deny, once");
        let mut install =
            cargo::cargo(&["install", "--locked", "--no-default-features", CARGO_DENY]);
        // The repository's own target folder and lints must not reach a foreign build.
        cargo::run(install.arg("--root").arg(&root).env_remove("CARGO_TARGET_DIR"))?;
    }
    Ok(program)
}
