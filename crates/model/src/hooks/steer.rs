//! Steering of chosen rows of a packed batch.

use candle_core::Tensor;

use super::projection::{Before, ProjectionProbe, due};
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::kernels::{self, Cpu, SteerRow};
use crate::steering::{Site, SteeringPlan, SteeringTables};

/// The plan of each row of a packed batch, and what was measured when they were applied.
///
/// Which rows a plan covers ([`crate::steering::Positions`]) is decided by whoever makes the batch:
/// a row is steered if and only if it has a plan here, the plan's strength is not 0 and its slot in
/// the layer is not 0.
#[derive(Debug)]
pub struct SteerRows<'a> {
    tables: &'a SteeringTables,
    rows: Vec<Option<&'a SteeringPlan>>,
    measured: Vec<Option<f32>>,
    probe: Option<&'a mut ProjectionProbe>,
    /// What is steered at the place that was last asked for.
    listed: Vec<SteerRow>,
    listed_at: Option<(Site, usize)>,
}

impl<'a> SteerRows<'a> {
    /// Binds rows to plans; `rows` is `[total_tokens]`.
    #[must_use]
    pub fn new(tables: &'a SteeringTables, rows: Vec<Option<&'a SteeringPlan>>) -> Self {
        let measured = vec![None; rows.len()];
        Self { tables, rows, measured, probe: None, listed: Vec::new(), listed_at: None }
    }

    /// Lets `probe` measure the passes, if there is one. What they compute stays bitwise the same.
    #[must_use]
    pub fn probed_by(self, probe: Option<&'a mut ProjectionProbe>) -> Self {
        Self { probe, ..self }
    }

    /// `[total_tokens]`: for each row the largest `||delta|| / ||h||` over the layers in which the
    /// last pass steered it, `h` being the row at the hook before the change and `delta` being
    /// `strength * v`, or the part taken out by [`crate::steering::Operator::ProjectOut`]. `None`
    /// for rows that were not steered.
    #[must_use]
    pub fn measured(&self) -> &[Option<f32>] {
        &self.measured
    }

    /// Checks every plan against the model, the batch and the tables.
    pub(super) fn begin(&mut self, config: &LlamaConfig, total_tokens: usize) -> Result<()> {
        if self.rows.len() != total_tokens {
            return Err(Error::Steering(format!(
                "{} steering rows for a batch of {total_tokens}",
                self.rows.len()
            )));
        }
        if self.tables.hidden_size() != config.hidden_size {
            return Err(Error::Steering(format!(
                "tables of width {} for a model of hidden size {}",
                self.tables.hidden_size(),
                config.hidden_size
            )));
        }
        let mut checked: Option<&SteeringPlan> = None;
        for plan in self.rows.iter().copied().flatten() {
            // Rows of one sequence share one plan and lie side by side.
            if !checked.is_some_and(|last| std::ptr::eq(last, plan)) {
                self.tables.check_plan_rows(plan)?;
                checked = Some(plan);
            }
        }
        self.measured.fill(None);
        if let Some(probe) = &mut self.probe {
            probe.begin();
        }
        self.listed_at = None;
        Ok(())
    }

    /// Changes the steered rows of `h` in place; does nothing at all when there is none.
    ///
    /// # Shapes
    /// - `h`: `[total_tokens, hidden_size]`, f32
    pub(super) fn apply(&mut self, cpu: &Cpu, site: Site, layer: usize, h: &Tensor) -> Result<()> {
        if !self.list(site, layer) {
            return Ok(());
        }
        let table = self.table(site, layer)?;
        let relative_norms = kernels::steer(cpu, h, table, &self.listed)?;
        self.measure(relative_norms);
        Ok(())
    }

    /// `x + h` after [`apply`](Self::apply), in one operation; the plain sum when no row is steered.
    ///
    /// # Shapes
    /// - `x`, `h`, returns: `[total_tokens, hidden_size]`, f32
    pub(super) fn add(
        &mut self,
        cpu: &Cpu,
        (site, layer): (Site, usize),
        x: &Tensor,
        h: &Tensor,
    ) -> Result<Tensor> {
        if !self.list(site, layer) {
            return kernels::add(x, h);
        }
        let table = self.table(site, layer)?;
        let (sum, relative_norms) = kernels::add_steered(cpu, x, h, table, &self.listed)?;
        self.measure(relative_norms);
        Ok(sum)
    }

