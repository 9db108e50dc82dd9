//! `cargo xtask cuda toolkit`: NVIDIA's toolkit where it is installed, else one that is assembled from wheels.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::wheels;
use crate::{cargo, output};

/// The oldest release that is used, the first with `--compress-mode`, and the newest: PTX of a later one is refused by a driver
/// of CUDA 13.0.
const RELEASES: [Release; 2] = [Release(12, 8), Release(13, 0)];

/// A release of the toolkit: major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32);

/// A toolkit with a compiler that answers.
#[derive(Debug)]
pub(super) struct Toolkit {
    /// The folder with `bin/nvcc`.
    pub(super) home: PathBuf,
    /// The compiler's whole version, as `13.0.88`.
    pub(super) version: String,
    release: Release,
}

/// Prints where the toolkit is, and what leads a build by hand to it.
///
/// # Errors
/// As [`find_or_make`].
pub(super) fn print() -> Result<()> {
    let toolkit = find_or_make()?;
    let home = toolkit.home.display();
    output::line(&format!("# CUDA toolkit with nvcc {}", toolkit.version));
    output::line(&format!("export CUDA_HOME='{home}'"));
    output::line("export PATH=\"$CUDA_HOME/bin:$PATH\"");
    output::line("export RUSTFLAGS=\"-L native=$CUDA_HOME/lib64\"");
    output::line("# the GPUs it is built for: 90 for H100 and H200");
    output::line("export CUDA_COMPUTE_CAP=90");
    Ok(())
}

/// The toolkit that `CUDA_HOME` or `CUDA_PATH` names, or whose nvcc is in PATH, if its release fits; else one in the user's cache,
/// assembled there from wheels if it is not there yet.
///
/// # Errors
/// When none fits and none can be assembled: another system than Linux on x86-64, no Python with pip, no gcc, no network.
pub(super) fn find_or_make() -> Result<Toolkit> {
    for home in installed() {
        match Toolkit::at(&home) {
            Ok(toolkit) if toolkit.fits() => return Ok(toolkit),
            Ok(toolkit) => output::step(&format!(
                "the toolkit in {} is {}, not of release {} to {}; looking further",
                home.display(),
                toolkit.version,
                RELEASES[0],
                RELEASES[1]
            )),
            Err(error) => output::step(&format!("{error:#}; looking further")),
        }
    }
    Toolkit::at(&wheels::assemble()?)
}

/// Folders of toolkits that the environment names.
fn installed() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(cargo::env).map(PathBuf::from);
    let path = cargo::env("PATH").unwrap_or_default();
    named.chain(home_in_path(&path)).collect()
}

/// The toolkit of the first nvcc in PATH. What stands there may be a link into the toolkit's own `bin`.
fn home_in_path(path: &str) -> Option<PathBuf> {
    let nvcc =
        std::env::split_paths(path).map(|folder| nvcc_in(&folder)).find(|nvcc| nvcc.is_file());
    let nvcc = nvcc?.canonicalize().ok()?;
    nvcc.parent()?.parent().map(Path::to_path_buf)
}

fn nvcc_in(folder: &Path) -> PathBuf {
    folder.join(format!("nvcc{}", std::env::consts::EXE_SUFFIX))
}

impl Toolkit {
    /// The toolkit in a folder.
    ///
    /// # Errors
    /// When its nvcc does not say its version.
    fn at(home: &Path) -> Result<Self> {
        let nvcc = nvcc_in(&home.join("bin"));
        let said = cargo::read(Command::new(&nvcc).arg("--version"))?;
        let (version, release) = version_in(&said)
            .with_context(|| format!("{} --version names no release", nvcc.display()))?;
        Ok(Self { home: home.to_path_buf(), version, release })
    }

    #[cfg(test)]
    pub(super) fn of_version(home: &Path, version: &str) -> Self {
        Self { home: home.to_path_buf(), version: version.to_owned(), release: RELEASES[1] }
    }

    fn fits(&self) -> bool {
        (RELEASES[0]..=RELEASES[1]).contains(&self.release)
    }

    /// Its compiler.
    pub(super) fn nvcc(&self) -> PathBuf {
        nvcc_in(&self.home.join("bin"))
    }

    /// Its libraries: `lib64`, or `lib` of a toolkit that is spread over the system.
    ///
    /// # Errors
    /// When it has neither.
    pub(super) fn libraries(&self) -> Result<PathBuf> {
        let found = ["lib64", "lib"]
            .map(|name| self.home.join(name))
            .into_iter()
            .find(|folder| folder.is_dir());
        let Some(found) = found else {
            bail!("{} has neither lib64 nor lib; is the toolkit whole?", self.home.display());
        };
        Ok(found)
    }
}

/// Version and release in what `nvcc --version` says: `Cuda compilation tools, release 13.0, V13.0.88`.
fn version_in(said: &str) -> Option<(String, Release)> {
    let line = said.lines().find_map(|line| line.split_once("release "))?.1;
    let (release, version) = line.split_once(", V")?;
    let (major, minor) = release.split_once('.')?;
    let release = Release(major.parse().ok()?, minor.parse().ok()?);
    Some((version.trim().to_owned(), release))
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As NVIDIA's nvcc prints it.
    const SAID: &str = "nvcc: NVIDIA (R) Cuda compiler driver\nCopyright (c) 2005-2025 NVIDIA Corporation\n\
                        Built on Wed_Aug_20_01:58:59_PM_PDT_2025\n\
                        Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0/compiler.36424714_0\n";

    #[test]
    fn the_version_is_read_from_what_nvcc_says() {
        assert_eq!(version_in(SAID), Some(("13.0.88".to_owned(), Release(13, 0))));
        assert_eq!(version_in("gcc (Debian 12.2.0) 12.2.0\n"), None);
        assert_eq!(version_in("release x.y, V1\n"), None);
    }

    #[test]
    fn a_release_is_used_that_knows_the_flags_and_whose_ptx_the_driver_takes() {
        let fits = |major, minor| {
            let (home, version) = (PathBuf::new(), String::new());
            Toolkit { home, version, release: Release(major, minor) }.fits()
        };
        for (major, minor) in [(12, 8), (12, 9), (13, 0)] {
            assert!(fits(major, minor), "{major}.{minor}");
        }
        for (major, minor) in [(11, 8), (12, 6), (13, 1), (14, 0)] {
            assert!(!fits(major, minor), "{major}.{minor}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_compiler_in_path_leads_to_its_own_toolkit_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (home, links) = (root.join("cuda-13.0"), root.join("bin"));
        std::fs::create_dir_all(home.join("bin")).unwrap();
        std::fs::create_dir_all(&links).unwrap();
        std::fs::write(home.join("bin/nvcc"), "").unwrap();
        std::os::unix::fs::symlink(home.join("bin/nvcc"), links.join("nvcc")).unwrap();
        let path = std::env::join_paths([root.join("none"), links]).unwrap();
        assert_eq!(home_in_path(path.to_str().unwrap()), Some(home));
        assert_eq!(home_in_path(root.to_str().unwrap()), None);
    }
}
