//! The model's own answers to labelled prompts, read on the way: a gate in the engine keeps the rows and steers nothing.

use std::num::NonZeroUsize;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use skeg_model::engine::{
    Engine, EngineConfig, Event, EventSink, Gate, GateDecision, GenerationRequest, LlamaEngine,
    PromptActivations, SinkClosed, StepOutcome,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::Site;

use crate::error::{Error, Result};
use crate::evaluate::{SharedModel, is_refusal};
use crate::probe::{ActivationInput, Corpus};
use crate::progress::Progress;

/// Sequences that are answered at once.
const MAX_NUM_SEQS: usize = 32;

/// Which prompts are answered, and what is read of their answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerSpec {
    /// Tokens of an answer up to which it is read.
    pub num_tokens: usize,
    /// Rows of the tokens `every`, `2 * every` and so on are read.
    pub every: usize,
    /// The most prompts of a set and a label that are answered.
    pub max_prompts: usize,
    /// Chooses them.
    pub seed: u64,
}

/// Answers, and the activations on their rows.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRows {
    /// What was asked for.
    pub spec: AnswerSpec,
    /// Numbers of a row.
    pub width: usize,
    /// In the order of the corpus.
    pub answers: Vec<ReadAnswer>,
    /// Prompts that were left out, since they and an answer do not fit the model's context.
    pub num_too_long: usize,
}

/// One answer; its text is not kept.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadAnswer {
    /// Index of its prompt in [`Corpus::prompts`].
    pub prompt_idx: usize,
    /// Whether it reads as a refusal ([`is_refusal`]).
    pub refuses: bool,
    /// `[num_rows, width]`: row `i` is that of token `(i + 1) * every`; as many as the answer is long.
    pub rows: Vec<f32>,
}

impl AnswerSpec {
    fn check(&self) -> Result<NonZeroUsize> {
        let Self { num_tokens, every, max_prompts, .. } = *self;
        match NonZeroUsize::new(every) {
            Some(non_zero) if every <= num_tokens && max_prompts > 0 => Ok(non_zero),
            _ => Err(Error::Spec(format!(
                "answers of {num_tokens} tokens read every {every}, of {max_prompts} prompts; expected at least 1 of each, and tokens \
                 enough for one look"
            ))),
        }
    }
}

impl AnswerRows {
    /// The rows of an answer with the number of tokens at each.
    pub(super) fn looks<'a>(
        &'a self,
        answer: &'a ReadAnswer,
    ) -> impl Iterator<Item = (usize, &'a [f32])> + 'a {
        let rows = answer.rows.chunks_exact(self.width.max(1));
        rows.enumerate().map(|(idx, row)| ((idx + 1) * self.spec.every, row))
    }
}

/// Has the model answer prompts of a corpus, greedily and unsteered, and reads the answers' rows at `input`.
///
/// # Errors
/// [`Error::Spec`] when the spec makes no sense or the model has no chat template, [`Error::Unanswered`] for a sequence that was
/// given up, [`Error::Interrupted`] when `progress` asks to stop, [`Error::Model`] when a pass fails.
pub fn read_answers(
    model: &SharedModel,
    corpus: &Corpus,
    input: &ActivationInput,
    spec: &AnswerSpec,
    progress: &mut dyn Progress,
) -> Result<AnswerRows> {
    let every = spec.check()?;
    let config = EngineConfig {
        max_num_seqs: MAX_NUM_SEQS,
        num_steering_slots: 0,
        projection_sample_interval: 0,
        ..EngineConfig::default()
    };
    let mut engine = LlamaEngine::new(Arc::clone(&model.llama), &config)?;
    // The row of an answer's last token is computed when there is another one.
    let max_new_tokens = spec.num_tokens + 1;
    let longest = engine.max_model_len().saturating_sub(max_new_tokens);
    let mut asked = Vec::new();
    let mut num_too_long = 0;
    for prompt_idx in chosen(corpus, spec) {
        let prompt_token_ids = rendered(model, corpus, prompt_idx)?;
        if prompt_token_ids.len() > longest {
            num_too_long += 1;
            continue;
        }
        let keeper = Arc::new(Keeper {
            site: input.site,
            layers: input.layers.clone(),
            every,
            rows: Mutex::default(),
        });
        let request = GenerationRequest {
            prompt_token_ids,
            sampling: SamplingParams::default(),
            max_new_tokens,
            stop_token_ids: model.text_side.stop_token_ids.clone(),
            steering: None,
            gate: Some(Arc::clone(&keeper) as Arc<dyn Gate>),
        };
        asked.push((prompt_idx, keeper, request));
    }
    let (places, requests): (Vec<_>, Vec<_>) =
        asked.into_iter().map(|(idx, keeper, request)| ((idx, keeper), request)).unzip();
    let name = |idx: usize| corpus.prompts[places[idx].0].id.clone();
    let texts = answer(&mut engine, requests, &name, progress)?;
    let mut answers = Vec::with_capacity(places.len());
    for ((prompt_idx, keeper), token_ids) in places.into_iter().zip(texts) {
        let refuses = is_refusal(&model.text_side.tokenizer.decode(&token_ids, true)?);
        answers.push(ReadAnswer { prompt_idx, refuses, rows: keeper.take() });
    }
    let width = input.layers.len() * input.hidden_size;
    Ok(AnswerRows { spec: *spec, width, answers, num_too_long })
}

