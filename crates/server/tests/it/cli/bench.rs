//! `skeg bench` on a tiny model, on a tiny server, and on servers that fail.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};

use serde_json::{Value, json};

use super::files::write_model;
use super::serve::Server;
use super::{run, skeg};

/// Runs `skeg bench` in `folder` and reads the JSON that it prints.
fn bench(folder: &std::path::Path, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = run(skeg(folder).arg("bench").args(arguments).arg("--json"));
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn numbers(rows: &Value, field: &str) -> Vec<u64> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_u64().unwrap()).collect()
}

#[test]
fn a_quick_model_bench_measures_what_fits_the_context_and_names_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let report =
        bench(folder.path(), &["model", "--model", "model", "--quick", "--chart", "chart.svg"]);
    assert_eq!(numbers(&report["prefill"], "timed_tokens"), [128]);
    assert_eq!(numbers(&report["decode"], "context_tokens"), [0]);
    assert_eq!(numbers(&report["batch"], "num_seqs"), [1, 4]);
    assert_eq!(numbers(&report["batch"], "timed_tokens"), [8, 32]);
    assert_eq!(report["left_out"], json!(["context 512"]));
    for part in ["prefill", "decode", "batch"] {
        for row in report[part].as_array().unwrap() {
            let rate = |name: &str| row["tokens_per_second"][name].as_f64().unwrap();
            assert!(0.0 < rate("min") && rate("min") <= rate("median"), "{row}");
            assert!(rate("median") <= rate("max"), "{row}");
        }
    }
    let chart = std::fs::read_to_string(folder.path().join("chart.svg")).unwrap();
    assert_eq!(chart.matches("<circle").count(), 2);
}

#[test]
fn a_size_that_was_asked_for_and_does_not_fit_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    for (flag, size) in [("--prefill", "129"), ("--context", "128"), ("--batch-context", "121")] {
        let mut command = skeg(folder.path());
        command.args(["bench", "model", "--model", "model", "--quick", flag, size]);
        let (code, _, stderr) = run(&mut command);
        assert_eq!(code, 1);
        assert!(stderr.contains(&format!("{flag} {size}")) && stderr.contains("128"), "{stderr}");
    }
}

#[test]
fn a_steering_bench_has_a_bounded_ratio_for_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let arguments = ["steering", "--model", "model", "--pairs", "6", "--batch", "1,3"];
    let report = bench(folder.path(), &arguments);
    let costs = report["costs"].as_array().unwrap();
    let modes: Vec<&str> = costs.iter().map(|cost| cost["mode"].as_str().unwrap()).collect();
    let once =
        ["disabled", "enabled_idle", "all_steered_shared", "per_request_4", "per_request_16"];
    // The model has one layer, so one, twelve and all layers are the same setting.
    assert_eq!(modes, [once, once].concat());
    for cost in costs {
        let value = |name: &str| cost[name].as_f64().unwrap();
        assert_eq!((&cost["pairs"], &cost["num_layers"]), (&json!(6), &json!(1)));
        assert!(0.0 < value("lower") && value("lower") <= value("ratio"), "{cost}");
        assert!(value("ratio") <= value("upper"), "{cost}");
    }
}

#[test]
fn a_load_on_a_steered_server_counts_every_token() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}", server.address);
    let mut arguments = vec!["serve", "--url", &url, "--clients", "1,2", "--rate", "500"];
    arguments.extend(["--requests", "6", "--max-tokens", "5", "--prompt-words", "3"]);
    arguments.extend(["--header", "X-Safety-Category: malware_viruses"]);
    arguments.extend(["--chart", "load.svg"]);
    let report = bench(folder.path(), &arguments);
    let levels = &report["levels"];
    let loads: Vec<&Value> = levels.as_array().unwrap().iter().map(|l| &l["load"]).collect();
    assert_eq!(loads, [&json!({"clients": 1}), &json!({"clients": 2}), &json!({"rate": 500.0})]);
    assert_eq!(numbers(levels, "num_answered"), [6, 6, 6]);
    assert_eq!(numbers(levels, "num_with_usage"), [6, 6, 6]);
    // `ignore_eos` makes each answer as long as it may be.
    assert_eq!(numbers(levels, "output_tokens"), [30, 30, 30]);
    for level in levels.as_array().unwrap() {
        assert_eq!(level["failures"], json!({}));
        let latency = |name: &str, percentile: &str| level[name][percentile].as_f64().unwrap();
        let first = latency("time_to_first_token_seconds", "p50");
        assert!(0.0 < first && first <= latency("end_to_end_latency_seconds", "p99"), "{level}");
    }
    assert_eq!(report["headers"], json!(["x-safety-category"]));
    let chart = std::fs::read_to_string(folder.path().join("load.svg")).unwrap();
    assert_eq!(chart.matches("<circle").count(), 2);
    assert_eq!(server.end("-TERM"), Some(0));
}

