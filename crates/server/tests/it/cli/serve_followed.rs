//! `skeg serve` from an object store: it copies what serves, follows what is published, and starts when the store is away.

use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Stdio};

use skeg_vector_store::{read_current, write_generation};

use super::bucket_server::BucketServer;
use super::files::{generation, write_model, write_store};
use super::serve::Server;
use super::{run, skeg};

const PLACE: &str = "s3://bucket/fleet/vectors";

fn with_bucket(mut command: Command, url: &str) -> Command {
    command.env("AWS_ENDPOINT_URL", url).env("AWS_ALLOW_HTTP", "true");
    command.env("AWS_SKIP_SIGNATURE", "true");
    command
}

fn serve(folder: &Path, url: &str) -> Command {
    let mut command = with_bucket(skeg(folder), url);
    command.args(["serve", "--vectors", PLACE, "--vectors-copy", "copy"]);
    // What the tests wait for is asked for.
    command.args(["--vectors-poll-interval", "3600"]).stderr(Stdio::piped());
    command
}

/// A second generation in the folder's store `vectors`.
fn second(folder: &Path) -> String {
    let root = folder.join("vectors");
    let first = read_current(&root).unwrap().generation;
    let manifest = skeg_vector_store::load_generation(&root, &first, None).unwrap().manifest;
    let mut next = generation(manifest.model());
    next.card = "# Second\n".to_owned();
    write_generation(&root, &next).unwrap().to_string()
}

fn publish(folder: &Path, url: &str, flags: &[&str]) {
    let mut command = with_bucket(skeg(folder), url);
    command.args(["vectors", "publish", "--from", "vectors", "--store", PLACE]).args(flags);
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
}

/// The generation of an answer.
fn generation_of(server: &Server) -> String {
    let body = r#"{"messages":[{"role":"user","content":"hello"}],"max_tokens":2}"#;
    let response = server.request("POST /v1/chat/completions", body);
    let header = response.lines().find_map(|line| line.strip_prefix("x-steering-generation: "));
    header.expect(&response).to_owned()
}

#[test]
fn what_is_published_there_is_followed_and_kept_for_a_start_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = write_model(folder);
    write_store(folder, &model);
    let first = read_current(&folder.join("vectors")).unwrap().generation.to_string();
    let bucket = BucketServer::start();
    publish(folder, &bucket.url(), &[]);
    let mut server = Server::launch(&mut serve(folder, &bucket.url()));
    assert_eq!(generation_of(&server), first);

    let second = second(folder);
    publish(folder, &bucket.url(), &[&second]);
    let mut log = server.take_log();
    server.signal("-HUP");
    let mut line = String::new();
    // Said once the copy names it.
    while !(line.contains("followed") && line.contains(&second)) {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log ended");
    }
    assert_eq!(generation_of(&server), second);
    // Whoever read the log may go: answers matter more.
    drop(log);
    assert_eq!(server.end("-TERM"), Some(0));

    let url = bucket.url();
    drop(bucket);
    let server = Server::launch(&mut serve(folder, &url));
    assert_eq!(generation_of(&server), second);
    assert_eq!(server.end("-TERM"), Some(0));
}

#[test]
fn without_the_store_and_without_a_copy_it_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_model(folder);
    let bucket = BucketServer::start();
    let url = bucket.url();
    drop(bucket);
    let mut command = serve(folder, &url);
    let (code, _, stderr) = run(command.args(["--model", "model"]));
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("there is no copy of it yet") && stderr.contains(PLACE), "{stderr}");
}

#[test]
fn a_folder_that_is_a_store_of_its_own_is_not_taken_for_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = write_model(folder);
    write_store(folder, &model);
    let place = format!("file://{}/vectors", folder.display());
    let mut command = skeg(folder);
    command.args(["serve", "--check-config", "--model", "model", "--vectors", &place]);
    let (code, _, stderr) = run(command.args(["--vectors-copy", "vectors"]));
    assert!(code == 1 && stderr.contains("is a store of its own"), "{stderr}");
    let mut command = skeg(folder);
    command.args(["serve", "--check-config", "--model", "model", "--vectors", &place]);
    let (code, stdout, stderr) = run(&mut command);
    assert!(code == 0 && stdout.contains(", copied to "), "{stdout}{stderr}");
}
