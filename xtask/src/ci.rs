//! `cargo xtask ci`: what must be green before a change lands, cheapest first.

use std::process::Command;

use anyhow::Result;

use crate::{cargo, cuda, demo, hub, test, tidy, tools};

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
    // It takes shell scripts; what it checks is the same on every system.
    if cfg!(unix) {
        cuda::check()?;
    }
    cuda::check_kernels_where_possible()?;
    hub::run()?;
    demo::run(&demo::Args::once())?;
    test::run(&test::Args::everything())
}

/// Licences, sources and banned crates: the parts of cargo-deny that need no advisory database.
fn deny() -> Result<()> {
    let program = tools::DENY.program()?;
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
