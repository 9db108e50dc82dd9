//! What keeps the server from starting: one message, one exit code, nothing listening.

use std::net::TcpListener;
use std::process::Command;

use skeg_vector_store::ModelBinding;
use tempfile::TempDir;

use super::files::{publish, write_model, write_store};
use super::{run, skeg};

/// A folder with a model and a store.
struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path());
        write_store(folder.path(), &model);
        Self { folder }
    }

    /// `skeg serve` on them, by environment, so that flags can say otherwise.
    fn serve(&self) -> Command {
        let mut command = skeg(self.folder.path());
        command.arg("serve");
        command.env("SKEG_MODEL", "model").env("SKEG_VECTORS", "vectors").env("SKEG_PORT", "0");
        command
    }

    /// Asserts how it ends, and that standard error has all of `said`.
    #[track_caller]
    fn check(&self, flags: &[&str], code: i32, said: &[&str]) {
        let (found, stdout, stderr) = run(self.serve().args(flags));
        assert_eq!(found, code, "{stdout}\n{stderr}");
        for text in said {
            assert!(stderr.contains(text), "expected {text:?} in {stderr}");
        }
        assert!(!stdout.contains("listening"), "{stdout}");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

#[test]
fn a_sound_configuration_is_checked_and_left() {
    let fixture = Fixture::new();
    let (code, stdout, stderr) = run(fixture.serve().arg("--check-config"));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("the configuration is sound"), "{stdout}");
    assert!(stdout.contains("fraud_deception malware_viruses"), "{stdout}");
    assert!(!stdout.contains("listening"));
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let fixture = Fixture::new();
    let file = "port = 1\nmax_num_seqs = 2\nmax_num_batched_tokens = 33\n";
    std::fs::write(fixture.path("skeg.toml"), file).unwrap();
    let mut command = fixture.serve();
    command.args(["--check-config", "--port", "0"]);
    command.env("SKEG_MAX_NUM_SEQS", "3").env("SKEG_PORT", "2");
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
    for line in ["port = 0", "max_num_seqs = 3", "max_num_batched_tokens = 33"] {
        assert!(stdout.lines().any(|found| found == line), "{line}: {stdout}");
    }
}

#[test]
fn a_configuration_that_makes_no_sense_exits_with_64() {
    let fixture = Fixture::new();
    fixture.check(&["--host", "0.0.0.0"], 64, &["[[principal]]", "0.0.0.0"]);
    fixture.check(&["--device", "tpu"], 64, &["`device`", "tpu"]);
    fixture.check(&["--max-num-seqs", "0"], 64, &["`max_num_seqs`"]);
    fixture.check(&["--config", "none.toml"], 64, &["none.toml"]);
    std::fs::write(fixture.path("bad.toml"), "[[principal]]\nkey = \"hunter2\"\n").unwrap();
    fixture.check(&["--config", "bad.toml"], 64, &["bad.toml, line 2", "`key`"]);
    let (_, _, stderr) = run(skeg(fixture.folder.path()).args(["serve", "--config", "bad.toml"]));
    assert!(!stderr.contains("hunter2"));
}

#[cfg(not(feature = "cuda"))]
#[test]
fn without_cuda_a_named_gpu_ends_the_start_and_auto_is_the_cpu_without_a_word() {
    let fixture = Fixture::new();
    fixture.check(&["--device", "cuda"], 1, &["`cuda:0`", "--features cuda", "`auto`"]);
    let (code, stdout, stderr) = run(fixture.serve().arg("--check-config"));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.lines().any(|line| line == "device = \"auto\""), "{stdout}");
    assert!(stdout.contains(", on cpu\n"), "{stdout}");
    assert!(!stderr.contains("CUDA"), "{stderr}");
}

