//! Prefill in the engine with a gate and without one, side by side.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;
use skeg_model::engine::{
    Engine, EngineConfig, Event, EventSink, Gate, GenerationRequest, LlamaEngine, SinkClosed,
    StepOutcome,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::{KvCacheDtype, Llama};

use super::super::draw::Draw;
use super::super::instructions::Instructions;
use super::super::paired::{Paired, Pairs};
use super::reader::Reader;

/// Tokens of a prompt's answer: the first one, which its prefill yields.
const MAX_NEW_TOKENS: usize = 1;
/// Events of a sequence: its token and its end.
const EVENTS_PER_SEQ: usize = MAX_NEW_TOKENS + 1;

/// One cell of the comparison.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub(super) num_seqs: usize,
    pub(super) prompt_tokens: usize,
    pub(super) pairs: usize,
    /// Most rows of one pass.
    pub(super) chunk: usize,
    pub(super) seed: u64,
    pub(super) kv_cache_dtype: KvCacheDtype,
}

/// What a gate costs a prefill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cost {
    pub(super) num_seqs: usize,
    /// Of each sequence.
    pub(super) prompt_tokens: usize,
    pub(super) pairs: usize,
    /// Median over the pairs of the time with the gate over the time without.
    pub(super) ratio: f64,
    /// Bootstrap bounds of the ratio, 95 %.
    pub(super) lower: f64,
    pub(super) upper: f64,
    /// Of all sequences together, by the median time.
    pub(super) gated_tokens_per_second: f64,
    pub(super) ungated_tokens_per_second: f64,
    /// User-space instructions of all gated prefills over those of their partners.
    pub(super) instruction_ratio: Option<f64>,
}

/// Prefills of the same prompts with `gate` and without, pair by pair in one engine without a prefix cache. Either side
/// goes first equally often; one pair before them warms up and is not counted.
pub(super) fn compare(
    llama: &Arc<Llama>,
    gate: &Arc<Reader>,
    setting: Setting,
    instructions: &mut Instructions,
    mut on_pair: impl FnMut(),
) -> anyhow::Result<Cost> {
    let mut engine = engine(llama, setting)?;
    let vocab_size = u32::try_from(llama.config().vocab_size)?;
    let mut draw = Draw::new(setting.seed);
    let mut prompts = || -> Vec<Vec<u32>> {
        let prompt =
            |draw: &mut Draw| (0..setting.prompt_tokens).map(|_| draw.below(vocab_size)).collect();
        (0..setting.num_seqs).map(|_| prompt(&mut draw)).collect()
    };
    let mut prefill = |gated: bool, prompts: &[Vec<u32>]| {
        let elapsed = prefill(&mut engine, prompts, gated.then_some(gate))?;
        let (asked, expected) = (gate.take_num_decided(), if gated { setting.num_seqs } else { 0 });
        match gate.failure() {
            Some(reason) => bail!("the probe gave no verdict: {reason}"),
            None if asked != expected => {
                bail!("the gate was asked about {asked} prompts; expected {expected}")
            }
            None => Ok(elapsed),
        }
    };
    let warm_up = prompts();
    for gated in [true, false] {
        prefill(gated, &warm_up)?;
    }
    let mut pairs = Pairs::default();
    for pair_idx in 0..setting.pairs {
        let prompts = prompts();
        pairs.measure(pair_idx, instructions, |side| {
            Ok(prefill(side == 0, &prompts)?.as_secs_f64())
        })?;
        on_pair();
    }
    Ok(cost(&pairs.paired(setting.seed)?, setting))
}

/// An engine as `skeg serve` runs it, with room for the prompts and without a prefix cache.
fn engine(llama: &Arc<Llama>, setting: Setting) -> anyhow::Result<LlamaEngine> {
    let config = EngineConfig::default();
    let seq_len = setting.prompt_tokens + MAX_NEW_TOKENS;
    let config = EngineConfig {
        max_num_seqs: setting.num_seqs,
        max_num_batched_tokens: setting.chunk.max(setting.num_seqs),
        kv_cache_tokens: setting.num_seqs * seq_len.next_multiple_of(config.block_size),
        kv_cache_dtype: setting.kv_cache_dtype,
        enable_prefix_caching: false,
        ..config
    };
    Ok(LlamaEngine::new(Arc::clone(llama), &config)?)
}

