//! What a step does for gated sequences: the rows that it reads for their gates, and what they decide.

use super::LlamaEngine;
use crate::batch::PackedBatch;
use crate::engine::gate::{GateDecision, Question};
use crate::engine::row_sums::ReadRows;
use crate::engine::scheduler::Share;
use crate::engine::sequence::{Advance, Running};
use crate::hooks::Capture;
use crate::steering::{Positions, SlotLease, SteeringPlan};

/// The rows that gates read in one step.
pub(super) struct GateRows {
    /// A part a share.
    capture: Capture,
    /// The shares, by index, each with the number of its rows that are read.
    shares: Vec<(usize, usize)>,
}

impl GateRows {
    /// `None` where no gate reads anything, so that a step without gated sequences has no capture.
    pub(super) fn of_step(
        running: &[Running],
        shares: &[Share],
        batch: &PackedBatch,
    ) -> Option<Self> {
        let mut read: Option<Self> = None;
        for (share_idx, share) in shares.iter().enumerate() {
            let sequence = &running[share.running_idx].sequence;
            let Some((rows, gate)) = sequence.next_rows_read(share.num_rows) else { continue };
            let first = batch.cu_seqlens[share_idx];
            let of_share = (share_idx, rows.len());
            let rows = rows.map(|row| first + row).collect();
            let (site, layers) = (gate.site(), gate.layers().to_vec());
            read = Some(match read {
                None => Self { capture: Capture::new(site, layers, rows), shares: vec![of_share] },
                Some(Self { capture, mut shares }) => {
                    shares.push(of_share);
                    Self { capture: capture.and(site, layers, rows), shares }
                }
            });
        }
        read
    }

    pub(super) fn capture(&mut self) -> &mut Capture {
        &mut self.capture
    }

    /// For each share, by index, what was read.
    fn take(mut self) -> impl Iterator<Item = (usize, ReadRows)> {
        let parts = self.capture.take_all();
        self.shares.into_iter().zip(parts).map(|((share_idx, num_rows), layers)| {
            let layers = layers.into_iter().map(|(_, values)| values).collect();
            (share_idx, ReadRows { num_rows, layers })
        })
    }
}

impl LlamaEngine {
    /// Hands what a step read to the sequences whose gates want it.
    pub(super) fn keep_for_gates(&mut self, shares: &[Share], read: GateRows) {
        for (share_idx, rows) in read.take() {
            let share = shares[share_idx];
            self.scheduler.sequence_mut(share).keep_for_gate(share.num_rows, &rows);
        }
    }

    /// Asks the gate of a sequence whose last known row was computed, if it has one and it is its turn, and does what it says.
    /// `Some` where the row's logits are not to be sampled from.
    pub(super) fn ask_gate(&mut self, share: Share) -> Option<Result<Advance, String>> {
        let (question, decision) = match self.scheduler.sequence_mut(share).ask_gate()? {
            Ok(answer) => answer,
            Err(reason) => return Some(Err(reason)),
        };
        self.scheduler.count_gate(question, &decision);
        let sequence = self.scheduler.sequence_mut(share);
        match decision {
            GateDecision::Unsteered => {
                sequence.goes_on_unsteered();
                None
            }
            GateDecision::Stop => {
                sequence.stop(&mut self.outbox);
                Some(Ok(Advance::Ended))
            }
            GateDecision::Steer(plan, lease) => self.steer(share, question, (plan, lease)),
        }
    }

    /// Takes a gate's plan, which must fit as one that a request came with.
    fn steer(
        &mut self,
        share: Share,
        question: Question,
        (plan, lease): (SteeringPlan, SlotLease),
    ) -> Option<Result<Advance, String>> {
        if let Err(error) = self.tables.check_plan(&plan, &lease) {
            return Some(Err(format!("the gate's plan cannot be applied: {error}")));
        }
        if question != Question::Prompt && plan.positions == Positions::Prompt {
            return Some(Err(
                "the gate wants the prompt steered, and the answer has begun".to_owned()
            ));
        }
        let steering_id = self.tables.steering_id(&plan);
        self.scheduler.sequence_mut(share).steer(question, (plan, lease), steering_id);
        // A plan that does nothing leaves every row as it is.
        if question == Question::Prompt && steering_id.is_some() {
            self.scheduler.restart(share.running_idx);
            return Some(Ok(Advance::Continues));
        }
        None
    }
}
