//! `cargo xtask cuda check`: clippy with the feature `cuda` on a machine without NVIDIA's toolkit.
//!
//! The build scripts of candle-kernels and cudarc run nvcc, but what it makes is looked at by the linker alone, and checking
//! links nothing. So a stand-in that makes empty files is enough.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::stand_in;
use crate::cargo;

/// Below cargo's target folder. It holds a target folder of its own: candle-kernels does not look again which nvcc there is, so
/// that a program built later in the same folder would be linked with empty kernels.
const FOLDER: &str = "cuda-check";
/// NVIDIA's Hopper. Without it the machine's GPU is asked for.
const COMPUTE_CAP: &str = "90";
/// Other ways to name a compiler, a toolkit or its release, which the build scripts would follow.
const OTHER_TOOLKITS: [&str; 8] = [
    "NVCC",
    "NVCC_CCBIN",
    "NVCC_APPEND_FLAGS",
    "CUDA_PATH",
    "CUDA_ROOT",
    "CUDA_TOOLKIT_ROOT_DIR",
    "CUDNN_LIB",
    "CUDARC_CUDA_VERSION",
];

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
    let path = cargo::env("PATH").unwrap_or_default();
    let places = std::iter::once(toolkit.join("bin")).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(places)
        .with_context(|| format!("{} cannot stand in PATH", toolkit.display()))?;
    let mut command = cargo::cargo(&["clippy", "--quiet", "--all-targets"]);
    command.args(cargo::BUILD_FLAGS).args(["--features", "cuda"]);
    // Of what is only checked no program runs but the build scripts, which need no optimising.
    command.args(["--config", "profile.dev.package.\"*\".opt-level=0"]);
    command.args(["--", "-D", "warnings"]);
    command.env("PATH", path).env("CARGO_TARGET_DIR", target);
    command.env("CUDA_HOME", toolkit).env("CUDA_COMPUTE_CAP", COMPUTE_CAP);
    for name in OTHER_TOOLKITS {
        command.env_remove(name);
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_is_found_before_every_other_compiler_and_builds_in_a_folder_of_its_own() {
        let command = clippy(Path::new("/its/toolkit"), Path::new("/its/target")).unwrap();
        let env = |name: &str| {
            let mut set = command.get_envs().filter(|(key, _)| *key == name);
            set.next().unwrap_or_else(|| panic!("{name} is left as it is")).1
        };
        let path = env("PATH").unwrap();
        let first = std::env::split_paths(path).next().unwrap();
        assert_eq!(first, Path::new("/its/toolkit/bin"));
        assert!(std::env::split_paths(path).count() > 1, "the rest of PATH is gone: {path:?}");
        assert_eq!(env("CUDA_HOME").unwrap(), "/its/toolkit");
        assert_eq!(env("CARGO_TARGET_DIR").unwrap(), "/its/target");
        assert_eq!(env("CUDA_COMPUTE_CAP").unwrap(), "90");
        for name in OTHER_TOOLKITS {
            assert_eq!(env(name), None, "{name} is set");
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
