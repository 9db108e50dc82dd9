//! `probe.safetensors`: its classes are the generation's categories and `none`, its values finite f32.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

use skeg_vector_store::{
    Category, Files, NewGeneration, load_files, load_generation, read_files, with_policy,
    with_probe, write_generation,
};

use crate::forge::{check, forge};
use crate::support::{category, new_generation};

const AGAIN: &str =
    "train the probe for this generation's categories and write the generation again";

/// A probe's bytes with these classes and one weight.
pub(crate) fn probe(classes: &[&str]) -> Vec<u8> {
    let classes = serde_json::to_string(classes).unwrap();
    file(Some(&classes), Dtype::F32, 0.5)
}

/// [`probe`] for these categories.
pub(crate) fn probe_of(categories: &[Category]) -> Vec<u8> {
    let classes: Vec<&str> = categories.iter().map(Category::as_str).chain(["none"]).collect();
    probe(&classes)
}

fn file(classes: Option<&str>, dtype: Dtype, value: f32) -> Vec<u8> {
    tensor(classes, "weights", dtype, value)
}

fn tensor(classes: Option<&str>, name: &str, dtype: Dtype, value: f32) -> Vec<u8> {
    let metadata =
        classes.map(|classes| HashMap::from([("classes".to_owned(), classes.to_owned())]));
    let bytes = [1.0_f32.to_le_bytes(), value.to_le_bytes()].concat();
    let view = TensorView::new(dtype, vec![bytes.len() * 8 / dtype.bitsize()], &bytes).unwrap();
    safetensors::serialize([(name, view)], metadata).unwrap()
}

/// Loading a generation with such a probe fails with this text.
fn check_probe(probe: Vec<u8>, expected: &str) {
    check(
        |forged| {
            forged.files.insert("probe.safetensors".to_owned(), probe);
        },
        &format!("probe.safetensors: {expected}"),
    );
}

