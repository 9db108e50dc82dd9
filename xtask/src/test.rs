//! `cargo xtask test`: everything, with the real model.
//!
//! Tests that need research data look for it by `SKEG_DATA_DIR` and print `skipped: no data` without it;
//! the closing line counts them, so that a green run says what it did not show.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{cargo, model, output};

/// What a test prints that needs research data and has none.
const NO_DATA: &str = "skipped: no data";

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this.
    filter: Option<String>,
}

impl Args {
    /// Every test.
    pub(crate) const fn everything() -> Self {
        Self { filter: None }
    }
}

/// What a run counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let skeg = cargo::build_skeg()?;
    let model = model::fetch(&skeg)?;
    let counts = if cargo::answers("cargo", &["nextest", "--version"]) {
        nextest(args, &model)?
    } else {
        output::step("cargo-nextest is not installed; using cargo test");
        cargo_test(args, &model)?
    };
    if args.filter.is_none() {
        cargo::run(
            cargo::cargo(&["test", "--quiet", "--doc"])
                .args(cargo::BUILD_FLAGS)
                .env("SKEG_TEST_MODEL", &model),
        )?;
    }
    output::line(&closing_line(&counts));
    if counts.failed > 0 {
        bail!("{} tests failed", counts.failed);
    }
    Ok(())
}

fn closing_line(counts: &Counts) -> String {
    format!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped)
}

fn nextest(args: &Args, model: &Path) -> Result<Counts> {
    // nextest keeps its reports in the workspace, wherever cargo builds.
    let report = cargo::root().join("target/nextest/default/junit.xml");
    if report.exists() {
        std::fs::remove_file(&report)
            .with_context(|| format!("cannot remove {}", report.display()))?;
    }
    let mut command = cargo::cargo(&["nextest", "run", "--no-fail-fast"]);
    command.args(cargo::BUILD_FLAGS).args(&args.filter).env("SKEG_TEST_MODEL", model);
    let outcome = cargo::run(&mut command);
    // A failed run still has counts to print; a run that could not start has no report.
    let Ok(xml) = std::fs::read_to_string(&report) else {
        outcome?;
        bail!("nextest left no report at {}", report.display());
    };
    let counts = count_junit(&xml);
    if counts.failed == 0 {
        outcome?;
    }
    Ok(counts)
}

/// Counts a `JUnit` report: test cases, those with a failure or error, those that said they had no data.
fn count_junit(xml: &str) -> Counts {
    let cases: Vec<&str> = xml.split("<testcase ").skip(1).collect();
    let failed =
        cases.iter().filter(|case| case.contains("<failure") || case.contains("<error")).count();
    let skipped = cases.iter().filter(|case| case.contains(NO_DATA)).count();
    Counts { passed: cases.len() - failed - skipped, failed, skipped }
}

fn cargo_test(args: &Args, model: &Path) -> Result<Counts> {
    let mut command = cargo::cargo(&["test", "--no-fail-fast", "--all-targets"]);
    command
        .args(cargo::BUILD_FLAGS)
        .args(&args.filter)
        .args(["--", "--show-output"])
        .env("SKEG_TEST_MODEL", model)
        .stderr(std::process::Stdio::inherit());
    let output = command.output().context("cannot start `cargo test`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    output::line(&text);
    let counts = count_libtest(&text);
    if !output.status.success() && counts.failed == 0 {
        bail!("`cargo test` ended with {}", output.status);
    }
    Ok(counts)
}

/// Adds up libtest's `test result:` lines.
fn count_libtest(text: &str) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        counts.passed += number_before(line, " passed");
        counts.failed += number_before(line, " failed");
    }
    counts.skipped = text.lines().filter(|line| line.contains(NO_DATA)).count();
    counts.passed = counts.passed.saturating_sub(counts.skipped);
    counts
}

fn number_before(line: &str, word: &str) -> usize {
    line.split(word)
        .next()
        .and_then(|head| head.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_without_data_is_counted_apart_from_those_that_passed() {
        let xml = "<testsuites><testsuite><testcase name=\"a\"/><testcase name=\"b\">\
                   <system-out>skipped: no data</system-out></testcase><testcase name=\"c\">\
                   <failure message=\"x\"/></testcase></testsuite></testsuites>";
        assert_eq!(count_junit(xml), Counts { passed: 1, failed: 1, skipped: 1 });
    }

    #[test]
    fn libtest_summaries_are_added_up() {
        let text = "skipped: no data\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored\n";
        assert_eq!(count_libtest(text), Counts { passed: 4, failed: 1, skipped: 1 });
    }
}
