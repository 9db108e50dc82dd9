//! The steps of tuning.

use std::time::Instant;

use candle_core::Var;
use candle_nn::{AdamW, Optimizer as _, ParamsAdamW};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::TuneSpec;
use super::bert::Bert;
use super::head::{Head, Labels};
use super::states::States;
use crate::calibrate::shuffle;
use crate::error::{Error, Result};
use crate::judge::FeatureRows;
use crate::progress::Progress;

/// Times that the loss is told in the course of a training.
const NUM_NOTES: usize = 10;

/// What a training reads.
pub(super) struct Training<'a> {
    pub(super) bert: &'a Bert,
    pub(super) states: &'a States,
    pub(super) spec: &'a TuneSpec,
    pub(super) failed: &'a dyn Fn(candle_core::Error) -> Error,
}

impl Training<'_> {
    /// Each text as the encoder reads it now, `[n, hidden_size]`.
    #[expect(clippy::disallowed_methods, reason = "they are what a head is fitted to; CPU only")]
    pub(super) fn pooled(&self, progress: &mut dyn Progress) -> Result<FeatureRows> {
        let mut order: Vec<usize> = (0..self.states.len()).collect();
        order.sort_by_key(|&idx| self.states.num_tokens(idx));
        let mut rows = vec![Vec::new(); order.len()];
        progress.start("texts", order.len());
        let mut done = 0;
        for batch in order.chunks(self.spec.batch_size) {
            let read = || {
                let (states, mask) = self.states.batch(batch)?;
                self.bert.pooled(&states, &mask)?.to_vec2::<f32>()
            };
            for (&idx, row) in batch.iter().zip(read().map_err(self.failed)?) {
                rows[idx] = row;
            }
            done += batch.len();
            if progress.advance(batch.len()).is_break() {
                return Err(Error::Interrupted { done, total: order.len() });
            }
        }
        progress.finish();
        let width = rows.first().map_or(0, Vec::len);
        Ok(FeatureRows::new(rows.concat(), width))
    }

    /// Trains the encoder's variables and the head's: the loss of each step.
    pub(super) fn run(
        &self,
        head: &Head,
        labels: &Labels,
        progress: &mut dyn Progress,
    ) -> Result<Vec<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.spec.seed);
        let of_epoch = self.states.len().div_ceil(self.spec.batch_size);
        let num_steps = of_epoch.saturating_mul(self.spec.num_epochs);
        let mut optimisers = Optimisers::new(self.bert, head, self.spec).map_err(self.failed)?;
        let mut losses: Vec<f32> = Vec::with_capacity(num_steps);
        let mut told = (0, Instant::now());
        progress.start("steps", num_steps);
        for _ in 0..self.spec.num_epochs {
            for batch in self.batches(&mut rng) {
                let rate = self.spec.rate(losses.len(), num_steps);
                let loss = self.step(head, labels, &batch, (&mut optimisers, rate));
                losses.push(loss.map_err(self.failed)?);
                check_loss(&losses)?;
                if losses.len() - told.0 >= num_steps.div_ceil(NUM_NOTES) {
                    progress.note(&note(&losses[told.0..], (losses.len(), num_steps), told.1));
                    told = (losses.len(), Instant::now());
                }
                if progress.advance(1).is_break() {
                    return Err(Error::Interrupted { done: losses.len(), total: num_steps });
                }
            }
        }
        progress.finish();
        Ok(losses)
    }

    /// All prompts in batches of similar length, batches in a drawn order and prompts of one length as well.
    fn batches(&self, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.states.len()).collect();
        shuffle(&mut order, rng);
        order.sort_by_key(|&idx| self.states.num_tokens(idx));
        let mut batches: Vec<Vec<usize>> =
            order.chunks(self.spec.batch_size).map(<[usize]>::to_vec).collect();
        shuffle(&mut batches, rng);
        batches
    }

    /// One step; the loss before it.
    #[expect(clippy::disallowed_methods, reason = "the loss is told and checked; CPU only")]
    fn step(
        &self,
        head: &Head,
        labels: &Labels,
        batch: &[usize],
        (optimisers, rate): (&mut Optimisers, f64),
    ) -> candle_core::Result<f32> {
        let (states, mask) = self.states.batch(batch)?;
        let logits = head.logits(&self.bert.pooled(&states, &mask)?)?;
        let loss = labels.loss(&logits, batch)?;
        optimisers.step(&loss, rate)?;
        loss.to_scalar()
    }
}

fn check_loss(losses: &[f32]) -> Result<()> {
    match losses.last() {
        Some(loss) if !loss.is_finite() => Err(Error::Data(format!(
            "the loss of step {} is {loss}; tune at a lower learning rate",
            losses.len()
        ))),
        Some(_) | None => Ok(()),
    }
}

/// How far it is, the mean of the last losses and the pace.
fn note(losses: &[f32], (step, num_steps): (usize, usize), since: Instant) -> String {
    let mean = losses.iter().sum::<f32>() / losses.len() as f32;
    let pace = losses.len() as f64 / since.elapsed().as_secs_f64();
    format!("step {step} of {num_steps}: loss {mean:.3}, {pace:.1} steps a second")
}

/// One optimiser a rate and decay, each with its highest rate.
struct Optimisers(Vec<(AdamW, f64)>);

impl Optimisers {
    /// Matrices decay, biases and norms do not.
    fn new(bert: &Bert, head: &Head, spec: &TuneSpec) -> candle_core::Result<Self> {
        let encoder: Vec<Var> = bert.tuned.iter().map(|(_, var)| var.clone()).collect();
        let head = vec![head.weights.clone(), head.biases.clone()];
        let mut all = Vec::new();
        for (vars, lr) in [(encoder, spec.learning_rate), (head, spec.head_learning_rate)] {
            let (matrices, others): (Vec<Var>, Vec<Var>) =
                vars.into_iter().partition(|var| var.rank() > 1);
            for (vars, weight_decay) in [(matrices, spec.weight_decay), (others, 0.0)] {
                let params = ParamsAdamW { lr, weight_decay, ..ParamsAdamW::default() };
                all.push((AdamW::new(vars, params)?, lr));
            }
        }
        Ok(Self(all))
    }

    fn step(&mut self, loss: &candle_core::Tensor, rate: f64) -> candle_core::Result<()> {
        let gradients = loss.backward()?;
        for (optimiser, highest) in &mut self.0 {
            optimiser.set_learning_rate(*highest * rate);
            optimiser.step(&gradients)?;
        }
        Ok(())
    }
}
