//! A server of this same program, in a process of its own, and what it answers.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::super::machine::resident_bytes;
use super::requests::Request;

/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A running server; killed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    process: Child,
    url: String,
    agent: ureq::Agent,
}

/// What stays the same when a request is asked again under the same generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The one that the header names.
    pub(super) generation: String,
    /// Category and what was applied, then the body without ids and times.
    pub(super) lasting: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Server {
    /// Starts it on a free port of this machine with the store in `vectors`, and waits until it says where it listens. It runs
    /// in the store's folder, where no configuration lies.
    pub(super) fn start(
        flags: &[OsString],
        vectors: &Path,
        max_clients: usize,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut process = Command::new(program)
            .current_dir(vectors)
            .args(["serve", "--host", "127.0.0.1", "--port", "0", "--log-level", "off"])
            .arg("--vectors")
            .arg(vectors)
            .args(flags)
            .env_remove("SKEG_CONFIG")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a server")?;
        let stdout = process.stdout.take();
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .max_idle_connections(max_clients)
            .max_idle_connections_per_host(max_clients)
            .build();
        let mut server = Self { process, url: String::new(), agent: agent.into() };
        let mut lines = BufReader::new(stdout.context("the server has no output")?).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening on ").map(|url| url.trim().to_owned()));
        server.url = url.context("the server ended before it listened; its reason is above")?;
        // The pipe stays read, so that the server is never stopped by a full one.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok(server)
    }

    /// Asks, and reads the whole answer. Whatever is no complete answer is an error.
    pub(super) fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        let mut response = self
            .agent
            .post(format!("{}/v1/chat/completions", self.url))
            .header("x-safety-category", &request.category)
            .send(&request.body)?;
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let generation = header("x-steering-generation");
        let said = [header("x-safety-category"), header("x-steering-applied")].join(" ");
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string()?;
        if status != 200 {
            bail!("status {status}: {body}");
        }
        if request.is_streamed && !body.ends_with("data: [DONE]\n\n") {
            bail!("a stream ended early: {body}");
        }
        Ok(Answer { generation, lasting: format!("{said}\n{}", lasting(&body)) })
    }

    /// The value of one metric, named with the start of its labels if there are several.
    pub(super) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.agent.get(format!("{}/metrics", self.url)).call()?;
        let text = text.into_body().read_to_string()?;
        metric_in(&text, name).ok_or_else(|| anyhow!("the server has no metric {name}"))
    }

    /// Memory that its process has now, in bytes, where the system says it.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(self.process.id())
    }
}

/// A body without `id`, `object` and `created`, which stand before `model` in the whole or in each frame.
fn lasting(body: &str) -> String {
    let of_object = |object| match str::find(object, "\"model\":") {
        Some(start) => &object[start..],
        None => object,
    };
    body.split("\n\n").map(of_object).collect::<Vec<_>>().join("\n")
}

/// The last word of the line that has the name, and all that is asked of its labels.
fn metric_in(text: &str, name: &str) -> Option<f64> {
    let (name, label) = name.split_once(' ').unwrap_or((name, ""));
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && line.contains(label));
    let line = lines.find(|line| line.split(['{', ' ']).next() == Some(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_times_do_not_last() {
        let frame = |id: u8| {
            format!("data: {{\"id\":\"{id}\",\"created\":{id},\"model\":\"m\",\"choices\":[]}}\n\n")
        };
        let stream = |id: u8| lasting(&format!("{}{}data: [DONE]\n\n", frame(id), frame(id)));
        assert_eq!(stream(1), stream(2));
        assert_eq!(stream(1).matches("\"model\":\"m\"").count(), 2);
        assert_ne!(lasting("{\"id\":1,\"model\":\"a\"}"), lasting("{\"id\":1,\"model\":\"b\"}"));
    }

    #[test]
    fn a_metric_is_found_by_name_and_label() {
        let text = "# TYPE a counter\na_total{m=\"t\",result=\"ok\"} 2\na_total{m=\"t\",result=\"failed\"} 1\n\
                    a 0.5\n";
        assert_eq!(metric_in(text, "a").map(f64::to_bits), Some(0.5_f64.to_bits()));
        let failed = metric_in(text, "a_total result=\"failed\"");
        assert_eq!(failed.map(f64::to_bits), Some(1.0_f64.to_bits()));
        assert_eq!(metric_in(text, "b"), None);
    }
}
