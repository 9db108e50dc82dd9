//! The container and cluster files say only what `skeg serve` understands.

use std::path::Path;

use super::{run, skeg};

const FILES: [&str; 3] =
    ["docker/Dockerfile", "docker/compose.yaml", "deploy/kubernetes/skeg.yaml"];

fn read(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(file)).unwrap()
}

/// The help of `skeg serve`, in one line however wide the terminal is.
fn help() -> String {
    let folder = tempfile::tempdir().unwrap();
    let (code, help, _) = run(skeg(folder.path()).args(["serve", "--help"]));
    assert_eq!(code, 0);
    help.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every word of `text` that begins with `prefix` and goes on with what `belongs`.
fn words(text: &str, prefix: &str, belongs: fn(char) -> bool) -> Vec<String> {
    let ends = text.split(prefix).skip(1);
    ends.map(|rest| prefix.to_owned() + rest.split(|c| !belongs(c)).next().unwrap()).collect()
}

#[test]
fn every_flag_and_variable_of_the_deployment_files_is_one_of_skeg_serve() {
    let help = help();
    let in_help = |flag: &str| help.split([' ', ',']).any(|word| word == flag);
    let mut found = 0;
    for file in FILES {
        let text = read(file);
        // Arguments are written as quoted lists; a flag of another program is not quoted.
        for flag in words(&text, "\"--", |c| c.is_ascii_lowercase() || c == '-') {
            assert!(in_help(&flag[1..]), "{file}: {flag}");
            found += 1;
        }
        for variable in words(&text, "SKEG_", |c| c.is_ascii_uppercase() || c == '_') {
            assert!(help.contains(&format!("[env: {variable}=")), "{file}: {variable}");
            found += 1;
        }
    }
    assert!(found >= 8, "only {found} were found, so they are written in another way now");
}

#[test]
fn orchestrators_wait_longer_than_the_server_does() {
    let help = help();
    let (_, after) = help.split_once("--grace-period").unwrap();
    let number_after = |text: &str, key: &str| -> u64 {
        let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("no {key}"));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    let grace = number_after(after, "[default: ");
    assert!(number_after(&read(FILES[1]), "stop_grace_period: ") > grace);
    let kubernetes = read(FILES[2]);
    let pre_stop = number_after(&kubernetes, "sleep:\n                seconds: ");
    assert!(number_after(&kubernetes, "terminationGracePeriodSeconds: ") > pre_stop + grace);
}