/// Hands the prompts in and steps until each has its first token; how long that took.
fn prefill(
    engine: &mut LlamaEngine,
    prompts: &[Vec<u32>],
    gate: Option<&Arc<Reader>>,
) -> anyhow::Result<Duration> {
    let (sender, events) = sync_channel(EVENTS_PER_SEQ * prompts.len());
    let requests: Vec<GenerationRequest> =
        prompts.iter().map(|prompt| request(prompt.clone(), gate)).collect();
    let started = Instant::now();
    for request in requests {
        engine.submit(request, Box::new(Sink(sender.clone())))?;
    }
    while engine.step()? == StepOutcome::Advanced {}
    let elapsed = started.elapsed();
    check(&events, prompts.len())?;
    Ok(elapsed)
}

fn request(prompt_token_ids: Vec<u32>, gate: Option<&Arc<Reader>>) -> GenerationRequest {
    GenerationRequest {
        prompt_token_ids,
        sampling: SamplingParams::default(),
        max_new_tokens: MAX_NEW_TOKENS,
        stop_token_ids: Vec::new(),
        steering: None,
        gate: gate.map(|gate| Arc::clone(gate) as Arc<dyn Gate>),
    }
}

/// Refuses a run in which a sequence did not come to its end.
fn check(events: &Receiver<Event>, num_seqs: usize) -> anyhow::Result<()> {
    let mut num_finished = 0;
    for event in events.try_iter() {
        match event {
            Event::Failed(reason) => bail!("the engine gave a prompt up: {reason}"),
            Event::Finished(_) => num_finished += 1,
            Event::Token { .. } => {}
        }
    }
    if num_finished != num_seqs {
        bail!("{num_finished} of {num_seqs} prompts were computed");
    }
    Ok(())
}

/// Takes the events of one sequence.
struct Sink(SyncSender<Event>);

impl EventSink for Sink {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        self.0.try_send(event).map_err(|_| SinkClosed)
    }

    fn is_closed(&self) -> bool {
        false
    }
}

fn cost(paired: &Paired, setting: Setting) -> Cost {
    let [gated, ungated] = paired.seconds;
    let tokens = (setting.num_seqs * setting.prompt_tokens) as f64;
    Cost {
        num_seqs: setting.num_seqs,
        prompt_tokens: setting.prompt_tokens,
        pairs: paired.pairs,
        ratio: paired.ratio,
        lower: paired.lower,
        upper: paired.upper,
        gated_tokens_per_second: tokens / gated,
        ungated_tokens_per_second: tokens / ungated,
        instruction_ratio: paired.instruction_ratio,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-9
    }

    #[test]
    fn a_ratio_is_taken_within_each_pair_and_rates_of_all_sequences() {
        // A machine that slows down over the run: each pair still says 2 % more.
        let ungated: Vec<f64> = (1..=30).map(f64::from).collect();
        let gated = ungated.iter().map(|seconds| seconds * 1.02).collect();
        let pairs = Pairs::of([gated, ungated], [Some(30), Some(20)]);
        let setting = Setting {
            num_seqs: 4,
            prompt_tokens: 31,
            pairs: 30,
            chunk: 8,
            seed: 0,
            kv_cache_dtype: KvCacheDtype::F16,
        };
        let cost = cost(&pairs.paired(0).unwrap(), setting);
        for ratio in [cost.ratio, cost.lower, cost.upper] {
            assert!(close(ratio, 1.02), "{cost:?}");
        }
        // The median prefill takes 15.5 seconds.
        assert!(close(cost.ungated_tokens_per_second, 8.0), "{cost:?}");
        assert!(close(cost.gated_tokens_per_second, 8.0 / 1.02), "{cost:?}");
        assert!(cost.instruction_ratio.is_some_and(|ratio| close(ratio, 1.5)));
        assert!(Pairs::default().paired(0).is_err());
    }
}
