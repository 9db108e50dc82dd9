//! The live probe: whether a hidden state moved along its category's vector as the plan says.
//!
//! It reads the residual stream that the pass goes on with, before and after the hook, and compares the change of its
//! projection on the vector, `<h, v> / ||v||`, with the change that the plan asks for:
//!
//! - [`Operator::Add`]: `s * ||v||`
//! - [`Operator::AddNormRestored`]: `r * (<h, v> / ||v|| + s * ||v||) - <h, v> / ||v||` with `r = ||h|| / ||h + s*v||`;
//!   it has the sign of s, because the row turns towards `s * v`
//! - [`Operator::ProjectOut`]: `-s * <h, v> / ||v||`
//!
//! h is the row at the hook, s the strength. At `attn_out` the row is a part of the residual sum x + h, and x has the
//! same share before and after. Each follows from the definition of its operator (arXiv 2410.01174, Eq. 2;
//! arXiv 2406.11717). Sums are f64.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::SteerRow;
use crate::steering::{Operator, Site, SteeringPlan, SteeringTables};

/// A projection has moved if it moved in the planned direction by at least this share of the plan.
const LEAST_SHARE: f64 = 0.5;
/// A change is judged if it is at least this many times what rounding alone could move: rounding then shifts the
/// share by a quarter at most, so it never makes a change that was carried out look like one that was not.
const ROUNDINGS: f64 = 4.0;
/// Rounding of a pass's f32 sums, relative to the rows: 16 units in the last place.
const SUM_ROUNDING: f64 = 1.0 / ((1_u32 << 20) as f64);
/// Rounding of the f32 dot products that two operators use, relative to the row: `hidden_size / 16` additions a lane
/// (`kernels::lanes`), for hidden sizes up to 16384.
const DOT_ROUNDING: f64 = 1.0 / ((1_u32 << 14) as f64);

/// What a sample says of the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectionFinding {
    /// The projection moved in the planned direction by at least half of the plan.
    Moved,
    /// It did not, although that much was due: steering is broken.
    Unmoved,
    /// The vector in the table is not the one that was registered: steering is broken.
    WrongVector,
    /// The planned change is too small beside the row for f32 to tell, or the row is not finite.
    Unresolved,
}

/// One row at one hook: what its projection was to do, and what it did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProjectionSample {
    /// Where.
    pub site: Site,
    /// Block index from 0.
    pub layer: usize,
    /// Row of the packed batch.
    pub row: usize,
    /// Slot of the vector.
    pub slot: usize,
    /// Change of `<h, v> / ||v||` that the plan asks for.
    pub planned: f64,
    /// Change that was read.
    pub measured: f64,
    /// What follows.
    pub finding: ProjectionFinding,
}

impl ProjectionSample {
    /// Whether steering was due and did not happen.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(self.finding, ProjectionFinding::Unmoved | ProjectionFinding::WrongVector)
    }

    /// `measured / planned`, 1 = as planned; 0 where the row moved against the plan or along another vector. `None`
    /// where that cannot be told.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        match self.finding {
            ProjectionFinding::Unresolved => None,
            ProjectionFinding::WrongVector => Some(0.0),
            // `max` gives 0 for NaN: a row that stopped being finite.
            ProjectionFinding::Moved | ProjectionFinding::Unmoved => {
                Some((self.measured / self.planned).max(0.0))
            }
        }
    }
}

/// Measures one row at each steered site and layer of the passes it is handed to
/// ([`super::SteerRows::probed_by`]), and changes nothing.
///
/// Vectors take turns, and so do the rows of each: of those in a batch the one goes next that waited longest. So with
/// `n` vectors at a place, each is measured there in `n` passes at most. No clock and no chance.
///
/// # Cost
/// For each sample three rows are copied, six dot products and one SHA-256 of a row are computed.
#[derive(Debug, Default)]
pub struct ProjectionProbe {
    /// By site, layer and slot.
    turns: BTreeMap<(Site, usize, usize), Turns>,
    num_turns: u64,
    samples: Vec<ProjectionSample>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Turns {
    /// Number of the last one, from 1; 0 before the first.
    last: u64,
    taken: usize,
}

impl ProjectionProbe {
    /// The samples of the last pass, in the order of layers, emptying them.
    pub fn take(&mut self) -> Vec<ProjectionSample> {
        std::mem::take(&mut self.samples)
    }

    /// Starts a pass: drops what is left of the one before.
    pub(super) fn begin(&mut self) {
        self.samples.clear();
    }

    /// Whose turn it is of the rows that are due at a place.
    pub(super) fn choose(&mut self, place: (Site, usize), due: &[SteerRow]) -> Option<SteerRow> {
        let (site, layer) = place;
        let turns_of = |slot: usize| self.turns.get(&(site, layer, slot)).copied();
        // Rows of a sequence lie side by side.
        let slot = due
            .chunk_by(|a, b| a.slot == b.slot)
            .map(|rows| rows[0].slot)
            .min_by_key(|&slot| (turns_of(slot).unwrap_or_default().last, slot))?;
        let rows = || due.iter().filter(|steered| steered.slot == slot);
        self.num_turns += 1;
        let turns = self.turns.entry((site, layer, slot)).or_default();
        turns.last = self.num_turns;
        let chosen = rows().nth(turns.taken % rows().count()).copied();
        turns.taken = turns.taken.wrapping_add(1);
        chosen
    }

    /// Notes what a row that was chosen did.
    ///
    /// # Shapes
    /// - `after`: `[total_tokens, hidden_size]`, f32: the residual stream that goes on
    pub(super) fn note(&mut self, before: &Before, after: &Tensor) -> Result<()> {
        self.push(before, &row(after, before.steered.row)?);
        Ok(())
    }

