//! Running other programs from the repository's root, and the one set of build flags.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};

/// The hub client is left out of developer builds: it brings a TLS stack with C and assembly, which no test
/// needs. `cargo xtask hub` builds and checks it.
pub(crate) const BUILD_FLAGS: [&str; 2] = ["--workspace", "--no-default-features"];

/// The repository's root: the folder above this crate. cargo says at run time where the crate is; the path
/// of the build may be another clone's where several share a target folder.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let crate_dir = env("CARGO_MANIFEST_DIR");
        let crate_dir = crate_dir.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").to_owned());
        Path::new(&crate_dir).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
    });
    &ROOT
}

/// `cargo`, run in the root.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env("CARGO").as_deref().unwrap_or("cargo"));
    command.current_dir(root()).args(args);
    command
}

/// Runs a command to its end; an error names it and its exit status.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = display(command);
    crate::output::step(&line);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let line = display(command);
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed no UTF-8"))
}

/// Whether a program answers to `args`.
pub(crate) fn answers(program: impl AsRef<OsStr>, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Builds the binary `skeg` with more arguments, if any, and returns its path.
pub(crate) fn build_skeg(more: &[&str]) -> Result<PathBuf> {
    run(cargo(&["build"]).args(BUILD_FLAGS).args(["--bins"]).args(more))?;
    binary("skeg")
}

/// The path of a binary that [`build_skeg`] built; this program is one of them, and may have been built anew by it.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    Ok(target_dir()?.join("debug").join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

/// Where cargo builds, whatever the environment and configuration say.
pub(crate) fn target_dir() -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let json = read(&mut cargo(&["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Metadata =
        serde_json::from_str(&json).context("cargo metadata printed something else than JSON")?;
    Ok(metadata.target_directory)
}

/// An environment variable; configuration of developer tasks is read here and nowhere else.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment in xtask")]
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn display(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
