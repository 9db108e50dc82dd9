//! A library to link with in place of the driver's `libcuda.so.1`, which comes with the driver and is in no wheel.
//!
//! Every function that cudarc names is in it and returns 100, `CUDA_ERROR_NO_DEVICE`. A program that is run with it finds no
//! GPU, so it must never be in the way of a driver's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// Where cudarc declares the driver's functions, in its sources.
const BINDINGS: &str = "src/driver/sys/mod.rs";

/// Makes `libcuda.so` in a folder, unless it is there with the functions that cudarc names now.
///
/// # Errors
/// When cudarc's sources cannot be found, name no function, or gcc fails.
pub(super) fn write(folder: &Path) -> Result<()> {
    let bindings = cudarc()?.join(BINDINGS);
    let text = std::fs::read_to_string(&bindings)
        .with_context(|| format!("reading {}", bindings.display()))?;
    let source = source(&functions(&text));
    ensure!(!source.is_empty(), "{} declares no function of the driver", bindings.display());
    let (library, kept) = (folder.join("libcuda.so"), folder.join("cuda_stub.c"));
    if library.is_file() && std::fs::read_to_string(&kept).is_ok_and(|text| text == source) {
        return Ok(());
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (part, part_source) = (folder.join("libcuda.so.part"), folder.join("part.c"));
    std::fs::write(&part_source, &source)
        .with_context(|| format!("cannot write {}", part_source.display()))?;
    cargo::run(
        Command::new("gcc")
            .args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"])
            .arg(&part)
            .arg(&part_source),
    )?;
    // The source last: it says of which functions the library is.
    for (from, to) in [(part, &library), (part_source, &kept)] {
        std::fs::rename(&from, to).with_context(|| format!("cannot make {}", to.display()))?;
    }
    Ok(())
}

/// The folder of cudarc's sources, of the version in the lock file.
fn cudarc() -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        manifest_path: PathBuf,
    }
    let args = ["metadata", "--format-version=1", "--locked", "--features", "skeg-server/cuda"];
    let json = cargo::read(&mut cargo::cargo(&args))?;
    let metadata: Metadata =
        serde_json::from_str(&json).context("cargo metadata printed something else than JSON")?;
    let found = metadata.packages.into_iter().find(|package| package.name == "cudarc");
    let manifest = found.context("cudarc is not among the dependencies of the CUDA build")?;
    Ok(manifest.manifest_path.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// The driver's functions that a text of Rust declares, each once, in order of their names.
fn functions(text: &str) -> Vec<&str> {
    let is_in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let declared = text.match_indices("fn cu").map(|(at, _)| &text[at + "fn ".len()..]);
    let names = declared.map(|rest| rest.split(|c| !is_in_name(c)).next().unwrap_or_default());
    let mut names: Vec<_> = names
        .filter(|name| name["cu".len()..].starts_with(|c: char| c.is_ascii_uppercase()))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A C function for each name.
fn source(functions: &[&str]) -> String {
    functions.iter().map(|name| format!("int {name}(void) {{ return 100; }}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cudarc has each function: one that may load the library, and the declaration within it.
    const BINDINGS: &str = "pub unsafe fn cuInit(flags: u32) -> CUresult {\n    extern \"C\" {\n        \
                            fn cuInit(flags: u32) -> CUresult;\n    }\n}\n\
                            pub unsafe fn cuArrayCreate_v2(a: *mut CUarray) -> CUresult {\n}\n\
                            pub unsafe fn culib() -> Library {\n}\nfn current() {}\n";

    #[test]
    fn each_function_of_the_driver_is_found_once_and_no_other() {
        assert_eq!(functions(BINDINGS), ["cuArrayCreate_v2", "cuInit"]);
    }

    #[test]
    fn a_stub_says_that_there_is_no_device() {
        assert_eq!(source(&["cuInit"]), "int cuInit(void) { return 100; }\n");
    }
}