#[test]
fn classes_are_the_categories_and_none() {
    let expected = "a list in JSON of `fraud_deception`, `malware_viruses`, `none`, each once";
    let refused = |classes: Option<&str>, found: &str| {
        check_probe(
            file(classes, Dtype::F32, 0.5),
            &format!("field `__metadata__.classes`: found {found}, expected {expected}; {AGAIN}"),
        );
    };
    refused(None, "no such key");
    refused(Some("fraud_deception"), "something else");
    refused(Some("[1, 2]"), "something else");
    refused(Some(r#"["fraud_deception", "malware_viruses"]"#), "no `none`");
    refused(Some(r#"["fraud_deception", "none"]"#), "without `malware_viruses`");
    refused(
        Some(r#"["fraud_deception", "malware_viruses", "adult_content", "none"]"#),
        "with `adult_content`",
    );
    refused(Some(r#"["fraud_deception", "malware_viruses", "none", "none"]"#), "`none` twice");
    let root = tempfile::tempdir().unwrap();
    let id = forge(root.path(), |forged| {
        let probe = probe(&["malware_viruses", "none", "fraud_deception"]);
        forged.files.insert("probe.safetensors".to_owned(), probe);
    });
    assert!(load_generation(root.path(), &id, None).unwrap().has_probe());
}

#[test]
fn values_are_finite_f32() {
    let classes = r#"["fraud_deception", "malware_viruses", "none"]"#;
    let with = |dtype, value| file(Some(classes), dtype, value);
    let tensor = "tensor `weights`: found";
    check_probe(
        with(Dtype::F32, f32::NAN),
        &format!("{tensor} NaN at value 1, expected finite values; {AGAIN}"),
    );
    check_probe(
        with(Dtype::F32, f32::INFINITY),
        &format!("{tensor} inf at value 1, expected finite values; {AGAIN}"),
    );
    check_probe(with(Dtype::F16, 0.5), &format!("{tensor} f16, expected f32; {AGAIN}"));
    let metadata = HashMap::from([("classes".to_owned(), classes.to_owned())]);
    let empty =
        safetensors::serialize(Vec::<(String, TensorView<'_>)>::new(), Some(metadata)).unwrap();
    check_probe(
        empty,
        "found no tensor, expected the probe's; correct the file and write the generation again",
    );
}

#[test]
fn what_is_no_safetensors_file_is_no_probe() {
    check_probe(
        b"probe".to_vec(),
        "not a safetensors file, or a truncated one: header too small; correct the file and write the generation again",
    );
}

/// A generation that is read, changed and written again keeps its probe; equality looks at the bytes.
#[test]
fn a_probe_is_carried_into_the_next_generation() {
    let root = tempfile::tempdir().unwrap();
    let mut new = new_generation(0);
    let bytes = probe_of(&["fraud_deception", "malware_viruses"].map(category));
    new.probe = Some(bytes.clone());
    let id = write_generation(root.path(), &new).unwrap();
    let read = load_generation(root.path(), &id, None).unwrap();
    assert_eq!(read.probe.as_deref(), Some(&bytes[..]));
    assert_eq!(load_generation(root.path(), &id, None).unwrap(), read);
    let again = NewGeneration::from(read.clone());
    assert_eq!(write_generation(root.path(), &again).unwrap(), id);
    let next = NewGeneration { card: "# Next\n".to_owned(), ..again };
    let next = write_generation(root.path(), &next).unwrap();
    let next = load_generation(root.path(), &next, None).unwrap();
    assert_ne!(next.id, id);
    assert_eq!(next.probe.as_deref(), Some(&bytes[..]));
    let other = file(Some(r#"["fraud_deception", "malware_viruses", "none"]"#), Dtype::F32, 0.75);
    let changed = skeg_vector_store::Generation { probe: Some(other), ..read.clone() };
    assert_ne!(changed, read);
    let none = load_generation(
        root.path(),
        &write_generation(root.path(), &new_generation(0)).unwrap(),
        None,
    );
    assert_eq!(none.unwrap().probe, None);
}

#[test]
fn a_probe_makes_another_generation_which_auto_may_then_ask() {
    let root = tempfile::tempdir().unwrap();
    let id = write_generation(root.path(), &new_generation(0)).unwrap();
    let files = read_files(root.path(), &id).unwrap();
    let policy = std::str::from_utf8(&files["policy.toml"]).unwrap();
    let auto = policy.replace("when_missing = \"reject\"", "when_missing = \"auto\"");
    assert_ne!(auto, policy);
    let load = |files: &Files| load_files(Path::new(""), None, files).unwrap();
    // Without a probe it is for servers that ask another classifier.
    assert!(load(&with_policy(&files, &auto).unwrap()).needs_classifier());
    assert!(!load(&files).needs_classifier());

    let bytes = probe_of(&["fraud_deception", "malware_viruses"].map(category));
    let changed = with_probe(&files, &bytes).unwrap();
    let (before, after) = (load(&files), load(&changed));
    assert_eq!(after.probe.as_deref(), Some(&bytes[..]));
    assert_ne!(before.id, after.id);
    assert_eq!((&before.vectors, &before.policy), (&after.vectors, &after.policy));
    let asking = load(&with_policy(&changed, &auto).unwrap());
    assert!(asking.has_probe() && !asking.needs_classifier());

    let other = probe_of(&[category("fraud_deception")]);
    assert!(with_probe(&files, &other).unwrap_err().to_string().contains("malware_viruses"));
}

#[test]
fn answers_are_looked_at_by_a_probe_that_was_trained_on_answers() {
    let root = tempfile::tempdir().unwrap();
    let id = write_generation(root.path(), &new_generation(0)).unwrap();
    let files = read_files(root.path(), &id).unwrap();
    let policy = std::str::from_utf8(&files["policy.toml"]).unwrap();
    let looks = format!("{policy}\n[auto]\nrecheck_every = 8\n");
    let of_prompts =
        with_probe(&files, &probe_of(&["fraud_deception", "malware_viruses"].map(category)));
    for files in [&files, &of_prompts.unwrap()] {
        let error = with_policy(files, &looks).unwrap_err().to_string();
        assert!(
            error.contains("auto.recheck_every") && error.contains("skeg probe train --answers"),
            "{error}"
        );
    }
    let classes = r#"["fraud_deception", "malware_viruses", "none"]"#;
    let of_answers = tensor(Some(classes), "answer.weights", Dtype::F32, 0.5);
    let changed = with_policy(&with_probe(&files, &of_answers).unwrap(), &looks).unwrap();
    let loaded = load_files(Path::new(""), None, &changed).unwrap();
    assert_eq!(loaded.policy.auto.recheck_every, Some(8));
}
