//! Looks at the answers of a request that was found harmless: what an answer shows, and what is done from there on.
//!
//! Each choice is looked at on its own. The engine steers in mid-answer by one category's slot; an answer whose category policy refuses
//! ends. What was found is noted where the choice's reader finds it, before the engine gives the next token.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use skeg_model::engine::{Gate, GateDecision, PromptActivations};
use skeg_model::steering::{Positions, Site, SlotLease, SteeringPlan};

use super::metrics::Recheck;
use super::{Judged, RequestGate};
use crate::errors::ApiError;
use crate::evidence::GenerationFacts;
use crate::resolve::{Decision, Found, Resolution};
use crate::steering::{facts, plan_of_one};

/// What a look at an answer found.
#[derive(Debug)]
pub(crate) struct MidAnswer {
    /// Tokens of the answer when it was looked at: rows from there on are steered.
    pub(crate) num_generated: usize,
    /// What holds from there on, in place of the request's.
    pub(crate) resolution: Resolution,
    pub(crate) facts: GenerationFacts,
}

impl MidAnswer {
    /// The token of the answer, counted from 0, whose row was the first to be steered.
    pub(crate) fn steered_from(&self) -> Option<usize> {
        (self.resolution.decision == Decision::Steer).then_some(self.num_generated)
    }

    /// The policy's text where the answer ended here.
    pub(crate) fn refusal(&self) -> Option<&str> {
        match &self.resolution.decision {
            Decision::Refuse(text) => Some(text),
            Decision::Steer | Decision::Shadow | Decision::Unsteered => None,
        }
    }

    /// The stricter of two; the first of equals.
    pub(crate) fn stricter(self: Arc<Self>, other: Arc<Self>) -> Arc<Self> {
        let rank = |one: &Self| match one.resolution.decision {
            Decision::Refuse(_) => 2,
            Decision::Steer => 1,
            Decision::Shadow | Decision::Unsteered => 0,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}

/// Where the looks at one choice leave what they found; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Noted(Arc<Mutex<Option<Arc<MidAnswer>>>>);

impl Noted {
    /// What was found so far, by an engine that may be ahead of the reader.
    pub(crate) fn get(&self) -> Option<Arc<MidAnswer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what was found first, until something stricter is.
    fn note(&self, found: MidAnswer) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = Arc::new(found);
        *noted = Some(match noted.take() {
            None => found,
            Some(before) => before.stricter(found),
        });
    }
}

/// The gate of one choice.
#[derive(Debug)]
pub(crate) struct ChoiceGate {
    request: Arc<RequestGate>,
    noted: Noted,
}

impl ChoiceGate {
    pub(crate) fn new(request: Arc<RequestGate>, noted: Noted) -> Self {
        Self { request, noted }
    }
}

impl Gate for ChoiceGate {
    fn site(&self) -> Site {
        self.request.reads.site
    }

    fn layers(&self) -> &[usize] {
        &self.request.reads.layers
    }

    fn mean_from(&self) -> Option<usize> {
        self.request.mean_from
    }

    fn decide(&self, activations: PromptActivations<'_>) -> GateDecision {
        self.request.decide(activations)
    }

    fn recheck_every(&self) -> Option<NonZeroUsize> {
        self.request.recheck_every()
    }

    fn recheck(&self, activations: &[f32], num_generated: usize) -> GateDecision {
        let (outcome, decision, found) = match self.request.look(activations) {
            Look::Nothing => (Recheck::Harmless, GateDecision::Unsteered, None),
            Look::NotSteerable => (Recheck::NotSteerable, GateDecision::Unsteered, None),
            Look::Shadow(found) => (Recheck::Shadow, GateDecision::Unsteered, Some(found)),
            Look::Steer(found, (plan, lease)) => {
                (Recheck::Steered, GateDecision::Steer(plan, lease), Some(found))
            }
            Look::Stop(found) => (Recheck::Stopped, GateDecision::Stop, found),
        };
        let Judged { live, metrics, .. } = &self.request.judged;
        metrics.rechecked(outcome);
        if let Some(resolution) = found {
            let facts = facts(&live.generation, &resolution);
            self.noted.note(MidAnswer { num_generated, resolution, facts });
        }
        decision
    }
}

/// What one look comes to.
enum Look {
    /// The answer goes on.
    Nothing,
    /// Policy steers the category that was found in prompts alone.
    NotSteerable,
    /// It goes on, and what was found is said.
    Shadow(Resolution),
    Steer(Resolution, (SteeringPlan, SlotLease)),
    /// It ends.
    Stop(Option<Resolution>),
}

impl RequestGate {
    /// The gate looks at answers as policy says, and at none of a request of which something was found before.
    fn recheck_every(&self) -> Option<NonZeroUsize> {
        let is_looked_at = self.decision.get().is_some_and(|(_, is_looked_at)| *is_looked_at);
        self.recheck_every.filter(|_| is_looked_at)
    }

    fn look(&self, activations: &[f32]) -> Look {
        let resolution = match self.found_in_answer(activations) {
            Ok(None) => return Look::Nothing,
            Ok(Some(resolution)) => resolution,
            Err(error) => {
                // What cannot be judged does not go on as if it were harmless.
                tracing::error!(code = error.code(), "an answer could not be looked at and ends");
                return Look::Stop(None);
            }
        };
        let Judged { live, num_hidden_layers, metrics, .. } = &self.judged;
        match resolution.decision {
            Decision::Unsteered => Look::Nothing,
            Decision::Shadow => Look::Shadow(resolution),
            Decision::Refuse(_) => Look::Stop(Some(resolution)),
            Decision::Steer if resolution.positions == Positions::Prompt => {
                metrics.warn_not_steerable(&resolution.label());
                Look::NotSteerable
            }
            Decision::Steer => match plan_of_one(live, &resolution, *num_hidden_layers) {
                Some(plan) => Look::Steer(resolution, plan),
                None => Look::Stop(Some(resolution)),
            },
        }
    }

    /// The resolution by what an answer shows; `None` where that is no harm.
    fn found_in_answer(&self, activations: &[f32]) -> Result<Option<Resolution>, ApiError> {
        let Judged { live, rules, gated, .. } = &self.judged;
        let verdict = self.probe.answer_verdict(activations).map_err(|error| {
            ApiError::steering_unavailable("the answer could not be judged")
                .with_log(error.to_string())
        })?;
        let decided = live.generation.policy.decide_answer(verdict.harm, &verdict.categories);
        let Some((category, strength)) = decided else { return Ok(None) };
        let found = Found::Categories(vec![(category.to_string(), strength)]);
        let resolution = gated.settle_answer(&found, verdict.harm, rules)?;
        Ok(Some(resolution))
    }
}
