//! `cargo xtask cuda kernels`: each kernel compiled for Hopper, and what ptxas says of it, in `docs/reports/cuda_kernels.md`.
//!
//! A spill is an error: such a kernel waits for memory that it does not need. Nothing is run.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::ptxas::{self, Usage};
use super::toolkit::{self, Toolkit};
use crate::{cargo, output};

/// The kernels, each `.cu` a module of its own.
const SOURCES: &str = "crates/model/cuda";
const REPORT: &str = "docs/reports/cuda_kernels.md";
/// Object files, which nobody uses, below cargo's target folder.
const SCRATCH: &str = "cuda-kernels";
/// NVIDIA's Hopper.
const ARCHITECTURE: &str = "arch=compute_90,code=sm_90";
/// As the build script of skeg-model has them.
const FLAGS: [&str; 2] = ["-O3", "-std=c++17"];
/// Compilers at a time.
const AT_ONCE: usize = 2;

/// Arguments of `cargo xtask cuda kernels`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail where the report in the repository differs. One by another version of nvcc is not compared.
    #[arg(long)]
    check: bool,
}

/// What was found of one source.
#[derive(Debug)]
struct Compiled {
    /// The file's name.
    source: String,
    functions: Vec<Usage>,
}

/// Compiles, prints the table and writes the report.
///
/// # Errors
/// When there is no toolkit, a kernel does not compile or spills, or with `--check` the report differs.
pub(super) fn run(args: &Args) -> Result<()> {
    let sources = sources(&cargo::root().join(SOURCES))?;
    if sources.is_empty() {
        output::line(&format!("no kernel in {SOURCES}: nothing to compile"));
        return Ok(());
    }
    let toolkit = toolkit::find_or_make()?;
    examine(&toolkit, &sources, args.check)
}

/// The same with `--check`, or one line that says why not, where no toolkit can be had.
///
/// # Errors
/// When a kernel does not compile or spills, or the report differs.
pub(crate) fn check_where_possible() -> Result<()> {
    let sources = sources(&cargo::root().join(SOURCES))?;
    if sources.is_empty() {
        return Ok(());
    }
    match toolkit::find_or_make() {
        Ok(toolkit) => examine(&toolkit, &sources, true),
        Err(error) => {
            output::step(&format!("the CUDA kernels are not compiled: {error:#}"));
            Ok(())
        }
    }
}

/// Every `.cu` of a folder, by name; none where there is no folder.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn examine(toolkit: &Toolkit, sources: &[PathBuf], check: bool) -> Result<()> {
    let mut compiled = Vec::new();
    let scratch = cargo::target_dir()?.join(SCRATCH);
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot make {}", scratch.display()))?;
    for some in sources.chunks(AT_ONCE) {
        let started: Vec<_> =
            some.iter().map(|source| start(toolkit, source, &scratch)).collect::<Result<_>>()?;
        for (source, child) in some.iter().zip(started) {
            compiled.push(finish(source, child)?);
        }
    }
    let table = table(&compiled);
    output::line(table.trim_end());
    let spilling = spilling(&compiled);
    if !spilling.is_empty() {
        bail!(
            "registers do not suffice: {}; make tiles smaller, or leave a thread more registers by __launch_bounds__",
            spilling.join(", ")
        );
    }
    keep(&cargo::root().join(REPORT), &report(&toolkit.version, &table), check)
}

/// Starts the compiler on one source; what it says is read by [`finish`].
fn start(toolkit: &Toolkit, source: &Path, scratch: &Path) -> Result<Child> {
    let name = source.file_name().unwrap_or_default();
    output::step(&format!("nvcc {}", name.display()));
    let nvcc = toolkit.nvcc();
    Command::new(&nvcc)
        .args(["-gencode", ARCHITECTURE])
        .args(FLAGS)
        .args(["-Xptxas", "-v", "--cubin", "-o"])
        .arg(scratch.join(name).with_extension("cubin"))
        .arg(source)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", nvcc.display()))
}

fn finish(source: &Path, child: Child) -> Result<Compiled> {
    let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let ended = child.wait_with_output().with_context(|| format!("waiting for nvcc on {name}"))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if !ended.status.success() {
        bail!(
            "{SOURCES}/{name} does not compile:\n{said}{}",
            String::from_utf8_lossy(&ended.stdout)
        );
    }
    for warning in said.lines().filter(|line| line.contains("warning")) {
        output::step(warning);
    }
    let functions = ptxas::parse(&said)?;
    if functions.is_empty() {
        bail!("ptxas names no kernel of {SOURCES}/{name}; it said:\n{said}");
    }
    Ok(Compiled { source: name, functions: demangled(functions) })
}