    /// [`note`](Self::note) of the row alone, `[hidden_size]`.
    pub(super) fn push(&mut self, before: &Before, after: &[f32]) {
        self.samples.push(before.compare(after));
    }
}

/// What the plans ask for at a place, read from the plans and not from what the hook makes of them: so a row that the
/// hook passes over is seen.
pub(super) fn due(place: (Site, usize), rows: &[Option<&SteeringPlan>]) -> Vec<SteerRow> {
    let (site, layer) = place;
    let asked = |(row, plan): (usize, &Option<&SteeringPlan>)| {
        let plan = plan.filter(|plan| plan.site == site)?;
        let slot = plan.slot_by_layer[layer] as usize;
        let acts = slot != 0 && plan.strength != 0.0;
        acts.then_some(SteerRow { row, slot, strength: plan.strength, operator: plan.operator })
    };
    rows.iter().enumerate().filter_map(asked).collect()
}

/// What was read of a chosen row before the hook.
#[derive(Debug)]
pub(crate) struct Before {
    place: (Site, usize),
    steered: SteerRow,
    /// `[hidden_size]`.
    vector: Vec<f32>,
    /// Whether the vector is the one that was registered.
    registered: bool,
    /// Projection of the residual stream.
    along: f64,
    planned: f64,
    /// How far rounding alone could move the projection.
    rounding: f64,
}

impl Before {
    /// Reads the row at the hook and its share `x` of the residual sum, where it is a part of one.
    ///
    /// # Shapes
    /// - `h`, `x`: `[total_tokens, hidden_size]`, f32
    pub(super) fn read(
        place: (Site, usize),
        steered: SteerRow,
        tables: &SteeringTables,
        h: &Tensor,
        x: Option<&Tensor>,
    ) -> Result<Self> {
        let (site, layer) = place;
        let vector = match tables.table(site, layer) {
            Some(table) => row(table, steered.slot)?,
            None => Vec::new(),
        };
        let h = row(h, steered.row)?;
        let x = x.map(|x| row(x, steered.row)).transpose()?.unwrap_or_default();
        Ok(Self::of((place, steered), tables, vector, &h, &x))
    }

    /// [`read`](Self::read) of the rows alone, `[hidden_size]` each.
    pub(super) fn of(
        (place, steered): ((Site, usize), SteerRow),
        tables: &SteeringTables,
        vector: Vec<f32>,
        h: &[f32],
        x: &[f32],
    ) -> Self {
        let registered = tables.is_registered(place, steered.slot, &vector);
        let dots = Dots { hh: dot(h, h), hv: dot(h, &vector), vv: dot(&vector, &vector) };
        let norm = dots.vv.sqrt().max(f64::MIN_POSITIVE);
        let dot_rounding = match steered.operator {
            Operator::Add => 0.0,
            Operator::AddNormRestored | Operator::ProjectOut => DOT_ROUNDING,
        };
        let h_norm = dots.hh.sqrt();
        Self {
            along: (dots.hv + dot(x, &vector)) / norm,
            planned: dots.planned(steered.operator, f64::from(steered.strength)),
            rounding: SUM_ROUNDING * (h_norm + dot(x, x).sqrt()) + dot_rounding * h_norm,
            place,
            steered,
            vector,
            registered,
        }
    }

    fn compare(&self, after: &[f32]) -> ProjectionSample {
        let norm = dot(&self.vector, &self.vector).sqrt().max(f64::MIN_POSITIVE);
        let measured = dot(after, &self.vector) / norm - self.along;
        let planned = self.planned;
        // False where the rounding is NaN: a row that is not finite.
        let is_due = planned != 0.0 && planned.abs() >= ROUNDINGS * self.rounding;
        let finding = if !self.registered {
            ProjectionFinding::WrongVector
        } else if !is_due {
            ProjectionFinding::Unresolved
        } else if measured * planned.signum() >= LEAST_SHARE * planned.abs() {
            ProjectionFinding::Moved
        } else {
            ProjectionFinding::Unmoved
        };
        let (site, layer) = self.place;
        let SteerRow { row, slot, .. } = self.steered;
        ProjectionSample { site, layer, row, slot, planned, measured, finding }
    }
}

/// Dot products of the row at the hook and its vector.
#[derive(Debug, Clone, Copy)]
struct Dots {
    hh: f64,
    hv: f64,
    vv: f64,
}

impl Dots {
    /// The planned change of `<h, v> / ||v||` (the formulas above); 0 for a vector of zeros.
    fn planned(self, operator: Operator, strength: f64) -> f64 {
        let Self { hh, hv, vv } = self;
        if vv == 0.0 {
            return 0.0;
        }
        let norm = vv.sqrt();
        let along = hv / norm;
        match operator {
            Operator::Add => strength * norm,
            Operator::AddNormRestored => {
                let square = hh + 2.0 * strength * hv + strength * strength * vv;
                let restore = (hh / square.max(f64::MIN_POSITIVE)).sqrt();
                restore * (along + strength * norm) - along
            }
            Operator::ProjectOut => -strength * along,
        }
    }
}

/// One row, `[hidden_size]`, of `[rows, hidden_size]`.
fn row(tensor: &Tensor, row: usize) -> Result<Vec<f32>> {
    #[expect(clippy::disallowed_methods, reason = "the sampled rows are looked at on the host")]
    Ok(tensor.get(row)?.to_vec1::<f32>()?)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests;
