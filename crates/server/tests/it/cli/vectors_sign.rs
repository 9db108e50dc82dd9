//! `skeg vectors keygen|sign`, and `trusted_keys` wherever vectors are taken.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use skeg_vector_store::{read_current, write_generation};
use tempfile::TempDir;

use super::bucket_server::BucketServer;
use super::files::{generation, write_model, write_store};
use super::{run, skeg};

struct Fixture {
    folder: TempDir,
    /// The generation that serves, and one that lies ready.
    ids: [String; 2],
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path());
        let root = write_store(folder.path(), &model);
        let serves = read_current(&root).unwrap().generation;
        let manifest = skeg_vector_store::load_generation(&root, &serves, None).unwrap().manifest;
        let mut next = generation(manifest.model());
        next.card = "# Next\n".to_owned();
        let ready = write_generation(&root, &next).unwrap();
        Self { folder, ids: [serves, ready].map(|id| id.to_string()) }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the program with a model, a store and, unless they are empty, trusted keys in the environment.
    fn run(&self, args: &[&str], trusted: &str) -> (i32, String, String) {
        let mut command = skeg(self.path());
        command.args(args).env("SKEG_MODEL", "model").env("SKEG_VECTORS", "vectors");
        if !trusted.is_empty() {
            command.env("SKEG_TRUSTED_KEYS", trusted);
        }
        run(&mut command)
    }

    #[track_caller]
    fn ok(&self, args: &[&str], trusted: &str) -> String {
        let (code, stdout, stderr) = self.run(args, trusted);
        assert_eq!(code, 0, "{stdout}{stderr}");
        stdout
    }

    #[track_caller]
    fn refused(&self, args: &[&str], trusted: &str, said: &str) {
        let (code, stdout, stderr) = self.run(args, trusted);
        assert!(code == 1 && stderr.contains(said), "{code} {stdout}{stderr}");
    }

    #[track_caller]
    fn json(&self, args: &[&str], trusted: &str) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat(), trusted)).unwrap()
    }

    /// Makes a key in a file; its entry of `trusted_keys`.
    fn keygen(&self, file: &str) -> String {
        let entry = self.ok(&["vectors", "keygen", "--out", file, "--name", file], "");
        entry.trim_end().to_owned()
    }

    fn serves(&self) -> String {
        read_current(&self.path().join("vectors")).unwrap().generation.to_string()
    }
}

const UNSIGNED: &str = "is not trusted: found no signature, expected a signature of one";

#[test]
fn a_key_is_made_once_and_its_public_half_printed() {
    let fixture = Fixture::new();
    let (code, stdout, stderr) =
        fixture.run(&["vectors", "keygen", "--out", "signing.key", "--name", "ops-2026"], "");
    assert_eq!(code, 0, "{stderr}");
    let entry = stdout.trim_end();
    assert!(entry.starts_with("ops-2026:") && entry.len() == 9 + 44, "{stdout}");
    let path = fixture.path().join("signing.key");
    let secret = fs::read_to_string(&path).unwrap();
    let secret = secret.trim_end().rsplit_once(' ').unwrap().1;
    assert!(!stdout.contains(secret) && !stderr.contains(secret));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    fixture.refused(&["vectors", "keygen", "--out", "signing.key"], "", "signing.key");
    assert!(fs::read_to_string(&path).unwrap().contains(secret));
    let bad = ["vectors", "keygen", "--out", "other.key", "--name", "a b"];
    fixture.refused(&bad, "", "found a name that is none");
    assert!(!fixture.path().join("other.key").exists());
    let unnamed = fixture.ok(&["vectors", "keygen", "--out", "other.key"], "");
    assert_eq!(unnamed.trim_end().len(), 44);
}

#[test]
fn nothing_is_served_that_no_trusted_key_signed() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.keygen("one"), fixture.keygen("two"));
    let check = ["serve", "--check-config", "--port", "0"];
    let chat = ["chat", "-p", "hello", "--max-tokens", "2"];
    for args in [&check[..], &chat] {
        fixture.ok(args, "");
        fixture.refused(args, &one, UNSIGNED);
    }
    let id = fixture.serves();
    let said = fixture.ok(&["vectors", "sign", "--key", "two"], &one);
    let public = two.split_once(':').unwrap().1;
    assert!(said.contains(&format!("{id} is signed by {public} (not trusted)")), "{said}");
    fixture.refused(&check, &one, &format!("found signatures of {public} alone"));
    let said = fixture.json(&["vectors", "sign", &id, "--key", "one"], &format!("{one},{two}"));
    let mut names: Vec<&str> =
        said["signed_by"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!((names, fixture.serves()), (vec!["one", "two"], id));
    let shown = fixture.ok(&check, &one);
    assert!(shown.lines().any(|line| line == format!("trusted_keys = [\"{one}\"]")), "{shown}");
    fixture.ok(&chat, &one);
    // The file of settings holds as well, for both.
    fs::write(fixture.path().join("skeg.toml"), format!("trusted_keys = [\"{two}\"]\n")).unwrap();
    fixture.ok(&check, "");
    fixture.ok(&chat, "");
    let three = fixture.keygen("three");
    fs::write(fixture.path().join("skeg.toml"), format!("trusted_keys = \"{three}\"\n")).unwrap();
    for args in [&check[..], &chat] {
        fixture.refused(args, "", "expected a signature of three");
    }
    let (code, _, stderr) = fixture.run(&check, "hunter2");
    assert!(code == 64 && stderr.contains("`trusted_keys`") && !stderr.contains("hunter2"));
}

