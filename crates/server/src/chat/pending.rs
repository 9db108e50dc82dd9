//! A request between its resolution and its first token: tokenised, judged where it is gated, and handed to the engine.

use std::sync::Arc;
use std::time::Instant;

use skeg_lab::probe::{Probe, TextScores};
use skeg_model::ChatMessage;
use skeg_vector_store::Live;

use super::admission::{self, Steering};
use super::record::Record;
use super::sequences::{Sequences, Update};
use super::timing::Timing;
use super::{Answer, Ready};
use crate::classifier::Question;
use crate::errors::ApiError;
use crate::gate::{Judged, RequestGate, Settled, Verdict};
use crate::resolve::{Decision, Gated, Resolution, Resolved, Rules};
use crate::state::{App, unix_time};
use crate::steering::{SteeringSlots, facts};
use crate::wire::ChatRequest;

/// What a request is judged and answered by.
pub(super) struct Pending<'a> {
    pub(super) app: &'a App,
    pub(super) live: Arc<Live<SteeringSlots>>,
    pub(super) rules: Rules,
    pub(super) request: &'a ChatRequest,
    pub(super) started: Instant,
}

/// A prompt that fits.
struct Prompt {
    token_ids: Vec<u32>,
    max_new_tokens: usize,
}

/// A settled request.
struct Settlement {
    resolution: Resolution,
    /// The sequences that go on under it; `None` where none does yet.
    running: Option<Box<Sequences>>,
}

impl Settlement {
    fn anew(resolution: Resolution) -> Self {
        Self { resolution, running: None }
    }
}

