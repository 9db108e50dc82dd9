//! Prefill and decode rates.

use std::time::Duration;

use serde::Serialize;
use skeg_model::{KvCacheDtype, Llama};

use super::instructions::Instructions;
use super::rig::Rig;
use super::stats::Spread;

/// How much is done for one figure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// Decode steps of one repetition.
    pub(super) steps: usize,
    pub(super) repetitions: usize,
    /// Most rows of one prefill pass.
    pub(super) chunk: usize,
    pub(super) seed: u64,
    pub(super) kv_cache_dtype: KvCacheDtype,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Throughput {
    pub(super) num_seqs: usize,
    /// Tokens before the timed ones, in each sequence.
    pub(super) context_tokens: usize,
    /// Tokens of one repetition, of all sequences together.
    pub(super) timed_tokens: usize,
    pub(super) tokens_per_second: Spread,
    pub(super) tokens_per_second_per_sequence: Spread,
    /// User-space instructions of the whole process.
    pub(super) instructions_per_token: Option<Spread>,
}

/// The prompt of one sequence, in chunks.
pub(super) fn prefill(
    llama: &Llama,
    num_tokens: usize,
    effort: Effort,
    instructions: &mut Instructions,
) -> anyhow::Result<Throughput> {
    let mut rig = Rig::new(llama, 1, num_tokens, effort.kv_cache_dtype, effort.seed)?;
    let repetitions =
        repeat(effort.repetitions, instructions, || rig.prefill(0..1, num_tokens, effort.chunk))?;
    repetitions.throughput(1, 0, num_tokens)
}

/// `num_seqs` sequences, each `effort.steps` steps on from a context that is filled once. Every repetition
/// starts from that context again.
pub(super) fn decode(
    llama: &Llama,
    (num_seqs, context): (usize, usize),
    effort: Effort,
    instructions: &mut Instructions,
) -> anyhow::Result<Throughput> {
    let mut rig =
        Rig::new(llama, num_seqs, context + effort.steps, effort.kv_cache_dtype, effort.seed)?;
    rig.prefill(0..num_seqs, context, effort.chunk)?;
    decode_on(&mut rig, (num_seqs, context), effort, instructions)
}

/// [`decode`] on sequences whose context is there, with room for the steps after it.
pub(super) fn decode_on(
    rig: &mut Rig<'_>,
    (num_seqs, context): (usize, usize),
    effort: Effort,
    instructions: &mut Instructions,
) -> anyhow::Result<Throughput> {
    let repetitions = repeat(effort.repetitions, instructions, || {
        let mut elapsed = Duration::ZERO;
        for position in context..context + effort.steps {
            let batch = rig.batch(0..num_seqs, position, 1)?;
            elapsed += rig.time(&batch)?;
        }
        Ok(elapsed)
    })?;
    repetitions.throughput(num_seqs, context, num_seqs * effort.steps)
}

/// What each repetition took.
#[derive(Debug, Default)]
struct Repetitions {
    seconds: Vec<f64>,
    /// Empty where they are not counted.
    instructions: Vec<u64>,
}

/// One run to warm up, then the counted ones.
fn repeat(
    repetitions: usize,
    instructions: &mut Instructions,
    mut run: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<Repetitions> {
    run()?;
    let mut taken = Repetitions::default();
    for _ in 0..repetitions {
        let before = instructions.executed();
        taken.seconds.push(run()?.as_secs_f64());
        let after = instructions.executed();
        taken.instructions.extend(after.zip(before).map(|(after, before)| after - before));
    }
    Ok(taken)
}

impl Repetitions {
    fn throughput(
        &self,
        num_seqs: usize,
        context_tokens: usize,
        timed_tokens: usize,
    ) -> anyhow::Result<Throughput> {
        let tokens = timed_tokens as f64;
        let spread = |divisor: f64| {
            let rates: Vec<f64> =
                self.seconds.iter().map(|seconds| tokens / seconds / divisor).collect();
            Spread::of(&rates).ok_or_else(|| anyhow::anyhow!("nothing was measured"))
        };
        let per_token: Vec<f64> =
            self.instructions.iter().map(|&number| number as f64 / tokens).collect();
        Ok(Throughput {
            num_seqs,
            context_tokens,
            timed_tokens,
            tokens_per_second: spread(1.0)?,
            tokens_per_second_per_sequence: spread(num_seqs as f64)?,
            instructions_per_token: Spread::of(&per_token),
        })
    }
}

impl Throughput {
    /// A row of the table.
    pub(super) fn cells(&self, what: &str) -> Vec<String> {
        let Spread { median, min, max } = self.tokens_per_second;
        let what = if what == "prefill" {
            format!("{what} {}", self.timed_tokens)
        } else {
            what.to_owned()
        };
        vec![
            what,
            self.num_seqs.to_string(),
            self.context_tokens.to_string(),
            format!("{median:.1}"),
            format!("{min:.1}..{max:.1}"),
            format!("{:.1}", self.tokens_per_second_per_sequence.median),
            self.instructions_per_token
                .map_or_else(|| "-".to_owned(), |spread| format!("{:.0}", spread.median)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_tokens_over_time_and_the_first_run_is_not_counted() {
        let mut runs = [9.0, 0.5, 0.25, 1.0].map(Duration::from_secs_f64).into_iter();
        let mut instructions = Instructions::start();
        let taken = repeat(3, &mut instructions, || Ok(runs.next().unwrap())).unwrap();
        let throughput = taken.throughput(4, 7, 20).unwrap();
        assert_eq!(throughput.tokens_per_second, Spread { median: 40.0, min: 20.0, max: 80.0 });
        let per_sequence = Spread { median: 10.0, min: 5.0, max: 20.0 };
        assert_eq!(throughput.tokens_per_second_per_sequence, per_sequence);
        assert!(runs.next().is_none());
    }
}
