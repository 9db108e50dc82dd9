//! Answers from the engine that serves, many at a time.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use skeg_model::engine::{
    Engine, EngineConfig, Event, EventSink, GenerationRequest, LlamaEngine, SeqId, SinkClosed,
    StepOutcome,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{LayerVector, SlotLease, SteeringPlan, SteeringVector};
use skeg_model::{LoadedModel, Tokenizer};

use super::answer::{Answer, Answerer, AppliedVector, Question};
use super::shared_model::SharedModel;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Answers greedily from an engine, as the server would: chat template, batched, steered by slots.
pub struct EngineAnswerer {
    engine: Box<dyn Engine>,
    model: SharedModel,
    max_new_tokens: usize,
    num_steering_slots: usize,
}

impl std::fmt::Debug for EngineAnswerer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineAnswerer")
            .field("max_new_tokens", &self.max_new_tokens)
            .finish_non_exhaustive()
    }
}

/// Sends one sequence's events, with its question's index, to the thread that steps the engine: this one.
struct Collector {
    idx: usize,
    sender: SyncSender<(usize, Event)>,
}

impl EventSink for Collector {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        self.sender.try_send((self.idx, event)).map_err(|_| SinkClosed)
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// The vectors of one call in the engine: rows that several vectors share are registered once.
struct Registered {
    lease: SlotLease,
    /// Index into the lease's slots for each vector.
    slot_idx: Vec<usize>,
}

impl EngineAnswerer {
    /// Takes a model and runs it in an engine of its own, which needs a steering slot for each different set of rows of
    /// a call.
    ///
    /// # Errors
    /// [`Error::Model`] when the engine's limits make no sense for the model.
    pub fn new(model: LoadedModel, config: &EngineConfig, max_new_tokens: usize) -> Result<Self> {
        let model = SharedModel::from(model);
        let engine = LlamaEngine::new(Arc::clone(&model.llama), config)?;
        let num_steering_slots = config.num_steering_slots;
        Ok(Self { engine: Box::new(engine), model, max_new_tokens, num_steering_slots })
    }

    /// The model that answers.
    #[must_use]
    pub fn model(&self) -> &SharedModel {
        &self.model
    }

    /// Different sets of rows that one call may use.
    #[must_use]
    pub fn num_steering_slots(&self) -> usize {
        self.num_steering_slots
    }

    /// Tokens an answer has at most.
    #[must_use]
    pub fn max_new_tokens(&self) -> usize {
        self.max_new_tokens
    }

    fn register(&mut self, vectors: &[AppliedVector]) -> Result<Option<Registered>> {
        let mut different: Vec<(*const Vec<LayerVector>, SteeringVector)> = Vec::new();
        let mut slot_idx = Vec::with_capacity(vectors.len());
        for vector in vectors {
            let rows = Arc::as_ptr(&vector.layers);
            let known =
                different.iter().position(|(known, one)| *known == rows && one.site == vector.site);
            slot_idx.push(known.unwrap_or(different.len()));
            if known.is_none() {
                let layers = vector.layers.as_ref().clone();
                different.push((rows, SteeringVector { site: vector.site, layers }));
            }
        }
        if different.is_empty() {
            return Ok(None);
        }
        let rows: Vec<SteeringVector> = different.into_iter().map(|(_, one)| one).collect();
        Ok(Some(Registered { lease: self.engine.register_vectors(&rows)?, slot_idx }))
    }

    fn request(
        &self,
        question: &Question,
        vectors: &[AppliedVector],
        registered: Option<&Registered>,
    ) -> Result<GenerationRequest> {
        let vector = question.vector(vectors)?.zip(question.vector_idx).zip(registered);
        let steering = vector.map(|((vector, idx), Registered { lease, slot_idx })| {
            let slot = lease.slots()[slot_idx[idx]];
            (self.plan(vector, slot, question.factor), lease.clone())
        });
        let text_side = &self.model.text_side;
        let system = question.system.as_deref();
        Ok(GenerationRequest {
            prompt_token_ids: text_side.prompt_token_ids(system, &question.prompt)?,
            sampling: SamplingParams::default(),
            max_new_tokens: self.max_new_tokens,
            stop_token_ids: text_side.stop_token_ids.clone(),
            steering,
            gate: None,
        })
    }

