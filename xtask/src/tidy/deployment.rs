//! Rules on container and cluster files, since no container engine checks them here.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_yaml_ng::Value;

use super::Finding;

const DOCKERFILES: [&str; 2] = ["docker/Dockerfile", "docker/Dockerfile.cuda"];
const COMPOSE: &str = "docker/compose.yaml";
const KUBERNETES: &str = "deploy/kubernetes/skeg.yaml";

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in DOCKERFILES {
        let text = read(root, file)?;
        findings.extend(check_dockerfile(file, &text, |path| root.join(path).exists()));
    }
    let image = format!("skeg:{}", version(&read(root, "Cargo.toml")?)?);
    findings.extend(check_compose(&yaml(COMPOSE, &read(root, COMPOSE)?)?, &image));
    findings.extend(check_kubernetes(&yaml(KUBERNETES, &read(root, KUBERNETES)?)?, &image));
    Ok(findings)
}

/// The workspace's version.
fn version(manifest: &str) -> Result<String> {
    let manifest: toml::Value = toml::from_str(manifest).context("parsing Cargo.toml")?;
    let version = manifest["workspace"]["package"]["version"].as_str();
    Ok(version.context("Cargo.toml names no version of the workspace")?.to_owned())
}

fn read(root: &Path, file: &str) -> Result<String> {
    std::fs::read_to_string(root.join(file)).with_context(|| format!("reading {file}"))
}

/// The documents of a YAML file; a file that does not parse is an error.
fn yaml(file: &str, text: &str) -> Result<Vec<Value>> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).with_context(|| format!("parsing {file}")))
        .collect()
}

/// A finding where `holds` is false.
fn rule(holds: bool, place: &str, advice: &str) -> Option<Finding> {
    (!holds).then(|| Finding::new(place, advice))
}

/// Dockerfile instructions, with continued lines joined and comments dropped.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> =
        dockerfile.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    lines
        .join("\n")
        .replace("\\\n", " ")
        .lines()
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .map(|(word, rest)| (word.to_ascii_uppercase(), rest.trim().to_owned()))
        .collect()
}

