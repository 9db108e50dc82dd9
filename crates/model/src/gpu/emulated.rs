//! [`Emulator`]: the kernels' own sources, compiled for the CPU by g++, in a process of its own (`cuda/emulator`).
//!
//! Each launch runs twice, with blocks, warps and lanes in ascending and in descending order, and both must leave the same
//! bytes: that finds a barrier that is missing. Fresh memory is poisoned, and so is shared memory before each block.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use candle_core::quantized::QTensor;
use sha2::{Digest, Sha256};

use super::GpuOptions;
use super::args::{AllReduceArgs, MatmulArgs};
use super::host::number_bytes;
use super::kernels::{KernelOps, Launcher};
use super::launch::{self, Launch};
use super::memory::{Address, Buffer, Element, MatrixForm};
use crate::error::{Error, Result};

const COMPILER: &str = "g++";
const FLAGS: [&str; 7] = [
    "-std=c++17",
    "-O1",
    // A product and a sum stay two roundings, as the kernels ask.
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-U_FORTIFY_SOURCE",
];

/// The operations on the emulator.
pub(super) type EmulatedOps = KernelOps<Emulator>;

/// A running emulator; it ends with its input.
#[derive(Debug)]
pub(super) struct Emulator {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Emulator {
    /// Compiles what has not been compiled, and starts. `None` without g++, with a line that `cargo xtask test` counts.
    pub(super) fn start() -> Option<Self> {
        if Command::new(COMPILER).arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: no data ({COMPILER}, which compiles the kernels for the CPU)");
            return None;
        }
        let mut process = Command::new(program())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting the emulator");
        let requests = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        Some(Self { process, requests, answers })
    }

    /// The operations on a fresh emulator, where there is g++.
    pub(super) fn ops() -> Option<EmulatedOps> {
        Self::ops_with(GpuOptions::default())
    }

    /// [`Self::ops`], used as these options say.
    pub(super) fn ops_with(options: GpuOptions) -> Option<EmulatedOps> {
        Self::start().map(|emulator| KernelOps::new(emulator, options))
    }

    /// One request and the bytes of its answer.
    fn ask(&mut self, line: &str, payload: &[u8]) -> Result<Vec<u8>> {
        let failed = |reason: String| Error::Device { device: "emulator".to_owned(), reason };
        let ended = |error: std::io::Error| failed(format!("it ended at `{line}`: {error}"));
        let requests = self.requests.as_mut().expect("it is there until the end");
        writeln!(requests, "{line}").map_err(ended)?;
        requests.write_all(payload).map_err(ended)?;
        requests.flush().map_err(ended)?;
        let mut head = String::new();
        self.answers.read_line(&mut head).map_err(ended)?;
        let Some((word, num_bytes)) = head.trim_end().split_once(' ') else {
            return Err(failed(format!("it ended at `{line}`, perhaps by a signal")));
        };
        let num_bytes = num_bytes.parse().map_err(|error| failed(format!("`{head}`: {error}")))?;
        let mut bytes = vec![0; num_bytes];
        self.answers.read_exact(&mut bytes).map_err(ended)?;
        match word {
            "ok" => Ok(bytes),
            _ => Err(failed(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.requests = None;
        drop(self.process.wait());
    }
}

impl Launcher for Emulator {
    fn allocate(&mut self, num_bytes: usize) -> Result<Buffer> {
        let address = self.ask(&format!("alloc {num_bytes}"), &[])?;
        Ok(Buffer::new(bytemuck::pod_read_unaligned(&address), num_bytes, None))
    }

    fn clear(&mut self, buffer: &Buffer) -> Result<()> {
        let Address(address) = buffer.address();
        self.ask(&format!("clear {address} {}", buffer.num_bytes()), &[])?;
        Ok(())
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.ask(&format!("write {} {}", to.0, bytes.len()), bytes)?;
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&self.ask(&format!("read {} {}", from.0, bytes.len()), &[])?);
        Ok(())
    }

    /// As the f32 that the blocks stand for: there is no kernel of ours for blocks.
    fn quantized_matrix(&mut self, blocks: &QTensor) -> Result<(Buffer, MatrixForm)> {
        let bytes = number_bytes(&blocks.dequantize(&blocks.device())?, Element::F32)?;
        let buffer = self.allocate(bytes.len())?;
        self.upload(buffer.address(), &bytes)?;
        Ok((buffer, MatrixForm::Dense(Element::F32)))
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<()> {
        let Launch { kernel, grid: [x, y, z], block, shared_bytes, args, .. } = launch;
        let num_bytes = args.len();
        let line = format!("launch {kernel} {x} {y} {z} {block} {shared_bytes} {num_bytes}");
        self.ask(&line, args)?;
        Ok(())
    }

    /// The kernels for few rows take any number.
    fn matmul(&mut self, args: &MatmulArgs, weight: MatrixForm) -> Result<()> {
        let MatrixForm::Dense(element) = weight else {
            let reason = format!("no product with {weight:?}");
            return Err(Error::Device { device: "emulator".to_owned(), reason });
        };
        let args = MatmulArgs { bias: Address::NONE, ..*args };
        self.launch(&launch::product(&args, element))
    }

    fn all_reduce(&mut self, _args: &AllReduceArgs) -> Result<()> {
        Ok(())
    }
}

/// The compiled emulator, in the folder of the test programs under the hash of what it is made from. Tests that start side
/// by side may each compile it; the last one's is kept.
fn program() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let mut files = files_of(&sources);
    files.extend(files_of(&sources.join("emulator")));
    let mut hash = Sha256::new_with_prefix(FLAGS.join(" "));
    for file in &files {
        hash.update(fs::read(file).expect("reading a kernel's source"));
    }
    let name = base16ct::lower::encode_string(&hash.finalize()[..8]);
    let tests = std::env::current_exe().expect("the test program has a path");
    let folder = tests.parent().expect("it lies in a folder").join("cuda-emulator");
    let program = folder.join(name);
    if !program.exists() {
        fs::create_dir_all(&folder).expect("making the emulator's folder");
        compile(&files, &folder, &program);
    }
    program
}

/// A folder's files in order of their names.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the kernels' sources are there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.is_file());
    files.sort();
    files
}

/// Sources side by side, then all of them together, then under the name that is looked for.
fn compile(files: &[PathBuf], folder: &Path, program: &Path) {
    let own = tempfile::tempdir_in(folder).expect("making a folder to compile in");
    let is_source = |file: &&PathBuf| {
        file.extension().is_some_and(|extension| extension == "cu" || extension == "cpp")
    };
    let jobs: Vec<(PathBuf, Child)> = files
        .iter()
        .filter(is_source)
        .map(|file| {
            let object = own.path().join(file.file_stem().expect("a file has a name"));
            let object = object.with_extension("o");
            let mut command = Command::new(COMPILER);
            command.args(FLAGS).args(["-x", "c++", "-c"]).arg(file).arg("-o").arg(&object);
            (object, command.spawn().expect("starting the compiler"))
        })
        .collect();
    let mut link = Command::new(COMPILER);
    let linked = own.path().join("emulator");
    link.arg("-o").arg(&linked);
    for (object, mut job) in jobs {
        assert!(job.wait().unwrap().success(), "{} does not compile", object.display());
        link.arg(object);
    }
    assert!(link.status().unwrap().success(), "the emulator does not link");
    fs::rename(linked, program).expect("moving the emulator to its place");
}
