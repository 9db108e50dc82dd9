//! `/metrics`: the numbers of the engine, of requests and of what steers, in the text form of Prometheus (`OpenMetrics` 1.0). No label
//! holds content.

mod projection;
mod requests;
mod sequences;
mod steering;

use std::borrow::Cow;
use std::fmt;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use skeg_model::engine::EngineStats;

pub(crate) use requests::{Outcome, RequestMetrics};
pub(crate) use sequences::{FinishedReason, SequenceMetrics};

use crate::errors::ApiError;
use crate::operations::Operations;
use crate::state::App;
use projection::Projections;
use steering::Steering;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let engine = (app.engine.stats(), Projections { layers: app.engine.projections() });
    let steering = Steering::of(&app);
    let text = text(engine, steering, &app.operations, app.model_name()).map_err(|error| {
        let message = "the metrics could not be written";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics_failed", message)
            .with_log(error.to_string())
    })?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

fn text(
    (stats, projections): (EngineStats, Projections),
    steering: Steering,
    operations: &Operations,
    model_name: &str,
) -> Result<String, fmt::Error> {
    let labels = [(Cow::Borrowed("model_name"), Cow::Owned(model_name.to_owned()))];
    let mut registry = Registry::with_labels(labels.into_iter());
    registry.register_collector(Box::new(Engine { stats }));
    registry.register_collector(Box::new(projections));
    operations.requests.register(&mut registry);
    operations.sequences.register(&mut registry);
    operations.gate.register(&mut registry);
    operations.classifier.register(&mut registry);
    steering.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// One reading of the engine's numbers, under vLLM's names where vLLM has one.
#[derive(Debug)]
struct Engine {
    stats: EngineStats,
}

impl Collector for Engine {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in self.gauges() {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in self.counters() {
            let counter = ConstCounter::new(u64::try_from(value).unwrap_or(u64::MAX));
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

impl Engine {
    /// How things stand: name, help, value.
    fn gauges(&self) -> [(&'static str, &'static str, f64); 5] {
        let stats = self.stats;
        let (held, all) = (count(stats.num_held_blocks), count(stats.num_blocks.max(1)));
        [
            (
                "vllm:num_requests_running",
                "Sequences that take part in steps",
                count(stats.num_running),
            ),
            (
                "vllm:num_requests_waiting",
                "Sequences queued, preempted ones included",
                count(stats.num_waiting),
            ),
            (
                "vllm:kv_cache_usage_perc",
                "Share of KV cache blocks that running sequences hold, 0 to 1",
                held / all,
            ),
            ("skeg_kv_cache_blocks", "Blocks of the KV cache", count(stats.num_blocks)),
            (
                "skeg_kv_cache_idle_blocks",
                "Blocks that the prefix cache alone keeps",
                count(stats.num_idle_blocks),
            ),
        ]
    }

    /// What was counted since the start: name, help, value.
    fn counters(&self) -> [(&'static str, &'static str, usize); 5] {
        let stats = self.stats;
        [
            (
                "vllm:prefix_cache_queries",
                "Prompt tokens looked up in the prefix cache",
                stats.prefix_cache_query_tokens,
            ),
            (
                "vllm:prefix_cache_hits",
                "Prompt tokens found in the prefix cache, and not computed",
                stats.prefix_cache_hit_tokens,
            ),
            (
                "vllm:num_preemptions",
                "Times a running sequence lost its blocks to an older one",
                stats.preemptions,
            ),
            (
                "skeg_prefix_cache_evictions",
                "Blocks the prefix cache gave up for a new use",
                stats.prefix_cache_evictions,
            ),
            (
                "skeg_computed_rows",
                "Rows of forward passes, prompt and decode",
                stats.computed_rows,
            ),
        ]
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of sequences and blocks are far below 2^52")]
fn count(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_s_numbers_stand_under_their_names() {
        let stats = EngineStats {
            num_running: 3,
            num_blocks: 8,
            num_held_blocks: 2,
            prefix_cache_query_tokens: 100,
            prefix_cache_hit_tokens: 64,
            ..EngineStats::default()
        };
        let projections = Projections { layers: Vec::new() };
        let operations = Operations::default();
        let text = text((stats, projections), Steering::example(), &operations, "tiny").unwrap();
        for line in [
            "vllm:num_requests_running{model_name=\"tiny\"} 3.0",
            "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0.25",
            "vllm:prefix_cache_queries_total{model_name=\"tiny\"} 100",
            "vllm:prefix_cache_hits_total{model_name=\"tiny\"} 64",
            "skeg_prefix_cache_evictions_total{model_name=\"tiny\"} 0",
            "skeg_generation_info{model_name=\"tiny\",generation=\"0123\",hash=\"0123ab\"} 1",
            "skeg_generation_age_seconds{model_name=\"tiny\"} 7.0",
            "skeg_swap_total{model_name=\"tiny\",result=\"ok\"} 2",
            "skeg_swap_total{model_name=\"tiny\",result=\"failed\"} 1",
            "skeg_store_follow_total{model_name=\"tiny\",result=\"ok\"} 2",
            "skeg_store_follow_total{model_name=\"tiny\",result=\"failed\"} 1",
            "skeg_store_following{model_name=\"tiny\"} 0.0",
            "skeg_swap_duration_seconds_count{model_name=\"tiny\"} 1",
            "skeg_swap_duration_seconds_sum{model_name=\"tiny\"} 0.5",
            "skeg_admin_requests_total{model_name=\"tiny\",status=\"401\"} 1",
            "skeg_override_active{model_name=\"tiny\",action=\"refuse_all\"} 0.0",
            "skeg_override_active{model_name=\"tiny\",action=\"default_only\"} 1.0",
            "skeg_override_remaining_seconds{model_name=\"tiny\"} 30.0",
            "vllm:generation_tokens_total{model_name=\"tiny\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