impl Pending<'_> {
    /// Everything up to the first event, so that what the engine refuses has a status of its own.
    pub(super) async fn ready(
        &self,
        messages: Vec<ChatMessage>,
        resolved: Resolved,
        record: &mut Record,
    ) -> Result<(Answer, Timing, Ready), ApiError> {
        let probe = match &resolved {
            Resolved::Now(_) => None,
            Resolved::Gated(_) => self.live.attached.probe.clone(),
        };
        // Asked when it is known that the request fits: what is refused before goes nowhere.
        let asked = match (&resolved, &probe) {
            (Resolved::Gated(_), None) => messages.clone(),
            _ => Vec::new(),
        };
        let (token_ids, text) = self.encode(messages, probe.clone()).await?;
        let max_new_tokens = admission::max_new_tokens(self.app, self.request, token_ids.len())?;
        let prompt = Prompt { token_ids, max_new_tokens };
        let validated = Instant::now();
        let Settlement { resolution, running } = match (resolved, probe) {
            (Resolved::Now(resolution), _) => Settlement::anew(resolution),
            (Resolved::Gated(gated), Some(probe)) => {
                self.hear(gated, (probe, text), &prompt).await?
            }
            (Resolved::Gated(gated), None) => self.ask_classifier(&gated, asked).await?,
        };
        record.settled(resolution.clone());
        let answer = self.answer(resolution, prompt.token_ids.len());
        let timing = Timing { started: self.started, validated };
        if let Decision::Refuse(text) = &answer.resolution.decision {
            let text = text.clone();
            return Ok((answer, timing, Ready::Refusal(text)));
        }
        let mut sequences = match running {
            Some(sequences) => sequences,
            None => Box::new(self.submit_resolved(&answer.resolution, &prompt).await?),
        };
        let first: Option<Update> = sequences.next().await.map_err(|lost| lost.into_error())?;
        Ok((answer, timing, Ready::Running(sequences, first)))
    }

    fn answer(&self, resolution: Resolution, prompt_tokens: usize) -> Answer {
        Answer {
            id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
            created: unix_time().as_secs(),
            model: self.app.model_name().to_owned(),
            prompt_tokens,
            facts: facts(&self.live.generation, &resolution),
            resolution,
        }
    }

    async fn submit_resolved(
        &self,
        resolution: &Resolution,
        prompt: &Prompt,
    ) -> Result<Sequences, ApiError> {
        let plan = crate::steering::plan(self.app, &self.live, resolution).await?;
        // Without a steered choice there is nothing beside it.
        self.submit(prompt, &Steering::from(plan), resolution.compare)
    }

    fn submit(
        &self,
        prompt: &Prompt,
        steering: &Steering,
        compare: bool,
    ) -> Result<Sequences, ApiError> {
        let Prompt { token_ids, max_new_tokens, .. } = prompt;
        let asked = admission::Asked { compare, max_new_tokens: *max_new_tokens };
        admission::submit(self.app, self.request, token_ids, asked, steering, self.started)
    }

    /// Asks the gate, in the engine where the probe reads the model, and settles the request.
    async fn hear(
        &self,
        gated: Gated,
        (probe, text): (Arc<Probe>, TextScores),
        prompt: &Prompt,
    ) -> Result<Settlement, ApiError> {
        if gated.compare() {
            admission::check_one_choice(self.request)?;
        }
        let judged = Judged {
            live: Arc::clone(&self.live),
            rules: self.rules.clone(),
            gated,
            text,
            num_hidden_layers: self.app.num_hidden_layers,
            metrics: self.app.operations.gate.clone(),
        };
        let Some(input) = probe.activation_input() else {
            return Ok(Settlement::anew(judged.settle(&probe, None)?));
        };
        let reads = (input, prompt.token_ids.as_slice());
        let (gate, verdict) = RequestGate::new(Arc::clone(&probe), reads, judged);
        let sequences = self.submit(prompt, &Steering::Gated(Arc::new(gate)), false)?;
        Self::verdict(verdict, sequences).await
    }

    /// Asks the classifier behind an endpoint, while nothing of the request is in the engine, and settles the request.
    async fn ask_classifier(
        &self,
        gated: &Gated,
        messages: Vec<ChatMessage>,
    ) -> Result<Settlement, ApiError> {
        let Some(classifier) = &self.app.classifier else {
            return Err(ApiError::steering_unavailable("there is no classifier"));
        };
        if gated.compare() {
            admission::check_one_choice(self.request)?;
        }
        let (generation, operations) = (&self.live.generation, &self.app.operations);
        let question = Question { generation, rules: &self.rules, gated, operations };
        classifier.settle(question, messages).await.map(Settlement::anew)
    }

    /// Waits for the verdict, or for the reason why there is none.
    async fn verdict(verdict: Verdict, mut sequences: Sequences) -> Result<Settlement, ApiError> {
        match verdict.await {
            Ok(Ok(Settled { resolution, goes_on: true })) => {
                Ok(Settlement { resolution, running: Some(Box::new(sequences)) })
            }
            Ok(Ok(Settled { resolution, goes_on: false })) => {
                sequences.withdraw();
                Ok(Settlement::anew(resolution))
            }
            Ok(Err(error)) => {
                sequences.withdraw();
                Err(error)
            }
            // Every gate is gone, and so is every sequence: the engine says why.
            Err(_) => match sequences.next().await {
                Err(lost) => Err(lost.into_error()),
                Ok(_) => Err(ApiError::steering_unavailable("the gate gave no verdict")),
            },
        }
    }

    /// Renders, tokenises and scores the conversation off the async threads: all cost in proportion to the text.
    async fn encode(
        &self,
        messages: Vec<ChatMessage>,
        probe: Option<Arc<Probe>>,
    ) -> Result<(Vec<u32>, TextScores), ApiError> {
        let app = self.app.clone();
        let encoded = tokio::task::spawn_blocking(move || {
            let template = app.chat_template.as_ref().ok_or_else(|| {
                let message = "this model has no chat template, so it cannot take messages";
                ApiError::bad_request("chat_template_missing", "messages", message)
            })?;
            let text = template.render(&messages, true).map_err(|error| {
                ApiError::bad_request("chat_template_refused", "messages", error.to_string())
            })?;
            // The template writes the special tokens itself.
            let ids = app
                .tokenizer
                .encode(&text, false)
                .map_err(|error| ApiError::internal(error.to_string()))?;
            let scores = match &probe {
                None => TextScores::default(),
                Some(probe) => scored(&app, probe, &messages)?,
            };
            Ok((ids, scores))
        });
        encoded.await.map_err(|error| ApiError::internal(format!("tokenising: {error}")))?
    }
}

/// The text members' scores of a conversation.
fn scored(app: &App, probe: &Probe, messages: &[ChatMessage]) -> Result<TextScores, ApiError> {
    let started = Instant::now();
    let scores = probe.text_scores(messages, None).map_err(|error| {
        ApiError::steering_unavailable("the category of this request could not be found")
            .with_log(error.to_string())
    })?;
    app.operations.gate.scored(started.elapsed());
    Ok(scores)
}
