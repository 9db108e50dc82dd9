//! `cargo xtask cuda check`: clippy with the feature `cuda` on a machine without NVIDIA's toolkit.
//!
//! The build scripts of candle-kernels, cudarc and skeg-model run nvcc, but what it makes is looked at by the linker alone, and
//! checking links nothing. So a stand-in that makes empty files is enough.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{environment, stand_in};
use crate::cargo;

/// Below cargo's target folder. It holds a target folder of its own: candle-kernels does not look again which nvcc there is, so
/// that a program built later in the same folder would be linked with empty kernels.
const FOLDER: &str = "cuda-check";
/// NVIDIA's Hopper. Without it the machine's GPU is asked for.
const COMPUTE_CAP: &str = "90";
/// What a real nvcc would read, and the stand-in does not know.
const FLAGS_OF_NVCC: [&str; 3] = ["NVCC_CCBIN", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS"];

/// Runs clippy over the workspace with the feature `cuda`; warnings are errors.
///
/// # Errors
/// When clippy finds something, or on a system that runs no shell scripts.
pub(crate) fn check() -> Result<()> {
    let folder = cargo::target_dir()?.join(FOLDER);
    let toolkit = folder.join("toolkit");
    stand_in::write(&toolkit)?;
    cargo::run(&mut clippy(&toolkit, &folder.join("target"))?)
}

/// The command, with the stand-in `toolkit` before any other.
fn clippy(toolkit: &Path, target: &Path) -> Result<Command> {
    let mut command = cargo::cargo(&["clippy", "--quiet", "--all-targets"]);
    command.args(cargo::BUILD_FLAGS).args(["--features", "cuda"]);
    // Of what is only checked no program runs but the build scripts, which need no optimising.
    command.args(["--config", "profile.dev.package.\"*\".opt-level=0"]);
    command.args(["--", "-D", "warnings"]);
    environment::lead_to(&mut command, toolkit)?;
    command.env("CARGO_TARGET_DIR", target).env("CUDA_COMPUTE_CAP", COMPUTE_CAP);
    for name in FLAGS_OF_NVCC {
        command.env_remove(name);
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::env;
    use super::*;

    #[test]
    fn the_stand_in_is_used_and_builds_in_a_folder_of_its_own() {
        let command = clippy(Path::new("/its/toolkit"), Path::new("/its/target")).unwrap();
        assert_eq!(env(&command, "CUDA_HOME").unwrap(), "/its/toolkit");
        assert_eq!(env(&command, "CARGO_TARGET_DIR").unwrap(), "/its/target");
        assert_eq!(env(&command, "CUDA_COMPUTE_CAP").unwrap(), "90");
        for name in FLAGS_OF_NVCC {
            assert_eq!(env(&command, name), None, "{name} is set");
        }
    }

    #[test]
    fn what_is_checked_is_the_whole_workspace_with_cuda_and_warnings_are_errors() {
        let command = clippy(Path::new("/its/toolkit"), Path::new("/its/target")).unwrap();
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        let line = args.join(" ");
        assert!(line.starts_with("clippy ") && line.ends_with(" -- -D warnings"), "{line}");
        for part in ["--workspace", "--all-targets", "--features cuda"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
