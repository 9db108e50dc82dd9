//! `cargo xtask cuda build`: the binary `skeg` for one kind of NVIDIA GPU, on a machine that need have none.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::environment;
use super::toolkit::{self, Toolkit};
use crate::{cargo, output};

/// Below cargo's target folder, a target folder of its own: with other features almost everything is compiled anew, and what the
/// stand-in of the check left must never be linked.
const FOLDER: &str = "cuda";
/// A smaller library of candle's kernels is one that the stand-in made.
const MIN_KERNEL_BYTES: u64 = 1_000_000;

/// Arguments of `cargo xtask cuda build`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compute capability of the GPUs it is for, without the dot: 80 is A100, 89 is L4 and L40S, 90 is H100 and H200. One a
    /// binary: candle's kernels are built for one.
    #[arg(long, default_value = "90", value_parser = compute_capability)]
    cap: String,
}

/// Builds the binary; prints where it is, how large, and which libraries it needs.
///
/// # Errors
/// When there is no toolkit, the build fails, or it was linked with empty kernels.
pub(super) fn run(args: &Args) -> Result<()> {
    let toolkit = toolkit::find_or_make()?;
    let target = cargo::target_dir()?.join(FOLDER);
    cargo::run(&mut command(&toolkit, &target, &args.cap)?)?;
    let release = target.join("release");
    check_kernels(&kernel_libraries(&release)?)?;
    let binary = release.join("skeg");
    let listing = cargo::read(Command::new("readelf").arg("-d").arg(&binary))?;
    output::line(&format!(
        "{}: {:.1} MB, for compute capability {}, with nvcc {}",
        binary.display(),
        megabytes(std::fs::metadata(&binary)?.len()),
        args.cap,
        toolkit.version,
    ));
    output::line(&format!("needs {}", needed(&listing).join(" ")));
    output::line(&format!(
        "where the CUDA libraries are not installed: LD_LIBRARY_PATH={}; libcuda.so.1 is the driver's",
        toolkit.libraries()?.display()
    ));
    Ok(())
}

/// A capability as nvcc names it: digits, and one of the letters of its variants.
fn compute_capability(text: &str) -> Result<String, String> {
    let digits = text.strip_suffix(['a', 'f']).unwrap_or(text);
    if (2..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err("expected one compute capability without its dot, as `90`".to_owned())
}

fn command(toolkit: &Toolkit, target: &Path, cap: &str) -> Result<Command> {
    let mut command = cargo::cargo(&["build", "--release", "--locked", "--package", "skeg-server"]);
    command.args(["--bin", "skeg", "--features", "cuda"]);
    command.args(["--config", "profile.release.strip=true"]);
    environment::lead_to(&mut command, &toolkit.home)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // candle-kernels links libcudart and does not say where it is.
    let flags = cargo::env("RUSTFLAGS").unwrap_or_default();
    let libraries = toolkit.libraries()?;
    command
        .env("CARGO_TARGET_DIR", target)
        .env("CUDA_COMPUTE_CAP", cap)
        .env("CUDAFORGE_THREADS", threads.to_string())
        .env("NVCC_APPEND_FLAGS", "--compress-mode=size")
        .env("RUSTFLAGS", format!("{flags} -L native={}", libraries.display()).trim_start());
    Ok(command)
}

/// The libraries of kernels that candle-kernels' build script left in a target folder.
fn kernel_libraries(release: &Path) -> Result<Vec<PathBuf>> {
    let folder = release.join("build");
    let mut found = Vec::new();
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let library = entry.path().join("out/libmoe.a");
        if entry.file_name().to_string_lossy().starts_with("candle-kernels-") && library.is_file() {
            found.push(library);
        }
    }
    Ok(found)
}

fn check_kernels(libraries: &[PathBuf]) -> Result<()> {
    if libraries.is_empty() {
        bail!("candle-kernels left no libmoe.a; has its build script changed?");
    }
    for library in libraries {
        let bytes = std::fs::metadata(library)?.len();
        if bytes < MIN_KERNEL_BYTES {
            bail!(
                "{} has {bytes} bytes: no kernels, as a stand-in for nvcc leaves it; remove the folder {FOLDER} below cargo's \
                 target folder and build again",
                library.display()
            );
        }
    }
    Ok(())
}

/// The libraries that `readelf -d` lists as needed.
fn needed(listing: &str) -> Vec<&str> {
    let lines = listing.lines().filter(|line| line.contains("(NEEDED)"));
    lines.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "printed with one decimal place")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::env;
    use super::*;

    fn toolkit(home: &Path) -> Toolkit {
        std::fs::create_dir_all(home.join("lib64")).unwrap();
        Toolkit::of_version(home, "13.0.88")
    }

    #[test]
    fn the_build_has_the_toolkit_the_capability_and_a_folder_of_its_own() {
        let home = tempfile::tempdir().unwrap();
        let command = command(&toolkit(home.path()), Path::new("/its/target"), "89").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(env(&command, "CUDA_HOME").unwrap(), home);
        assert_eq!(env(&command, "CARGO_TARGET_DIR").unwrap(), "/its/target");
        assert_eq!(env(&command, "CUDA_COMPUTE_CAP").unwrap(), "89");
        let flags = env(&command, "RUSTFLAGS").unwrap();
        assert!(flags.ends_with(&format!("-L native={home}/lib64")), "{flags}");
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        let line = args.join(" ");
        for part in ["build --release --locked", "--features cuda", "strip=true"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }

    #[test]
    fn one_capability_is_taken_without_its_dot() {
        for text in ["80", "90", "90a", "120", "121f"] {
            assert_eq!(compute_capability(text).as_deref(), Ok(text));
        }
        for text in ["", "9", "9.0", "sm_90", "80,90", "90b", "1200"] {
            assert!(compute_capability(text).is_err(), "{text}");
        }
    }

    #[test]
    fn kernels_that_the_stand_in_made_are_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("build/candle-kernels-0123/out");
        std::fs::create_dir_all(&out).unwrap();
        std::fs::create_dir_all(folder.path().join("build/candle-kernels-4567")).unwrap();
        let library = out.join("libmoe.a");
        assert!(check_kernels(&kernel_libraries(folder.path()).unwrap()).is_err());
        std::fs::write(&library, "").unwrap();
        let found = kernel_libraries(folder.path()).unwrap();
        assert_eq!(found, std::slice::from_ref(&library));
        let error = check_kernels(&found).unwrap_err().to_string();
        assert!(error.contains("0 bytes"), "{error}");
        std::fs::File::options()
            .write(true)
            .open(library)
            .unwrap()
            .set_len(MIN_KERNEL_BYTES)
            .unwrap();
        check_kernels(&found).unwrap();
    }

    #[test]
    fn the_needed_libraries_are_read_from_readelf() {
        let listing = "Dynamic section at offset 0xb30 contains 34 entries:\n\
                       \x20 Tag        Type                         Name/Value\n\
                       \x200x0000000000000001 (NEEDED)             Shared library: [libcuda.so.1]\n\
                       \x200x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n\
                       \x200x000000000000000e (SONAME)             Library soname: [libx.so]\n";
        assert_eq!(needed(listing), ["libcuda.so.1", "libc.so.6"]);
    }
}
