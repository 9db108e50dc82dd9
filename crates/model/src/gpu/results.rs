//! What a step left on a device, copied to the host in one go.

use bytemuck::Zeroable;

use super::arena::Places;
use super::args::ChosenToken;
use super::hooks::HookInput;
use super::model::DeviceStep;
use super::ops::{DeviceOps, Read};
use crate::error::Result;
use crate::hooks::Hooks;
use crate::sampling::{Ask, StepOutput};

/// Numbers of a step; what nobody asked for is empty.
#[derive(Debug)]
pub(super) struct StepResults {
    /// `[asks for logits][vocab_size]`.
    logits: Vec<f32>,
    /// One an ask.
    tokens: Vec<ChosenToken>,
    /// `[rows]`.
    relative_norms: Vec<f32>,
    /// `[captured_rows][hidden]`.
    captured: Vec<f32>,
    samples: Vec<f32>,
}

impl StepResults {
    /// Copies what was asked for, and waits for it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device cannot be read.
    pub(super) fn read(
        ops: &mut dyn DeviceOps,
        places: &Places,
        step: &DeviceStep<'_>,
        asked: &HookInput,
    ) -> Result<Self> {
        let (vocab_size, hidden) = (step.config.vocab_size, step.config.hidden_size);
        // Without all blocks there is no head.
        let asks = if step.num_blocks < step.config.num_hidden_layers { &[] } else { step.asks };
        let rows: Vec<usize> = (0..asks.len()).filter(|&row| asks[row] == Ask::Logits).collect();
        let chooses = rows.len() < asks.len();
        let mut results = Self {
            logits: vec![0.0; rows.len() * vocab_size],
            tokens: vec![ChosenToken::zeroed(); if chooses { asks.len() } else { 0 }],
            relative_norms: vec![0.0; if asked.steers() { step.batch.total_tokens() } else { 0 }],
            captured: vec![0.0; asked.captured_rows * hidden],
            samples: vec![0.0; asked.sample_rows_kept() * hidden],
        };
        let mut reads: Vec<Read<'_>> = vec![
            (places.tokens, bytemuck::cast_slice_mut(&mut results.tokens)),
            (places.relative_norms, bytemuck::cast_slice_mut(&mut results.relative_norms)),
            (places.captured, bytemuck::cast_slice_mut(&mut results.captured)),
            (places.samples, bytemuck::cast_slice_mut(&mut results.samples)),
        ];
        let mut rest: &mut [f32] = &mut results.logits;
        // One copy for rows that lie side by side.
        for side_by_side in rows.chunk_by(|row, next| row + 1 == *next) {
            let (logits, after) = rest.split_at_mut(side_by_side.len() * vocab_size);
            let first = places.logits.add(side_by_side[0] * vocab_size * size_of::<f32>());
            reads.push((first, bytemuck::cast_slice_mut(logits)));
            rest = after;
        }
        reads.retain(|(_, bytes)| !bytes.is_empty());
        ops.download_all(&mut reads)?;
        Ok(results)
    }

    /// Hands the hooks what is theirs; the answers are left.
    pub(super) fn hand_out(
        self,
        step: &DeviceStep<'_>,
        asked: &HookInput,
        hooks: &mut Hooks<'_>,
    ) -> StepOutput {
        let of_hooks =
            (self.relative_norms.as_slice(), self.captured.as_slice(), self.samples.as_slice());
        asked.hand_back(hooks, step.config.hidden_size, of_hooks);
        let asks = if self.logits.is_empty() && self.tokens.is_empty() { &[] } else { step.asks };
        let chosen = asks.iter().zip(&self.tokens).filter(|(ask, _)| **ask != Ask::Logits);
        let tokens = chosen.map(|(_, token)| (token.id, token.is_finite != 0));
        StepOutput::of_device(asks, self.logits, step.config.vocab_size, tokens)
    }
}
