//! What must be true of fetching from a hub, each with an empty cache.

use anyhow::{Result, ensure};

use super::bench::{Bench, Hub, Outcome};

type Check = fn(&Bench) -> Result<()>;

/// All checks, by the sentence each of them proves.
pub(super) const ALL: [(&str, Check); 11] = [
    ("a repository is fetched whole, page by page, and nothing beside the model", whole),
    ("one file is fetched, also out of a folder", one_file),
    ("a cut download leaves no final file and is resumed by a range", resumed),
    ("a server without ranges is read again from the start", without_ranges),
    ("another hash than the hub's listing is refused and nothing is kept", wrong_hash),
    ("--offline finds the cached revision and no other", offline),
    ("--revision fetches that revision", revision),
    ("a path that leaves the cache is never fetched", outside),
    ("401, 404 and 503 say what to do, without the token", refused),
    ("the token goes to the hub and not where it redirects", token),
    ("NO_PROXY is heeded", no_proxy),
];

const FIRST_SHARD: &str = "model-00001-of-00002.safetensors";
const TOKEN: &str = "hf_loopback_token";

/// What a fetch of the whole repository leaves beside each other, in order.
const MODEL_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    FIRST_SHARD,
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn whole(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&["--page-size=3"])?;
    let outcome = succeeded(bench.fetch(&hub, &[])?)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&outcome.path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    ensure!(names == MODEL_FILES, "the folder holds {names:?}, expected {MODEL_FILES:?}");
    for name in MODEL_FILES {
        let fetched = std::fs::read(outcome.path.join(name))?;
        ensure!(fetched == bench.served("main", name)?, "{name} has other bytes than the hub's");
    }
    let num_requests = hub.requests()?.len();
    succeeded(bench.fetch(&hub, &[])?)?;
    let again = hub.requests()?.split_off(num_requests);
    ensure!(
        again.iter().all(|request| request.path.starts_with("/api/models/")),
        "a second fetch downloads again: {again:?}"
    );
    Ok(())
}

fn one_file(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&[])?;
    for path in ["tiny.gguf", "quantised/tiny-q4.gguf"] {
        let outcome = succeeded(bench.fetch(&hub, &["--file", path])?)?;
        ensure!(outcome.path.ends_with(path), "printed {}", outcome.path.display());
        ensure!(std::fs::read(&outcome.path)? == bench.served("main", path)?, "{path} differs");
    }
    let outcome = failed(bench.fetch(&hub, &["--file", "none.gguf"])?)?;
    says(&outcome, &["none.gguf", "tiny.gguf"])
}

fn resumed(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&["--cut", &format!("{FIRST_SHARD}=70000")])?;
    let outcome = failed(bench.fetch(&hub, &[])?)?;
    says(&outcome, &[FIRST_SHARD, "after 70000 of", "run the command again"])?;
    let cached = bench.cached()?;
    ensure!(!cached.iter().any(|file| file.ends_with(FIRST_SHARD)), "kept as complete: {cached:?}");
    drop(hub);
    let hub = bench.hub(&[])?;
    let outcome = succeeded(bench.fetch(&hub, &[])?)?;
    let ranges: Vec<_> = data_requests(&hub, FIRST_SHARD)?;
    ensure!(ranges == [Some("bytes=70000-".to_owned())], "asked for {ranges:?}");
    // skeg compared its hash with the hub's; this compares the bytes.
    let fetched = std::fs::read(outcome.path.join(FIRST_SHARD))?;
    ensure!(fetched == bench.served("main", FIRST_SHARD)?, "the resumed file differs");
    no_parts(bench)
}

fn without_ranges(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&["--cut", "tiny.gguf=70000"])?;
    failed(bench.fetch(&hub, &["--file", "tiny.gguf"])?)?;
    drop(hub);
    let hub = bench.hub(&["--no-ranges"])?;
    let outcome = succeeded(bench.fetch(&hub, &["--file", "tiny.gguf"])?)?;
    ensure!(std::fs::read(&outcome.path)? == bench.served("main", "tiny.gguf")?, "it differs");
    no_parts(bench)
}

fn wrong_hash(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&["--wrong-hash", "tiny.gguf"])?;
    let outcome = failed(bench.fetch(&hub, &["--file", "tiny.gguf"])?)?;
    says(&outcome, &["tiny.gguf", "another file than expected", "sha256"])?;
    let cached = bench.cached()?;
    ensure!(cached.is_empty(), "kept {cached:?}");
    Ok(())
}

