//! An engine on a thread of its own, as a server has it, under sequences whose tokens are stamped with their time.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use skeg_model::engine::{
    EngineConfig, EngineHandle, EngineThread, Event, EventSink, GenerationRequest, LlamaEngine,
    SinkClosed,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{SlotLease, SteeringPlan};
use skeg_model::{KvCacheDtype, Llama};

use super::super::draw::Draw;

/// What an engine is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    /// Sequences that run at once.
    pub(super) num_seqs: usize,
    /// Sequences that are queued or running at once.
    pub(super) max_admitted: usize,
    /// Longest sequence, in tokens.
    pub(super) longest: usize,
    pub(super) kv_cache_dtype: KvCacheDtype,
    pub(super) seed: u64,
}

/// One sequence: a prompt of random tokens, and an answer that is as long as it says.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) prompt_tokens: usize,
    pub(super) answer_tokens: usize,
    pub(super) steering: Option<(SteeringPlan, SlotLease)>,
}

/// What a load came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Answered {
    pub(super) generated_tokens: usize,
    /// From the first request to the last answer's end.
    pub(super) seconds: f64,
}

/// A running engine.
pub(super) struct Serving {
    handle: EngineHandle,
    thread: EngineThread,
    draw: Draw,
    vocab_size: u32,
}

impl Serving {
    pub(super) fn start(llama: &Arc<Llama>, capacity: Capacity) -> anyhow::Result<Self> {
        let is_cpu = llama.device().is_cpu();
        let default = if is_cpu { EngineConfig::default() } else { EngineConfig::on_gpu() };
        let mut config = EngineConfig {
            max_num_seqs: capacity.num_seqs,
            kv_cache_dtype: capacity.kv_cache_dtype,
            ..default
        };
        // A sequence may end within a block.
        let blocks_per_seq = capacity.longest.div_ceil(config.block_size) + 1;
        config.kv_cache_tokens = capacity.num_seqs * blocks_per_seq * config.block_size;
        config.max_num_batched_tokens = config.max_num_batched_tokens.max(capacity.num_seqs);
        let engine = LlamaEngine::new(Arc::clone(llama), &config)?;
        let (thread, handle) = EngineThread::spawn(Box::new(engine), capacity.max_admitted, || ())?;
        let vocab_size = u32::try_from(llama.config().vocab_size)?;
        Ok(Self { handle, thread, draw: Draw::new(capacity.seed), vocab_size })
    }

    /// The way to the engine, for what is not a request.
    pub(super) fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Hands all sequences in and waits for their ends. `on_token` is told of each token, with the index of its sequence and when
    /// the engine had it; while it works the engine goes on.
    pub(super) fn run(
        &mut self,
        sequences: &[Asked],
        mut on_token: impl FnMut(usize, Instant) -> anyhow::Result<()>,
    ) -> anyhow::Result<Answered> {
        // Bound: every token and every end has its place, so the engine's thread never finds it full.
        let places = sequences.iter().map(|asked| asked.answer_tokens + 1).sum();
        let (sender, stamps) = sync_channel(places);
        let started = Instant::now();
        for (sequence, asked) in sequences.iter().enumerate() {
            let sink = Stamping { sequence, sender: sender.clone() };
            let request = self.request(asked);
            self.handle.submit(request, Box::new(sink))?;
        }
        drop(sender);
        let (mut num_ended, mut generated_tokens, mut ended) = (0, 0, started);
        while num_ended < sequences.len() {
            match stamps.recv().context("the engine ended before its sequences")? {
                Stamp::Token(sequence, at) => {
                    generated_tokens += 1;
                    on_token(sequence, at)?;
                }
                Stamp::Ended(at) => {
                    num_ended += 1;
                    ended = ended.max(at);
                }
                Stamp::Failed(reason) => bail!("a sequence failed: {reason}"),
            }
        }
        let wanted: usize = sequences.iter().map(|asked| asked.answer_tokens).sum();
        ensure!(
            generated_tokens == wanted,
            "{generated_tokens} tokens were generated, expected {wanted}"
        );
        Ok(Answered { generated_tokens, seconds: ended.duration_since(started).as_secs_f64() })
    }

    /// Lets the thread end.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.handle.drain();
        ensure!(self.thread.join(), "the engine's thread panicked");
        Ok(())
    }

    fn request(&mut self, asked: &Asked) -> GenerationRequest {
        let mut prompt_token_ids = vec![0; asked.prompt_tokens];
        prompt_token_ids.fill_with(|| self.draw.below(self.vocab_size));
        GenerationRequest {
            prompt_token_ids,
            sampling: SamplingParams { ignore_eos: true, ..SamplingParams::default() },
            max_new_tokens: asked.answer_tokens,
            stop_token_ids: Vec::new(),
            steering: asked.steering.clone(),
            gate: None,
        }
    }
}

/// One event, with the time at which the engine had it.
#[derive(Debug)]
enum Stamp {
    Token(usize, Instant),
    Ended(Instant),
    Failed(String),
}

/// Where one sequence's events go.
struct Stamping {
    sequence: usize,
    sender: SyncSender<Stamp>,
}

impl EventSink for Stamping {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        let at = Instant::now();
        let stamp = match event {
            Event::Token { .. } => Stamp::Token(self.sequence, at),
            Event::Finished(_) => Stamp::Ended(at),
            Event::Failed(reason) => Stamp::Failed(reason),
        };
        self.sender.try_send(stamp).map_err(|_| SinkClosed)
    }

    fn is_closed(&self) -> bool {
        // A channel does not tell before something is sent.
        false
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use skeg_model::testing::{RandomWeights, random_llama, tiny_config};

    use super::*;

    fn capacity(num_seqs: usize) -> Capacity {
        let kv_cache_dtype = KvCacheDtype::F16;
        Capacity { num_seqs, max_admitted: 5, longest: 40, kv_cache_dtype, seed: 1 }
    }

    #[test]
    fn more_sequences_than_run_at_once_are_all_answered_in_full() {
        let llama = random_llama(tiny_config(), 1, RandomWeights::Dense(DType::F32)).unwrap();
        let mut serving = Serving::start(&Arc::new(llama), capacity(2)).unwrap();
        let asked = |answer_tokens| Asked { prompt_tokens: 8, answer_tokens, steering: None };
        let sequences: Vec<Asked> = [32, 1, 7, 20, 5].map(asked).into();
        let mut tokens = [0; 5];
        let count = |sequence: usize, _| {
            tokens[sequence] += 1;
            Ok(())
        };
        let answered = serving.run(&sequences, count).unwrap();
        assert_eq!((answered.generated_tokens, tokens), (65, [32, 1, 7, 20, 5]));
        assert!(answered.seconds > 0.0);
        serving.stop().unwrap();
    }

    #[test]
    fn a_sequence_that_the_engine_refuses_ends_the_load_with_its_reason() {
        let llama = random_llama(tiny_config(), 1, RandomWeights::Dense(DType::F32)).unwrap();
        let mut serving = Serving::start(&Arc::new(llama), capacity(1)).unwrap();
        let too_long = Asked { prompt_tokens: 200, answer_tokens: 100, steering: None };
        let error = serving.run(&[too_long], |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("200 prompt tokens"), "{error}");
        serving.stop().unwrap();
    }
}
