//! `skeg audit verify`, and an administered server from outside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::files::{write_model, write_store};
use super::{run, skeg};

fn verify(folder: &tempfile::TempDir, flags: &[&str]) -> (i32, String, String) {
    run(skeg(folder.path()).args(["audit", "verify", "audit.jsonl"]).args(flags))
}

fn ask(address: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{head}\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

#[test]
fn an_administered_server_writes_a_log_that_verifies_until_it_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    write_store(folder.path(), &model);
    let key = base16ct::lower::encode_string(&Sha256::digest("secret"));
    let config = format!(
        "model = \"model\"\nvectors = \"vectors\"\nport = 0\n[admin]\naddress = \"0\"\naudit_log = \"audit.jsonl\"\n\
         keys = [{{ name = \"ops\", sha256 = \"{key}\" }}]\n"
    );
    std::fs::write(folder.path().join("skeg.toml"), config).unwrap();
    let mut process = skeg(folder.path()).arg("serve").stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut address = |prefix: &str| {
        let mut lines = stdout.by_ref().map(Result::unwrap);
        lines.find_map(|line| line.strip_prefix(prefix).map(str::to_owned)).unwrap()
    };
    let admin = address("administration on http://");
    let public = address("listening on http://");
    let authorised = |method: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nAuthorization: Bearer secret")
    };
    assert!(ask(&admin, "GET /v1/steering HTTP/1.1").starts_with("HTTP/1.1 401"));
    assert!(ask(&public, &authorised("GET", "/v1/steering")).starts_with("HTTP/1.1 404"));
    assert!(ask(&admin, &authorised("GET", "/v1/steering")).starts_with("HTTP/1.1 200"));
    assert!(ask(&admin, &authorised("POST", "/v1/steering/reload")).starts_with("HTTP/1.1 200"));
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    while stdout.next().is_some() {}
    assert_eq!(process.wait().unwrap().code(), Some(0));

    let (code, text, stderr) = verify(&folder, &["--json"]);
    assert_eq!(code, 0, "{text}{stderr}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((report["whole"].as_bool(), report["lines"].as_u64()), (Some(true), Some(3)));
    let hash = report["sha256"].as_str().unwrap();
    assert_eq!(verify(&folder, &["--hash", hash]).0, 0);

    let path = folder.path().join("audit.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    let shorter: String = whole.split_inclusive('\n').take(2).collect();
    std::fs::write(&path, &shorter).unwrap();
    assert_eq!(verify(&folder, &[]).0, 0, "the chain cannot show it");
    let (code, _, stderr) = verify(&folder, &["--hash", hash]);
    assert!(code == 1 && stderr.contains("cut off"), "{stderr}");
    std::fs::write(&path, whole.replacen("\"ops\"", "\"eve\"", 1)).unwrap();
    let (code, stdout, stderr) = verify(&folder, &[]);
    assert!(code == 1 && stdout.contains("line 3: it does not continue"), "{stdout}{stderr}");
    std::fs::write(&path, whole.trim_end()).unwrap();
    let (code, stdout, _) = verify(&folder, &[]);
    assert!(code == 1 && stdout.contains("line 3: torn"), "{stdout}");
    std::fs::remove_file(&path).unwrap();
    let (code, _, stderr) = verify(&folder, &[]);
    assert!(code == 1 && stderr.contains("audit.jsonl"), "{stderr}");
}
