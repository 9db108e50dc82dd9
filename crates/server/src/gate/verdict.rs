//! A verdict by a policy's thresholds.

use skeg_lab::probe::Verdict;
use skeg_vector_store::{AutoDecision, Policy};

use crate::resolve::Found;

/// What a verdict comes to under a policy.
pub(crate) fn found(policy: &Policy, verdict: &Verdict) -> Found {
    match policy.decide(verdict.harm, &verdict.categories) {
        AutoDecision::None => Found::Nothing,
        AutoDecision::Abstain => Found::Unsure,
        AutoDecision::Categories(categories) => Found::Categories(
            categories.into_iter().map(|(category, s)| (category.to_string(), s)).collect(),
        ),
    }
}
