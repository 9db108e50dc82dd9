//! What a step left on a device, copied to the host in one go. Rows whose choice the device left to the host need a second.

use bytemuck::Zeroable;

use super::arena::Places;
use super::args::ChosenToken;
use super::hooks::HookInput;
use super::memory::Address;
use super::model::DeviceStep;
use super::ops::{DeviceOps, Read};
use crate::error::Result;
use crate::hooks::Hooks;
use crate::sampling::{Answer, Ask, StepOutput, decide};

/// Numbers of a step; what nobody asked for is empty.
#[derive(Debug, Default)]
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
    /// Copies what was asked for, and waits for it. Every token is decided afterwards.
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
        reads.extend(reads_of_rows(places.logits, &rows, vocab_size, &mut results.logits));
        reads.retain(|(_, bytes)| !bytes.is_empty());
        ops.download_all(&mut reads)?;
        decide_rest(ops, places.logits, (asks, vocab_size), &mut results.tokens)?;
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

/// Copies of some of the rows that begin at `first_row`, one for those that lie side by side.
///
/// # Shapes
/// - `logits`: `[rows, vocab_size]`
fn reads_of_rows<'a>(
    first_row: Address,
    rows: &[usize],
    vocab_size: usize,
    logits: &'a mut [f32],
) -> Vec<Read<'a>> {
    let (mut reads, mut rest): (Vec<Read<'_>>, _) = (Vec::new(), logits);
    for side_by_side in rows.chunk_by(|row, next| row + 1 == *next) {
        let (logits, after) = rest.split_at_mut(side_by_side.len() * vocab_size);
        let first = first_row.add(side_by_side[0] * vocab_size * size_of::<f32>());
        reads.push((first, bytemuck::cast_slice_mut(logits)));
        rest = after;
    }
    reads
}

/// Decides what the device left undecided, from the rows' logits. Tokens of [`Ask::Logits`] mean nothing.
fn decide_rest(
    ops: &mut dyn DeviceOps,
    first_row: Address,
    (asks, vocab_size): (&[Ask], usize),
    tokens: &mut [ChosenToken],
) -> Result<()> {
    let is_undecided = |row: &usize| asks[*row] != Ask::Logits && tokens[*row].is_decided == 0;
    let rows: Vec<usize> = (0..tokens.len()).filter(is_undecided).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let mut logits = vec![0.0; rows.len() * vocab_size];
    ops.download_all(&mut reads_of_rows(first_row, &rows, vocab_size, &mut logits))?;
    for (&row, logits) in rows.iter().zip(logits.chunks_exact(vocab_size)) {
        if let Answer::Token { id, is_finite } = decide(asks[row], logits) {
            tokens[row] = ChosenToken { id, is_finite: is_finite.into(), is_decided: 1 };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::HostOps;
    use crate::sampling::Filter;

    #[test]
    fn what_the_device_left_undecided_is_decided_from_the_rows_own_logits() {
        let mut ops = HostOps::default();
        let filter = Filter { top_k: 1, top_p: 1.0, min_p: 0.0 };
        let filtered = Ask::Filtered { temperature: 1.0, unit: 0.5, filter };
        let asks = [filtered, Ask::Logits, Ask::Greedy, filtered, filtered, filtered];
        // The largest of row r is its number r.
        let mut logits: Vec<f32> =
            (0..36).map(|i| if i / 6 == i % 6 { 1.0 } else { 0.0 }).collect();
        logits[4 * 6] = f32::NAN;
        let buffer = ops.allocate(36 * 4).unwrap();
        ops.upload(buffer.address(), bytemuck::cast_slice(&logits)).unwrap();
        let decided = ChosenToken { id: 17, is_finite: 1, is_decided: 1 };
        let undecided = ChosenToken { id: 0, is_finite: 1, is_decided: 0 };
        let unwritten = ChosenToken { id: 9, is_finite: 9, is_decided: 0 };
        let mut tokens = [undecided, unwritten, decided, undecided, undecided, decided];
        decide_rest(&mut ops, buffer.address(), (&asks, 6), &mut tokens).unwrap();
        let chosen = |id, is_finite| ChosenToken { id, is_finite, is_decided: 1 };
        assert_eq!(tokens, [chosen(0, 1), unwritten, decided, chosen(3, 1), chosen(0, 0), decided]);
    }
}
