//! The live probe in the engine: which steps are measured, what is counted, and what is said when steering is broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hooks::{ProjectionProbe, ProjectionSample};
use crate::steering::SteeringPlan;

/// Upper bounds of the classes of [`LayerProjections::counts`], in `measured / planned`: 0 holds the rows that did not
/// move, 0.5 those that moved by less than half of the plan, and the narrow classes around 1 all others of a sound
/// server.
pub const PROJECTION_RATIO_BOUNDS: [f64; NUM_BOUNDS] = [0.0, 0.5, 0.9, 0.99, 1.01, 1.1, 2.0];
const NUM_BOUNDS: usize = 7;
const NUM_CLASSES: usize = NUM_BOUNDS + 1;

/// What the live probe found in one layer since the engine started.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LayerProjections {
    /// Block index from 0.
    pub layer: usize,
    /// Samples whose `measured / planned` is at most a bound and above the one before, one class a bound and one for
    /// what is above all.
    pub counts: [u64; NUM_CLASSES],
    /// Sum of `measured / planned`.
    pub ratio_sum: f64,
    /// Samples, those included whose planned change was too small to tell.
    pub samples: u64,
    /// Samples in which steering was due and the row did not move.
    pub unmoved: u64,
}

impl LayerProjections {
    /// Samples that have a ratio.
    #[must_use]
    pub fn num_judged(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// One layer's numbers; the engine's thread alone writes them.
#[derive(Debug, Default)]
struct Cells {
    counts: [AtomicU64; NUM_CLASSES],
    /// Bits of an f64.
    ratio_sum: AtomicU64,
    samples: AtomicU64,
    unmoved: AtomicU64,
}

/// Where an engine writes its [`LayerProjections`] and others read them; clones share the place.
///
/// Each number is an atomic of its own, so neither side ever waits; a reader during a write may see some numbers of
/// this step and some of the last.
#[derive(Debug, Clone, Default)]
pub struct SharedProjections(Arc<[Cells]>);

impl SharedProjections {
    fn new(num_hidden_layers: usize) -> Self {
        Self((0..num_hidden_layers).map(|_| Cells::default()).collect())
    }

    /// The layers that were sampled, ascending.
    #[must_use]
    pub fn read(&self) -> Vec<LayerProjections> {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let layers = self.0.iter().enumerate().map(|(layer, cells)| LayerProjections {
            layer,
            counts: cells.counts.each_ref().map(read),
            ratio_sum: f64::from_bits(read(&cells.ratio_sum)),
            samples: read(&cells.samples),
            unmoved: read(&cells.unmoved),
        });
        layers.filter(|layer| layer.samples > 0).collect()
    }

    /// Counts a sample; how many of its layer were broken so far.
    fn count(&self, sample: &ProjectionSample) -> u64 {
        let Some(cells) = self.0.get(sample.layer) else { return 0 };
        cells.samples.fetch_add(1, Ordering::Relaxed);
        if let Some(ratio) = sample.ratio() {
            let class = PROJECTION_RATIO_BOUNDS.partition_point(|&bound| bound < ratio);
            cells.counts[class].fetch_add(1, Ordering::Relaxed);
            let sum = f64::from_bits(cells.ratio_sum.load(Ordering::Relaxed)) + ratio;
            cells.ratio_sum.store(sum.to_bits(), Ordering::Relaxed);
        }
        let broken = u64::from(sample.is_broken());
        cells.unmoved.fetch_add(broken, Ordering::Relaxed) + broken
    }
}

/// The probe, when it is used, and what it found.
#[derive(Debug)]
pub(super) struct LiveProbe {
    /// Every how many steps with steered rows it is used; 0 = never.
    interval: usize,
    steered_steps: usize,
    probe: ProjectionProbe,
    found: SharedProjections,
}

impl LiveProbe {
    pub(super) fn new(interval: usize, num_hidden_layers: usize) -> Self {
        Self {
            interval,
            steered_steps: 0,
            probe: ProjectionProbe::default(),
            found: SharedProjections::new(num_hidden_layers),
        }
    }

    /// The probe, if it is this step's turn: of the steps that steer a row the first, and then every `interval`-th.
    pub(super) fn of_step(
        &mut self,
        plans: &[Option<&SteeringPlan>],
    ) -> Option<&mut ProjectionProbe> {
        if self.interval == 0 || !plans.iter().flatten().any(|plan| plan.acts()) {
            return None;
        }
        let is_due = self.steered_steps.is_multiple_of(self.interval);
        self.steered_steps = self.steered_steps.wrapping_add(1);
        is_due.then_some(&mut self.probe)
    }

    /// Counts what the step's samples say, and returns those in which steering is broken. A layer's are logged the
    /// first time and whenever their number has doubled. After the first one every step that steers is measured.
    pub(super) fn book(&mut self) -> Vec<ProjectionSample> {
        let mut samples = self.probe.take();
        samples.retain(|sample| {
            let unmoved = self.found.count(sample);
            if sample.is_broken() && unmoved.is_power_of_two() {
                tracing::error!(
                    layer = sample.layer,
                    site = ?sample.site,
                    finding = ?sample.finding,
                    ratio = sample.ratio(),
                    unmoved,
                    "steering was due and a sampled row did not move along its vector; the sequences that this vector \
                     steers were given up"
                );
            }
            sample.is_broken()
        });
        if !samples.is_empty() {
            self.interval = 1;
        }
        samples
    }

    pub(super) fn found(&self) -> SharedProjections {
        self.found.clone()
    }
}

/// What the reader of a sequence is told whose vector a broken sample names.
pub(super) fn failure(sample: &ProjectionSample) -> String {
    format!(
        "steering did not take effect in layer {}: a sampled row did not move along its vector",
        sample.layer
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::ProjectionFinding;
    use crate::steering::Site;

    fn sample(finding: ProjectionFinding, measured: f64) -> ProjectionSample {
        let (site, layer, row, slot) = (Site::AttnOut, 1, 0, 1);
        ProjectionSample { site, layer, row, slot, planned: 2.0, measured, finding }
    }

    #[test]
    fn samples_fall_into_the_classes_of_their_ratios() {
        let found = SharedProjections::new(3);
        for (finding, measured, unmoved) in [
            (ProjectionFinding::Moved, 2.0, 0),
            (ProjectionFinding::Moved, 2.0 * 1.05, 0),
            (ProjectionFinding::Moved, 5.0, 0),
            (ProjectionFinding::Unresolved, 2.0, 0),
            (ProjectionFinding::Unmoved, -2.0, 1),
            (ProjectionFinding::Unmoved, 0.5, 2),
            (ProjectionFinding::WrongVector, 2.0, 3),
        ] {
            assert_eq!(found.count(&sample(finding, measured)), unmoved);
        }
        let [layer] = found.read()[..] else { panic!("only one layer was sampled") };
        assert_eq!((layer.layer, layer.samples, layer.unmoved), (1, 7, 3));
        assert_eq!(layer.counts, [2, 1, 0, 0, 1, 1, 0, 1]);
        assert_eq!(layer.num_judged(), 6);
        assert!((layer.ratio_sum - (1.0 + 1.05 + 2.5 + 0.25)).abs() < 1e-12);
    }

    #[test]
    fn only_steps_that_steer_count_and_every_interval_th_is_measured() {
        let plan = |strength| SteeringPlan {
            site: Site::AttnOut,
            operator: crate::steering::Operator::Add,
            positions: crate::steering::Positions::All,
            strength,
            slot_by_layer: vec![0, 1, 0],
        };
        let (acts, idle) = (plan(1.0), plan(0.0));
        let measured = |interval: usize| {
            let mut probe = LiveProbe::new(interval, 3);
            let mut of_step = |plan| probe.of_step(&[None, plan]).is_some();
            let steps =
                [None, Some(&idle), Some(&acts), Some(&acts), None, Some(&acts), Some(&acts)];
            steps.map(&mut of_step)
        };
        assert_eq!(measured(0), [false; 7]);
        assert_eq!(measured(1), [false, false, true, true, false, true, true]);
        assert_eq!(measured(3), [false, false, true, false, false, false, true]);
    }
}
