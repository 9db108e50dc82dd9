//! The canary with the real model: the shipped vectors pass, and vectors that point the wrong way do not go live.

use std::path::Path;
use std::sync::Arc;

use skeg_model::engine::{EngineConfig, EngineThread, LlamaEngine};
use skeg_model::{LoadOptions, LoadedModel};
use skeg_server::{
    Canary, CanaryModel, CanaryOptions, ClassifierKind, SteeringSlots, steering_slots,
};
use skeg_vector_store::{
    Category, Generation, ModelBinding, NewGeneration, Store, WhenMissing, load_generation,
    read_current, set_current, write_generation,
};

use super::process::{model, shipped_vectors};

/// The live generation of the shipped store with the policy's rules of two categories, to be changed.
fn two_categories(generation: &Generation) -> NewGeneration {
    let kept =
        |category: &Category| ["fraud_deception", "malware_viruses"].contains(&category.as_str());
    let mut made = NewGeneration::from(generation.clone());
    made.vectors.retain(|category, _| kept(category));
    made.activation_norms.retain(|category, _| kept(category));
    made.safe_windows.retain(|category, _| kept(category));
    made.policy.categories.retain(|category, _| kept(category));
    made.policy.groups.clear();
    // The probe knows eleven categories.
    made.policy.when_missing = WhenMissing::None;
    made.provenance.categories.clear();
    let card = "# Card\n".to_owned();
    NewGeneration { measured: Vec::new(), probe: None, card, figures: None, ..made }
}

fn publish(root: &Path, generation: &NewGeneration) -> String {
    let id = write_generation(root, generation).unwrap();
    set_current(root, &id, None).unwrap();
    id.to_string()
}

/// A store whose generations answer before they go live, and the thread of the engine they answer in.
fn open(root: &Path, binding: ModelBinding) -> (Store<SteeringSlots>, EngineThread) {
    let model = LoadedModel::load(&model(), &LoadOptions::default()).unwrap();
    let num_hidden_layers = binding.num_hidden_layers;
    let engine = LlamaEngine::new(Arc::new(model.llama), &EngineConfig::default()).unwrap();
    let (thread, engine) = EngineThread::spawn(Box::new(engine), 32, || {}).unwrap();
    let parts = CanaryModel {
        engine: engine.clone(),
        tokenizer: Arc::new(model.tokenizer),
        chat_template: model.chat_template.unwrap(),
        stop_token_ids: model.stop_token_ids,
        num_hidden_layers,
    };
    let canary = Canary::new(parts, CanaryOptions::default());
    let slots = steering_slots(engine, ClassifierKind::Generation);
    let prepare = move |generation: &Generation| canary.examine(generation, slots(generation)?);
    (Store::open(root, binding, prepare).unwrap(), thread)
}

#[test]
fn shipped_vectors_pass_and_reversed_or_overlong_ones_do_not_go_live() {
    let shipped = shipped_vectors();
    let id = read_current(&shipped).unwrap().generation;
    let shipped = load_generation(&shipped, &id, None).unwrap();
    let sound = two_categories(&shipped);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let first = publish(root, &sound);
    let (store, _thread) = open(root, shipped.manifest.model());
    assert_eq!(store.current().generation.id.as_str(), first);

    let fraud: Category = "fraud_deception".parse().unwrap();
    let mut reversed = two_categories(&shipped);
    reversed.vectors.get_mut(&fraud).unwrap().values.iter_mut().for_each(|value| *value = -*value);
    publish(root, &reversed);
    let refused = store.reload().unwrap_err().to_string();
    assert!(
        refused.contains(
            "in 1 of 2 categories: `fraud_deception`: steering made a refusal less likely"
        ),
        "{refused}"
    );
    assert_eq!(store.current().generation.id.as_str(), first);

    let mut overlong = two_categories(&shipped);
    overlong.vectors.get_mut(&fraud).unwrap().values.iter_mut().for_each(|value| *value *= 8.0);
    publish(root, &overlong);
    let refused = store.reload().unwrap_err().to_string();
    assert!(refused.contains("`fraud_deception`: the steered answer broke down"), "{refused}");
    assert_eq!((store.current().generation.id.as_str(), store.failed_reloads()), (&*first, 2));

    let mut renamed = two_categories(&shipped);
    renamed.card = "# Another card\n".to_owned();
    let last = publish(root, &renamed);
    store.reload().unwrap();
    assert_eq!(store.current().generation.id.as_str(), last);
}