#[test]
fn a_request_that_the_server_refuses_ends_the_bench_before_the_load() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}", server.address);
    let mut command = skeg(folder.path());
    command.args(["bench", "serve", "--url", &url, "--model", "missing"]);
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, 1);
    assert!(stderr.contains("404") && stderr.contains("model_not_found"), "{stderr}");
}

/// A server that gives its responses in turn, one a connection, and hands over what it was sent.
fn scripted(responses: Vec<String>) -> (String, Receiver<Sent>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = sync_channel(responses.len());
    std::thread::spawn(move || {
        for response in responses {
            let (mut stream, _) = listener.accept().unwrap();
            sender.send(read_request(&stream)).unwrap();
            stream.write_all(response.as_bytes()).unwrap();
        }
    });
    (url, requests)
}

/// One request: its header lines in lower case, and its body.
struct Sent {
    headers: Vec<String>,
    body: Value,
}

fn read_request(stream: &TcpStream) -> Sent {
    let mut reader = BufReader::new(stream);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        headers.push(line.trim().to_ascii_lowercase());
    }
    let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    Sent { headers, body: serde_json::from_slice(&body).unwrap() }
}

fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}")
}

#[test]
fn failures_are_counted_by_status_and_by_where_they_happened() {
    let folder = tempfile::tempdir().unwrap();
    let text = "data: {\"choices\":[{\"text\":\"word\"}]}\n\n";
    let answered = response("200 OK", &format!("{text}{text}data: [DONE]\n\n"));
    let (url, requests) = scripted(vec![
        answered.clone(),
        response("429 Too Many Requests", "{\"error\":{\"code\":\"overloaded\"}}"),
        response("200 OK", text),
        response("503 Service Unavailable", "later"),
        response("429 Too Many Requests", ""),
        String::new(),
        answered,
    ]);
    let mut arguments = vec!["serve", "--url", &url, "--api", "completions", "--warmup", "0"];
    arguments.extend(["--clients", "1", "--requests", "7", "--openai-fields-only"]);
    arguments.extend(["--header", "X-One: 1", "--header", "X-Two: 2"]);
    let report = bench(folder.path(), &arguments);
    let level = &report["levels"][0];
    let failures = json!({"429": 2, "503": 1, "connection": 1, "stream": 1});
    assert_eq!(level["failures"], failures);
    assert_eq!(numbers(&report["levels"], "num_answered"), [2]);
    // Without usage each chunk is a token.
    assert_eq!(numbers(&report["levels"], "output_tokens"), [4]);
    let requests: Vec<Sent> = requests.iter().collect();
    assert_eq!(requests.len(), 7);
    for Sent { headers, body } in &requests {
        assert!(["x-one: 1", "x-two: 2"].iter().all(|line| headers.iter().any(|l| l == line)));
        assert!(body["prompt"].is_string() && body["stream"] == true, "{body}");
        assert!(body.get("ignore_eos").is_none(), "{body}");
    }
    assert_ne!(requests[0].body["prompt"], requests[1].body["prompt"]);
}

#[test]
fn another_machine_gets_no_load_unless_it_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = skeg(folder.path());
    let (code, _, stderr) = run(command.args(["bench", "serve", "--url", "http://192.0.2.1:80"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("192.0.2.1") && stderr.contains("--allow-remote"), "{stderr}");
}
