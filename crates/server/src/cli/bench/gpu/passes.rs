//! Forward passes beside their limits: prompts, decode steps by batch and context, and steered steps beside unsteered ones.

use skeg_model::Llama;

use super::super::modes::Mode;
use super::super::pairs::{Setting, compare};
use super::super::rig::Rig;
use super::super::throughput::{Effort, Throughput, decode_on, prefill};
use super::report::Passes;
use super::roofline::Pass;
use super::{Bench, CATEGORIES, Needs};

/// Decode steps of one repetition: at least, and at most.
const STEPS: (usize, usize) = (4, 32);
/// Repetitions of each measurement at most, after one to warm up.
const REPETITIONS: usize = 5;
/// Rows of one pass that fills a context.
const CHUNK: usize = 2048;
/// Fewer vectors than [`CATEGORIES`] that the rows of a batch take in turn.
const FEW_CATEGORIES: usize = 4;
/// Fewer pairs of steps say nothing.
const LEAST_PAIRS: usize = 10;
/// The shares of the time left that the steps or prompts of one size, and the pairs of one batch, may take.
const SHARE: f64 = 0.03;
const PAIRS_SHARE: f64 = 0.1;

impl Bench<'_> {
    /// One prompt of each length, in one pass each.
    pub(super) fn measure_prefill(&mut self, lengths: &[usize]) {
        for &num_tokens in lengths {
            let needs = Needs { num_seqs: 1, seq_len: num_tokens, seconds: 0.0 };
            let measured = self.case(&format!("prefill {num_tokens}"), needs, |bench| {
                let llama: &Llama = bench.llama;
                let mut rig = Rig::new(llama, 1, num_tokens, bench.kv_cache_dtype, 0)?;
                // The first pass finds kernels unloaded.
                rig.prefill(0..1, num_tokens, num_tokens)?;
                let seconds = rig.prefill(0..1, num_tokens, num_tokens)?.as_secs_f64();
                drop(rig);
                bench.fill_rate = Some(num_tokens as f64 / seconds);
                let repetitions = bench.clock.repetitions(SHARE, seconds, (1, REPETITIONS));
                let effort = Effort { repetitions, chunk: num_tokens, ..bench.effort() };
                let throughput = prefill(llama, num_tokens, effort, bench.instructions)?;
                let pass = Pass { num_seqs: 1, context: 0, num_rows: num_tokens };
                Ok(bench.beside_its_limit(throughput, pass))
            });
            self.report.prefill.extend(measured);
        }
    }

    /// Steps of each batch at each context.
    pub(super) fn measure_decode(&mut self, batches: &[usize], contexts: &[usize]) {
        let shapes =
            contexts.iter().flat_map(|&context| batches.iter().map(move |&n| (n, context)));
        for (num_seqs, context) in shapes {
            let seconds = self.fill_seconds(num_seqs * context);
            let needs = Needs { num_seqs, seq_len: context + STEPS.1, seconds };
            let measured = self.case(&format!("decode {num_seqs} at {context}"), needs, |bench| {
                let (dtype, seed) = (bench.kv_cache_dtype, bench.report.seed);
                let mut rig = Rig::new(bench.llama, num_seqs, context + STEPS.1, dtype, seed)?;
                let seconds = rig.prefill(0..num_seqs, context, CHUNK)?.as_secs_f64();
                bench.fill_rate = Some((num_seqs * context) as f64 / seconds);
                let batch = rig.batch(0..num_seqs, context, 1)?;
                // The first step finds graphs unmade.
                rig.time(&batch)?;
                let seconds = rig.time(&batch)?.as_secs_f64();
                let runs = (REPETITIONS + 1) as f64;
                let steps = bench.clock.repetitions(SHARE, runs * seconds, STEPS);
                let effort = Effort { steps, ..bench.effort() };
                let shape = (num_seqs, context);
                let throughput = decode_on(&mut rig, shape, effort, bench.instructions)?;
                let pass = Pass { num_seqs, context, num_rows: 1 };
                Ok(bench.beside_its_limit(throughput, pass))
            });
            self.report.decode.extend(measured);
        }
    }

    /// Every mode of `skeg bench steering` at all layers, for each batch.
    pub(super) fn measure_steering(&mut self, batches: &[usize], context: usize, pairs: usize) {
        let modes = Mode::all(&[FEW_CATEGORIES, CATEGORIES]);
        let layers: Vec<usize> = (0..self.llama.config().num_hidden_layers).collect();
        for &num_seqs in batches {
            let pair_seconds = (2 * modes.len()) as f64 * self.step_seconds(num_seqs);
            let bounds = (LEAST_PAIRS.min(pairs), pairs);
            let pairs = self.clock.repetitions(PAIRS_SHARE, pair_seconds, bounds);
            let seconds = self.fill_seconds(num_seqs * context) + pairs as f64 * pair_seconds;
            let needs = Needs { num_seqs, seq_len: context + 1, seconds };
            let costs = self.case(&format!("steering {num_seqs} at {context}"), needs, |bench| {
                let setting = Setting {
                    num_seqs,
                    context,
                    pairs,
                    chunk: CHUNK,
                    seed: bench.report.seed,
                    kv_cache_dtype: bench.kv_cache_dtype,
                };
                compare(bench.llama, &layers, &modes, setting, bench.instructions, || ())
            });
            self.report.steering.extend(costs.into_iter().flatten());
        }
    }

    /// Seconds of a decode step of so many sequences at the shortest context that was measured; of a smaller batch, in
    /// proportion, where this one was not; 0 where none was.
    pub(super) fn step_seconds(&self, num_seqs: usize) -> f64 {
        let fitting = |passes: &&Passes| passes.throughput.num_seqs <= num_seqs;
        let key = |passes: &&Passes| {
            let Throughput { num_seqs, context_tokens, .. } = passes.throughput;
            (num_seqs, std::cmp::Reverse(context_tokens))
        };
        let nearest = self.report.decode.iter().filter(fitting).max_by_key(key);
        nearest.map_or(0.0, |passes| {
            passes.seconds * num_seqs as f64 / passes.throughput.num_seqs as f64
        })
    }

    /// How long contexts of so many tokens together take to fill; 0 where no prompt was timed yet.
    fn fill_seconds(&self, num_tokens: usize) -> f64 {
        self.fill_rate.map_or(0.0, |rate| num_tokens as f64 / rate)
    }

    /// What one figure takes, where nothing else is said.
    fn effort(&self) -> Effort {
        Effort {
            steps: STEPS.0,
            repetitions: REPETITIONS,
            chunk: CHUNK,
            seed: self.report.seed,
            kv_cache_dtype: self.kv_cache_dtype,
        }
    }

    fn beside_its_limit(&self, throughput: Throughput, pass: Pass) -> Passes {
        let work = self.report.roofline.work(pass);
        Passes::new(throughput, pass.num_seqs * pass.num_rows, work, self.limits.of(work))
    }
}
