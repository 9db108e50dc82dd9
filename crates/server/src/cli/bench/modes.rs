//! The ways to steer that are compared, on synthetic vectors.

use std::fmt;

use serde::Serialize;
use skeg_model::steering::{
    LayerVector, Operator, Positions, Site, SlotLease, SteeringPlan, SteeringTables, SteeringVector,
};
use skeg_model::{Hooks, Llama, LlamaConfig, SteerRows};

use super::draw::Draw;

/// Norm of each vector: small against any activation, so that the model computes what it always does.
const VECTOR_NORM: f32 = 1e-2;

/// What a decode step does about steering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// No hook.
    Disabled,
    /// Tables filled and a hook registered, but no row is steered.
    EnabledIdle,
    /// Every row with the same slot and strength.
    AllSteeredShared,
    /// So many slots and strengths in turn over the rows.
    PerRequest(usize),
}

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.pad("disabled"),
            Self::EnabledIdle => f.pad("enabled_idle"),
            Self::AllSteeredShared => f.pad("all_steered_shared"),
            Self::PerRequest(number) => f.pad(&format!("per_request_{number}")),
        }
    }
}

impl Mode {
    /// All of them, with `per_request` configurations each; the first is what the others are compared with, itself
    /// included.
    pub(super) fn all(per_request: &[usize]) -> Vec<Self> {
        let fixed = [Self::Disabled, Self::EnabledIdle, Self::AllSteeredShared];
        fixed
            .into_iter()
            .chain(per_request.iter().map(|&number| Self::PerRequest(number)))
            .collect()
    }

    /// Configurations in use; 0 where no row is steered.
    const fn num_configurations(self) -> usize {
        match self {
            Self::Disabled | Self::EnabledIdle => 0,
            Self::AllSteeredShared => 1,
            Self::PerRequest(number) => number,
        }
    }

    /// The configuration of a row; `None` where it is not steered. Where there are more configurations
    /// than rows, the steps take turns, so that all are in use.
    fn configuration(self, row: usize, num_rows: usize, step_idx: usize) -> Option<usize> {
        (step_idx * num_rows + row).checked_rem(self.num_configurations())
    }

    /// Whether every row is steered.
    pub(super) const fn steers(self) -> bool {
        self.num_configurations() > 0
    }
}

/// Filled tables and the plans that refer to them.
#[derive(Debug)]
pub(super) struct Steering {
    tables: SteeringTables,
    /// One a configuration, each with its own slot and strength.
    plans: Vec<SteeringPlan>,
    /// Keeps the slots taken.
    _lease: SlotLease,
}

impl Steering {
    /// As many vectors for `layers` at the attention output as the modes use, drawn from `seed`.
    pub(super) fn synthetic(
        llama: &Llama,
        layers: &[usize],
        modes: &[Mode],
        seed: u64,
    ) -> anyhow::Result<Self> {
        let config = llama.config();
        let number = modes.iter().map(|mode| mode.num_configurations()).max().unwrap_or(0).max(1);
        let vectors = vectors(config, layers, number, seed);
        let mut tables = SteeringTables::new(llama, vectors.len() + 1);
        let lease = tables.register(&vectors)?;
        Ok(Self { plans: plans(config, layers, &lease), tables, _lease: lease })
    }

    /// The hooks of one step with `num_rows` rows.
    pub(super) fn hooks(&self, mode: Mode, num_rows: usize, step_idx: usize) -> Hooks<'_> {
        let plan = |row| self.plans.get(mode.configuration(row, num_rows, step_idx)?);
        let rows = || SteerRows::new(&self.tables, (0..num_rows).map(plan).collect());
        Hooks { steer: (mode != Mode::Disabled).then(rows), capture: None }
    }
}

/// So many vectors for `layers` at the attention output, drawn from `seed`.
pub(super) fn vectors(
    config: &LlamaConfig,
    layers: &[usize],
    number: usize,
    seed: u64,
) -> Vec<SteeringVector> {
    let mut draw = Draw::new(seed);
    (0..number).map(|_| vector(config, layers, &mut draw)).collect()
}

/// One plan a slot, each with its own strength.
pub(super) fn plans(
    config: &LlamaConfig,
    layers: &[usize],
    lease: &SlotLease,
) -> Vec<SteeringPlan> {
    let strengths = (1..=16_u8).cycle().map(|nth| f32::from(nth) / 16.0);
    let plan = |(&slot, strength): (&u32, f32)| {
        let mut slot_by_layer = vec![0; config.num_hidden_layers];
        layers.iter().for_each(|&layer| slot_by_layer[layer] = slot);
        SteeringPlan {
            site: Site::AttnOut,
            operator: Operator::Add,
            positions: Positions::All,
            strength,
            slot_by_layer,
        }
    };
    lease.slots().iter().zip(strengths).map(plan).collect()
}

fn vector(config: &LlamaConfig, layers: &[usize], draw: &mut Draw) -> SteeringVector {
    // Uniform in -1..1 has variance 1/3.
    let scale = VECTOR_NORM / (config.hidden_size as f32 / 3.0).sqrt();
    let mut value = || scale * draw.signed_unit();
    let mut values = || (0..config.hidden_size).map(|_| value()).collect();
    let layers = layers.iter().map(|&layer| LayerVector { layer, values: values() });
    SteeringVector { site: Site::AttnOut, layers: layers.collect() }
}

/// `number` layers of `num_hidden_layers`, evenly spread; all where there are not so many.
pub(super) fn spread_layers(number: usize, num_hidden_layers: usize) -> Vec<usize> {
    let number = number.min(num_hidden_layers);
    // The middle of each of `number` equal parts.
    (0..number).map(|idx| (2 * idx + 1) * num_hidden_layers / (2 * number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_spread_over_the_model() {
        assert_eq!(spread_layers(1, 30), [15]);
        assert_eq!(spread_layers(3, 30), [5, 15, 25]);
        assert_eq!(spread_layers(12, 3), [0, 1, 2]);
        assert_eq!(spread_layers(0, 3), [0_usize; 0]);
        let twelve = spread_layers(12, 30);
        assert!(twelve.len() == 12 && twelve.is_sorted_by(|a, b| a < b) && twelve[11] < 30);
    }

    #[test]
    fn configurations_take_turns_over_rows_and_steps() {
        let step = |mode: Mode, num_rows: usize, step_idx: usize| {
            let row = |row| mode.configuration(row, num_rows, step_idx);
            (0..num_rows).map(row).collect::<Option<Vec<usize>>>()
        };
        assert_eq!(step(Mode::PerRequest(4), 6, 0), Some(vec![0, 1, 2, 3, 0, 1]));
        assert_eq!(step(Mode::PerRequest(4), 1, 6), Some(vec![2]));
        assert_eq!(step(Mode::PerRequest(16), 8, 3), Some((8..16).collect()));
        assert_eq!(step(Mode::AllSteeredShared, 3, 5), Some(vec![0; 3]));
        for mode in Mode::all(&[4, 16]) {
            assert_eq!(step(mode, 2, 0).is_some(), mode.steers(), "{mode:?}");
        }
    }
}
