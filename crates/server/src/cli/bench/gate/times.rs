//! How long a probe takes for one request: its text's scores, and the verdict.

use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use skeg_lab::judge::Embed;
use skeg_lab::probe::{Input, Probe, PromptRow};
use skeg_model::ChatMessage;
use skeg_model::engine::PromptActivations;

use super::super::draw::Draw;
use super::super::stats::Spread;

/// Times of one probe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ProbeTimes {
    /// What its members read.
    pub(super) members: Vec<&'static str>,
    /// Words of the one message that is scored.
    pub(super) words: usize,
    pub(super) repetitions: usize,
    /// Off the engine's thread, while the request waits.
    pub(super) text_scores_microseconds: Spread,
    /// On the engine's thread.
    pub(super) verdict_microseconds: Spread,
}

impl ProbeTimes {
    /// Times `repetitions` calls of each, after one that warms up. The activations are drawn from `seed`.
    pub(super) fn measure(
        probe: &Probe,
        text: &str,
        embedder: Option<&dyn Embed>,
        (repetitions, seed): (usize, u64),
    ) -> anyhow::Result<Self> {
        let messages = conversation(text);
        let mut draw = Draw::new(seed);
        let row: Option<Vec<f32>> = probe.activation_input().map(|input| {
            (0..input.layers.len() * input.hidden_size).map(|_| draw.signed_unit()).collect()
        });
        // The same numbers as either row: they change nothing of the time.
        let activations = row.as_deref().map(|row| PromptActivations { last: row, mean: row });
        let scores = probe.text_scores(&messages, embedder)?;
        let text_scores = repeat(repetitions, || probe.text_scores(&messages, embedder))?;
        let verdict = repeat(repetitions, || probe.verdict(&scores, activations))?;
        Ok(Self {
            members: probe.members.iter().map(|member| kind(&member.input)).collect(),
            words: text.split_whitespace().count(),
            repetitions,
            text_scores_microseconds: text_scores,
            verdict_microseconds: verdict,
        })
    }
}

/// One user's message.
pub(super) fn conversation(text: &str) -> Vec<ChatMessage> {
    vec![ChatMessage { role: "user".to_owned(), content: text.to_owned() }]
}

fn kind(input: &Input) -> &'static str {
    match input {
        Input::Activations { row: PromptRow::Last, .. } => "activations",
        Input::Activations { row: PromptRow::Mean, .. } => "mean activations",
        Input::NGrams(_) => "n-grams",
        Input::Embedding { .. } => "embedding",
    }
}

/// Microseconds of each call but the first.
fn repeat<T>(
    repetitions: usize,
    mut call: impl FnMut() -> skeg_lab::Result<T>,
) -> anyhow::Result<Spread> {
    std::hint::black_box(call()?);
    let mut microseconds = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        let started = Instant::now();
        let made = std::hint::black_box(call());
        microseconds.push(started.elapsed().as_secs_f64() * 1e6);
        made?;
    }
    Spread::of(&microseconds).context("nothing was timed; --repetitions must be at least 1")
}