#[test]
fn commands_say_who_signed() {
    let fixture = Fixture::new();
    let one = fixture.keygen("one");
    let [id, ready] = &fixture.ids;
    let public = one.split_once(':').unwrap().1;
    assert!(fixture.ok(&["vectors", "inspect"], "").contains("signed by    nobody"));
    assert_eq!(fixture.json(&["vectors", "inspect"], "")["signed_by"], json!([]));
    fixture.ok(&["vectors", "verify"], "");
    fixture.refused(&["vectors", "verify"], &one, "2 of 2 generations");
    fixture.ok(&["vectors", "sign", "--key", "one"], "");
    assert!(fixture.ok(&["vectors", "inspect"], &one).contains("signed by    one"));
    assert_eq!(fixture.json(&["vectors", "inspect"], "")["signed_by"], json!([public]));
    let rows = fixture.json(&["vectors", "list"], &one);
    let row = |id: &str| {
        rows.as_array().unwrap().iter().find(|row| row["generation"] == id).unwrap()["facts"]
            ["signed_by"]
            .clone()
    };
    assert_eq!((row(id), row(ready)), (json!(["one"]), json!([])));
    let table = fixture.ok(&["vectors", "list"], &one);
    assert!(table.lines().any(|line| line.starts_with('*') && line.ends_with("one")), "{table}");
    let (code, stdout, _) = fixture.run(&["vectors", "verify"], &one);
    assert!(code == 1 && stdout.contains("sound, signed by one") && stdout.contains(UNSIGNED));
    let report = fixture.json(&["vectors", "verify", id], &one);
    assert_eq!(report[0]["signed_by"], json!(["one"]));
    let files = report[0]["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file["name"] == "SIGNATURES.json" && file["sound"] == true));
    // Another generation's signature.
    let file =
        |id: &str| fixture.path().join("vectors/generations").join(id).join("SIGNATURES.json");
    fs::copy(file(id), file(ready)).unwrap();
    fixture.refused(&["vectors", "verify", ready], "", "1 of 1 generations");
    fixture.refused(&["vectors", "publish", ready], "", "did not make for this generation");
    assert_eq!(fixture.serves(), *id);
}

#[test]
fn only_trusted_generations_are_published_and_rolled_back_to() {
    let fixture = Fixture::new();
    let one = fixture.keygen("one");
    let [id, ready] = &fixture.ids;
    fixture.refused(&["vectors", "publish", ready], &one, UNSIGNED);
    assert_eq!(fixture.serves(), *id);
    let dry = ["vectors", "publish", ready, "--key", "one", "--dry-run"];
    assert_eq!(fixture.json(&dry, &one)["signed_by"], json!(["one"]));
    fixture.refused(&["vectors", "publish", ready], &one, UNSIGNED);
    fixture.ok(&["vectors", "publish", ready, "--key", "one"], &one);
    assert_eq!(fixture.serves(), *ready);
    assert_eq!(fixture.json(&["vectors", "inspect"], &one)["signed_by"], json!(["one"]));
    fixture.refused(&["vectors", "rollback"], &one, UNSIGNED);
    assert_eq!(fixture.serves(), *ready);
    fixture.ok(&["vectors", "rollback"], "");
    // What serves already gets its signature all the same.
    let said = fixture.ok(&["vectors", "publish", id, "--key", "one"], &one);
    assert!(said.contains("serves already, sequence 3; CURRENT was not changed"), "{said}");
    fixture.ok(&["serve", "--check-config", "--port", "0"], &one);
    fs::write(fixture.path().join("bad"), "no key").unwrap();
    fixture.refused(&["vectors", "publish", id, "--key", "bad"], "", "bad: found");
    fixture.refused(&["vectors", "sign", "--key", "none"], "", "skeg vectors keygen");
}

#[test]
fn an_object_store_is_signed_and_followed_with_trust() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.keygen("one"), fixture.keygen("two"));
    let server = BucketServer::start();
    let place = "s3://bucket/fleet/vectors";
    let remote = |args: &[&str], trusted: &str| {
        let mut command = skeg(fixture.path());
        command
            .args(args)
            .env("SKEG_MODEL", "model")
            .env("AWS_ENDPOINT_URL", server.url())
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_SKIP_SIGNATURE", "true");
        if !trusted.is_empty() {
            command.env("SKEG_TRUSTED_KEYS", trusted);
        }
        run(&mut command)
    };
    let publish = ["vectors", "publish", "--from", "vectors", "--store", place];
    let (code, _, stderr) = remote(&publish, "");
    assert_eq!(code, 0, "{stderr}");
    let check = ["serve", "--check-config", "--port", "0", "--vectors", place];
    let (code, _, stderr) = remote(&check, &one);
    assert!(code == 1 && stderr.contains(UNSIGNED), "{stderr}");
    for key in ["one", "two"] {
        let (code, stdout, stderr) =
            remote(&["vectors", "sign", "--store", place, "--key", key], &format!("{one},{two}"));
        assert!(code == 0 && stdout.contains(key), "{stdout}{stderr}");
    }
    // The copy was refused before; signed since, it is followed, by either key.
    for trusted in [&one, &two] {
        let (code, stdout, stderr) = remote(&check, trusted);
        assert!(code == 0 && stdout.contains("is sound"), "{stdout}{stderr}");
    }
    let (code, _, stderr) = remote(&check, &fixture.keygen("three"));
    assert!(code == 1 && stderr.contains("expected a signature of three"), "{stderr}");
}
