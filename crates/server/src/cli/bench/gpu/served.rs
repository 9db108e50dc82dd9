//! What the engine makes of a load: tokens a second of sequences that come and go, and steps while vectors are registered.

use std::time::Instant;

use anyhow::Context as _;

use super::super::draw::Draw;
use super::super::modes::{plans, vectors};
use super::super::stats::Percentiles;
use super::report::{Served, Swap};
use super::roofline::Pass;
use super::serving::{Asked, Capacity, Serving};
use super::{Bench, CATEGORIES, Needs};

/// Prompt and longest answer of a served sequence, in tokens; answers have at least a third of it.
const PROMPT_TOKENS: usize = 128;
const LONGEST_ANSWER: usize = 192;
const SHORTEST_PART: usize = 3;
/// Requests for each sequence that runs at once.
const ROUNDS: usize = 2;
/// Prompt of a sequence whose steps are timed, and the steps: at first uncounted, then at least and at most.
const SWAP_PROMPT_TOKENS: usize = 16;
const UNCOUNTED_STEPS: usize = 16;
const COUNTED_STEPS: (usize, usize) = (64, 256);
/// Steps from one registration to the next.
const REGISTER_EVERY: usize = 8;
/// The share of the time left that the timed steps may take.
const SHARE: f64 = 0.1;

