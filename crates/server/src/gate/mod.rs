//! The gate of one request: from the probe's verdict to what is done, inside the engine.
//!
//! A request is gated where it asks for `auto` or policy does. Its text is scored before it is handed to the engine; the verdict falls
//! on the engine's thread as soon as the prompt's last row is computed, and [`Gate::decide`] turns it into a resolution by the same
//! rules as a named category's. What needs no more than a slot that exists is done there and then; the rest (several
//! categories, a refusal, a comparison) stops the sequence, and the handler goes on as for a request that named what was found.
//! Answers that go on unsteered are looked at where policy says so ([`ChoiceGate`]).

mod answer;
mod metrics;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use skeg_lab::probe::{self, ActivationInput, Probe, TextScores};
use skeg_model::engine::{GateDecision, PromptActivations};
use skeg_vector_store::{AutoDecision, Live, Policy};
use tokio::sync::oneshot;

use crate::errors::ApiError;
use crate::resolve::{Decision, Found, Gated, Resolution, Rules, Source};
use crate::steering::{SteeringSlots, plan_of_one};

pub(crate) use answer::{ChoiceGate, MidAnswer, Noted};
pub(crate) use metrics::GateMetrics;

/// What the gate made of a request.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) resolution: Resolution,
    /// The sequences go on as they are; otherwise they were stopped, and the request is to be handed in anew.
    pub(crate) goes_on: bool,
}

/// Who waits for it.
pub(crate) type Verdict = oneshot::Receiver<Result<Settled, ApiError>>;

/// All that a request is judged by.
pub(crate) struct Judged {
    pub(crate) live: Arc<Live<SteeringSlots>>,
    pub(crate) rules: Rules,
    pub(crate) gated: Gated,
    pub(crate) text: TextScores,
    pub(crate) num_hidden_layers: usize,
    pub(crate) metrics: GateMetrics,
}

impl Judged {
    /// The resolution by the probe's verdict.
    pub(crate) fn settle(
        &self,
        probe: &Probe,
        activations: Option<PromptActivations<'_>>,
    ) -> Result<Resolution, ApiError> {
        let started = Instant::now();
        let verdict = probe.verdict(&self.text, activations).map_err(|error| {
            // Nothing due is answered unsteered, and what is due is not known.
            ApiError::steering_unavailable("the category of this request could not be found")
                .with_log(error.to_string())
        })?;
        self.metrics.judged(started.elapsed(), verdict.harm);
        let found = found(&self.live.generation.policy, &verdict);
        self.gated.settle(&found, verdict.harm, &self.rules)
    }
}

/// What a verdict comes to under a policy.
pub(crate) fn found(policy: &Policy, verdict: &probe::Verdict) -> Found {
    match policy.decide(verdict.harm, &verdict.categories) {
        AutoDecision::None => Found::Nothing,
        AutoDecision::Abstain => Found::Unsure,
        AutoDecision::Categories(categories) => Found::Categories(
            categories.into_iter().map(|(category, s)| (category.to_string(), s)).collect(),
        ),
    }
}

/// The gate of all sequences of one request: the first that is asked decides for all.
pub(crate) struct RequestGate {
    probe: Arc<Probe>,
    reads: ActivationInput,
    /// First row of its prompt that counts in the mean.
    mean_from: Option<usize>,
    judged: Judged,
    /// Tokens between looks at an answer, by policy.
    recheck_every: Option<NonZeroUsize>,
    /// What is done by the prompt, and whether the answer is looked at.
    decision: OnceLock<(GateDecision, bool)>,
    verdict: Mutex<Option<oneshot::Sender<Result<Settled, ApiError>>>>,
}

impl fmt::Debug for RequestGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestGate").field("reads", &self.reads).finish_non_exhaustive()
    }
}

impl RequestGate {
    /// A gate that reads of this prompt what the probe asks for, and where its verdict comes out.
    pub(crate) fn new(
        probe: Arc<Probe>,
        (reads, prompt_token_ids): (ActivationInput, &[u32]),
        judged: Judged,
    ) -> (Self, Verdict) {
        let (sender, receiver) = oneshot::channel();
        let recheck_every = judged.live.generation.policy.auto.recheck_every;
        let gate = Self {
            recheck_every: recheck_every.and_then(NonZeroUsize::new),
            probe,
            mean_from: reads.mean_from(prompt_token_ids),
            reads,
            judged,
            decision: OnceLock::new(),
            verdict: Mutex::new(Some(sender)),
        };
        (gate, receiver)
    }

    /// What is done with every sequence of the request, by what is read of its prompt.
    fn decide(&self, activations: PromptActivations<'_>) -> GateDecision {
        self.decision.get_or_init(|| self.judge(activations)).0.clone()
    }

    fn judge(&self, activations: PromptActivations<'_>) -> (GateDecision, bool) {
        let settled = self.judged.settle(&self.probe, Some(activations));
        let is_looked_at = settled.as_ref().is_ok_and(is_found_harmless);
        let decision = settled.as_ref().map_or(GateDecision::Stop, |resolution| {
            self.decision_of(resolution).unwrap_or(GateDecision::Stop)
        });
        let goes_on = !matches!(decision, GateDecision::Stop);
        let settled = settled.map(|resolution| Settled { resolution, goes_on });
        let sender = self.verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A handler that is gone has dropped the sequences as well.
        if sender.is_some_and(|sender| sender.send(settled).is_err()) {
            tracing::debug!("nobody waits for the verdict of a gate");
        }
        (decision, is_looked_at)
    }

    /// What the engine can do by itself; `None` where the handler has to.
    fn decision_of(&self, resolution: &Resolution) -> Option<GateDecision> {
        if resolution.compare {
            return None;
        }
        match resolution.decision {
            Decision::Unsteered | Decision::Shadow => Some(GateDecision::Unsteered),
            Decision::Refuse(_) => None,
            Decision::Steer => {
                let Judged { live, num_hidden_layers, .. } = &self.judged;
                let (plan, lease) = plan_of_one(live, resolution, *num_hidden_layers)?;
                Some(GateDecision::Steer(plan, lease))
            }
        }
    }
}

/// Whether the gate found no category, whatever the request named.
fn is_found_harmless(resolution: &Resolution) -> bool {
    resolution.categories.is_empty() || resolution.source != Source::Auto
}
