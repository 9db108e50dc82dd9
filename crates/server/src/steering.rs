//! Between the vector store and the engine: a generation's slots, a request's plan, the policy as plain values.
//!
//! The store and the model know nothing of each other; what one calls a site, an operator or a position is turned
//! into the other's word here, exhaustively, so that a word one of them does not know fails to compile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::http::StatusCode;
use skeg_lab::model_words::{operator, positions, site};
use skeg_lab::probe::Probe;
use skeg_model::engine::{EngineHandle, SubmitError};
use skeg_model::steering::{LayerVector, Positions, Site, SlotLease, SteeringPlan, SteeringVector};
use skeg_vector_store::{
    self as store, Category, CategoryVectors, Generation, Live, Policy, combine,
};

use crate::canary::CanaryReport;
use crate::classifier::{ClassifierKind, probe_for_auto};
use crate::errors::ApiError;
use crate::evidence::GenerationFacts;
use crate::resolve::{
    Abstained, Action, CategoryRule, Decision, GroupRule, Missing, Resolution, Rules,
};
use crate::state::App;

/// A generation's vectors in the engine's tables: what the store attaches to it before it goes live.
#[derive(Debug)]
pub struct SteeringSlots {
    lease: SlotLease,
    slot_by_category: BTreeMap<Category, u32>,
    /// The generation's classifier, if it has one that this server can use.
    pub(crate) probe: Option<Arc<Probe>>,
    /// What the canary found, if there is one.
    pub(crate) canary: Option<CanaryReport>,
}

impl SteeringSlots {
    /// The plan that steers by one category's vector as the policy has it, with the lease that keeps it. `None` for a category
    /// that the policy does not steer, or that has no vector.
    pub(crate) fn default_plan(
        &self,
        generation: &Generation,
        category: &Category,
        num_hidden_layers: usize,
    ) -> Option<(SteeringPlan, SlotLease)> {
        let rule = generation.policy.categories.get(category)?;
        if !matches!(rule.action, store::Action::Steer) {
            return None;
        }
        let applied = (positions(rule.positions), rule.strength.default);
        self.plan_of(generation, category, applied, num_hidden_layers)
    }

    /// The plan that steers by one category's vector at these positions and this strength. `None` for a category that has no
    /// vector here.
    fn plan_of(
        &self,
        generation: &Generation,
        category: &Category,
        (positions, strength): (Positions, f32),
        num_hidden_layers: usize,
    ) -> Option<(SteeringPlan, SlotLease)> {
        let applied = (*self.slot_by_category.get(category)?, strength);
        let vectors = generation.vectors.get(category)?;
        let layers: Vec<usize> = vectors.acting_rows().map(|(layer, _)| layer).collect();
        let plan = plan_with_slot(num_hidden_layers, generation, positions, applied, &layers);
        Some((plan, self.lease.clone()))
    }
}

/// The store's `prepare`: registers each category's vector with the engine.
///
/// The closure waits for the engine's step in progress. It fails when the vectors do not fit the model, when no
/// slot is free, and when the policy says `auto` and nobody here finds categories.
pub fn steering_slots(
    engine: EngineHandle,
    classifier: ClassifierKind,
) -> impl Fn(&Generation) -> Result<SteeringSlots, String> + Send + Sync + Clone + 'static {
    move |generation| {
        let probe = probe_for_auto(generation, classifier)?;
        check_recheck(generation, probe.as_deref())?;
        let site = site(generation.manifest.site);
        let vectors = generation.vectors.values();
        let vectors: Vec<SteeringVector> =
            vectors.map(|vectors| steering_vector(site, vectors.acting_rows())).collect();
        let lease = engine.register_vectors(vectors).map_err(|error| error.to_string())?;
        let slot_by_category =
            generation.vectors.keys().cloned().zip(lease.slots().iter().copied()).collect();
        Ok(SteeringSlots { lease, slot_by_category, probe, canary: None })
    }
}

/// Refuses a policy that has answers looked at by a probe that cannot.
fn check_recheck(generation: &Generation, probe: Option<&Probe>) -> Result<(), String> {
    match (generation.policy.auto.recheck_every, probe) {
        (Some(every), Some(probe)) if probe.answer.is_none() => Err(format!(
            "policy.toml: `auto.recheck_every` is {every}, and the generation's probe has no answer part; train one with `skeg probe \
             train --answers`, or leave the field out"
        )),
        _ => Ok(()),
    }
}