/// With the names that C++ sources have, where c++filt is at hand; `extern "C"` needs none.
fn demangled(mut functions: Vec<Usage>) -> Vec<Usage> {
    for function in functions.iter_mut().filter(|function| function.name.starts_with("_Z")) {
        if let Ok(name) = cargo::read(Command::new("c++filt").arg(&function.name)) {
            name.trim().clone_into(&mut function.name);
        }
    }
    functions
}

/// A table of Markdown, one function a line.
fn table(compiled: &[Compiled]) -> String {
    let mut text =
        "| source | function | registers | stack | spill stores | spill loads | shared |\n\
                    |---|---|---|---|---|---|---|\n"
            .to_owned();
    for Compiled { source, functions } in compiled {
        for Usage { name, registers, stack, spill_stores, spill_loads, shared } in functions {
            let registers =
                registers.map_or_else(|| "its callers'".to_owned(), |count| count.to_string());
            text += &format!(
                "| {source} | `{name}` | {registers} | {stack} | {spill_stores} | {spill_loads} | {shared} |\n"
            );
        }
    }
    text
}

fn spilling(compiled: &[Compiled]) -> Vec<String> {
    let functions = compiled.iter().flat_map(|one| one.functions.iter().map(|f| (&one.source, f)));
    functions
        .filter(|(_, function)| function.spills())
        .map(|(source, Usage { name, spill_stores, spill_loads, .. })| {
            format!("{name} in {source} stores {spill_stores} and loads {spill_loads} bytes")
        })
        .collect()
}

/// The line that says what compiled it.
fn compiler(version: &str) -> String {
    format!("nvcc {version} with `-gencode {ARCHITECTURE} {}`", FLAGS.join(" "))
}

fn report(version: &str, table: &str) -> String {
    format!(
        "# The CUDA kernels, by the compiler's report\n\n\
         Written by `cargo xtask cuda kernels` from `{SOURCES}`: {}.\n\
         Registers are a thread's, everything else is bytes: the stack frame and spills a thread's, static shared memory a block's (a\n\
         launch may ask for more). Nothing was run: these are what ptxas reports, and no measurement.\n\n{table}",
        compiler(version)
    )
}

/// Writes the report, or compares it with the one that is there.
fn keep(file: &Path, report: &str, check: bool) -> Result<()> {
    if !check {
        return std::fs::write(file, report)
            .with_context(|| format!("cannot write {}", file.display()));
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    if kept == report {
        return Ok(());
    }
    let by = |text: &str| text.lines().find(|line| line.contains(": nvcc ")).map(str::to_owned);
    if by(&kept).is_some_and(|kept| Some(kept) != by(report)) {
        output::step(&format!("{REPORT} was made by another nvcc and is not compared"));
        return Ok(());
    }
    bail!(
        "{REPORT} is not what nvcc reports now; run `cargo xtask cuda kernels` and look at what changed"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled() -> [Compiled; 1] {
        let fits =
            Usage { name: "add".into(), registers: Some(8), shared: 512, ..Usage::default() };
        let called = Usage { name: "part".into(), stack: 16, ..Usage::default() };
        [Compiled { source: "rows.cu".into(), functions: vec![fits, called] }]
    }

    #[test]
    fn the_table_has_every_function_with_its_source() {
        let table = table(&compiled());
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| rows.cu | `add` | 8 | 0 | 0 | 0 | 512 |",
                "| rows.cu | `part` | its callers' | 16 | 0 | 0 | 0 |"
            ]
        );
    }

    #[test]
    fn a_spill_is_named_with_its_kernel_and_source() {
        let mut compiled = compiled();
        assert!(spilling(&compiled).is_empty());
        compiled[0].functions[0].spill_stores = 4;
        assert_eq!(spilling(&compiled), ["add in rows.cu stores 4 and loads 0 bytes"]);
    }

    #[test]
    fn sources_are_taken_in_order_and_a_folder_that_is_not_there_has_none() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.cu", "a.cu", "device.cuh", "shim.h"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = sources(folder.path()).unwrap();
        assert_eq!(found, ["a.cu", "b.cu"].map(|name| folder.path().join(name)));
        assert!(sources(&folder.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn a_report_that_differs_is_found_unless_another_compiler_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.md");
        let now = report("13.0.88", &table(&compiled()));
        assert!(keep(&file, &now, true).is_err(), "there is no report yet");
        keep(&file, &now, false).unwrap();
        keep(&file, &now, true).unwrap();
        let other_figures = now.replace("| 8 |", "| 9 |");
        assert!(keep(&file, &other_figures, true).is_err());
        keep(&file, &other_figures.replace("13.0.88", "12.9.41"), true).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), now, "--check wrote");
    }

    #[test]
    fn the_build_script_compiles_with_the_same_flags() {
        let script = include_str!("../../../crates/model/build.rs");
        let [optimise, standard] = FLAGS;
        assert!(script.contains(&format!("[\"{optimise}\", \"{standard}\"]")), "they differ");
    }
}
