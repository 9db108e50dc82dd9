//! `cargo xtask test`: everything, with the real model.
//!
//! Tests that need research data look for it by `SKEG_DATA_DIR` and print `skipped: no data` without it;
//! the closing line counts them, so that a green run says what it did not show.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, model, output, tools};

/// What a test prints that needs research data and has none.
const NO_DATA: &str = "skipped: no data";

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this.
    filter: Option<String>,
    /// Whether to fail where cargo-nextest cannot be had, instead of using `cargo test`.
    #[arg(skip)]
    nextest_required: bool,
}

impl Args {
    /// Every test, as CI runs them.
    pub(crate) const fn everything() -> Self {
        Self { filter: None, nextest_required: true }
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
    // Before minutes of building, so that a missing program is heard of at once.
    let nextest_program = match tools::NEXTEST.program() {
        Ok(program) => Some(program),
        Err(error) if args.nextest_required => return Err(error),
        Err(error) => {
            output::step(&format!("{error:#}; using `cargo test` instead"));
            None
        }
    };
    let skeg = cargo::build_skeg(&[])?;
    let model = model::fetch(&skeg)?;
    let counts = match nextest_program {
        Some(program) => nextest(&program, args, &model)?,
        None => cargo_test(args, &model)?,
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

fn nextest(program: &Path, args: &Args, model: &Path) -> Result<Counts> {
    // nextest keeps its reports in the workspace, wherever cargo builds.
    let report = cargo::root().join("target/nextest/default/junit.xml");
    if report.exists() {
        std::fs::remove_file(&report)
            .with_context(|| format!("cannot remove {}", report.display()))?;
    }
    let outcome = cargo::run(&mut nextest_command(program, args, model));
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

/// nextest by its own path: as a subcommand of cargo it would have to be in PATH.
fn nextest_command(program: &Path, args: &Args, model: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(cargo::root())
        .args(["nextest", "run", "--no-fail-fast"])
        .args(cargo::BUILD_FLAGS)
        .args(&args.filter)
        .env("SKEG_TEST_MODEL", model);
    command
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
                   <failure message=\"x\"/></testcase><testcase name=\"d\"><error/></testcase>\
                   </testsuite></testsuites>";
        assert_eq!(count_junit(xml), Counts { passed: 1, failed: 2, skipped: 1 });
    }

    #[test]
    fn nextest_is_run_by_its_own_path_with_the_filter_last() {
        let args = Args { filter: Some("steering".to_owned()), nextest_required: false };
        let command =
            nextest_command(Path::new("/tools/cargo-nextest"), &args, Path::new("m.gguf"));
        assert_eq!(command.get_program(), "/tools/cargo-nextest");
        let given: Vec<_> = command.get_args().collect();
        assert_eq!(given[..3], ["nextest", "run", "--no-fail-fast"]);
        assert!(given.ends_with(&["--no-default-features".as_ref(), "steering".as_ref()]));
        let model = ("SKEG_TEST_MODEL".as_ref(), Some("m.gguf".as_ref()));
        assert!(command.get_envs().any(|variable| variable == model));
    }

    #[test]
    fn libtest_summaries_are_added_up() {
        let text = "skipped: no data\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored\n";
        assert_eq!(count_libtest(text), Counts { passed: 4, failed: 1, skipped: 1 });
    }
}
