//! Decode steps in two modes side by side, on the same context.

use std::time::Instant;

use anyhow::bail;
use serde::Serialize;
use skeg_model::{KvCacheDtype, Llama, PackedBatch};

use super::instructions::Instructions;
use super::modes::{Mode, Steering};
use super::paired::{Paired, Pairs};
use super::rig::Rig;

/// One cell of the comparison.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub(super) num_seqs: usize,
    pub(super) context: usize,
    pub(super) pairs: usize,
    pub(super) chunk: usize,
    pub(super) seed: u64,
    pub(super) kv_cache_dtype: KvCacheDtype,
}

/// What a mode costs against `disabled`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cost {
    pub(super) num_layers: usize,
    pub(super) num_seqs: usize,
    pub(super) mode: Mode,
    pub(super) pairs: usize,
    /// Median over the pairs of the mode's time over `disabled`'s.
    pub(super) ratio: f64,
    /// Bootstrap bounds of the ratio, 95 %.
    pub(super) lower: f64,
    pub(super) upper: f64,
    pub(super) median_step_seconds: f64,
    pub(super) median_disabled_step_seconds: f64,
    /// User-space instructions of all the mode's steps over those of their partners.
    pub(super) instruction_ratio: Option<f64>,
}

/// Every mode, interleaved pair by pair in one run.
pub(super) fn compare(
    llama: &Llama,
    layers: &[usize],
    modes: &[Mode],
    setting: Setting,
    instructions: &mut Instructions,
    mut on_pair: impl FnMut(),
) -> anyhow::Result<Vec<Cost>> {
    let Setting { num_seqs, context, .. } = setting;
    let steering = Steering::synthetic(llama, layers, modes, setting.seed)?;
    let mut rig = Rig::new(llama, num_seqs, context + 1, setting.kv_cache_dtype, setting.seed)?;
    rig.prefill(0..num_seqs, context, setting.chunk)?;
    let batch = rig.batch(0..num_seqs, context, 1)?;
    for mode in modes {
        check(&mut rig, &batch, &steering, *mode)?;
    }
    let mut runs: Vec<(Mode, Pairs)> = modes.iter().map(|mode| (*mode, Pairs::default())).collect();
    for pair_idx in 0..setting.pairs {
        for (mode_idx, (mode, pairs)) in runs.iter_mut().enumerate() {
            // Either side goes first equally often, in neighbouring pairs of a mode and of a round.
            pairs.measure(pair_idx + mode_idx, instructions, |side| {
                let mode = [*mode, Mode::Disabled][side];
                let started = Instant::now();
                let mut hooks = steering.hooks(mode, num_seqs, pair_idx);
                rig.forward(&batch, &mut hooks)?;
                Ok(started.elapsed().as_secs_f64())
            })?;
            on_pair();
        }
    }
    let cost = |(mode, pairs): &(Mode, Pairs)| {
        Ok(cost(&pairs.paired(setting.seed)?, *mode, layers.len(), num_seqs))
    };
    runs.iter().map(cost).collect()
}

/// Runs a mode once and checks that it steered what it says; this warms up as well.
fn check(
    rig: &mut Rig<'_>,
    batch: &PackedBatch,
    steering: &Steering,
    mode: Mode,
) -> anyhow::Result<()> {
    let num_rows = batch.total_tokens();
    let mut hooks = steering.hooks(mode, num_rows, 0);
    rig.forward(batch, &mut hooks)?;
    let measured = hooks.steer.as_ref().map_or(&[][..], |steer| steer.measured());
    let num_steered = measured.iter().flatten().count();
    let expected = if mode.steers() { num_rows } else { 0 };
    if num_steered != expected {
        bail!("mode {mode}: {num_steered} of {num_rows} rows were steered, expected {expected}");
    }
    Ok(())
}

fn cost(paired: &Paired, mode: Mode, num_layers: usize, num_seqs: usize) -> Cost {
    let [own, disabled] = paired.seconds;
    Cost {
        num_layers,
        num_seqs,
        mode,
        pairs: paired.pairs,
        ratio: paired.ratio,
        lower: paired.lower,
        upper: paired.upper,
        median_step_seconds: own,
        median_disabled_step_seconds: disabled,
        instruction_ratio: paired.instruction_ratio,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_each_pair() {
        // A machine that slows down over the run: each pair still says 10 % more.
        let disabled: Vec<f64> = (1..=40).map(f64::from).collect();
        let own = disabled.iter().map(|seconds| seconds * 1.1).collect();
        let pairs = Pairs::of([own, disabled], [Some(30), Some(20)]);
        let cost = cost(&pairs.paired(0).unwrap(), Mode::PerRequest(4), 3, 2);
        for ratio in [cost.ratio, cost.lower, cost.upper] {
            assert!((ratio - 1.1).abs() < 1e-9, "{cost:?}");
        }
        assert!(cost.instruction_ratio.is_some_and(|ratio| (ratio - 1.5).abs() < 1e-9));
        assert!((cost.median_disabled_step_seconds - 20.5).abs() < 1e-9);
        assert!(Pairs::default().paired(0).is_err());
    }
}