fn offline(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&[])?;
    let online = succeeded(bench.fetch(&hub, &["--revision", "v1"])?)?;
    let num_requests = hub.requests()?.len();
    let commit = online.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for revision in ["v1", &commit] {
        let offline = succeeded(bench.fetch(&hub, &["--offline", "--revision", revision])?)?;
        ensure!(offline.path == online.path, "{revision} is {}", offline.path.display());
    }
    let other = failed(bench.fetch(&hub, &["--offline", "--revision", "v2"])?)?;
    says(&other, &["skeg/tiny", "v2", "--offline"])?;
    failed(bench.fetch(&hub, &["--offline"])?)?;
    ensure!(hub.requests()?.len() == num_requests, "--offline asked the hub");
    Ok(())
}

fn revision(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&[])?;
    let main = succeeded(bench.fetch(&hub, &[])?)?;
    let tagged = succeeded(bench.fetch(&hub, &["--revision", "v1"])?)?;
    ensure!(main.path != tagged.path, "both revisions are {}", main.path.display());
    for (outcome, revision) in [(main, "main"), (tagged, "v1")] {
        let config = std::fs::read(outcome.path.join("config.json"))?;
        ensure!(config == bench.served(revision, "config.json")?, "{revision} has another config");
    }
    Ok(())
}

fn outside(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&["--list", "../../../outside.gguf"])?;
    let outcome = failed(bench.fetch(&hub, &["--file", "../../../outside.gguf"])?)?;
    says(&outcome, &["has no file ../../../outside.gguf"])
}

fn refused(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&["--token", "another token"])?;
    let without = failed(bench.fetch(&hub, &[])?)?;
    says(&without, &["401", "HF_TOKEN", "hf auth login"])?;
    let with = failed(bench.fetch_with(&hub, &[], &[("HF_TOKEN", TOKEN)])?)?;
    says(&with, &["401", "does not accept the token"])?;
    drop(hub);
    let hub = bench.hub(&[])?;
    let missing = failed(bench.fetch_with(&hub, &["--revision=v9"], &[("HF_TOKEN", TOKEN)])?)?;
    says(&missing, &["404", "skeg/tiny", "revision/v9"])?;
    drop(hub);
    for status in ["503", "404"] {
        let hub = bench.hub(&["--status", &format!("tiny.gguf={status}")])?;
        let broken = bench.fetch_with(&hub, &["--file=tiny.gguf"], &[("HF_TOKEN", TOKEN)])?;
        says(&failed(broken)?, &[status, "tiny.gguf"])?;
    }
    let cached = bench.cached()?;
    ensure!(!cached.iter().any(|file| file.ends_with(".gguf")), "kept {cached:?}");
    Ok(())
}

fn token(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&["--token", TOKEN])?;
    succeeded(bench.fetch_with(&hub, &[], &[("HF_TOKEN", TOKEN)])?)?;
    for request in hub.requests()? {
        let expected = (request.server == "hub").then(|| format!("Bearer {TOKEN}"));
        ensure!(request.authorization == expected, "{request:?}");
        ensure!(request.status < 400, "{request:?}");
    }
    Ok(())
}

fn no_proxy(bench: &Bench) -> Result<()> {
    let hub = bench.hub(&[])?;
    // Nothing listens on port 9 of loopback, which once was for discarding.
    let proxy = [("HTTP_PROXY", "http://127.0.0.1:9"), ("ALL_PROXY", "http://127.0.0.1:9")];
    succeeded(bench.fetch_with(&hub, &["--file=tiny.gguf"], &proxy)?)?;
    let all = [proxy[0], proxy[1], ("NO_PROXY", "elsewhere.invalid")];
    failed(bench.fetch_with(&hub, &["--revision=v1", "--file=tiny.gguf"], &all)?)?;
    Ok(())
}

/// The ranges that were asked for where a file's bytes are.
fn data_requests(hub: &Hub, name: &str) -> Result<Vec<Option<String>>> {
    let requests = hub.requests()?.into_iter();
    let requests =
        requests.filter(|request| request.server == "cdn" && request.path.ends_with(name));
    Ok(requests.map(|request| request.range).collect())
}

fn no_parts(bench: &Bench) -> Result<()> {
    let cached = bench.cached()?;
    ensure!(!cached.iter().any(|file| file.ends_with(".part")), "left {cached:?}");
    Ok(())
}

fn succeeded(outcome: Outcome) -> Result<Outcome> {
    ensure!(outcome.succeeded, "the fetch failed: {}", outcome.stderr);
    Ok(outcome)
}

/// That it failed, printed no path and kept the token to itself.
fn failed(outcome: Outcome) -> Result<Outcome> {
    ensure!(!outcome.succeeded, "the fetch succeeded: {}", outcome.path.display());
    ensure!(outcome.path.as_os_str().is_empty(), "printed {}", outcome.path.display());
    ensure!(!outcome.stderr.contains(TOKEN), "the token is in the message: {}", outcome.stderr);
    Ok(outcome)
}

fn says(outcome: &Outcome, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(outcome.stderr.contains(part), "no `{part}` in the message: {}", outcome.stderr);
    }
    Ok(())
}