/// The plan of a request that is steered by one category, whose slot is there; `None` where it is steered by several or by
/// none, or the category has no slot.
pub(crate) fn plan_of_one(
    live: &Live<SteeringSlots>,
    resolution: &Resolution,
    num_hidden_layers: usize,
) -> Option<(SteeringPlan, SlotLease)> {
    let mut steering =
        resolution.categories.iter().filter(|resolved| resolved.action == Action::Steer);
    let (resolved, None) = (steering.next()?, steering.next()) else { return None };
    let Live { generation, attached, .. } = live;
    let category = generation.vectors.keys().find(|one| one.as_str() == resolved.slug)?;
    let applied = (resolution.positions, resolved.strength);
    attached.plan_of(generation, category, applied, num_hidden_layers)
}

/// The plan of a resolved request; `None` where nothing is to be steered.
///
/// A single category uses the slot it has, in the layers in which it acts. Several are added up, each with its strength,
/// bounded by the policy's norm, and get a slot of their own for as long as the request runs.
pub(crate) async fn plan(
    app: &App,
    live: &Live<SteeringSlots>,
    resolution: &Resolution,
) -> Result<Option<(SteeringPlan, SlotLease)>, ApiError> {
    if resolution.decision != Decision::Steer {
        return Ok(None);
    }
    if let Some(plan) = plan_of_one(live, resolution, app.num_hidden_layers) {
        return Ok(Some(plan));
    }
    let generation = &live.generation;
    let mut chosen = Vec::new();
    for resolved in resolution.categories.iter().filter(|resolved| resolved.action == Action::Steer)
    {
        let found =
            generation.vectors.iter().find(|(category, _)| category.as_str() == resolved.slug);
        let (category, vectors) = found.ok_or_else(|| {
            ApiError::steering_unavailable(format!(
                "generation {} has no vector for `{}`",
                generation.id, resolved.slug
            ))
        })?;
        chosen.push((category, vectors, resolved.strength));
    }
    if let [(category, _, _)] = chosen.as_slice() {
        return Err(ApiError::steering_unavailable(format!(
            "`{category}` of generation {} has no slot",
            generation.id
        )));
    }
    if !matches!(generation.manifest.operator, store::Operator::Add) {
        return Err(ApiError::bad_request(
            "steering_not_combinable",
            "steering.category",
            "these vectors do not combine: only the operator `add` does; name one category",
        ));
    }
    let summands: Vec<(&CategoryVectors, f32)> =
        chosen.iter().map(|(_, vectors, strength)| (*vectors, *strength)).collect();
    let sum = combine(&summands, generation.policy.max_combined_norm);
    let lease =
        register_sum(app, steering_vector(site(generation.manifest.site), sum.rows())).await?;
    let slot = lease.slots().first().copied().ok_or_else(|| {
        ApiError::steering_unavailable("the engine registered the combined vector without a slot")
    })?;
    let plan = plan_with_slot(
        app.num_hidden_layers,
        generation,
        resolution.positions,
        (slot, 1.0),
        &sum.layers,
    );
    Ok(Some((plan, lease)))
}

async fn register_sum(app: &App, vector: SteeringVector) -> Result<SlotLease, ApiError> {
    let engine = app.engine.clone();
    // Registering waits for the engine's step, so it has a thread of its own.
    let registered = tokio::task::spawn_blocking(move || engine.register_vectors(vec![vector]))
        .await
        .map_err(|error| ApiError::steering_unavailable(format!("registering: {error}")))?;
    registered.map_err(|error| match error {
        SubmitError::Stopped => ApiError::not_ready(app.reason_stopped()),
        // The summands were validated with their generation, so what is left to refuse is room.
        SubmitError::Overloaded { .. } | SubmitError::Refused(_) => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "no_steering_slot",
            "no steering slot is free for a request with several categories; try again later",
        )
        .with_log(error.to_string()),
    })
}

fn plan_with_slot(
    num_hidden_layers: usize,
    generation: &Generation,
    positions: Positions,
    (slot, strength): (u32, f32),
    layers: &[usize],
) -> SteeringPlan {
    let slot_in = |layer| if layers.contains(&layer) { slot } else { 0 };
    SteeringPlan {
        site: site(generation.manifest.site),
        operator: operator(generation.manifest.operator),
        positions,
        strength,
        slot_by_layer: (0..num_hidden_layers).map(slot_in).collect(),
    }
}

fn steering_vector<'a>(
    site: Site,
    rows: impl Iterator<Item = (usize, &'a [f32])>,
) -> SteeringVector {
    let layers = rows.map(|(layer, row)| LayerVector { layer, values: row.to_vec() }).collect();
    SteeringVector { site, layers }
}

