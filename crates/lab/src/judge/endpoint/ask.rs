//! Asks an endpoint about many exchanges: what is known already is not asked, what arrives is kept at once.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{Client, Failure, Wait};
use super::options::EndpointOptions;
use super::pool;
use crate::disk_cache::{DiskCache, key_of};
use crate::error::{Error, Result};
use crate::judge::Exchange;
use crate::progress::Progress;

/// Items without an answer, for reasons of their own, after which the rest is not asked: then it is hardly the items.
const MAX_FAILED_ITEMS: usize = 10;

/// What is asked about an exchange, and how the answer is read.
pub(super) trait Form: Sync {
    /// What an answer says.
    type Answer: std::fmt::Debug + Copy + Send + Serialize + DeserializeOwned;

    /// Where answers are kept, as [`DiskCache::open`] names it: one name a type of answer.
    const CACHE: &'static str;

    /// The name in tables, after the model's.
    fn name(&self) -> &'static str;

    /// Everything the messages consist of beside the exchange: part of the key under which answers are kept.
    fn text(&self) -> String;

    /// The chat's messages.
    fn messages(&self, exchange: Exchange<'_>) -> Value;

    /// What an answer says, if it is one.
    fn read(&self, answer: &str) -> Option<Self::Answer>;

    /// What an answer should have held.
    fn expected(&self) -> &'static str;
}

/// An endpoint that is asked in one form.
#[derive(Debug)]
pub(super) struct Endpoint<F: Form> {
    name: String,
    base_url: String,
    model: String,
    max_tokens: u32,
    concurrency: usize,
    form: F,
    form_text: String,
    client: Client,
    cache: DiskCache<F::Answer>,
}

impl<F: Form> Endpoint<F> {
    pub(super) fn new(
        options: &EndpointOptions,
        form: F,
        cache_dir: Option<&Path>,
    ) -> Result<Self> {
        let client = Client::new(options)?;
        let (base_url, _) = options.checked_url()?;
        let cache = match cache_dir {
            Some(folder) => DiskCache::open(folder, F::CACHE)?,
            None => DiskCache::in_memory(),
        };
        Ok(Self {
            name: format!("{} ({})", options.model, form.name()),
            base_url,
            model: options.model.clone(),
            max_tokens: options.max_tokens,
            concurrency: options.concurrency,
            form_text: form.text(),
            form,
            client,
            cache,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set_wait(&mut self, wait: Arc<dyn Wait>) {
        self.client.set_wait(wait);
    }

    /// One answer an exchange, in order.
    pub(super) fn ask_all(
        &mut self,
        exchanges: &[Exchange<'_>],
        progress: &mut dyn Progress,
    ) -> Result<Vec<F::Answer>> {
        let keys: Vec<String> = exchanges.iter().map(|&exchange| self.key(exchange)).collect();
        let mut seen = HashSet::new();
        let mut missing: Vec<(&String, Exchange<'_>)> =
            keys.iter().zip(exchanges.iter().copied()).collect();
        missing.retain(|(key, _)| self.cache.get(key).is_none() && seen.insert(*key));
        if !missing.is_empty() {
            self.ask_missing(&missing, progress)?;
        }
        let found = keys.iter().map(|key| self.cache.get(key).copied());
        let found: Option<Vec<F::Answer>> = found.collect();
        found.ok_or_else(|| self.error("left items unanswered", 0, missing.len()))
    }

    fn key(&self, exchange: Exchange<'_>) -> String {
        let max_tokens = self.max_tokens.to_string();
        let parts = [
            self.base_url.as_str(),
            &self.model,
            &self.form_text,
            exchange.prompt,
            exchange.response,
            &max_tokens,
        ];
        key_of(parts.map(str::as_bytes))
    }

    fn ask_missing(
        &mut self,
        missing: &[(&String, Exchange<'_>)],
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let (client, form) = (&self.client, &self.form);
        let (model, max_tokens) = (&self.model, self.max_tokens);
        let work = |(_, exchange): &(&String, Exchange<'_>), stop: &AtomicBool| {
            let body = json!({
                "model": model,
                "messages": form.messages(*exchange),
                "temperature": 0,
                "max_tokens": max_tokens,
                "stream": false,
            });
            let answer = client.ask(&body, |answer| form.read(answer), form.expected(), stop);
            if matches!(answer, Err(Failure::Endpoint(_))) {
                // Here, so that no thread begins another item on the way to the tally.
                stop.store(true, Ordering::Relaxed);
            }
            answer
        };
        let cache = &mut self.cache;
        let mut tally = Tally::default();
        progress.start("answers to judge", missing.len());
        pool::each(missing, self.concurrency, work, |event| {
            let num_steps = usize::from(event.is_some());
            if let Some((idx, answer)) = event {
                tally.take(answer, |answer| cache.insert(missing[idx].0.clone(), answer));
            }
            tally.is_interrupted |= progress.advance(num_steps).is_break();
            if tally.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let (num_done, total) = (tally.num_done, missing.len());
        if let Some(error) = tally.broken {
            return Err(error);
        }
        if let Some(reason) = tally.reason {
            return Err(self.error(&reason, num_done, total));
        }
        if num_done < total {
            return Err(Error::Interrupted { done: num_done, total });
        }
        progress.finish();
        Ok(())
    }

    fn error(&self, reason: &str, num_done: usize, num_items: usize) -> Error {
        Error::Endpoint {
            url: self.base_url.clone(),
            model: self.model.clone(),
            reason: reason.to_owned(),
            num_done,
            num_items,
            is_kept: num_done > 0 && self.cache.is_on_disk(),
        }
    }
}

/// How far the work is.
#[derive(Debug, Default)]
struct Tally {
    num_done: usize,
    num_failed_items: usize,
    /// Why the first item that failed did, or the endpoint.
    reason: Option<String>,
    is_endpoint_at_fault: bool,
    is_interrupted: bool,
    /// The cache cannot be written.
    broken: Option<Error>,
}

impl Tally {
    fn take<A>(&mut self, answer: Result<A, Failure>, keep: impl FnOnce(A) -> Result<()>) {
        match answer {
            Ok(answer) => match keep(answer) {
                Ok(()) => self.num_done += 1,
                Err(error) => self.broken = Some(error),
            },
            Err(Failure::Item(reason)) => {
                self.num_failed_items += 1;
                self.reason.get_or_insert(reason);
            }
            // This says more than what an item met before.
            Err(Failure::Endpoint(reason)) if !self.is_endpoint_at_fault => {
                self.is_endpoint_at_fault = true;
                self.reason = Some(reason);
            }
            Err(Failure::Endpoint(_) | Failure::Stopped) => {}
        }
    }

    fn is_over(&self) -> bool {
        self.is_interrupted
            || self.is_endpoint_at_fault
            || self.broken.is_some()
            || self.num_failed_items >= MAX_FAILED_ITEMS
    }
}
