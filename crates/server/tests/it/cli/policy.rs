//! `skeg policy check|schema` and `skeg vectors publish --policy`.

use std::path::Path;

use serde_json::Value;
use skeg_vector_store::{ModelBinding, load_generation, read_current};
use tempfile::TempDir;

use super::files::publish;
use super::{run, skeg};

const POLICY: &str = r#"# Shadow mode first.
when_missing = "none"

[categories.fraud_deception]
action = "log"
positions = "all"
strength = { default = 1.0, floor = 0.5, ceiling = 1.5 }

[categories.malware_viruses]
action = "refuse"
positions = "all"
strength = { default = 1.0, floor = 0.5, ceiling = 1.5 }
refusal = "Not here."

[groups.staff]
categories = ["fraud_deception"]
may_none = true
"#;

/// A folder with the store `vectors` and the file `policy.toml`.
fn fixture(policy: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = ModelBinding {
        architecture_id: "architecture".to_owned(),
        weights_id: "weights".to_owned(),
        hidden_size: 8,
        num_hidden_layers: 1,
    };
    publish(&folder.path().join("vectors"), model);
    std::fs::write(folder.path().join("policy.toml"), policy).unwrap();
    folder
}

fn check(folder: &TempDir, flags: &[&str]) -> (i32, String, String) {
    run(skeg(folder.path()).args(["policy", "check", "policy.toml"]).args(flags))
}

fn serves(folder: &Path) -> String {
    read_current(&folder.join("vectors")).unwrap().generation.to_string()
}

#[test]
fn a_policy_is_said_in_plain_words() {
    let folder = fixture(POLICY);
    let (code, stdout, stderr) = check(&folder, &[]);
    assert_eq!(code, 0, "{stderr}");
    for line in [
        "a request that names no category is answered unsteered",
        "fraud_deception: answered unsteered and logged (shadow mode); steered it would be at 1, on every token",
        "malware_viruses: refused with \"Not here.\"",
        "callers of `staff` may name fraud_deception; ask for none",
        "every other caller may name any category; nothing else",
        "policy.toml is a policy; --store says whether it fits the vectors",
    ] {
        assert!(stdout.lines().any(|found| found == line), "{line}\n{stdout}");
    }
}

#[test]
fn a_policy_that_is_wrong_or_does_not_fit_is_refused() {
    let folder = fixture(&POLICY.replace("\"log\"", "\"watch\""));
    let (code, _, stderr) = check(&folder, &[]);
    assert!(code == 1 && stderr.contains("policy.toml is not a policy"), "{stderr}");
    assert!(
        stderr.contains("unknown variant `watch`, expected one of `steer`, `refuse`, `log`"),
        "{stderr}"
    );

    let folder = fixture(&POLICY.replacen("ceiling = 1.5", "ceiling = 2.5", 1));
    assert_eq!(check(&folder, &[]).0, 0, "by itself it is a policy");
    let (code, stdout, stderr) = check(&folder, &["--store", "vectors"]);
    assert!(code == 1 && stdout.is_empty(), "{stdout}");
    assert!(stderr.contains("policy.toml cannot be the policy of"), "{stderr}");
    assert!(stderr.contains("both inside the measured safe window 0 to 2"), "{stderr}");

    let folder =
        fixture(&POLICY.replace("[categories.malware_viruses]", "[categories.adult_content]"));
    let (code, _, stderr) = check(&folder, &["--store", "vectors"]);
    assert!(
        code == 1 && stderr.contains("without `malware_viruses` and with `adult_content`"),
        "{stderr}"
    );
    let (code, _, stderr) = check(&folder, &["--generation", "0123456789abcdef"]);
    assert!(code == 2 && stderr.contains("--store"), "{stderr}");
}

#[test]
fn a_policy_is_checked_and_then_published_with_the_vectors_that_serve() {
    let folder = fixture(POLICY);
    let old = serves(folder.path());
    let (code, stdout, stderr) = check(&folder, &["--store", "vectors", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let checked: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(checked["generation"], old.as_str());
    assert_eq!(serves(folder.path()), old, "a check changes nothing");

    let flags = ["vectors", "publish", "--policy", "policy.toml", "--store", "vectors"];
    let (code, stdout, stderr) = run(skeg(folder.path()).args(flags).arg("--dry-run"));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("fraud_deception: action was steer, is log"), "{stdout}");
    let generations = || folder.path().join("vectors/generations").read_dir().unwrap().count();
    assert!(serves(folder.path()) == old && generations() == 1, "{stdout}");

    let (code, stdout, stderr) =
        run(skeg(folder.path()).args(flags).args(["--reason", "shadow mode"]));
    let new = serves(folder.path());
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&format!("{new} serves now, sequence 2")), "{stdout}");
    assert_eq!(checked["would_be"], new.as_str());
    let root = folder.path().join("vectors");
    let load = |id: &str| load_generation(&root, &id.parse().unwrap(), None).unwrap();
    let (before, after) = (load(&old), load(&new));
    assert_eq!((&before.vectors, &before.card), (&after.vectors, &after.card));
    let kept = std::fs::read_to_string(root.join("generations").join(&new).join("policy.toml"));
    assert_eq!(kept.unwrap(), POLICY, "with its comments");

    let (code, stdout, _) = run(skeg(folder.path()).args(flags));
    assert!(code == 0 && stdout.contains("serves already, sequence 2"), "{stdout}");
}

#[test]
fn a_policy_that_does_not_fit_is_not_published() {
    let folder = fixture(&POLICY.replacen("floor = 0.5", "floor = 1.2", 1));
    let old = serves(folder.path());
    let flags = ["vectors", "publish", "--policy", "policy.toml", "--store", "vectors"];
    let (code, _, stderr) = run(skeg(folder.path()).args(flags));
    assert!(code == 1 && stderr.contains("0 <= floor <= default <= ceiling"), "{stderr}");
    assert!(serves(folder.path()) == old, "nothing was changed");
    let (code, _, stderr) =
        run(skeg(folder.path()).args(["vectors", "publish", "--store", "vectors"]));
    assert!(code == 2 && stderr.contains("<GENERATION>"), "{stderr}");
}

#[test]
fn another_stores_generation_is_published_with_a_policy_of_ones_own() {
    let folder = fixture(POLICY);
    let flags =
        ["vectors", "publish", "--policy", "policy.toml", "--from", "vectors", "--store", "other"];
    let (code, stdout, stderr) = run(skeg(folder.path()).args(flags));
    assert!(code == 0 && stdout.contains("serves now, sequence 1"), "{stdout}{stderr}");
    let current = read_current(&folder.path().join("other")).unwrap().generation;
    assert_ne!(current.to_string(), serves(folder.path()));
}

#[test]
fn the_schema_is_printed_as_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = run(skeg(folder.path()).args(["policy", "schema"]));
    assert_eq!(code, 0, "{stderr}");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.schema.json");
    let kept = std::fs::read_to_string(kept).unwrap();
    let [kept, printed] = [&kept, &stdout].map(|text| serde_json::from_str::<Value>(text).unwrap());
    assert_eq!(kept, printed);
}
