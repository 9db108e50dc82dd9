//! The hub on loopback, and `skeg model fetch` with nothing of the user's own environment.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cargo;

/// The repository that the hub makes.
pub(super) const REPOSITORY: &str = "skeg/tiny";

/// An empty cache and no hub yet.
pub(super) struct Bench {
    skeg: PathBuf,
    scratch: PathBuf,
}

/// A running hub; ends when it is dropped.
pub(super) struct Hub {
    process: Child,
    pub(super) url: String,
    log: PathBuf,
}

/// A request that the hub saw.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    /// `hub`, or `cdn` where large files are.
    pub(super) server: String,
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) authorization: Option<String>,
    pub(super) status: u16,
}

/// How a fetch ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) succeeded: bool,
    /// The path that was printed, or nothing.
    pub(super) path: PathBuf,
    pub(super) stderr: String,
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Closing its standard input ends it.
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}

impl Hub {
    /// All requests so far.
    pub(super) fn requests(&self) -> Result<Vec<Request>> {
        let text = match std::fs::read_to_string(&self.log) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("reading the hub's log"),
        };
        let parse = |line| serde_json::from_str(line).context("a line of the hub's log");
        text.lines().map(parse).collect()
    }
}

impl Bench {
    pub(super) fn new(skeg: &Path, scratch: &Path) -> Result<Self> {
        if scratch.exists() {
            std::fs::remove_dir_all(scratch)
                .with_context(|| format!("clearing {}", scratch.display()))?;
        }
        std::fs::create_dir_all(scratch)
            .with_context(|| format!("making {}", scratch.display()))?;
        Ok(Self { skeg: skeg.to_owned(), scratch: scratch.to_owned() })
    }

    /// Where fetched files go.
    pub(super) fn cache(&self) -> PathBuf {
        self.scratch.join("cache")
    }

    /// The bytes that the hub has of a file.
    pub(super) fn served(&self, revision: &str, path: &str) -> Result<Vec<u8>> {
        let file = self.scratch.join("repositories").join(REPOSITORY).join(revision).join(path);
        std::fs::read(&file).with_context(|| format!("reading {}", file.display()))
    }

    /// Every file below the cache, with `/` between names.
    pub(super) fn cached(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        let mut folders = vec![self.cache()];
        while let Some(folder) = folders.pop() {
            // A refused fetch may have made no folder.
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(self.cache())?;
                    files.push(name.to_string_lossy().replace('\\', "/"));
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// Starts a hub that is broken as the switches say.
    pub(super) fn hub(&self, switches: &[&str]) -> Result<Hub> {
        let log = self.scratch.join("requests.jsonl");
        if log.exists() {
            std::fs::remove_file(&log).context("clearing the hub's log")?;
        }
        let mut process = Command::new("python3")
            .arg(cargo::root().join("tests/hub/fake_hub.py"))
            .arg(self.scratch.join("repositories"))
            .args(["--make", "--log"])
            .arg(&log)
            .args(switches)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start tests/hub/fake_hub.py; it needs python3")?;
        let stdout = process.stdout.take();
        let mut hub = Hub { process, url: String::new(), log };
        let mut line = String::new();
        BufReader::new(stdout.context("the hub has no standard output")?).read_line(&mut line)?;
        line.trim_end().clone_into(&mut hub.url);
        Ok(hub)
    }

    /// `skeg model fetch` of the repository.
    pub(super) fn fetch(&self, hub: &Hub, args: &[&str]) -> Result<Outcome> {
        self.fetch_with(hub, args, &[])
    }

    /// The same with more in the environment.
    pub(super) fn fetch_with(
        &self,
        hub: &Hub,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Outcome> {
        let mut command = Command::new(&self.skeg);
        for name in ["HF_TOKEN", "HF_TOKEN_PATH", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command
            .current_dir(&self.scratch)
            .args(["model", "fetch", REPOSITORY])
            .args(args)
            .env("HF_ENDPOINT", &hub.url)
            .env("HF_HOME", self.scratch.join("no-home"))
            .env("NO_PROXY", "127.0.0.1")
            .env("SKEG_CACHE_DIR", self.cache())
            .envs(environment.iter().copied());
        let output = command.output().context("cannot start skeg")?;
        let stdout = String::from_utf8(output.stdout).context("skeg printed no UTF-8")?;
        Ok(Outcome {
            succeeded: output.status.success(),
            path: stdout.trim_end().into(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
