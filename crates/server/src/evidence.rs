//! What a client is told about steering: headers that state the plan, and an object on each choice that states what was done.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use skeg_model::engine::SteeringReport;
use skeg_model::steering::{Operator, Positions, Site};

use crate::kill_switch::OverrideAction;
use crate::resolve::{Decision, Resolution};
use crate::wire::OneOrMany;

/// What a generation of vectors contributes to the evidence.
#[derive(Debug, Clone)]
pub(crate) struct GenerationFacts {
    pub(crate) id: String,
    pub(crate) site: Site,
    /// Those in which the resolved categories act, ascending.
    pub(crate) layers: Vec<usize>,
    pub(crate) operator: Operator,
    pub(crate) weights_mismatch: bool,
}

/// The authoritative statement on one choice. Its numbers are measured at the hook, however the choice ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SteeringEvidence {
    /// A list where several categories were combined; `none` where there is none.
    pub(crate) category: OneOrMany<String>,
    pub(crate) source: &'static str,
    /// A probe's confidence; `null` unless the category was chosen by one.
    pub(crate) confidence: Option<f32>,
    /// `failed` where the classifier gave no verdict, and the request was answered all the same; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) classifier: Option<&'static str>,
    pub(crate) generation: String,
    pub(crate) site: Option<Site>,
    pub(crate) layers: Vec<usize>,
    pub(crate) operator: Option<Operator>,
    /// In the order of `category`; `null` where nothing was applied.
    pub(crate) strength: Option<OneOrMany<f32>>,
    pub(crate) positions: Option<Positions>,
    pub(crate) steered_prompt_tokens: usize,
    pub(crate) steered_completion_tokens: usize,
    pub(crate) max_relative_norm: Option<f32>,
    pub(crate) started_at_token: Option<usize>,
    /// The token of the answer, counted from 0, from which on it was steered, because of what it showed; absent where it was not
    /// looked at or showed nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steered_from: Option<usize>,
    /// The category's action is `log`: this answer is not steered.
    pub(crate) shadow: bool,
    /// This is the unsteered answer of a comparison.
    pub(crate) compare: bool,
    pub(crate) weights_mismatch: bool,
    /// The operator's override that was in force; absent without one.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub(crate) overridden: Option<OverrideAction>,
}

/// How one choice is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChoiceKind {
    /// As the request was resolved.
    Resolved,
    /// Unsteered, beside a steered one.
    Comparison,
}

impl SteeringEvidence {
    /// The evidence of one choice of a resolved request.
    pub(crate) fn new(
        resolution: &Resolution,
        facts: &GenerationFacts,
        kind: ChoiceKind,
        report: &SteeringReport,
    ) -> Self {
        let steered = resolution.decision == Decision::Steer && kind == ChoiceKind::Resolved;
        let slugs: Vec<String> = resolution.categories.iter().map(|c| c.slug.clone()).collect();
        let strengths: Vec<f32> = resolution.categories.iter().map(|c| c.strength).collect();
        Self {
            category: if slugs.is_empty() {
                OneOrMany::One("none".to_owned())
            } else {
                slugs.into()
            },
            source: resolution.source.as_str(),
            confidence: resolution.confidence,
            classifier: resolution.classifier(),
            generation: facts.id.clone(),
            site: steered.then_some(facts.site),
            layers: if steered { facts.layers.clone() } else { Vec::new() },
            operator: steered.then_some(facts.operator),
            strength: steered.then(|| strengths.into()),
            positions: steered.then_some(resolution.positions),
            steered_prompt_tokens: report.steered_prompt_tokens,
            steered_completion_tokens: report.steered_completion_tokens,
            max_relative_norm: report.max_relative_norm,
            started_at_token: report.started_at_token,
            steered_from: None,
            shadow: resolution.decision == Decision::Shadow,
            compare: kind == ChoiceKind::Comparison,
            weights_mismatch: facts.weights_mismatch,
            overridden: resolution.overridden,
        }
    }
}

/// Puts the plan's headers on a response.
pub(crate) fn add_headers(headers: &mut HeaderMap, resolution: &Resolution, generation: &str) {
    let mut add = |name: &'static str, value: &str| {
        // Slugs and ids are ASCII by their types; a value that is not would be left out.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    add("x-safety-category", &resolution.label());
    add("x-safety-category-source", resolution.source.as_str());
    if let Some(confidence) = resolution.confidence {
        add("x-safety-confidence", &format!("{confidence:.4}"));
    }
    if let Some(classifier) = resolution.classifier() {
        add("x-safety-classifier", classifier);
    }
    add("x-steering-generation", generation);
    add("x-steering-applied", resolution.applied());
    if let Some(overridden) = resolution.overridden {
        add("x-steering-override", overridden.as_str());
    }
}
