//! Numbers of the live probe. The label `layer` comes from the model.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use skeg_model::engine::{LayerProjections, PROJECTION_RATIO_BOUNDS};

const DELTA_HELP: &str = "Change of the hidden state's projection on the category vector at the steering hook, as a \
    share of the planned change, in sampled rows: 1 = as planned, 0 = not or against the plan";
const SAMPLES_HELP: &str = "Steered rows that the live probe measured, those included whose planned change was too \
    small beside the row for a share";
const UNMOVED_HELP: &str = "Sampled rows in which steering was due and the projection moved by less than half of the \
    plan; anything but 0 is an alarm, and the sequences steered by that vector were given up";

/// One reading.
#[derive(Debug)]
pub(super) struct Projections {
    pub(super) layers: Vec<LayerProjections>,
}

impl Collector for Projections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let name = "skeg_projection_delta";
        let mut family =
            encoder.encode_descriptor(name, DELTA_HELP, None, MetricType::Histogram)?;
        for layer in self.layers.iter().filter(|layer| layer.num_judged() > 0) {
            let bounds = PROJECTION_RATIO_BOUNDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(layer.counts).collect();
            family
                .encode_family(&[("layer", layer.layer.to_string())])?
                .encode_histogram::<NoLabelSet>(
                    layer.ratio_sum,
                    layer.num_judged(),
                    &buckets,
                    None,
                )?;
        }
        // Without a label, so that they are there from the start: an increase from nothing would not be seen.
        let sum = |of: fn(&LayerProjections) -> u64| self.layers.iter().map(of).sum::<u64>();
        for (name, help, value) in [
            ("skeg_projection_samples", SAMPLES_HELP, sum(|layer| layer.samples)),
            ("skeg_projection_unmoved", UNMOVED_HELP, sum(|layer| layer.unmoved)),
        ] {
            let counter = ConstCounter::new(value);
            let metric_type = counter.metric_type();
            counter.encode(encoder.encode_descriptor(name, help, None, metric_type)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn text(layers: Vec<LayerProjections>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Projections { layers }));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn each_sampled_layer_has_a_histogram_and_all_have_one_alarm() {
        let text = text(vec![
            LayerProjections {
                layer: 3,
                counts: [1, 0, 0, 0, 4, 0, 0, 1],
                ratio_sum: 6.5,
                samples: 8,
                unmoved: 1,
            },
            LayerProjections { layer: 12, samples: 2, ..LayerProjections::default() },
        ]);
        for line in [
            "# TYPE skeg_projection_delta histogram",
            "skeg_projection_delta_sum{layer=\"3\"} 6.5",
            "skeg_projection_delta_count{layer=\"3\"} 6",
            "skeg_projection_delta_bucket{le=\"0.0\",layer=\"3\"} 1",
            "skeg_projection_delta_bucket{le=\"0.99\",layer=\"3\"} 1",
            "skeg_projection_delta_bucket{le=\"1.01\",layer=\"3\"} 5",
            "skeg_projection_delta_bucket{le=\"+Inf\",layer=\"3\"} 6",
            "skeg_projection_samples_total 10",
            "skeg_projection_unmoved_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("layer=\"12\""), "{text}");
    }

    #[test]
    fn the_counters_are_there_before_anything_is_measured() {
        let text = text(Vec::new());
        assert!(text.contains("\nskeg_projection_samples_total 0\n"), "{text}");
        assert!(text.contains("\nskeg_projection_unmoved_total 0\n"), "{text}");
    }
}
