//! Killed before each call to the system that opens, makes, writes, flushes, renames, removes or locks.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::kills::Tally;
use super::scene::Scene;
use crate::{cargo, output};

/// The calls; a processor need not have all of them.
const CALLS: [&str; 16] = [
    "copy_file_range",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "mkdir",
    "mkdirat",
    "openat",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "unlink",
    "unlinkat",
    "write",
];

/// Kills a victim before each of its calls, one after another; so the points do not depend on time.
pub(super) fn run(scene: &Scene) -> Result<()> {
    if !cargo::answers("strace", &["-V"]) {
        output::line(&format!("{} at each call: NOT RUN, there is no strace", scene.name()));
        return Ok(());
    }
    let counts = count(scene)?;
    let mut tally = Tally::default();
    let mut num = 0_usize;
    for (call, most) in &counts {
        for nth in 1..=*most {
            scene.reset()?;
            let inject = format!("inject=?{call}:signal=SIGKILL:when={nth}");
            let output = traced(scene, &[&format!("trace=?{call}"), &inject], "/dev/null")?;
            tally.add(scene, output).with_context(|| {
                format!(
                    "{}, killed before {call} {nth}; see {}",
                    scene.name(),
                    scene.store.display()
                )
            })?;
            num += 1;
        }
    }
    let calls: Vec<String> = counts.iter().map(|(call, num)| format!("{call} {num}")).collect();
    output::line(&format!(
        "{} killed before each of {num} calls ({}): {}",
        scene.name(),
        calls.join(", "),
        tally.words()
    ));
    Ok(())
}

/// How often an undisturbed victim makes each call, in the thread that makes most of them: strace counts each by itself.
fn count(scene: &Scene) -> Result<BTreeMap<String, usize>> {
    scene.reset()?;
    let log = scene.store.with_extension("strace");
    let calls = CALLS.map(|call| format!("?{call}")).join(",");
    let succeeded = traced(scene, &[&format!("trace={calls}")], &log.to_string_lossy())?;
    ensure!(succeeded, "the {} fails under strace; may it trace here?", scene.name());
    let text = std::fs::read_to_string(&log).context("reading what strace wrote")?;
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in text.lines() {
        // `<pid> <call>(...`, without the number while there is one process.
        let rest = line.trim_start_matches(|char: char| char.is_ascii_digit()).trim_start();
        let Some((call, _)) = rest.split_once('(') else { continue };
        if CALLS.contains(&call) {
            let thread = line.strip_suffix(rest).unwrap_or_default().trim_end();
            *counts.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, usize> = BTreeMap::new();
    for ((call, _), num) in counts {
        let entry = most.entry(call).or_default();
        *entry = num.max(*entry);
    }
    ensure!(!most.is_empty(), "strace saw no call of the {}", scene.name());
    Ok(most)
}

/// Runs a victim under strace; whether it succeeded.
fn traced(scene: &Scene, expressions: &[&str], log: &str) -> Result<bool> {
    let victim = scene.command()?;
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", log]);
    for expression in expressions {
        command.args(["-e", expression]);
    }
    command.arg(victim.get_program()).args(victim.get_args());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status().context("cannot start strace")?.success())
}
