//! Rules on container and cluster files, since no container engine checks them here.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_yaml_ng::Value;

use super::Finding;

const DOCKERFILE: &str = "docker/Dockerfile";
const COMPOSE: &str = "docker/compose.yaml";
const KUBERNETES: &str = "deploy/kubernetes/skeg.yaml";

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let dockerfile = read(root, DOCKERFILE)?;
    let mut findings = check_dockerfile(&dockerfile, |path| root.join(path).exists());
    findings.extend(check_compose(&yaml(COMPOSE, &read(root, COMPOSE)?)?));
    findings.extend(check_kubernetes(&yaml(KUBERNETES, &read(root, KUBERNETES)?)?));
    Ok(findings)
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

fn check_dockerfile(text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let instructions = instructions(text);
    let all = |word: &str| {
        instructions.iter().filter(|(w, _)| w == word).map(|(_, r)| r.clone()).collect::<Vec<_>>()
    };
    let from = all("FROM");
    let user = all("USER").pop().unwrap_or_default();
    let mut findings: Vec<Finding> = [
        rule(from.len() >= 2, DOCKERFILE, "build in one stage and ship another"),
        rule(
            from.iter().all(|image| image.contains(':') && !image.contains(":latest")),
            DOCKERFILE,
            "name each base image's version",
        ),
        rule(
            !user.is_empty() && !user.starts_with('0') && user != "root",
            DOCKERFILE,
            "end as a user that is not root",
        ),
        rule(!all("HEALTHCHECK").is_empty(), DOCKERFILE, "add a HEALTHCHECK"),
        rule(
            all("ENTRYPOINT").iter().all(|entry| entry.starts_with('[')),
            DOCKERFILE,
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
            findings
                .push(Finding::new(DOCKERFILE, format!("COPY names {source}, which is not there")));
        }
    }
    findings
}

fn check_compose(documents: &[Value]) -> Vec<Finding> {
    let service = documents.first().and_then(|d| d.get("services")).and_then(|s| s.get("skeg"));
    let Some(service) = service else {
        return vec![Finding::new(COMPOSE, "define the service skeg")];
    };
    let ports: Vec<&str> =
        service["ports"].as_sequence().into_iter().flatten().filter_map(Value::as_str).collect();
    [
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

fn check_kubernetes(documents: &[Value]) -> Vec<Finding> {
    let kind = |name: &str| documents.iter().find(|d| d["kind"].as_str() == Some(name));
    let (Some(deployment), Some(service)) = (kind("Deployment"), kind("Service")) else {
        return vec![Finding::new(KUBERNETES, "define a Deployment and a Service")];
    };
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let probe = |name: &str| container[name]["httpGet"]["path"].as_str().unwrap_or_default();
    let mounts: Vec<&str> = names(&container["volumeMounts"]);
    let volumes: Vec<&str> = names(&pod["volumes"]);
    let port = container["ports"][0]["name"].as_str();
    [
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
            container["securityContext"]["allowPrivilegeEscalation"].as_bool() == Some(false),
            KUBERNETES,
            "forbid privilege escalation",
        ),
        rule(mounts.contains(&"vectors"), KUBERNETES, "mount the vectors"),
        rule(
            mounts.iter().all(|mount| volumes.contains(mount)),
            KUBERNETES,
            "define each mounted volume",
        ),
        rule(!container["resources"]["limits"]["memory"].is_null(), KUBERNETES, "limit the memory"),
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
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_sequence().into_iter().flatten().filter_map(|item| item["name"].as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_image_without_health_check_is_found() {
        let findings = check_dockerfile("FROM debian:12 AS a\nFROM debian\nCOPY x /y\n", |_| false);
        assert_eq!(findings.len(), 4, "{findings:?}");
    }

    #[test]
    fn continued_lines_are_one_instruction() {
        let parsed = instructions("RUN a \\\n    && b\n# note\nUSER 1\n");
        assert_eq!(parsed, [("RUN".into(), "a      && b".into()), ("USER".into(), "1".into())]);
    }

    #[test]
    fn a_service_that_selects_other_labels_is_found() {
        let text = std::fs::read_to_string(crate::cargo::root().join(KUBERNETES)).unwrap();
        assert_eq!(check_kubernetes(&yaml(KUBERNETES, &text).unwrap()), []);
        let broken = text.replacen(
            "  selector:\n    app.kubernetes.io/name: skeg",
            "  selector:\n    app: other",
            1,
        );
        assert_eq!(check_kubernetes(&yaml(KUBERNETES, &broken).unwrap()).len(), 1);
    }
}
