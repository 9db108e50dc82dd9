//! `skeg vectors publish|rollback|history|diff|gc`, on a folder and on an object store behind HTTP.

use std::path::Path;

use serde_json::Value;
use skeg_lab::probe::{Input, Member, NGrams, Planes, Probe, Stack, TrainedOn};
use skeg_vector_store::{
    Category, GenerationId, ModelBinding, load_generation, read_current, write_generation,
};
use tempfile::TempDir;

use super::bucket_server::BucketServer;
use super::files::{generation, publish};
use super::{run, skeg};

fn model() -> ModelBinding {
    ModelBinding {
        architecture_id: "architecture".to_owned(),
        weights_id: "weights".to_owned(),
        hidden_size: 8,
        num_hidden_layers: 1,
    }
}

/// A folder with the store `vectors`, in which one generation serves and another one, with a higher floor, lies ready.
fn fixture() -> (TempDir, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("vectors");
    publish(&root, model());
    let old = read_current(&root).unwrap().generation.to_string();
    let mut next = generation(model());
    for rule in next.policy.categories.values_mut() {
        rule.strength.floor = 0.5;
    }
    let new = write_generation(&root, &next).unwrap().to_string();
    (folder, old, new)
}

fn vectors(folder: &Path, flags: &[&str]) -> (i32, String, String) {
    run(skeg(folder).arg("vectors").args(flags))
}

fn json(folder: &Path, flags: &[&str]) -> Value {
    let (code, stdout, stderr) = vectors(folder, &[flags, &["--json"]].concat());
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn a_generation_is_published_after_its_difference_was_printed() {
    let (folder, old, new) = fixture();
    let (folder, root) = (folder.path(), folder.path().join("vectors"));
    let serves = || read_current(&root).unwrap().generation.to_string();
    let flags = ["publish", &new, "--store", "vectors"];
    let (code, stdout, stderr) = vectors(folder, &[&flags[..], &["--dry-run"]].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("fraud_deception: floor was 0, is 0.5"), "{stdout}");
    assert!(stdout.contains("dry run: ") && serves() == old, "{stdout}");
    let (code, _, stderr) = vectors(folder, &[&flags[..], &["--expected", "7"]].concat());
    assert!(code == 1 && stderr.contains("found 1, expected 7; another publisher"), "{stderr}");
    let why = ["--expected", "1", "--reason", "floor raised", "--actor", "kim"];
    let (code, stdout, stderr) = vectors(folder, &[&flags[..], &why].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&format!("{new} serves now, sequence 2")), "{stdout}");
    assert_eq!(serves(), new);
    let (code, stdout, _) = vectors(folder, &flags);
    assert!(code == 0 && stdout.contains("serves already, sequence 2"), "{stdout}");
}

/// The card of a generation names the probe that is published with it, and keeps what it said before.
#[test]
fn a_probe_is_published_with_its_card() {
    let (folder, old, _) = fixture();
    let (folder, root) = (folder.path(), folder.path().join("vectors"));
    let categories = ["fraud_deception", "malware_viruses"];
    let ngrams = NGrams { log2_buckets: 4, ..NGrams::default() };
    let planes = Planes::new(vec![0.0; 3 * ngrams.width()], vec![0.0; 3]);
    let probe = Probe {
        categories: categories.map(|slug| Category::parse(slug).unwrap()).to_vec(),
        members: vec![Member { input: Input::NGrams(ngrams), planes }],
        stack: Stack { harm: vec![1.0], bias: 0.0, categories: vec![1.0] },
        answer: None,
        trained_on: TrainedOn::default(),
    };
    std::fs::write(folder.join("probe"), probe.to_bytes().unwrap()).unwrap();
    std::fs::write(folder.join("report.md"), "# Probe\n\nfigures\n").unwrap();
    let flags =
        ["publish", "--store", "vectors", "--probe", "probe", "--probe-report", "report.md"];
    let new = json(folder, &flags)["to"].as_str().unwrap().to_owned();
    assert_ne!(new, old);
    let read = load_generation(&root, &GenerationId::parse(&new).unwrap(), None).unwrap();
    assert!(read.card.starts_with("# Test\n\n## The gate\n"), "{}", read.card);
    assert!(read.card.ends_with("#### Probe\n\nfigures\n"), "{}", read.card);
    assert_eq!(read.probe, Some(probe.to_bytes().unwrap()));
    let (code, _, stderr) = vectors(folder, &[&flags[..4], &["report.md"]].concat());
    assert!(code == 1 && stderr.contains("report.md cannot be the probe of"), "{stderr}");
}

#[test]
fn a_rollback_goes_back_by_the_history() {
    let (folder, old, new) = fixture();
    let folder = folder.path();
    json(folder, &["publish", &new, "--store", "vectors", "--reason", "try\nthis"]);
    let back = json(folder, &["rollback", "--store", "vectors", "--reason", "refuses too much"]);
    assert_eq!((&back["to"], &back["sequence"]), (&Value::from(old), &Value::from(3)));
    let history = json(folder, &["history", "--store", "vectors"]);
    assert_eq!(history[0]["kind"], "rollback");
    assert_eq!(history[0]["reason"], "refuses too much");
    assert_eq!(history[1]["previous"], history[0]["generation"]);
    let (_, stdout, _) = vectors(folder, &["history", "--vectors", "vectors", "--last", "2"]);
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
    assert!(stdout.contains("try this"), "{stdout}");
    let (code, _, stderr) = vectors(folder, &["rollback", "--store", "vectors"]);
    assert!(code == 1 && stderr.contains("does not say what served before"), "{stderr}");
}

