//! Rules on the workspace: which crate may know which, and where dependencies come from.

use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::Finding;

/// What each crate must not depend on, and why.
const FORBIDDEN: [(&str, &[&str], &str); 4] = [
    (
        "model",
        &["skeg-vector-store", "skeg-lab", "skeg-server", "axum", "tokio"],
        "the model knows no category, no HTTP and no async runtime",
    ),
    (
        "vector-store",
        &["skeg-model", "skeg-lab", "skeg-server", "axum", "tokio", "candle-core"],
        "the store is handed plain numbers and waits on no runtime",
    ),
    ("lab", &["skeg-server", "axum", "tokio"], "the lab serves nobody"),
    ("server", &["candle-core", "candle-transformers"], "tensors stay in the model crate"),
];

/// What a crate may depend on behind a feature, although it must not otherwise: (crate, dependency).
const BEHIND_A_FEATURE: [(&str, &str); 1] = [
    // The clients of object stores are asynchronous; a runtime of their own drives them, and nobody sees it.
    ("vector-store", "tokio"),
];

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (name, forbidden, reason) in FORBIDDEN {
        let path = root.join("crates").join(name).join("Cargo.toml");
        for dependency in refused(name, &read(&path)?, forbidden) {
            let advice = format!("must not depend on {dependency}: {reason}");
            findings.push(Finding::new(format!("crates/{name}/Cargo.toml"), advice));
        }
    }
    findings.extend(git_dependencies(&read(&root.join("Cargo.toml"))?));
    Ok(findings)
}

fn read(path: &Path) -> Result<Table> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.parse().with_context(|| format!("parsing {}", path.display()))
}

fn refused(name: &str, manifest: &Table, forbidden: &[&str]) -> Vec<String> {
    let mut dependencies = dependencies(manifest);
    dependencies.retain(|dependency| {
        let may_be_optional = BEHIND_A_FEATURE.contains(&(name, dependency.as_str()));
        forbidden.contains(&dependency.as_str())
            && !(may_be_optional && is_optional(manifest, dependency))
    });
    dependencies
}

fn is_optional(manifest: &Table, dependency: &str) -> bool {
    let dependency = manifest.get("dependencies").and_then(|table| table.get(dependency));
    let optional = dependency.and_then(|one| one.get("optional"));
    optional.and_then(Value::as_bool).unwrap_or_default()
}

/// Normal and build dependencies; what tests use ties no user.
fn dependencies(manifest: &Table) -> Vec<String> {
    ["dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section).and_then(Value::as_table))
        .flat_map(|table| table.keys().cloned())
        .collect()
}

fn git_dependencies(manifest: &Table) -> Vec<Finding> {
    let table = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(Value::as_table);
    table
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.get("git").is_some())
        .map(|(name, _)| {
            Finding::new("Cargo.toml", format!("{name} comes from git; use a published version"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_dependency_is_found() {
        let manifest: Table =
            "[workspace.dependencies]\na = \"1\"\nb = { git = \"https://example.org/b\" }\n"
                .parse()
                .unwrap();
        assert_eq!(git_dependencies(&manifest).len(), 1);
    }

    #[test]
    fn dependencies_between_the_crates_point_one_way() {
        let all: Table = "[dependencies]\nskeg-lab = \"1\"\nskeg-model = \"1\"\n\
                          skeg-server = \"1\"\nskeg-vector-store = \"1\"\n"
            .parse()
            .unwrap();
        let expected: [(&str, &[&str]); 4] = [
            ("model", &["skeg-lab", "skeg-server", "skeg-vector-store"]),
            ("vector-store", &["skeg-lab", "skeg-model", "skeg-server"]),
            ("lab", &["skeg-server"]),
            ("server", &[]),
        ];
        for ((name, forbidden, _), (expected_name, expected)) in FORBIDDEN.iter().zip(expected) {
            assert_eq!((*name, refused(name, &all, forbidden)), (expected_name, owned(expected)));
        }
    }

    #[test]
    fn a_runtime_behind_a_feature_is_the_store_s_alone() {
        let of = |name: &str, line: &str| {
            let manifest: Table = format!("[dependencies]\n{line}\n").parse().unwrap();
            refused(name, &manifest, &["tokio", "axum"])
        };
        assert!(of("vector-store", "tokio = { version = \"1\", optional = true }").is_empty());
        assert_eq!(of("vector-store", "tokio = \"1\""), ["tokio"]);
        assert_eq!(of("lab", "tokio = { version = \"1\", optional = true }"), ["tokio"]);
        assert_eq!(of("vector-store", "axum = { version = \"1\", optional = true }"), ["axum"]);
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn dependencies_of_tests_do_not_count() {
        let manifest: Table =
            "[dependencies]\na = \"1\"\n[dev-dependencies]\nb = \"1\"\n".parse().unwrap();
        assert_eq!(dependencies(&manifest), ["a"]);
    }
}