#[test]
fn administration_without_keys_or_audit_log_does_not_start() {
    let fixture = Fixture::new();
    fixture.check(&["--admin-address", "0"], 64, &["`admin.address`", "keys"]);
    let key = "a1".repeat(32);
    let file = format!("[admin]\nkeys = [{{ name = \"ops\", sha256 = \"{key}\" }}]\n");
    std::fs::write(fixture.path("skeg.toml"), file).unwrap();
    fixture.check(&["--admin-address", "0"], 64, &["`admin.audit_log`"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let flags = ["--admin-address", &address, "--admin-audit-log", "audit.jsonl"];
    fixture.check(&flags, 1, &[&address, "--admin-address"]);
    let flags = ["--admin-address", "0", "--admin-audit-log", "no-folder/audit.jsonl"];
    fixture.check(&flags, 1, &["`admin.audit_log`", "no-folder"]);
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    let fixture = Fixture::new();
    fixture.check(&["--port", "70000"], 2, &["70000"]);
    fixture.check(&["--prot", "1"], 2, &["--prot"]);
}

#[test]
fn keys_are_not_printed() {
    let fixture = Fixture::new();
    let key = "a1".repeat(32);
    let file =
        format!("[[principal]]\nname = \"ann\"\nkey_sha256 = \"{key}\"\ngroup = \"staff\"\n");
    std::fs::write(fixture.path("skeg.toml"), file).unwrap();
    let (code, stdout, stderr) = run(fixture.serve().arg("--check-config"));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("<redacted>") && stdout.contains("\"ann\""), "{stdout}");
    assert!(!stdout.contains(&key) && !stderr.contains(&key));
}

#[test]
fn a_model_that_is_damaged_or_missing_is_named() {
    let fixture = Fixture::new();
    let weights = fixture.path("model/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    fixture.check(&[], 1, &["model.safetensors"]);
    std::fs::write(fixture.path("model/config.json"), "{}").unwrap();
    fixture.check(&[], 1, &["config.json"]);
    std::fs::write(fixture.path("junk.gguf"), "no model").unwrap();
    let serve = ["serve", "--vectors", "vectors", "--model"];
    let (code, _, stderr) = run(skeg(fixture.folder.path()).args(serve).arg("junk.gguf"));
    assert_eq!(code, 1);
    assert!(stderr.contains("junk.gguf"), "{stderr}");
    let (code, _, stderr) = run(skeg(fixture.folder.path()).args(serve).arg("no-such"));
    assert_eq!(code, 64);
    assert!(stderr.contains("no-such") && stderr.contains("smollm2-135m-instruct"), "{stderr}");
}

#[test]
fn a_catalogue_model_that_was_not_fetched_says_how() {
    let fixture = Fixture::new();
    let (code, _, stderr) =
        run(skeg(fixture.folder.path()).args(["serve", "--vectors", "vectors"]));
    assert_eq!(code, 64);
    assert!(stderr.contains("skeg model fetch smollm2-135m-instruct"), "{stderr}");
}

#[test]
fn a_model_without_a_template_is_refused() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("model/tokenizer_config.json"), "{\"eos_token\": \"</s>\"}")
        .unwrap();
    fixture.check(&[], 1, &["no chat template", "chat_template.jinja"]);
}

#[test]
fn vectors_that_are_missing_or_for_another_model_are_refused() {
    let fixture = Fixture::new();
    let (code, _, stderr) = run(skeg(fixture.folder.path()).args(["serve", "--model", "model"]));
    assert_eq!(code, 64);
    assert!(stderr.contains("vectors/model") && stderr.contains("skeg extract"), "{stderr}");
    let other = ModelBinding {
        architecture_id: "a".repeat(64),
        weights_id: "b".repeat(64),
        hidden_size: 16,
        num_hidden_layers: 2,
    };
    publish(&fixture.path("other"), other);
    fixture.check(&["--vectors", "other"], 1, &["other", "architecture_id"]);
    std::fs::write(fixture.path("vectors/CURRENT"), "{").unwrap();
    fixture.check(&[], 1, &["CURRENT"]);
}

#[test]
fn a_port_in_use_is_named() {
    let fixture = Fixture::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    fixture.check(&["--port", &port], 1, &[&address.to_string(), "--port"]);
}
