//! Answers from the engine that serves, many at a time.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use skeg_model::engine::{
    Engine, EngineConfig, Event, EventSink, GenerationRequest, LlamaEngine, SinkClosed, StepOutcome,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{
    LayerVector, Operator, Positions, Site, SlotLease, SteeringPlan, SteeringVector,
};
use skeg_model::{ChatTemplate, LoadedModel, ModelIdentity, Tokenizer};

use crate::error::{Error, Result};
use crate::extract::{PromptForm, prompt_token_ids};
use crate::progress::Progress;

/// One vector as it is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedVector {
    /// Where.
    pub site: Site,
    /// How.
    pub operator: Operator,
    /// On which tokens.
    pub positions: Positions,
    /// Signed factor.
    pub strength: f32,
    /// The rows, one a layer.
    pub layers: Vec<LayerVector>,
}

/// One prompt to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Names the question in errors.
    pub id: String,
    /// The prompt as a user writes it.
    pub prompt: String,
    /// Index into the vectors handed over beside the questions; `None` = not steered.
    pub vector_idx: Option<usize>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text, without special tokens.
    pub text: String,
    /// Largest `||strength * v|| / ||h||` over steered rows and layers, where it is measured.
    pub max_relative_norm: Option<f32>,
}

/// Whatever answers questions: the engine, or a script in tests.
pub trait Answerer {
    /// Answers every question, in order.
    ///
    /// # Errors
    /// [`Error::Unanswered`] for the first question that is given up, [`Error::Interrupted`] when
    /// `progress` asks to stop.
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>>;
}

/// Answers greedily from an engine, as the server would: chat template, batched, steered by slots.
pub struct EngineAnswerer {
    engine: Box<dyn Engine>,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    stop_token_ids: Vec<u32>,
    identity: ModelIdentity,
    max_new_tokens: usize,
}

impl std::fmt::Debug for EngineAnswerer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineAnswerer")
            .field("max_new_tokens", &self.max_new_tokens)
            .finish_non_exhaustive()
    }
}

/// Collects one sequence's events on the thread that steps the engine.
struct Collector(SyncSender<Event>);

impl EventSink for Collector {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        self.0.try_send(event).map_err(|_| SinkClosed)
    }

    fn is_closed(&self) -> bool {
        false
    }
}

impl EngineAnswerer {
    /// Takes a model and runs it in an engine of its own, which needs a steering slot for each vector of a run.
    ///
    /// # Errors
    /// [`Error::Model`] when the engine's limits make no sense for the model.
    pub fn new(model: LoadedModel, config: &EngineConfig, max_new_tokens: usize) -> Result<Self> {
        let engine = LlamaEngine::new(Arc::new(model.llama), config)?;
        Ok(Self {
            engine: Box::new(engine),
            tokenizer: model.tokenizer,
            chat_template: model.chat_template,
            stop_token_ids: model.stop_token_ids,
            identity: model.identity,
            max_new_tokens,
        })
    }

    fn request(
        &self,
        question: &Question,
        vectors: &[AppliedVector],
        lease: Option<&SlotLease>,
    ) -> Result<GenerationRequest> {
        let template = (&self.tokenizer, self.chat_template.as_ref());
        let form =
            if self.chat_template.is_some() { PromptForm::ChatTemplate } else { PromptForm::Raw };
        let steering = match (question.vector_idx, lease) {
            (Some(idx), Some(lease)) => {
                let vector = vectors.get(idx).zip(lease.slots().get(idx));
                let (vector, &slot) = vector.ok_or_else(|| {
                    Error::Spec(format!("question `{}` names vector {idx}", question.id))
                })?;
                Some((self.plan(vector, slot), lease.clone()))
            }
            (Some(_), None) | (None, _) => None,
        };
        Ok(GenerationRequest {
            prompt_token_ids: prompt_token_ids(template, form, &question.prompt)?,
            sampling: SamplingParams::default(),
            max_new_tokens: self.max_new_tokens,
            stop_token_ids: self.stop_token_ids.clone(),
            steering,
        })
    }

    fn plan(&self, vector: &AppliedVector, slot: u32) -> SteeringPlan {
        let mut slot_by_layer = vec![0; self.identity.num_hidden_layers];
        for row in &vector.layers {
            if let Some(layer) = slot_by_layer.get_mut(row.layer) {
                *layer = slot;
            }
        }
        SteeringPlan {
            site: vector.site,
            operator: vector.operator,
            positions: vector.positions,
            strength: vector.strength,
            slot_by_layer,
        }
    }

    /// Reads one finished sequence.
    fn read(&self, question: &Question, events: &Receiver<Event>) -> Result<Answer> {
        let unanswered = |reason: String| Error::Unanswered { id: question.id.clone(), reason };
        let mut token_ids = Vec::new();
        for event in events.try_iter() {
            match event {
                Event::Token { token, .. } => token_ids.push(token.token_id),
                Event::Finished(finish) => {
                    let text = self.tokenizer.decode(&token_ids, true)?;
                    let max_relative_norm = finish.steering.max_relative_norm;
                    return Ok(Answer { text, max_relative_norm });
                }
                Event::Failed(reason) => return Err(unanswered(reason)),
            }
        }
        Err(unanswered("the engine stopped without an end".to_owned()))
    }
}

impl Answerer for EngineAnswerer {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        let rows: Vec<SteeringVector> = vectors
            .iter()
            .map(|vector| SteeringVector { site: vector.site, layers: vector.layers.clone() })
            .collect();
        let lease = if rows.is_empty() { None } else { Some(self.engine.register_vectors(&rows)?) };
        let mut receivers = Vec::with_capacity(questions.len());
        for question in questions {
            let request = self.request(question, vectors, lease.as_ref())?;
            // Every token and the end: it never fills.
            let (sender, receiver) = sync_channel(self.max_new_tokens + 1);
            self.engine.submit(request, Box::new(Collector(sender)))?;
            receivers.push(receiver);
        }
        let mut num_unfinished = questions.len();
        while self.engine.step()? == StepOutcome::Advanced {
            let num_ended = num_unfinished.saturating_sub(self.engine.num_unfinished());
            num_unfinished -= num_ended;
            if num_ended > 0 && progress.advance(num_ended).is_break() {
                let total = questions.len();
                return Err(Error::Interrupted { done: total - num_unfinished, total });
            }
        }
        let answers = questions.iter().zip(&receivers);
        answers.map(|(question, receiver)| self.read(question, receiver)).collect()
    }
}
