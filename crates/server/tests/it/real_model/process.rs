//! A `skeg serve` process for one test.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// The store in the repository.
pub(super) fn shipped_vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/smollm2-135m-instruct")
}

/// The default model's file.
#[expect(clippy::disallowed_methods, reason = "xtask hands the model to tests by environment")]
pub(super) fn model() -> PathBuf {
    let path = std::env::var_os("SKEG_TEST_MODEL");
    PathBuf::from(path.expect("SKEG_TEST_MODEL is not set; run `cargo xtask test`"))
}

/// A server on a port of its own; killed when dropped.
pub(super) struct Server {
    process: Child,
    url: String,
    agent: ureq::Agent,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// What came back: the evidence headers and the body.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) category: Option<String>,
    pub(super) applied: Option<String>,
    pub(super) generation: Option<String>,
    pub(super) body: Value,
}

impl Server {
    /// Starts the server with `vectors` and waits until it says where it listens.
    pub(super) fn start(vectors: &Path, max_num_seqs: usize) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_skeg"))
            .args(["serve", "--host", "127.0.0.1", "--port", "0", "--served-model-name", "test"])
            .args(["--max-num-seqs", &max_num_seqs.to_string()])
            .arg("--model")
            .arg(model())
            .arg("--vectors")
            .arg(vectors)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        let url = loop {
            line.clear();
            let read = stdout.read_line(&mut line).expect("stdout is text");
            assert!(read > 0, "the server ended before it said where it listens");
            if let Some(start) = line.find("http://") {
                let rest = &line[start + "http://".len()..];
                let authority = rest.split(|c: char| c.is_whitespace() || c == '/').next();
                break format!("http://{}", authority.unwrap_or_default());
            }
        };
        // The pipe stays read, so that the server is never stopped by a full one.
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        Self { process, url, agent }
    }

    /// Asks for a completion with the given category header.
    pub(super) fn ask(&self, category: &str, body: &Value) -> Answer {
        let mut response = self
            .agent
            .post(format!("{}/v1/chat/completions", self.url))
            .header("X-Safety-Category", category)
            .send_json(body)
            .expect("the server answers");
        let header = |name: &str| {
            response.headers().get(name).and_then(|v| v.to_str().ok()).map(ToOwned::to_owned)
        };
        Answer {
            status: response.status().as_u16(),
            category: header("x-safety-category"),
            applied: header("x-steering-applied"),
            generation: header("x-steering-generation"),
            body: response.body_mut().read_json().expect("the body is JSON"),
        }
    }
}

/// A short greedy request with log-probabilities.
pub(super) fn request(question: &str, max_tokens: usize) -> Value {
    json!({
        "model": "default",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "logprobs": true,
        "top_logprobs": 2,
    })
}
