//! Killed at random times.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::scene::{Scene, Stage};
use crate::output;

/// Runs to their end, by which the time of one is known.
const NUM_WHOLE: u32 = 9;

/// Where kills fell.
#[derive(Debug, Default)]
pub(super) struct Tally {
    before: usize,
    inside_old: usize,
    inside_new: usize,
    after: usize,
    /// Folders and files that garbage collection removed afterwards.
    collected: usize,
}

impl Tally {
    /// Looks at what a victim left, and lets the next one go on.
    pub(super) fn add(&mut self, scene: &Scene, succeeded: bool) -> Result<()> {
        match scene.stage(succeeded)? {
            Stage::Before => self.before += 1,
            Stage::InsideOld => self.inside_old += 1,
            Stage::InsideNew => self.inside_new += 1,
            Stage::After => self.after += 1,
        }
        self.collected += scene.recover()?;
        Ok(())
    }

    /// In a sentence.
    pub(super) fn words(&self) -> String {
        let Self { before, inside_old, inside_new, after, collected } = self;
        format!(
            "{before} before anything was written, {inside_old} inside with the old generation serving, \
             {inside_new} inside with the new one, {after} after the end; each time one of the two, whole, \
             and the next went through; {collected} leftovers collected"
        )
    }
}

/// Kills a victim `num` times, at times that are drawn evenly from its start to a quarter of its time after its end.
pub(super) fn run(scene: &Scene, num: usize, seed: u64) -> Result<()> {
    let whole = time_of_one(scene)?;
    let span = whole * 5 / 4;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for round in 0..num {
        scene.reset()?;
        let at = span.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX));
        let (started, mut command) = (Instant::now(), scene.command()?);
        let mut victim = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(at.saturating_sub(started.elapsed()));
        // SIGKILL on Unix; one that has ended is not killed.
        victim.kill()?;
        let succeeded = victim.wait()?.success();
        tally.add(scene, succeeded).with_context(|| {
            format!(
                "{}, round {round}, killed after {at:?}; see {}",
                scene.name(),
                scene.store.display()
            )
        })?;
    }
    output::line(&format!(
        "{} killed {num} times within {:.1} ms of its start (one takes {:.1} ms, seed {seed}): {}",
        scene.name(),
        millis(span),
        millis(whole),
        tally.words()
    ));
    Ok(())
}

/// The median.
fn time_of_one(scene: &Scene) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..NUM_WHOLE {
        scene.reset()?;
        let started = Instant::now();
        if let Some(stderr) = scene.attempt()? {
            anyhow::bail!("the {} fails undisturbed: {stderr}", scene.name());
        }
        times.push(started.elapsed());
    }
    times.sort();
    times.get(times.len() / 2).copied().context("no time was taken")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
