//! A folder that looks like NVIDIA's toolkit, with a shell script for its compiler.

use std::path::Path;

use anyhow::{Context, Result};

/// The script; it says itself what it does.
const NVCC: &str = include_str!("nvcc.sh");

/// Makes the folder `toolkit` with what the build scripts look for: `bin/nvcc`, and places for headers and libraries.
///
/// # Errors
/// When it cannot be written, or on a system that runs no shell scripts.
pub(super) fn write(toolkit: &Path) -> Result<()> {
    for name in ["bin", "include", "lib64"] {
        let folder = toolkit.join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let nvcc = toolkit.join("bin/nvcc");
    std::fs::write(&nvcc, NVCC).with_context(|| format!("cannot write {}", nvcc.display()))?;
    make_executable(&nvcc)
}

#[cfg(unix)]
fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", file.display()))
}

#[cfg(not(unix))]
fn make_executable(file: &Path) -> Result<()> {
    anyhow::bail!("{} is a shell script, which this system does not run", file.display())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use std::process::{Command, Output};

    use tempfile::TempDir;

    use super::*;

    struct StandIn(TempDir);

    impl StandIn {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path()).unwrap();
            Self(folder)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// Runs it; `{}` in an argument is the folder. By way of the shell: a file that was just written may still be open in
        /// another test's child.
        fn run(&self, args: &str) -> Output {
            let folder = self.0.path().to_str().unwrap();
            let args = args.split(' ').map(|arg| arg.replace("{}", folder));
            Command::new("sh").arg(self.path("bin/nvcc")).args(args).output().unwrap()
        }

        #[track_caller]
        fn makes(&self, args: &str, file: &str) {
            let output = self.run(args);
            assert!(output.status.success(), "{output:?}");
            assert!(self.path(file).is_file(), "{args} made no {file}");
        }
    }

    #[test]
    fn it_looks_like_a_toolkit_and_can_be_made_again() {
        let stand_in = StandIn::new();
        write(stand_in.0.path()).unwrap();
        let mode = std::fs::metadata(stand_in.path("bin/nvcc")).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111);
        assert!(stand_in.path("include").is_dir() && stand_in.path("lib64").is_dir());
    }

    #[test]
    fn its_release_is_where_the_build_scripts_read_it() {
        let stand_in = StandIn::new();
        let output = stand_in.run("--version");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        // As cudarc's build.rs has it.
        let fourth = text.lines().nth(3).unwrap();
        let release = fourth.split(", ").nth(1).unwrap();
        assert_eq!(release.split(' ').nth(1), Some("13.0"));
        // As cudaforge's toolkit.rs has it.
        let line = text.lines().find(|line| line.contains("release")).unwrap();
        let version = line.split("release").nth(1).unwrap().trim().split(',').next();
        assert_eq!(version, Some("13.0"));
        let codes = String::from_utf8(stand_in.run("--list-gpu-code").stdout).unwrap();
        assert_eq!(codes, "sm_90\n");
    }

    #[test]
    fn each_of_the_four_calls_of_the_build_scripts_leaves_the_file_that_is_used_next() {
        let stand_in = StandIn::new();
        let arch = "-gencode=arch=compute_90a,code=sm_90a";
        let more = "--default-stream per-thread --expt-relaxed-constexpr -std=c++17 -O3";
        stand_in.makes(
            &format!("{arch} --ptx {more} --output-directory {{}} src/affine.cu"),
            "affine.ptx",
        );
        stand_in.makes(
            &format!("{arch} -c -o {{}}/moe.o {more} -Xcompiler -fPIC src/moe/moe_gguf.cu"),
            "moe.o",
        );
        stand_in.makes("--lib -o {}/libmoe.a {}/moe.o {}/other.o", "libmoe.a");
        stand_in.makes(
            "-gencode arch=compute_90,code=[compute_90,sm_90] -O3 -std=c++17 --fatbin -o {}/rows.fatbin cuda/rows.cu",
            "rows.fatbin",
        );
    }

    #[test]
    fn a_call_that_it_does_not_know_fails_and_says_where_to_look() {
        let stand_in = StandIn::new();
        let calls = [
            "--cubin -o {}/x.cubin x.cu",
            "--ptx x.cu",
            "--ptx -o {}/x.ptx --output-directory {} x.cu",
            "-c x.cu",
            "-c -o {}/x.o",
            "--fatbin -o {}/x.fatbin",
            "--lib",
            "-o",
            "x.cu",
        ];
        for call in calls {
            let output = stand_in.run(call);
            assert!(!output.status.success(), "{call} was answered: {output:?}");
            assert!(!output.stderr.is_empty(), "{call} failed without a word");
        }
        let said = String::from_utf8(stand_in.run("--fatbin x.cu").stderr).unwrap();
        assert!(said.contains("xtask/src/cuda/nvcc.sh"), "{said}");
    }
}
