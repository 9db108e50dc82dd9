//! A store with four categories: `fraud_deception` and `malware_viruses` steer, `adult_content` refuses,
//! `political_campaigning` is logged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use skeg_model::engine::EngineHandle;
use skeg_server::{SteeringSlots, steering_slots};
use skeg_vector_store::*;

/// What differs between tests.
#[derive(Debug, Clone)]
pub(crate) struct TestPolicy {
    /// `none`, `reject` or a category.
    pub(crate) when_missing: &'static str,
    /// Whether `anonymous` may do everything; otherwise it may name categories only.
    pub(crate) permissive: bool,
    pub(crate) operator: Operator,
}

impl Default for TestPolicy {
    fn default() -> Self {
        Self { when_missing: "none", permissive: true, operator: Operator::Add }
    }
}

fn generation(policy: &TestPolicy, id: &str) -> Generation {
    let rule = |action, positions| CategoryPolicy {
        action,
        strength: Strength { floor: 0.5, default: 1.0, ceiling: 1.5 },
        positions,
        refusal: "The policy refuses this.".to_owned(),
    };
    let actions = [
        ("adult_content", Action::Refuse),
        ("fraud_deception", Action::Steer),
        ("malware_viruses", Action::Steer),
        ("political_campaigning", Action::Log),
    ];
    let vectors = CategoryVectors { layers: vec![1, 2], values: vec![0.5; 8] };
    let may = policy.permissive;
    Generation {
        id: GenerationId(id.to_owned()),
        manifest: Manifest { site: Site::AttnOut, operator: policy.operator, layers: vec![1, 2] },
        policy: Policy {
            categories: actions
                .map(|(slug, action)| (Category::new(slug), rule(action, Positions::All)))
                .into(),
            when_missing: match policy.when_missing {
                "none" => WhenMissing::None,
                "reject" => WhenMissing::Reject,
                slug => WhenMissing::Category(Category::new(slug)),
            },
            max_combined_norm: None,
            groups: BTreeMap::from([(
                "anonymous".to_owned(),
                GroupPolicy {
                    categories: None,
                    may_none: may,
                    may_raise: may,
                    may_lower: may,
                    may_compare: may,
                },
            )]),
        },
        vectors: actions.map(|(slug, _)| (Category::new(slug), vectors.clone())).into(),
        card: String::new(),
        weights_mismatch: false,
    }
}

pub(crate) fn open(
    _root: &Path,
    policy: &TestPolicy,
    engine: EngineHandle,
) -> Arc<Store<SteeringSlots>> {
    let generation = generation(policy, "0000000000000001");
    let slots = steering_slots(engine)(&generation).unwrap();
    Arc::new(Store::stub(generation, slots))
}

/// Publishes another generation and makes it the live one.
pub(crate) fn publish(
    _root: &Path,
    policy: &TestPolicy,
    engine: EngineHandle,
    store: &Store<SteeringSlots>,
) {
    let generation = generation(policy, "0000000000000002");
    let slots = steering_slots(engine)(&generation).unwrap();
    store.set(generation, slots);
}
