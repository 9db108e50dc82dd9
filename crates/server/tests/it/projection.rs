//! The live probe of a real engine, seen from `/metrics`.

use std::sync::Arc;

use candle_core::DType;
use serde_json::json;
use skeg_model::engine::{EngineConfig, LlamaEngine};
use skeg_model::testing::{RandomWeights, random_llama, tiny_config};
use skeg_model::{Llama, LlamaConfig};

use crate::harness::{END_OF_TURN, MAX_MODEL_LEN, NUM_LAYERS, Server, Setup};
use crate::scripted::ScriptedEngine;
use crate::store::HIDDEN_SIZE;

/// A random Llama of the store's size.
pub(crate) fn llama() -> Llama {
    let config = LlamaConfig {
        hidden_size: HIDDEN_SIZE,
        intermediate_size: 16,
        num_hidden_layers: NUM_LAYERS,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: HIDDEN_SIZE,
        vocab_size: END_OF_TURN as usize + 1,
        max_position_embeddings: MAX_MODEL_LEN,
        ..tiny_config()
    };
    random_llama(config, 7, RandomWeights::Dense(DType::F32)).unwrap()
}

/// An engine on it, whose steering is measured every other step.
pub(crate) fn tiny_engine() -> LlamaEngine {
    let config = EngineConfig { projection_sample_interval: 2, ..EngineConfig::default() };
    LlamaEngine::new(Arc::new(llama()), &config).unwrap()
}

/// A server on it.
pub(crate) fn server(config: &EngineConfig, setup: Setup) -> Server {
    let engine = LlamaEngine::new(Arc::new(llama()), config).unwrap();
    let (_, control) = ScriptedEngine::new(setup.script.clone(), false);
    setup.start_on(Box::new(engine), control)
}

/// The value of a metric without labels but the model's name.
pub(crate) fn value(metrics: &str, name: &str) -> u64 {
    let start = format!("{name}{{model_name=\"tiny\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(start.as_str()));
    line.expect("the metric is there").parse().unwrap()
}

#[tokio::test]
async fn what_the_probe_measures_is_in_the_metrics() {
    let config = EngineConfig { projection_sample_interval: 2, ..EngineConfig::default() };
    let server = server(&config, Setup::default());
    let tokens = json!({"max_tokens": 5, "ignore_eos": true});
    let plain = server.chat(&[], tokens.clone()).await;
    assert_eq!(plain.status, 200, "{}", plain.text);
    let metrics = server.get("/metrics").await.text;
    assert_eq!(value(&metrics, "skeg_projection_samples_total"), 0);
    assert!(!metrics.contains("skeg_projection_delta_count"), "{metrics}");

    let steered = server.chat(&[("x-safety-category", "fraud_deception")], tokens).await;
    assert_eq!(steered.status, 200, "{}", steered.text);
    let metrics = server.get("/metrics").await.text;
    // Five steps, of which every second is measured, in two layers.
    assert_eq!(value(&metrics, "skeg_projection_samples_total"), 6);
    assert_eq!(value(&metrics, "skeg_projection_unmoved_total"), 0);
    for layer in [1, 2] {
        for line in [
            format!("skeg_projection_delta_count{{model_name=\"tiny\",layer=\"{layer}\"}} 3"),
            format!(
                "skeg_projection_delta_bucket{{model_name=\"tiny\",le=\"0.99\",layer=\"{layer}\"}} 0"
            ),
            format!(
                "skeg_projection_delta_bucket{{model_name=\"tiny\",le=\"1.01\",layer=\"{layer}\"}} 3"
            ),
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
        }
    }
    assert!(!metrics.contains("layer=\"0\"") && !metrics.contains("layer=\"3\""), "{metrics}");
}
