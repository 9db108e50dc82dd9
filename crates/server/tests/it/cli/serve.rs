//! A served model from outside: it says where it listens, answers, and ends well when asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use super::files::{write_model, write_store};
use super::{run, skeg};

/// A running server; killed if a test fails before it ended.
pub(super) struct Server {
    process: Child,
    stdout: BufReader<ChildStdout>,
    pub(super) address: String,
    _folder: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Server {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path());
        write_store(folder.path(), &model);
        let mut server = Self::launch(skeg(folder.path()).args(["serve", "--vectors", "vectors"]));
        server._folder = Some(folder);
        server
    }

    /// The model `model`, with what `command` says besides.
    pub(super) fn launch(command: &mut Command) -> Self {
        let command = command.args(["--model", "model", "--port", "0"]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "it ended before it listened");
            if let Some(address) = line.trim().strip_prefix("listening on http://") {
                break address.to_owned();
            }
        };
        Self { process, stdout, address, _folder: None }
    }

    /// Where its log goes, if its command pipes that.
    pub(super) fn take_log(&mut self) -> BufReader<ChildStderr> {
        BufReader::new(self.process.stderr.take().unwrap())
    }

    pub(super) fn request(&self, head: &str, body: &str) -> String {
        let mut response = String::new();
        self.send(head, body).read_to_string(&mut response).unwrap();
        response
    }

    fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\
             X-Safety-Category: malware_viruses\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream
    }

    pub(super) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(super) fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.exit_code()
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        self.process.wait().unwrap().code()
    }
}

#[test]
fn it_answers_steered_and_ends_with_0_when_asked_to() {
    let server = Server::start();
    assert!(server.request("GET /health/ready", "").starts_with("HTTP/1.1 200"));
    let body = r#"{"messages":[{"role":"user","content":"hello"}],"max_tokens":4,"temperature":0}"#;
    let response = server.request("POST /v1/chat/completions", body);
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("x-steering-applied: planned"), "{response}");
    assert_eq!(server.end("-TERM"), Some(0));
}

#[test]
fn an_answer_under_way_is_finished_before_it_ends() {
    let mut server = Server::start();
    let body = r#"{"messages":[{"role":"user","content":"hello"}],"max_tokens":40,"ignore_eos":true,"stream":true}"#;
    let mut stream = BufReader::new(server.send("POST /v1/chat/completions", body));
    let mut answer = String::new();
    while !answer.contains("data: ") {
        assert!(stream.read_line(&mut answer).unwrap() > 0, "{answer}");
    }
    server.signal("-TERM");
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"finish_reason\":\"length\""), "{answer}");
    assert!(answer.contains("data: [DONE]"), "{answer}");
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn an_interrupt_ends_it_as_well() {
    assert_eq!(Server::start().end("-INT"), Some(0));
}

#[test]
fn a_chat_without_a_terminal_answers_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    write_store(folder.path(), &model);
    let mut command = skeg(folder.path());
    command.args(["chat", "--model", "model", "--vectors", "vectors", "--compare"]);
    command.args(["--category", "malware_viruses", "--max-tokens", "4", "--prompt", "hello"]);
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("--- unsteered") && stdout.contains("--- steered"), "{stdout}");
    assert!(stderr.contains("category malware_viruses by body"), "{stderr}");
    let mut command = skeg(folder.path());
    command.args(["chat", "--model", "model", "--vectors", "vectors", "-p", "hello"]);
    let (code, _, stderr) = run(command.args(["--category", "weather"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("unknown_category"), "{stderr}");
}