#[test]
fn a_difference_names_policy_and_vectors() {
    let (folder, old, new) = fixture();
    let folder = folder.path();
    let found = json(folder, &["diff", &new, "--store", "vectors"]);
    assert_eq!(found["difference"]["from"], old.as_str());
    assert_eq!(found["words"].as_array().unwrap().len(), 2);
    let turned = json(folder, &["diff", &new, &old, "--store", "vectors"]);
    assert_eq!(turned["words"][0], "fraud_deception: floor was 0.5, is 0");
    let (code, _, stderr) = vectors(folder, &["diff", "../../etc", "--store", "vectors"]);
    assert!(code == 1 && stderr.contains("expected 16 lower-case hex digits"), "{stderr}");
}

#[test]
fn garbage_is_removed_on_request_alone() {
    let (folder, _, new) = fixture();
    let folder = folder.path();
    let flags = ["gc", "--store", "vectors", "--grace-hours", "0"];
    let (code, stdout, stderr) = vectors(folder, &flags);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("would go") && stdout.contains("kept: serves"), "{stdout}");
    let kept = json(folder, &["gc", "--store", "vectors"]);
    assert!(kept.as_array().unwrap().iter().any(|row| row["kept"] == "young"), "{kept}");
    assert!(folder.join("vectors/generations").join(&new).exists());
    let (code, stdout, stderr) = vectors(folder, &[&flags[..], &["--delete"]].concat());
    assert!(code == 0 && stdout.contains("1 of 2 generations removed"), "{stdout}{stderr}");
    assert!(!folder.join("vectors/generations").join(&new).exists());
    // What a dead writer left goes as well.
    let staging = folder.join("vectors/generations/.staging-7-0");
    std::fs::create_dir(&staging).unwrap();
    let kept = json(folder, &["gc", "--store", "vectors", "--delete"]);
    assert_eq!(kept[1]["leftover"], ".staging-7-0");
    assert!(kept[1]["goes"] == false && staging.exists());
    let (code, stdout, stderr) = vectors(folder, &[&flags[..], &["--delete"]].concat());
    assert!(code == 0 && !staging.exists(), "{stdout}{stderr}");
    assert!(stdout.contains("1 of 1 leftovers of dead writers removed"), "{stdout}");
}

#[test]
fn an_object_store_behind_http_is_a_store() {
    let (folder, old, new) = fixture();
    let folder = folder.path();
    let server = BucketServer::start();
    let url = server.url();
    let remote = |flags: &[&str]| {
        let mut command = skeg(folder);
        command
            .arg("vectors")
            .args(flags)
            .args(["--store", "s3://bucket/fleet/vectors"])
            .env("AWS_ENDPOINT_URL", &url)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_SKIP_SIGNATURE", "true");
        run(&mut command)
    };
    let (code, stdout, stderr) = remote(&["publish", "--from", "vectors", "--reason", "first"]);
    assert!(code == 0 && stdout.contains(&format!("{old} serves now, sequence 1")), "{stderr}");
    let (code, stdout, stderr) = remote(&["publish", &new, "--from", "vectors"]);
    assert!(code == 0 && stdout.contains("floor was 0, is 0.5"), "{stdout}{stderr}");
    let (code, _, stderr) = remote(&["publish", &old, "--expected", "1"]);
    assert!(code == 1 && stderr.contains("found 2, expected 1; another publisher"), "{stderr}");
    let (code, stdout, stderr) = remote(&["rollback", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["sequence"], 3);
    let (_, stdout, _) = remote(&["history", "--json"]);
    let history: Value = serde_json::from_str(&stdout).unwrap();
    let kinds = [0, 1, 2].map(|idx| history[idx]["kind"].as_str().unwrap().to_owned());
    assert_eq!(kinds, ["rollback", "publish", "publish"]);
    // Another publisher is first, after this one looked.
    server.steal_next_current();
    let (code, _, stderr) = remote(&["publish", &new]);
    assert!(code == 1 && stderr.contains("found 4, expected 3; another publisher"), "{stderr}");
    drop(server);
    let (code, _, stderr) = remote(&["history"]);
    assert!(code == 1 && stderr.contains("s3://bucket/fleet/vectors/CURRENT"), "{stderr}");
}

#[test]
fn an_endpoint_without_tls_must_be_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let server = BucketServer::start();
    let mut command = skeg(folder.path());
    command.args(["vectors", "history", "--store", "s3://bucket/fleet"]);
    command.env("AWS_ENDPOINT_URL", server.url()).env("AWS_SKIP_SIGNATURE", "true");
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(server.num_requests(), 0);
}
