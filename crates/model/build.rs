//! Compiles the CUDA kernels in `cuda/` where the feature `cuda` is on; does nothing where it is off.
//!
//! Each `.cu` becomes a fatbin with machine code and PTX for the compute capability in `CUDA_COMPUTE_CAP`. `kernels.rs` in
//! `OUT_DIR` is an expression of type `&[(&str, &[u8])]`: the name of each source without its extension, and its fatbin.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources, and what they include.
const FOLDER: &str = "cuda";
/// The same as `cargo xtask cuda kernels` has, so that its report is of these kernels.
const FLAGS: [&str; 2] = ["-O3", "-std=c++17"];
/// NVIDIA's Hopper.
const DEFAULT_CAPABILITY: &str = "90";

fn main() -> Result<(), String> {
    tell_cargo("rerun-if-changed=build.rs");
    if !cfg!(feature = "cuda") {
        return Ok(());
    }
    tell_cargo(&format!("rerun-if-changed={FOLDER}"));
    for name in ["CUDA_COMPUTE_CAP", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS", "NVCC_CCBIN"] {
        tell_cargo(&format!("rerun-if-env-changed={name}"));
    }
    let capability = env("CUDA_COMPUTE_CAP").unwrap_or_else(|| {
        tell_cargo(&format!(
            "warning=CUDA_COMPUTE_CAP is not set; the kernels are compiled for {DEFAULT_CAPABILITY}"
        ));
        DEFAULT_CAPABILITY.to_owned()
    });
    let out = PathBuf::from(env("OUT_DIR").ok_or("cargo set no OUT_DIR")?);
    let mut table = String::new();
    for source in sources(Path::new(FOLDER))? {
        let name = source.file_stem().and_then(OsStr::to_str);
        let name = name.ok_or_else(|| format!("{} has no UTF-8 name", source.display()))?;
        let fatbin = out.join(name).with_extension("fatbin");
        compile(&source, &fatbin, &capability)?;
        table += &format!("    ({name:?}, include_bytes!({fatbin:?})),\n");
    }
    let list = out.join("kernels.rs");
    std::fs::write(&list, format!("&[\n{table}]\n"))
        .map_err(|error| format!("cannot write {}: {error}", list.display()))
}

/// Every `.cu` of a folder, by name; none where there is no folder.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = folder.read_dir().and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut found: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    found.sort();
    Ok(found)
}

/// Runs nvcc; what it says goes where the build's own output goes.
fn compile(source: &Path, fatbin: &Path, capability: &str) -> Result<(), String> {
    let code = format!("arch=compute_{capability},code=[compute_{capability},sm_{capability}]");
    let mut nvcc = Command::new("nvcc");
    nvcc.args(["-gencode", &code]).args(FLAGS).args(["--fatbin", "-o"]).arg(fatbin).arg(source);
    let status = nvcc.status().map_err(|error| {
        format!(
            "cannot start nvcc: {error}; the feature `cuda` needs it in PATH: `cargo xtask cuda build` finds a CUDA toolkit \
             or assembles one"
        )
    })?;
    if !status.success() {
        return Err(format!("nvcc ended with {status} on {}", source.display()));
    }
    Ok(())
}

fn tell_cargo(what: &str) {
    println!("cargo::{what}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one reader of the environment in this build script"
)]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