/// The prompts that are answered, ascending.
fn chosen(corpus: &Corpus, spec: &AnswerSpec) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
    let mut chosen = Vec::new();
    for set_idx in 0..corpus.sets.len() {
        for harmful in [true, false] {
            let prompts = corpus.prompts.iter().enumerate();
            let mut of_kind: Vec<usize> = prompts
                .filter(|(_, prompt)| prompt.set_idx == set_idx && prompt.harmful == harmful)
                .map(|(idx, _)| idx)
                .collect();
            of_kind.sort_by_cached_key(|_| rng.next_u64());
            chosen.extend(of_kind.into_iter().take(spec.max_prompts));
        }
    }
    chosen.sort_unstable();
    chosen
}

fn rendered(model: &SharedModel, corpus: &Corpus, prompt_idx: usize) -> Result<Vec<u32>> {
    let template = model.text_side.chat_template.as_ref().ok_or_else(|| {
        Error::Spec("the model has no chat template, so it answers no conversation".to_owned())
    })?;
    let text = template.render(&corpus.prompts[prompt_idx].conversation, true)?;
    Ok(model.text_side.tokenizer.encode(&text, false)?)
}

/// The tokens of each answer, in order; `name` is a request's id for errors.
fn answer(
    engine: &mut dyn Engine,
    requests: Vec<GenerationRequest>,
    name: &dyn Fn(usize) -> String,
    progress: &mut dyn Progress,
) -> Result<Vec<Vec<u32>>> {
    let total = requests.len();
    // Read after every step: it never holds more than a step's events, two a sequence.
    let (sender, receiver) = sync_channel(2 * total.max(1));
    let unanswered = |idx: usize, reason: String| Error::Unanswered { id: name(idx), reason };
    for (idx, request) in requests.into_iter().enumerate() {
        let sink = Box::new(Sink { idx, sender: sender.clone() });
        engine.submit(request, sink).map_err(|error| unanswered(idx, error.to_string()))?;
    }
    let mut token_ids: Vec<Vec<u32>> = vec![Vec::new(); total];
    let mut is_ended = vec![false; total];
    let mut num_ended = 0;
    progress.start("answers", total);
    while engine.step()? == StepOutcome::Advanced {
        let before = num_ended;
        for (idx, event) in receiver.try_iter() {
            match event {
                Event::Token { token, .. } => token_ids[idx].push(token.token_id),
                Event::Finished(_) => {
                    is_ended[idx] = true;
                    num_ended += 1;
                }
                Event::Failed(reason) => return Err(unanswered(idx, reason)),
            }
        }
        if progress.advance(num_ended - before).is_break() && num_ended < total {
            return Err(Error::Interrupted { done: num_ended, total });
        }
    }
    progress.finish();
    match is_ended.iter().position(|ended| !ended) {
        Some(idx) => Err(unanswered(idx, "the engine stopped without an end".to_owned())),
        None => Ok(token_ids),
    }
}

/// Keeps every row that it is shown of an answer.
#[derive(Debug)]
struct Keeper {
    site: Site,
    layers: Vec<usize>,
    every: NonZeroUsize,
    rows: Mutex<Vec<f32>>,
}

impl Keeper {
    fn take(&self) -> Vec<f32> {
        std::mem::take(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gate for Keeper {
    fn site(&self) -> Site {
        self.site
    }

    fn layers(&self) -> &[usize] {
        &self.layers
    }

    fn decide(&self, _activations: PromptActivations<'_>) -> GateDecision {
        GateDecision::Unsteered
    }

    fn recheck_every(&self) -> Option<NonZeroUsize> {
        Some(self.every)
    }

    fn recheck(&self, activations: &[f32], _num_generated: usize) -> GateDecision {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(activations);
        GateDecision::Unsteered
    }
}

/// Sends one sequence's events to the thread that steps the engine: this one.
struct Sink {
    idx: usize,
    sender: SyncSender<(usize, Event)>,
}

impl EventSink for Sink {
    fn try_send(&mut self, event: Event) -> std::result::Result<(), SinkClosed> {
        self.sender.try_send((self.idx, event)).map_err(|_| SinkClosed)
    }

    fn is_closed(&self) -> bool {
        false
    }
}
