//! `skeg audit verify`: is an audit log as it was written?

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::json;
use skeg_server::verify_audit_log;

use crate::output;

/// Check audit logs.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Verify(VerifyArgs),
}

/// Check that every line of an audit log continues the one before it; exits with 1 if one does not, or the last one is torn.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct VerifyArgs {
    /// The audit log
    file: PathBuf,
    /// A hash that was noted before, of the last line then; exits with 1 if no line has it, as when the end was cut off
    #[arg(long, value_name = "SHA256")]
    hash: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
The chain shows what was changed, removed or put in before its last line. That lines at its end are gone shows only against a hash kept
elsewhere: note the one this command prints, or `audit.sha256` of the admin interface's state.";

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Verify(args) => verify(args),
    }
}

fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let name = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("cannot open {name}"))?;
    let wanted = args.hash.as_ref().map(|hash| hash.to_lowercase());
    let report = verify_audit_log(BufReader::new(file), wanted.as_deref())
        .with_context(|| format!("cannot read {name}"))?;
    let has_wanted = wanted.is_none() || report.has_wanted;
    if args.json {
        let faults: Vec<_> = report
            .faults
            .iter()
            .map(|fault| json!({"line": fault.line, "reason": fault.reason}))
            .collect();
        output::json(&json!({
            "whole": report.is_whole(),
            "lines": report.num_lines,
            "sha256": report.last_sha256,
            "torn_bytes": report.torn_bytes,
            "faults": faults,
            "has_hash": wanted.is_some().then_some(report.has_wanted),
        }))?;
    } else {
        for fault in &report.faults {
            output::line(&format!("line {}: {}", fault.line, fault.reason))?;
        }
        if report.torn_bytes > 0 {
            output::line(&format!("line {}: torn, it has no end", report.num_lines))?;
        }
        let last = report.last_sha256.as_deref().unwrap_or("none, it is empty");
        output::line(&format!("{} lines, the last one's hash {last}", report.num_lines))?;
    }
    if !report.is_whole() {
        bail!("{name} is not as it was written");
    }
    if !has_wanted {
        bail!("{name} has no line with that hash: its end was cut off, or it is another log");
    }
    Ok(())
}