    /// Reads the row that the probe chooses of those that plans ask for at a place; `x` is what is added to `h`.
    ///
    /// # Shapes
    /// - `h`, `x`: `[total_tokens, hidden_size]`, f32
    pub(super) fn before(
        &mut self,
        place: (Site, usize),
        h: &Tensor,
        x: Option<&Tensor>,
    ) -> Result<Option<Before>> {
        let Some(probe) = &mut self.probe else { return Ok(None) };
        let chosen = probe.choose(place, &due(place, &self.rows));
        chosen.map(|chosen| Before::read(place, chosen, self.tables, h, x)).transpose()
    }

    /// Hands the probe what became of the row: `h` is what goes on, `[total_tokens, hidden_size]`.
    pub(super) fn after(&mut self, before: &Before, h: &Tensor) -> Result<()> {
        self.probe.as_mut().map_or(Ok(()), |probe| probe.note(before, h))
    }

    /// `[total_tokens]`: the plan of each row.
    pub(crate) fn plans(&self) -> &[Option<&'a SteeringPlan>] {
        &self.rows
    }

    /// The tables that plans name slots of.
    pub(crate) fn tables(&self) -> &'a SteeringTables {
        self.tables
    }

    /// The row that the probe chooses at a place, if there is a probe and a row that plans ask for.
    pub(crate) fn choose(&mut self, place: (Site, usize)) -> Option<SteerRow> {
        self.probe.as_mut()?.choose(place, &due(place, &self.rows))
    }

    /// Takes what a device measured of a row that it steered, as [`Self::measured`] gives it.
    pub(crate) fn note_measured(&mut self, row: usize, relative_norm: f32) {
        if let Some(measured) = self.measured.get_mut(row) {
            *measured = Some(relative_norm);
        }
    }

    /// Hands the probe what a device read of a chosen row: the row at the hook and what is added to it, what goes on, and the
    /// vector in the table, `[hidden_size]` each.
    pub(crate) fn note_sample(
        &mut self,
        place: (Site, usize),
        chosen: SteerRow,
        [h, x, after, vector]: [&[f32]; 4],
    ) {
        if let Some(probe) = &mut self.probe {
            let before = Before::of((place, chosen), self.tables, vector.to_vec(), h, x);
            probe.push(&before, after);
        }
    }

    /// Asks for the vectors of one site of one layer ahead of their use.
    pub(super) fn prefetch(&mut self, site: Site, layer: usize) {
        if let (true, Some(table)) = (self.list(site, layer), self.tables.table(site, layer)) {
            kernels::prefetch_slots(table, &self.listed);
        }
    }

    /// Lists what is done to which rows at one site of one layer; whether there is anything.
    fn list(&mut self, site: Site, layer: usize) -> bool {
        if self.listed_at != Some((site, layer)) {
            self.listed_at = Some((site, layer));
            self.listed.clear();
            self.listed.extend(self.rows.iter().enumerate().filter_map(|(row, plan)| {
                let plan = plan.filter(|plan| plan.site == site && plan.strength != 0.0)?;
                let slot = plan.slot_by_layer[layer] as usize;
                let (strength, operator) = (plan.strength, plan.operator);
                (slot != 0).then_some(SteerRow { row, slot, strength, operator })
            }));
        }
        !self.listed.is_empty()
    }

    fn table(&self, site: Site, layer: usize) -> Result<&'a Tensor> {
        self.tables.table(site, layer).ok_or_else(|| {
            Error::Steering(format!("no vector is registered for {site:?} in layer {layer}"))
        })
    }

    fn measure(&mut self, relative_norms: Vec<f32>) {
        for (steered, norm) in self.listed.iter().zip(relative_norms) {
            let largest = &mut self.measured[steered.row];
            *largest = Some(largest.map_or(norm, |before| before.max(norm)));
        }
    }
}
