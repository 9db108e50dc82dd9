//! A `skeg serve` process on loopback, for the tasks that talk to one.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use crate::{cargo, model, output};

/// A running server with the shipped vectors; killed when dropped.
pub(crate) struct Server {
    process: Child,
    /// `http://host:port`, as the server said it.
    pub(crate) url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, in which case there is nothing to kill.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Server {
    /// Starts the server on `port` of loopback (0 = any) and waits until it says where it listens.
    pub(crate) fn start(skeg: &Path, model: &Path, port: u16) -> Result<Self> {
        let mut process = Command::new(skeg)
            .current_dir(cargo::root())
            .args(["serve", "--host", "127.0.0.1", "--port", &port.to_string()])
            .arg("--model")
            .arg(model)
            .args(["--served-model-name", model::DEFAULT_MODEL])
            .args(["--vectors", &format!("vectors/{}", model::DEFAULT_MODEL)])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", skeg.display()))?;
        let stdout = process.stdout.take();
        let mut server = Self { process, url: String::new() };
        server.url = stdout
            .and_then(|stdout| address(BufReader::new(stdout)))
            .context("the server ended before it said where it listens; its reason is above")?;
        Ok(server)
    }

    /// Waits until the server ends by itself.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.process.wait().context("waiting for the server")?;
        Ok(())
    }
}

/// Reads up to the first line with an address, and lets a thread read away the rest.
fn address(mut stdout: BufReader<ChildStdout>) -> Option<String> {
    let mut line = String::new();
    while stdout.read_line(&mut line).ok()? > 0 {
        output::line(line.trim_end());
        if let Some(url) = url_in(&line) {
            // The pipe stays read, so that the server is never stopped by a full one; what follows would
            // only mix with the task's own output.
            std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(drop));
            return Some(url);
        }
        line.clear();
    }
    None
}

/// `http://host:port` out of a line.
fn url_in(line: &str) -> Option<String> {
    let rest = &line[line.find("http://")? + "http://".len()..];
    let authority = rest.split(|c: char| c.is_whitespace() || c == '/').next()?;
    Some(format!("http://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_without_path_or_what_follows() {
        let line = "listening on http://127.0.0.1:4711/v1 (loopback)\n";
        assert_eq!(url_in(line).as_deref(), Some("http://127.0.0.1:4711"));
        assert_eq!(url_in("loading"), None);
    }
}