fn check_dockerfile(file: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let instructions = instructions(text);
    let all = |word: &str| {
        instructions.iter().filter(|(w, _)| w == word).map(|(_, r)| r.clone()).collect::<Vec<_>>()
    };
    let from = all("FROM");
    let user = all("USER").pop().unwrap_or_default();
    let mut findings: Vec<Finding> = [
        rule(from.len() >= 2, file, "build in one stage and ship another"),
        rule(
            from.iter().all(|image| image.contains(':') && !image.contains(":latest")),
            file,
            "name each base image's version",
        ),
        rule(
            !user.is_empty() && !user.starts_with('0') && user != "root",
            file,
            "end as a user that is not root",
        ),
        rule(
            all("HEALTHCHECK").iter().any(|check| check.contains("/health/ready")),
            file,
            "add a HEALTHCHECK that asks /health/ready",
        ),
        rule(
            all("ENTRYPOINT").iter().all(|entry| entry.starts_with('[')),
            file,
            "write ENTRYPOINT as a list, so that signals reach the server",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    for copy in all("COPY").iter().filter(|copy| !copy.starts_with("--from")) {
        let paths: Vec<&str> = copy.split_whitespace().collect();
        let (_, sources) = paths.split_last().unwrap_or((&"", &[]));
        for source in sources.iter().filter(|source| !exists(source)) {
            findings.push(Finding::new(file, format!("COPY names {source}, which is not there")));
        }
    }
    findings
}

fn check_compose(documents: &[Value], image: &str) -> Vec<Finding> {
    let service = documents.first().and_then(|d| d.get("services")).and_then(|s| s.get("skeg"));
    let Some(service) = service else {
        return vec![Finding::new(COMPOSE, "define the service skeg")];
    };
    let ports: Vec<&str> =
        service["ports"].as_sequence().into_iter().flatten().filter_map(Value::as_str).collect();
    [
        rule(service["image"].as_str() == Some(image), COMPOSE, "name the image of this version"),
        rule(!service["mem_limit"].is_null(), COMPOSE, "limit the memory"),
        rule(
            ports.iter().all(|port| port.starts_with("127.0.0.1:")),
            COMPOSE,
            "publish on loopback",
        ),
        rule(
            service["read_only"].as_bool() == Some(true),
            COMPOSE,
            "make the root file system read-only",
        ),
        rule(service["cap_drop"].as_sequence().is_some(), COMPOSE, "drop all capabilities"),
        rule(service.get("privileged").is_none(), COMPOSE, "no privileged container"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn check_kubernetes(documents: &[Value], image: &str) -> Vec<Finding> {
    let kind = |name: &str| documents.iter().find(|d| d["kind"].as_str() == Some(name));
    let (Some(deployment), Some(service)) = (kind("Deployment"), kind("Service")) else {
        return vec![Finding::new(KUBERNETES, "define a Deployment and a Service")];
    };
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let probe = |name: &str| container[name]["httpGet"]["path"].as_str().unwrap_or_default();
    let port = container["ports"][0]["name"].as_str();
    let all = ["initContainers", "containers"].iter().flat_map(|list| items(&pod[list]));
    let mut findings: Vec<Finding> =
        all.flat_map(|container| check_container(container, &pod["volumes"], image)).collect();
    let rules = [
        rule(
            probe("livenessProbe") == "/health/live",
            KUBERNETES,
            "probe liveness at /health/live",
        ),
        rule(
            probe("readinessProbe") == "/health/ready",
            KUBERNETES,
            "probe readiness at /health/ready",
        ),
        rule(
            pod["securityContext"]["runAsNonRoot"].as_bool() == Some(true),
            KUBERNETES,
            "run as a user that is not root",
        ),
        rule(
            names(&container["volumeMounts"]).contains(&"vectors"),
            KUBERNETES,
            "mount the vectors",
        ),
        rule(
            deployment["spec"]["selector"]["matchLabels"] == *labels
                && service["spec"]["selector"] == *labels,
            KUBERNETES,
            "select the pod's own labels",
        ),
        rule(
            port.is_some() && service["spec"]["ports"][0]["targetPort"].as_str() == port,
            KUBERNETES,
            "lead the service to the container's port",
        ),
    ];
    findings.extend(rules.into_iter().flatten());
    findings
}

/// What holds for every container of a pod.
fn check_container(container: &Value, volumes: &Value, image: &str) -> Vec<Finding> {
    let security = &container["securityContext"];
    let mounts = &container["volumeMounts"];
    let volumes = names(volumes);
    let below_mount = |path: &str| {
        let mounted = items(mounts).filter_map(|mount| mount["mountPath"].as_str());
        mounted.into_iter().any(|mount| Path::new(path).starts_with(mount))
    };
    [
        rule(
            container["image"].as_str() == Some(image),
            KUBERNETES,
            "name the image of this version",
        ),
        rule(
            security["allowPrivilegeEscalation"].as_bool() == Some(false),
            KUBERNETES,
            "forbid privilege escalation",
        ),
        rule(
            security["readOnlyRootFilesystem"].as_bool() == Some(true),
            KUBERNETES,
            "make the root file system read-only",
        ),
        rule(
            security["capabilities"]["drop"][0].as_str() == Some("ALL"),
            KUBERNETES,
            "drop all capabilities",
        ),
        rule(!container["resources"]["limits"]["memory"].is_null(), KUBERNETES, "limit the memory"),
        rule(
            names(mounts).iter().all(|mount| volumes.contains(mount)),
            KUBERNETES,
            "define each mounted volume",
        ),
        rule(
            items(&container["args"])
                .filter_map(Value::as_str)
                .filter(|arg| arg.starts_with('/'))
                .all(below_mount),
            KUBERNETES,
            "mount what the arguments name",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_sequence().into_iter().flatten()
}

fn names(list: &Value) -> Vec<&str> {
    items(list).filter_map(|item| item["name"].as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_image_without_health_check_is_found() {
        let findings =
            check_dockerfile("Dockerfile", "FROM debian:12 AS a\nFROM debian\nCOPY x /y\n", |_| {
                false
            });
        assert_eq!(findings.len(), 4, "{findings:?}");
    }

    #[test]
    fn each_image_is_in_order_and_is_named_where_it_is_not() {
        for file in DOCKERFILES {
            let text = read(crate::cargo::root(), file).unwrap();
            assert_eq!(check_dockerfile(file, &text, |_| true), []);
            let root = text.replace("USER 10001:10001", "USER root");
            let advice = "end as a user that is not root";
            assert_eq!(check_dockerfile(file, &root, |_| true), [Finding::new(file, advice)]);
        }
    }

    #[test]
    fn continued_lines_are_one_instruction() {
        let parsed = instructions("RUN a \\\n    && b\n# note\nUSER 1\n");
        assert_eq!(parsed, [("RUN".into(), "a      && b".into()), ("USER".into(), "1".into())]);
    }

    /// What tidy says of the repository's own file after one edit.
    fn after(file: &str, from: &str, to: &str) -> Vec<Finding> {
        let text = read(crate::cargo::root(), file).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        let documents = yaml(file, &text.replacen(from, to, 1)).unwrap();
        let check = if file == COMPOSE { check_compose } else { check_kubernetes };
        let version = version(&read(crate::cargo::root(), "Cargo.toml").unwrap()).unwrap();
        check(&documents, &format!("skeg:{version}"))
    }

    #[test]
    fn each_loosened_setting_of_the_cluster_files_is_found() {
        assert_eq!(after(KUBERNETES, "skeg", "skeg"), []);
        for (from, to) in [
            ("  selector:\n    app.kubernetes.io/name: skeg", "  selector:\n    app: other"),
            ("image: skeg:", "image: other:"),
            ("runAsNonRoot: true", "runAsNonRoot: false"),
            ("/health/ready", "/ready"),
            ("mountPath: /config", "mountPath: /etc/skeg"),
            ("limits:\n              memory: 256Mi", "limits:\n              cpu: 1"),
            ("limits:\n              memory: 4Gi", "limits:\n              cpu: 1"),
        ] {
            assert_eq!(after(KUBERNETES, from, to).len(), 1, "{from:?}");
        }
        // Both containers share these.
        for (from, to) in [
            ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
            ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
            ("drop: [\"ALL\"]", "drop: []"),
        ] {
            assert_eq!(after(KUBERNETES, from, to).len(), 2, "{from:?}");
        }
    }

    #[test]
    fn each_loosened_setting_of_the_compose_file_is_found() {
        assert_eq!(after(COMPOSE, "skeg", "skeg"), []);
        for (from, to) in [
            ("image: skeg:", "image: other:"),
            ("127.0.0.1:8080:", "8080:"),
            ("read_only: true", "read_only: false"),
            ("mem_limit: 4g", "restart_policy: no"),
            ("cap_drop:", "cap_add:"),
        ] {
            assert_eq!(after(COMPOSE, from, to).len(), 1, "{from:?}");
        }
    }
}
