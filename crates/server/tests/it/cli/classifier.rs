//! `skeg serve --classifier http|off`: its settings, what it says at its start, and answers of a real model.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::files::{write_model, write_store};
use super::serve::Server;
use super::{run, skeg};
use crate::endpoint::{Endpoint, scores};

const KEY: &str = "hidden-key";
const NO_AUTO: &str = "not available: the generation has no probe";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    write_store(folder.path(), &model);
    folder
}

fn check(folder: &Path, flags: &[&str]) -> (i32, String, String) {
    let mut command = skeg(folder);
    command.args(["serve", "--model", "model", "--vectors", "vectors", "--port", "0"]);
    run(command.arg("--check-config").args(flags))
}

/// The first choice of the answer to one request.
fn ask(server: &Server, category: &str) -> Value {
    let body = json!({
        "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "temperature": 0,
        "ignore_eos": true, "logprobs": true,
    });
    let body = body.to_string();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\
         X-Safety-Category: {category}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{response}");
    serde_json::from_str::<Value>(body).unwrap()["choices"][0].clone()
}

#[test]
fn a_model_answers_by_the_classifier_and_the_log_says_where_prompts_go() {
    let endpoint = Endpoint::start(|number| match number {
        0 => scores(&json!({"malware_viruses": 0.25})),
        _ => scores(&json!({"malware_viruses": 0.75})),
    });
    let (folder, url) = (folder(), endpoint.url());
    let mut command: Command = skeg(folder.path());
    command.args(["serve", "--vectors", "vectors", "--classifier", "http"]);
    command.args(["--classifier-url", &url, "--classifier-model", "omni"]);
    command.args(["--classifier-timeout-ms", "60000", "--classifier-key-env", "GUARD_KEY"]);
    command.env("GUARD_KEY", KEY).stderr(Stdio::piped());
    let mut server = Server::launch(&mut command);
    let mut log = server.take_log();
    let [harmless, none] = ["auto", "none"].map(|category| ask(&server, category));
    let [found, named] = ["auto", "malware_viruses"].map(|category| ask(&server, category));
    // To the last bit of every token's probability.
    for (auto, named) in [(&harmless, &none), (&found, &named)] {
        assert_eq!(auto["logprobs"], named["logprobs"]);
        assert_eq!(auto["message"], named["message"]);
        assert_eq!(auto["steering"]["source"], "auto");
    }
    assert_ne!(harmless["logprobs"], found["logprobs"]);
    assert_eq!(endpoint.requests().len(), 2);
    assert!(endpoint.heads().contains(&format!("authorization: bearer {KEY}")));
    assert_eq!(server.end("-TERM"), Some(0));
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    let line = text.lines().find(|line| line.contains("prompts leave this process")).unwrap();
    assert!(line.contains("WARN") && line.contains(&format!("{url}/moderations")), "{line}");
    assert!(!text.contains(KEY) && !text.contains("hello"), "{text}");
}

#[test]
fn settings_come_from_file_environment_and_flags() {
    let folder = folder();
    let file = "[classifier]\nkind = \"http\"\nurl = \"http://127.0.0.1:9/v1\"\nmodel = \"omni\"\ntimeout_ms = 7\n\
                key_env = \"GUARD_KEY\"\non_failure = \"none\"\n[classifier.categories]\nspam = \"fraud_deception\"\n";
    std::fs::write(folder.path().join("skeg.toml"), file).unwrap();
    let (code, _, stderr) = check(folder.path(), &[]);
    assert_eq!(code, 64);
    assert!(stderr.contains("`classifier.key_env`: names a variable that is not set"), "{stderr}");

    let mut command = skeg(folder.path());
    command.args(["serve", "--model", "model", "--vectors", "vectors", "--check-config"]);
    command.args(["--classifier-timeout-ms", "9"]).env("GUARD_KEY", KEY);
    command.env("SKEG_CLASSIFIER_MAX_CONCURRENT", "3").env("SKEG_CLASSIFIER_TIMEOUT_MS", "8");
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
    for line in [
        "[classifier]",
        "kind = \"http\"",
        "shape = \"moderations\"",
        "key_env = \"<redacted>\"",
        "timeout_ms = 9",
        "max_concurrent = 3",
        "on_failure = \"none\"",
        "\"spam\" = \"fraud_deception\"",
        "auto     asks http://127.0.0.1:9/v1 (omni), which gets whole conversations",
    ] {
        assert!(stdout.lines().any(|found| found == line), "{line}: {stdout}");
    }
    assert!(stderr.contains("answered unsteered"), "{stderr}");
    assert!(!stdout.contains(KEY) && !stderr.contains(KEY));

    // One flag turns it off, whatever the file says.
    let (code, stdout, stderr) = check(folder.path(), &["--classifier", "off"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("[classifier]\nkind = \"off\"\n") && stdout.contains("auto     off"));
    assert!(!stderr.contains("prompts leave"), "{stderr}");
}

#[test]
fn a_policy_that_says_auto_needs_a_probe_or_a_classifier() {
    let folder = folder();
    let (code, stdout, stderr) = check(folder.path(), &[]);
    assert!(code == 0 && stdout.contains(NO_AUTO), "{stdout}{stderr}");
    let rule = |slug: &str| {
        format!(
            "[categories.{slug}]\naction = \"steer\"\npositions = \"all\"\n\
             strength = {{ default = 1.0, floor = 0.0, ceiling = 2.0 }}\n"
        )
    };
    let policy = "when_missing = \"auto\"\n".to_owned()
        + &rule("fraud_deception")
        + &rule("malware_viruses");
    std::fs::write(folder.path().join("policy.toml"), policy).unwrap();
    let publish = ["vectors", "publish", "--policy", "policy.toml", "--store", "vectors"];
    let (code, _, stderr) = run(skeg(folder.path()).args(publish));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("only servers with `--classifier http` serve it"), "{stderr}");
    for (kind, expected) in [("generation", "no probe.safetensors"), ("off", "`off`")] {
        let (code, _, stderr) = check(folder.path(), &["--classifier", kind]);
        assert_eq!(code, 1, "{stderr}");
        assert!(
            stderr.contains("`when_missing` is `auto`") && stderr.contains(expected),
            "{stderr}"
        );
    }
    let http = ["--classifier", "http", "--classifier-url", "http://127.0.0.1:9/v1"];
    let (code, _, stderr) = check(folder.path(), &http);
    assert!(code == 64 && stderr.contains("`classifier.model`: is not set"), "{stderr}");
    let http = [&http[..], &["--classifier-model", "omni"]].concat();
    let (code, _, stderr) = check(folder.path(), &http);
    assert_eq!(code, 0, "{stderr}");
}
