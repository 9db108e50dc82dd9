//! Leading the build scripts of candle-kernels, cudarc and skeg-model to one toolkit and no other.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo;

/// Other ways to name a compiler, a toolkit or its release, which the build scripts would follow.
pub(super) const OTHER_TOOLKITS: [&str; 6] =
    ["NVCC", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR", "CUDNN_LIB", "CUDARC_CUDA_VERSION"];

/// Puts the toolkit in the folder `home` before any other that a command would find.
///
/// # Errors
/// When the folder's name cannot stand in PATH.
pub(super) fn lead_to(command: &mut Command, home: &Path) -> Result<()> {
    let path = cargo::env("PATH").unwrap_or_default();
    let places = std::iter::once(home.join("bin")).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(places)
        .with_context(|| format!("{} cannot stand in PATH", home.display()))?;
    command.env("PATH", path).env("CUDA_HOME", home);
    for name in OTHER_TOOLKITS {
        command.env_remove(name);
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a command sets a variable to; `None` where it removes it.
    #[track_caller]
    pub(in super::super) fn env(command: &Command, name: &str) -> Option<String> {
        let mut set = command.get_envs().filter(|(key, _)| *key == name);
        let (_, value) = set.next().unwrap_or_else(|| panic!("{name} is left as it is"));
        value.map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_toolkit_is_found_before_every_other_compiler() {
        let mut command = Command::new("cargo");
        lead_to(&mut command, Path::new("/its/toolkit")).unwrap();
        let path = env(&command, "PATH").unwrap();
        let places: Vec<_> = std::env::split_paths(&path).collect();
        assert_eq!(places[0], Path::new("/its/toolkit/bin"));
        assert!(places.len() > 1, "the rest of PATH is gone: {path:?}");
        assert_eq!(env(&command, "CUDA_HOME").unwrap(), "/its/toolkit");
        for name in OTHER_TOOLKITS {
            assert_eq!(env(&command, name), None, "{name} is set");
        }
    }
}
