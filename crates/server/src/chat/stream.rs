//! The streamed answer: a task turns updates into frames; the client's going away ends it, and with it the sequences.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::response::Response;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Answer;
use super::frames::{DONE, chunk, error_frame, event_stream, frame, role, usage_chunk};
use super::record::Record;
use super::sequences::{Sequences, Update};
use crate::gate::MidAnswer;
use crate::wire::{ChoiceLogprobs, ChunkChoice, Delta};

/// Frames that may wait for a slow client. Few: what waits longer stays in the sequences' own channel.
const MAX_QUEUED_FRAMES: usize = 16;

/// The client is gone.
struct Gone;

struct Writer {
    answer: Answer,
    include_usage: bool,
    frames: mpsc::Sender<Result<Bytes, Infallible>>,
}

pub(super) fn respond(
    answer: Answer,
    include_usage: bool,
    sequences: Sequences,
    first: Option<Update>,
    record: Record,
) -> Response {
    let (frames, body) = mpsc::channel(MAX_QUEUED_FRAMES);
    let writer = Writer { answer, include_usage, frames };
    tokio::spawn(async move {
        if writer.run(sequences, first, record).await.is_err() {
            tracing::debug!("the client left before the end of its stream");
        }
    });
    event_stream(Body::from_stream(ReceiverStream::new(body)))
}

impl Writer {
    async fn run(
        &self,
        mut sequences: Sequences,
        first: Option<Update>,
        mut record: Record,
    ) -> Result<(), Gone> {
        record.took(&sequences);
        for index in 0..sequences.num_choices() {
            self.send_choice(role(index)).await?;
        }
        let mut next = first;
        while let Some(update) = next {
            self.send_update(update).await?;
            // Whoever comes first: the engine, or the client's going away.
            let received = tokio::select! {
                received = sequences.next() => received,
                () = self.frames.closed() => return Err(Gone),
            };
            record.took(&sequences);
            next = match received {
                Ok(next) => next,
                Err(lost) => {
                    let error = lost.into_error();
                    error.log_in_stream();
                    record.failed(&error);
                    return self.send(error_frame(&error)).await;
                }
            };
        }
        if self.include_usage {
            self.send(frame(&usage_chunk(&self.answer, sequences.completion_tokens()))).await?;
        }
        self.send(Bytes::from_static(DONE)).await?;
        record.finished();
        Ok(())
    }

    /// Text and log-probability in one chunk, the end in another; a token that gives neither gives no chunk.
    async fn send_update(&self, update: Update) -> Result<(), Gone> {
        let Update { index, text, logprob, end } = update;
        if !text.is_empty() || logprob.is_some() {
            self.send_choice(ChunkChoice {
                index,
                delta: Delta { content: Some(text), ..Delta::default() },
                logprobs: logprob
                    .map(|entry| ChoiceLogprobs { content: vec![entry], refusal: None }),
                finish_reason: None,
                steering: None,
            })
            .await?;
        }
        let Some(end) = end else { return Ok(()) };
        let found = end.found.as_deref();
        if let Some(refusal) = found.and_then(MidAnswer::refusal) {
            let delta = Delta { refusal: Some(refusal.to_owned()), ..Delta::default() };
            let choice =
                ChunkChoice { index, delta, logprobs: None, finish_reason: None, steering: None };
            self.send_choice(choice).await?;
        }
        self.send_choice(ChunkChoice {
            index,
            delta: Delta::default(),
            logprobs: None,
            finish_reason: Some(end.finish_reason),
            steering: Some(self.answer.evidence(end.kind, &end.report, found)),
        })
        .await
    }

    async fn send_choice(&self, choice: ChunkChoice) -> Result<(), Gone> {
        self.send(frame(&chunk(&self.answer, vec![choice], self.include_usage))).await
    }

    async fn send(&self, frame: Bytes) -> Result<(), Gone> {
        self.frames.send(Ok(frame)).await.map_err(|_| Gone)
    }
}
