//! A toolkit from NVIDIA's wheels, in the user's cache, in the layout of an installed one.
//!
//! The folder takes its name when it is whole, under a lock, so that a run that was ended leaves nothing that would be used. A
//! copy of the requirements in it says of which versions it is.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::driver_stub;
use crate::{cargo, output, tools};

/// Versions and hashes.
const REQUIREMENTS: &str = include_str!("requirements.txt");
/// The toolkit's folder in the cache of tools.
const FOLDER: &str = "cuda-13.0";
/// The copy of the requirements in it.
const MADE_OF: &str = "requirements.txt";
/// Libraries that are linked: the wheels have them with their version alone, and the linker looks for a name without one.
const LINKED: [(&str, &str); 5] =
    [("cudart", "13"), ("cublas", "13"), ("cublasLt", "13"), ("curand", "10"), ("nvrtc", "13")];
/// Programs that are asked for, as what each answers, and for what.
const NEEDED: [(&str, &[&str], &str); 3] = [
    ("python3", &["-m", "pip", "--version"], "python3 with pip, which fetches the wheels"),
    ("gcc", &["--version"], "gcc, which nvcc compiles the host's part with"),
    ("g++", &["--version"], "g++, which nvcc compiles the host's part with"),
];

/// The toolkit's folder; fetched and assembled where it is not there or is of other versions.
///
/// # Errors
/// On another system than Linux on x86-64, without Python, pip and a C++ compiler, or when pip fails.
pub(super) fn assemble() -> Result<PathBuf> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!(
            "a toolkit is assembled for Linux on x86-64 alone; install NVIDIA's and set CUDA_HOME"
        );
    }
    let cache = tools::cache()?;
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock = cache.join(format!("{FOLDER}.lock"));
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    lock.lock().context("cannot lock the toolkit's folder")?;
    let home = cache.join(FOLDER);
    if !is_of(&home, REQUIREMENTS) {
        check_programs()?;
        output::step(
            "assembling CUDA 13.0 from wheels into the cache, once: 0.7 GB to fetch, 1.2 GB on disk",
        );
        let part = cache.join(format!("{FOLDER}.part"));
        remove(&part)?;
        fetch(&part)?;
        complete(&part.join("nvidia/cu13"), REQUIREMENTS)?;
        remove(&home)?;
        rename(&part.join("nvidia/cu13"), &home)?;
        remove(&part)?;
    }
    driver_stub::write(&home.join("lib64/stubs"))?;
    Ok(home)
}

/// That what is needed to assemble it is there.
fn check_programs() -> Result<()> {
    for (program, args, what) in NEEDED {
        if !cargo::answers(program, args) {
            bail!("{what}, is not there; install it, or NVIDIA's toolkit and set CUDA_HOME");
        }
    }
    Ok(())
}

/// Whether the folder was made whole, of what `requirements` name.
fn is_of(home: &Path, requirements: &str) -> bool {
    std::fs::read_to_string(home.join(MADE_OF)).is_ok_and(|text| text == requirements)
}

fn fetch(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let requirements = folder.join(MADE_OF);
    std::fs::write(&requirements, REQUIREMENTS)
        .with_context(|| format!("cannot write {}", requirements.display()))?;
    cargo::run(&mut tools::pip_install(&requirements, folder))
        .context("the wheels of the CUDA toolkit could not be fetched")
}

/// Gives what the wheels hold the layout of an installed toolkit: `lib64`, and libraries under the names that are linked.
fn complete(home: &Path, requirements: &str) -> Result<()> {
    let libraries = home.join("lib64");
    rename(&home.join("lib"), &libraries)?;
    // nvcc's own profile names it so.
    link("lib64", &home.join("lib"))?;
    for (name, version) in LINKED {
        let file = format!("lib{name}.so.{version}");
        if !libraries.join(&file).is_file() {
            bail!("the wheels brought no {file}; have they another layout?");
        }
        link(&file, &libraries.join(format!("lib{name}.so")))?;
    }
    std::fs::write(home.join(MADE_OF), requirements)
        .with_context(|| format!("cannot write into {}", home.display()))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot clear {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn link(target: &str, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, link)
        .with_context(|| format!("cannot link {} to {target}", link.display()))
}

#[cfg(not(unix))]
fn link(target: &str, link: &Path) -> Result<()> {
    bail!("{} is to be a link to {target}, which is made on Unix alone", link.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_by_version_and_hash() {
        let lines: Vec<_> = REQUIREMENTS.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 8);
        for line in lines {
            let (package, hash) = line.split_once(" --hash=sha256:").unwrap();
            let (name, version) = package.split_once("==").unwrap();
            assert!(name.starts_with("nvidia-"), "{line}");
            assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{line}");
            assert!(
                hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{line}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_completed_folder_has_the_names_that_are_linked_and_says_of_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        std::fs::create_dir(home.join("lib")).unwrap();
        for (name, version) in LINKED {
            std::fs::write(home.join(format!("lib/lib{name}.so.{version}")), name).unwrap();
        }
        assert!(!is_of(home, "a==1"), "it is taken for a whole one before it is");
        complete(home, "a==1").unwrap();
        assert!(is_of(home, "a==1") && !is_of(home, "a==2"));
        // It is moved as a whole; links must not lead back to where it was made.
        let moved = tempfile::tempdir().unwrap();
        let home = moved.path().join("cuda");
        std::fs::rename(folder.path(), &home).unwrap();
        for (name, _) in LINKED {
            for libraries in ["lib64", "lib"] {
                let file = home.join(format!("{libraries}/lib{name}.so"));
                assert_eq!(std::fs::read_to_string(&file).unwrap(), name, "{}", file.display());
            }
        }
    }

    #[test]
    fn a_folder_without_a_library_is_not_completed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("lib")).unwrap();
        let error = format!("{:#}", complete(folder.path(), "a==1").unwrap_err());
        assert!(!is_of(folder.path(), "a==1"), "{error}");
    }
}