impl Bench<'_> {
    /// Registrations of [`CATEGORIES`] vectors for every layer, while `num_seqs` sequences steered by as many decode.
    pub(super) fn measure_swap(&mut self, num_seqs: usize) {
        let loads = 2.0;
        let bounds = self.steps_that_fit();
        let step_seconds = self.step_seconds(num_seqs);
        let steps = self.clock.repetitions(SHARE, loads * step_seconds, bounds);
        let seconds = loads * step_seconds * (UNCOUNTED_STEPS + steps) as f64;
        let answer_tokens = UNCOUNTED_STEPS + steps + 1;
        let needs = Needs { num_seqs, seq_len: SWAP_PROMPT_TOKENS + answer_tokens, seconds };
        let measured = self.case(&format!("swap under {num_seqs}"), needs, |bench| {
            let mut serving = bench.serving(num_seqs, needs.seq_len)?;
            let load = bench
                .load(&serving, CATEGORIES, num_seqs, SWAP_PROMPT_TOKENS, |_| answer_tokens)?;
            let quiet = steps_of_the_first(&mut serving, &load, |_| Ok(()))?;
            let handle = serving.handle();
            let config = bench.llama.config();
            let new = vectors(config, &bench.layers(), CATEGORIES, bench.report.seed + 1);
            let (mut lease, mut taken) = (None, Vec::new());
            let swapping = steps_of_the_first(&mut serving, &load, |step| {
                if step.is_multiple_of(REGISTER_EVERY) {
                    let started = Instant::now();
                    // The lease before is given up when the new one is there.
                    lease = Some(handle.register_vectors(new.clone())?);
                    taken.push(started.elapsed().as_secs_f64());
                }
                Ok(())
            })?;
            drop(lease);
            serving.stop()?;
            let percentiles =
                |seconds: &[f64]| Percentiles::of(seconds).context("no step was timed");
            let numbers = CATEGORIES * config.num_hidden_layers * config.hidden_size;
            Ok(Swap {
                num_seqs,
                vectors: CATEGORIES,
                bytes: numbers * size_of::<f32>(),
                registrations: taken.len(),
                register_seconds: percentiles(&taken)?,
                steps: swapping.len(),
                step_seconds: percentiles(&swapping)?,
                quiet_step_seconds: percentiles(&quiet)?,
            })
        });
        self.report.swap = measured;
    }

    /// A load of twice as many requests as run at once: unsteered with the fewest and the most sequences, then steered.
    pub(super) fn measure_served(&mut self, batches: &[usize]) {
        let fewest = batches.iter().copied().min().unwrap_or(1);
        let most = batches.iter().copied().max().unwrap_or(1);
        let mut loads = vec![(fewest, 0), (most, 0), (most, CATEGORIES)];
        loads.dedup();
        for (num_seqs, num_vectors) in loads {
            let longest = self.llama.config().max_position_embeddings;
            let prompt_tokens = PROMPT_TOKENS.min(longest / 4);
            let longest_answer = LONGEST_ANSWER.min(longest - prompt_tokens);
            let steps = ROUNDS * longest_answer;
            let seconds = self.step_seconds(num_seqs) * steps as f64;
            let needs = Needs { num_seqs, seq_len: prompt_tokens + longest_answer, seconds };
            let name = format!("served {num_seqs}, {num_vectors} vectors");
            let measured = self.case(&name, needs, |bench| {
                let mut serving = bench.serving(num_seqs, needs.seq_len)?;
                // Short answers of many lengths: every size of batch has been there once.
                let warm_up = bench
                    .load(&serving, num_vectors, num_seqs, 1, |nth| 1 + nth % longest_answer)?;
                serving.run(&warm_up, |_, _| Ok(()))?;
                drop(warm_up);
                let mut draw = Draw::new(bench.report.seed);
                let least = longest_answer / SHORTEST_PART;
                let spread = u32::try_from(longest_answer - least)? + 1;
                let requests = ROUNDS * num_seqs;
                let load = bench.load(&serving, num_vectors, requests, prompt_tokens, |_| {
                    least + draw.below(spread) as usize
                })?;
                let answered = serving.run(&load, |_, _| Ok(()))?;
                drop(load);
                serving.stop()?;
                let limit_seconds = bench.limit_of_load(
                    num_seqs,
                    (requests, prompt_tokens),
                    answered.generated_tokens,
                );
                Ok(Served {
                    num_seqs,
                    vectors: num_vectors,
                    requests,
                    prompt_tokens: requests * prompt_tokens,
                    generated_tokens: answered.generated_tokens,
                    seconds: answered.seconds,
                    tokens_per_second: answered.generated_tokens as f64 / answered.seconds,
                    limit_seconds,
                    share_of_limit: limit_seconds / answered.seconds,
                })
            });
            self.report.served.extend(measured);
        }
    }

    /// All prompts in one pass, and the tokens in full batches with half of an answer in their context.
    fn limit_of_load(
        &self,
        num_seqs: usize,
        (requests, prompt_tokens): (usize, usize),
        generated_tokens: usize,
    ) -> f64 {
        let roofline = &self.report.roofline;
        let seconds = |pass| self.limits.of(roofline.work(pass)).limit_seconds;
        let prompts = Pass { num_seqs: requests, context: 0, num_rows: prompt_tokens };
        let context = prompt_tokens + generated_tokens / requests / 2;
        let step = Pass { num_seqs, context, num_rows: 1 };
        seconds(prompts) + seconds(step) * generated_tokens as f64 / num_seqs as f64
    }

    /// An engine for so many sequences.
    fn serving(&self, num_seqs: usize, longest: usize) -> anyhow::Result<Serving> {
        let capacity = Capacity {
            num_seqs,
            max_admitted: ROUNDS * num_seqs,
            longest,
            kv_cache_dtype: self.kv_cache_dtype,
            seed: self.report.seed,
        };
        Serving::start(self.llama, capacity)
    }

    /// `number` sequences, steered at every layer by `num_vectors` vectors in turn, unsteered by none.
    fn load(
        &self,
        serving: &Serving,
        num_vectors: usize,
        number: usize,
        prompt_tokens: usize,
        mut answer_tokens: impl FnMut(usize) -> usize,
    ) -> anyhow::Result<Vec<Asked>> {
        let config = self.llama.config();
        let layers = self.layers();
        let vectors = vectors(config, &layers, num_vectors, self.report.seed);
        let lease = serving.handle().register_vectors(vectors)?;
        let plans = plans(config, &layers, &lease);
        let asked = |nth: usize| Asked {
            prompt_tokens,
            answer_tokens: answer_tokens(nth),
            steering: nth
                .checked_rem(plans.len())
                .map(|plan_idx| (plans[plan_idx].clone(), lease.clone())),
        };
        Ok((0..number).map(asked).collect())
    }

    fn layers(&self) -> Vec<usize> {
        (0..self.llama.config().num_hidden_layers).collect()
    }

    /// Timed steps of a sequence, bounded by the model's context as well.
    fn steps_that_fit(&self) -> (usize, usize) {
        let longest = self.llama.config().max_position_embeddings;
        let room = longest.saturating_sub(SWAP_PROMPT_TOKENS + UNCOUNTED_STEPS + 1).max(1);
        (COUNTED_STEPS.0.min(room), COUNTED_STEPS.1.min(room))
    }
}

/// Seconds from each token of the first sequence to its next, without those at the beginning. `between` is told how many tokens
/// there were so far.
fn steps_of_the_first(
    serving: &mut Serving,
    sequences: &[Asked],
    mut between: impl FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let mut tokens: Vec<Instant> = Vec::new();
    serving.run(sequences, |sequence, at| {
        if sequence > 0 {
            return Ok(());
        }
        tokens.push(at);
        between(tokens.len())
    })?;
    let seconds = tokens.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64());
    Ok(seconds.skip(UNCOUNTED_STEPS).collect())
}