/// What the evidence says of a generation: of its layers those in which one of the resolved categories acts.
pub(crate) fn facts(generation: &Generation, resolution: &Resolution) -> GenerationFacts {
    let named = |category: &Category| {
        let resolved = resolution.categories.iter().find(|one| one.slug == category.as_str());
        resolved.is_some_and(|resolved| resolved.action == Action::Steer)
    };
    let vectors = generation.vectors.iter().filter(|(category, _)| named(category));
    let layers: BTreeSet<usize> =
        vectors.flat_map(|(_, vectors)| vectors.acting_rows().map(|(layer, _)| layer)).collect();
    GenerationFacts {
        id: generation.id.to_string(),
        site: site(generation.manifest.site),
        layers: layers.into_iter().collect(),
        operator: operator(generation.manifest.operator),
        weights_mismatch: generation.weights_mismatch,
    }
}

/// The policy as it stands for one group; a group it does not name has the least rights. `has_gate` says whether there is a classifier
/// that finds categories.
pub(crate) fn rules(policy: &Policy, group: &str, has_gate: bool) -> Rules {
    let categories = policy.categories.iter().map(|(category, policy)| {
        let rule = CategoryRule {
            action: match policy.action {
                store::Action::Steer => Action::Steer,
                store::Action::Refuse => Action::Refuse,
                store::Action::Log => Action::Log,
            },
            floor: policy.strength.floor,
            default: policy.strength.default,
            ceiling: policy.strength.ceiling,
            positions: positions(policy.positions),
            refusal: policy.refusal.clone(),
        };
        (category.to_string(), rule)
    });
    let group = policy.group(group);
    let group = GroupRule {
        categories: group
            .categories
            .as_ref()
            .map(|allowed| allowed.iter().map(ToString::to_string).collect()),
        may_none: group.may_none,
        may_raise: group.may_raise,
        may_lower: group.may_lower,
        may_compare: group.may_compare,
    };
    Rules {
        categories: categories.collect(),
        when_missing: match &policy.when_missing {
            store::WhenMissing::Category(category) => Missing::Category(category.to_string()),
            store::WhenMissing::Auto => Missing::Auto,
            store::WhenMissing::None => Missing::None,
            store::WhenMissing::Reject => Missing::Reject,
        },
        on_abstain: match &policy.on_abstain {
            store::OnAbstain::Category(category) => Abstained::Category(category.to_string()),
            store::OnAbstain::None => Abstained::None,
            store::OnAbstain::Reject => Abstained::Reject,
        },
        has_gate,
        group,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"when_missing = "b"
[categories.a]
action = "steer"
positions = "prompt"
strength = { default = 0.7, floor = 0.4, ceiling = 1.0 }
[categories.b]
action = "log"
positions = "generation"
strength = { default = 0.7, floor = 0.4, ceiling = 1.0 }
[categories.c]
action = "refuse"
positions = "all"
strength = { default = 0.7, floor = 0.4, ceiling = 1.0 }
refusal = "No."
[groups.choosers]
categories = ["a"]
[groups.none]
may_none = true
[groups.raise]
may_raise = true
[groups.lower]
may_lower = true
[groups.compare]
may_compare = true
"#;

    #[test]
    fn every_word_of_a_policy_is_a_rule() {
        let policy = Policy::parse(POLICY).unwrap();
        let of_nobody = rules(&policy, "anonymous", false);
        let words: Vec<_> = of_nobody
            .categories
            .iter()
            .map(|(slug, rule)| (slug.as_str(), rule.action, rule.positions))
            .collect();
        assert_eq!(
            words,
            [
                ("a", Action::Steer, Positions::Prompt),
                ("b", Action::Log, Positions::Generation),
                ("c", Action::Refuse, Positions::All),
            ]
        );
        let rule = &of_nobody.categories["c"];
        let bits = [rule.floor, rule.default, rule.ceiling].map(f32::to_bits);
        assert_eq!(bits, [0.4_f32, 0.7, 1.0].map(f32::to_bits));
        assert_eq!(rule.refusal, "No.");
        for (word, missing) in [
            ("b", Missing::Category("b".to_owned())),
            ("none", Missing::None),
            ("reject", Missing::Reject),
            ("auto", Missing::Auto),
        ] {
            let text = POLICY.replacen("\"b\"", &format!("\"{word}\""), 1);
            assert_eq!(rules(&Policy::parse(&text).unwrap(), "x", true).when_missing, missing);
        }
    }

    #[test]
    fn a_group_has_the_permissions_that_it_is_given_alone() {
        let policy = Policy::parse(POLICY).unwrap();
        for (name, expected) in [
            ("anonymous", [false; 4]),
            ("choosers", [false; 4]),
            ("none", [true, false, false, false]),
            ("raise", [false, true, false, false]),
            ("lower", [false, false, true, false]),
            ("compare", [false, false, false, true]),
        ] {
            let group = rules(&policy, name, false).group;
            let may = [group.may_none, group.may_raise, group.may_lower, group.may_compare];
            assert_eq!(may, expected, "{name}");
            assert!(group.may_name("a"), "{name}");
            assert_eq!(group.may_name("b"), name != "choosers", "{name}");
        }
    }
}