    fn plan(&self, vector: &AppliedVector, slot: u32, factor: f32) -> SteeringPlan {
        let mut slot_by_layer = vec![0; self.model.identity.num_hidden_layers];
        for row in vector.layers.iter() {
            if let Some(layer) = slot_by_layer.get_mut(row.layer) {
                *layer = slot;
            }
        }
        SteeringPlan {
            site: vector.site,
            operator: vector.operator,
            positions: vector.positions,
            strength: vector.strength * factor,
            slot_by_layer,
        }
    }
}

/// Adds an event to what is known of its sequence; the answer, if that was its end.
fn complete(
    tokenizer: &Tokenizer,
    question: &Question,
    token_ids: &mut Vec<u32>,
    event: Event,
) -> Result<Option<Answer>> {
    match event {
        Event::Token { token, .. } => {
            token_ids.push(token.token_id);
            Ok(None)
        }
        Event::Finished(finish) => {
            let token_ids = std::mem::take(token_ids);
            let text = tokenizer.decode(&token_ids, true)?;
            let max_relative_norm = finish.steering.max_relative_norm;
            Ok(Some(Answer { text, token_ids, max_relative_norm }))
        }
        Event::Failed(reason) => Err(Error::Unanswered { id: question.id.clone(), reason }),
    }
}

impl Answerer for EngineAnswerer {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        let mut answers: Vec<Option<Answer>> = vec![None; questions.len()];
        let mut keep = |idx: usize, answer| {
            answers[idx] = Some(answer);
            Ok(())
        };
        self.answer_each(questions, vectors, &mut keep, progress)?;
        let answers = answers.into_iter().zip(questions);
        answers.map(|(answer, question)| answer.ok_or_else(|| unanswered(question))).collect()
    }

    fn answer_each(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        on_answer: &mut dyn FnMut(usize, Answer) -> Result<()>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut seq_ids = Vec::with_capacity(questions.len());
        let outcome = self.ask((questions, vectors), &mut seq_ids, on_answer, progress);
        if outcome.is_err() {
            // What still runs would answer nobody, and keep its slots from the next call.
            seq_ids.into_iter().for_each(|seq_id| self.engine.cancel(seq_id));
        }
        outcome
    }
}

impl EngineAnswerer {
    /// Submits all questions, each by its id in the engine, and steps until all are answered.
    fn ask(
        &mut self,
        (questions, vectors): (&[Question], &[AppliedVector]),
        seq_ids: &mut Vec<SeqId>,
        on_answer: &mut dyn FnMut(usize, Answer) -> Result<()>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let registered = self.register(vectors)?;
        // Read after every step: it never holds more than a step's events, two a sequence.
        let (sender, receiver) = sync_channel(2 * questions.len().max(1));
        for (idx, question) in questions.iter().enumerate() {
            let request = self.request(question, vectors, registered.as_ref())?;
            let collector = Box::new(Collector { idx, sender: sender.clone() });
            // Among others: a prompt that does not fit the context.
            let submitted = self.engine.submit(request, collector);
            seq_ids.push(submitted.map_err(|error| Error::Unanswered {
                id: question.id.clone(),
                reason: error.to_string(),
            })?);
        }
        let text_side = Arc::clone(&self.model.text_side);
        let mut token_ids: Vec<Vec<u32>> = vec![Vec::new(); questions.len()];
        let mut is_answered = vec![false; questions.len()];
        let mut num_answered = 0;
        while self.engine.step()? == StepOutcome::Advanced {
            let mut num_ended = 0;
            for (idx, event) in receiver.try_iter() {
                let known = (&questions[idx], &mut token_ids[idx]);
                if let Some(answer) = complete(&text_side.tokenizer, known.0, known.1, event)? {
                    on_answer(idx, answer)?;
                    is_answered[idx] = true;
                    num_ended += 1;
                }
            }
            num_answered += num_ended;
            if num_ended > 0 && progress.advance(num_ended).is_break() {
                return Err(Error::Interrupted { done: num_answered, total: questions.len() });
            }
        }
        let missing = is_answered.iter().position(|answered| !answered);
        missing.map_or(Ok(()), |idx| Err(unanswered(&questions[idx])))
    }
}

fn unanswered(question: &Question) -> Error {
    let reason = "the engine stopped without an end".to_owned();
    Error::Unanswered { id: question.id.clone(), reason }
}
