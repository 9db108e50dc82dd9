//! `skeg evaluate judges` with a judge behind an endpoint on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{run, skeg};

const KEY: &str = "hidden-key";

/// Four answers, of which two say that they are bad; one label differs from what the endpoint says.
fn write_set(folder: &Path) -> PathBuf {
    let rows = [
        ("good one", "safe"),
        ("good two", "unsafe"),
        ("bad one", "unsafe"),
        ("bad two", "unsafe"),
    ];
    let line = |(idx, (response, label)): (usize, &(&str, &str))| {
        let row = json!({
            "id": idx.to_string(), "text": format!("secret question {idx}"), "source": "own",
            "response": response, "response_label": label,
        });
        format!("{row}\n")
    };
    let path = folder.join("own.jsonl");
    std::fs::write(&path, rows.iter().enumerate().map(line).collect::<String>()).unwrap();
    path
}

/// Answers one request as a guard model does; the authorisation it came with.
pub(super) fn answer(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut key) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_lowercase();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("authorization", value)) => key = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let is_bad = body["messages"][1]["content"].as_str().unwrap().starts_with("bad");
    let content = if is_bad { "unsafe\nS2" } else { "safe" };
    let body = json!({"choices": [{"message": {"content": content}}]}).to_string();
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
    let mut stream = stream;
    stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    key
}

fn evaluate(folder: &Path, url: &str) -> Command {
    let mut command = skeg(folder);
    command.args(["evaluate", "judges", "--json", "--test"]).arg(write_set(folder));
    command.args(["--judge-url", url, "--judge-model", "guard"]);
    command.args(["--judge-key-env", "JUDGE_KEY"]).env("JUDGE_KEY", KEY);
    command
}

#[test]
fn an_endpoint_is_measured_as_a_judge_and_asked_once() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    // It ends after the four requests, so that a fifth would fail.
    let endpoint = std::thread::spawn(move || {
        let streams = listener.incoming().take(4);
        streams.map(|stream| answer(&stream.unwrap())).collect::<Vec<_>>()
    });
    let (code, stdout, stderr) = run(&mut evaluate(folder.path(), &url));
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let row = &report["rows"][0];
    assert_eq!((&row["judge"], &row["property"]), (&"guard (llama-guard)".into(), &"harm".into()));
    assert_eq!(row["figures"]["accuracy"]["count"], 3);
    assert_eq!(row["figures"]["recall"]["count"], 2);
    assert_eq!(endpoint.join().unwrap(), vec![Some(format!("bearer {KEY}")); 4]);
    let again = run(&mut evaluate(folder.path(), &url));
    assert_eq!(again, (0, stdout, stderr.clone()));
    let cache = folder.path().join("judges").join("endpoint-verdicts.jsonl");
    let kept = std::fs::read_to_string(cache).unwrap();
    assert_eq!(kept.lines().count(), 4);
    for text in [kept, stderr, again.1] {
        assert!(!text.contains("secret") && !text.contains(KEY), "{text}");
    }
}

#[test]
fn what_an_endpoint_cannot_be_used_for_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut unset = evaluate(folder.path(), "http://127.0.0.1:9/v1");
    let (code, _, stderr) = run(unset.env_remove("JUDGE_KEY"));
    assert_eq!(code, 1);
    assert!(stderr.contains("--judge-key-env names a variable that is not set"), "{stderr}");
    let mut reward = evaluate(folder.path(), "http://127.0.0.1:9/v1");
    let (code, _, stderr) =
        run(reward.args(["--reward-url", "http://127.0.0.1:9/v1", "--reward-model", "steer"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("there are no labels to compare scores"), "{stderr}");
    if cfg!(not(feature = "hub")) {
        let (code, _, stderr) = run(&mut evaluate(folder.path(), "https://127.0.0.1:9/v1"));
        assert_eq!(code, 1);
        assert!(stderr.contains("build with the cargo feature `hub`"), "{stderr}");
    }
}
