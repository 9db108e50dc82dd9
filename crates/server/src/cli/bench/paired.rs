//! Two things timed side by side, pair by pair, and what one costs against the other.

use anyhow::Context as _;

use super::bootstrap::bounded_median;
use super::instructions::Instructions;
use super::stats::median;

/// Pairs of measurements: what is measured (side 0), and what it is compared with (side 1).
#[derive(Debug, Default)]
pub(super) struct Pairs {
    seconds: [Vec<f64>; 2],
    instructions: [Option<u64>; 2],
}

/// What all pairs come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Paired {
    pub(super) pairs: usize,
    /// Median over the pairs of side 0's time over side 1's.
    pub(super) ratio: f64,
    /// Bootstrap bounds of the ratio, 95 %.
    pub(super) lower: f64,
    pub(super) upper: f64,
    /// Median seconds of either side.
    pub(super) seconds: [f64; 2],
    /// User-space instructions of side 0 over those of side 1, of all pairs.
    pub(super) instruction_ratio: Option<f64>,
}

impl Pairs {
    /// Measures one pair; `measure` runs a side and returns its seconds. Side 0 goes first where `index` is even, so either side
    /// does equally often over neighbouring indices.
    pub(super) fn measure(
        &mut self,
        index: usize,
        instructions: &mut Instructions,
        mut measure: impl FnMut(usize) -> anyhow::Result<f64>,
    ) -> anyhow::Result<()> {
        let order = if index.is_multiple_of(2) { [0, 1] } else { [1, 0] };
        for side in order {
            let before = instructions.executed();
            self.seconds[side].push(measure(side)?);
            if let Some((before, after)) = before.zip(instructions.executed()) {
                *self.instructions[side].get_or_insert(0) += after - before;
            }
        }
        Ok(())
    }

    pub(super) fn paired(&self, seed: u64) -> anyhow::Result<Paired> {
        let [own, other] = &self.seconds;
        let ratios: Vec<f64> = own.iter().zip(other).map(|(own, other)| own / other).collect();
        let measured = bounded_median(&ratios, seed).zip(median(own)).zip(median(other));
        let ((bounded, own), other) =
            measured.context("no pair was measured; --pairs must be at least 1")?;
        let [own_instructions, other_instructions] = self.instructions;
        Ok(Paired {
            pairs: ratios.len(),
            ratio: bounded.median,
            lower: bounded.lower,
            upper: bounded.upper,
            seconds: [own, other],
            instruction_ratio: own_instructions
                .zip(other_instructions)
                .map(|(own, other)| own as f64 / other as f64),
        })
    }

    /// Pairs as if they had been measured.
    #[cfg(test)]
    pub(super) fn of(seconds: [Vec<f64>; 2], instructions: [Option<u64>; 2]) -> Self {
        Self { seconds, instructions }
    }
}
