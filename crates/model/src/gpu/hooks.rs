//! What is hooked into a pass, as the device reads it, and what the device hands back.

use super::args::{NONE, PlanHeader, SAMPLE_ROWS};
use super::memory::number;
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::hooks::Hooks;
use crate::kernels::SteerRow;
use crate::steering::{Operator, Site, SteeringPlan};

/// Both sites, in the order of a block; [`PlanHeader::site`] is the index.
pub(crate) const SITES: [Site; 2] = [Site::AttnOut, Site::ResidPost];

/// The hooks' part of a step's input; the fields are those of [`super::args::StepHeader`].
#[derive(Debug, Clone, Default)]
pub(super) struct HookInput {
    pub(super) row_plans: Vec<u32>,
    pub(super) plans: Vec<PlanHeader>,
    pub(super) plan_slots: Vec<u32>,
    pub(super) capture_starts: Vec<u32>,
    pub(super) capture_rows: Vec<u32>,
    pub(super) num_captures: usize,
    /// Of all captures together.
    pub(super) captured_rows: usize,
    pub(super) captures_after: bool,
    pub(super) sample_rows: Vec<u32>,
    pub(super) num_layers: usize,
    /// What each sample is, and where it lies.
    samples: Vec<((Site, usize), SteerRow)>,
    /// For each capture, its layers with the first row of what is read there, and the place of each row asked for.
    captures: Vec<CaptureOutput>,
}

/// Where a capture's rows lie in what the device captured.
#[derive(Debug, Clone)]
struct CaptureOutput {
    /// Ascending.
    layers: Vec<(usize, usize)>,
    rows: Vec<usize>,
}

impl HookInput {
    /// Reads hooks that have been checked against the model and the batch. The first `num_blocks` blocks are run.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when a number does not fit 32 bits.
    pub(super) fn new(
        hooks: &mut Hooks<'_>,
        config: &LlamaConfig,
        (total_tokens, num_blocks): (usize, usize),
    ) -> Result<Self> {
        let num_layers = config.num_hidden_layers;
        let mut input = Self {
            row_plans: vec![NONE; total_tokens],
            sample_rows: vec![NONE; SITES.len() * num_layers],
            num_layers,
            ..Self::default()
        };
        if let Some(steer) = &mut hooks.steer {
            input.plan(steer.plans())?;
            for place in (0..num_blocks).flat_map(|layer| SITES.map(|site| (site, layer))) {
                if let Some(chosen) = steer.choose(place) {
                    input.sample_rows[place_index(place, num_layers)] = number(chosen.row)?;
                    input.samples.push((place, chosen));
                }
            }
        }
        if let Some(capture) = &hooks.capture {
            input.captures_after = capture.reads_after();
            for (site, layers, rows) in capture.asked() {
                input.capture((site, layers, rows), (total_tokens, num_blocks))?;
            }
        }
        Ok(input)
    }

    /// Rows of one sequence share one plan; each plan goes up once.
    fn plan(&mut self, rows: &[Option<&SteeringPlan>]) -> Result<()> {
        let mut known: Vec<&SteeringPlan> = Vec::new();
        for (row, plan) in rows.iter().enumerate() {
            let Some(plan) = plan.filter(|plan| plan.acts()) else { continue };
            // From the back: a sequence's rows lie side by side.
            let idx = match known.iter().rposition(|&other| std::ptr::eq(other, plan)) {
                Some(idx) => idx,
                None => {
                    known.push(plan);
                    self.plan_slots.extend(&plan.slot_by_layer);
                    self.plans.push(plan_header(plan));
                    known.len() - 1
                }
            };
            self.row_plans[row] = number(idx)?;
        }
        Ok(())
    }

    fn capture(
        &mut self,
        (site, layers, rows): (Site, &[usize], &[usize]),
        (total_tokens, num_blocks): (usize, usize),
    ) -> Result<()> {
        let mut unique = rows.to_vec();
        unique.sort_unstable();
        unique.dedup();
        let mut places = vec![NONE; total_tokens];
        for (idx, &row) in unique.iter().enumerate() {
            places[row] = number(idx)?;
        }
        let mut starts = vec![NONE; SITES.len() * self.num_layers];
        let mut ascending = layers.to_vec();
        ascending.sort_unstable();
        ascending.dedup();
        let mut output = CaptureOutput { layers: Vec::new(), rows: Vec::new() };
        for layer in ascending.into_iter().filter(|&layer| layer < num_blocks) {
            starts[place_index((site, layer), self.num_layers)] = number(self.captured_rows)?;
            output.layers.push((layer, self.captured_rows));
            self.captured_rows += unique.len();
        }
        output.rows = rows.iter().map(|&row| places[row] as usize).collect();
        self.capture_rows.extend(places);
        self.capture_starts.extend(starts);
        self.captures.push(output);
        self.num_captures += 1;
        Ok(())
    }

    /// Rows that no hook touches.
    pub(super) fn pad_to(&mut self, rows: usize) {
        let padding = rows - self.row_plans.len();
        let total_tokens = self.row_plans.len();
        self.row_plans.resize(rows, NONE);
        let captures = std::mem::take(&mut self.capture_rows);
        for capture in captures.chunks_exact(total_tokens) {
            self.capture_rows.extend(capture);
            self.capture_rows.extend(std::iter::repeat_n(NONE, padding));
        }
    }

    /// Whether the live probe looks at any place.
    pub(super) fn has_samples(&self) -> bool {
        !self.samples.is_empty()
    }

    /// Rows of `samples` that are handed back.
    pub(super) fn sample_rows_kept(&self) -> usize {
        if self.has_samples() { self.sample_rows.len() * SAMPLE_ROWS } else { 0 }
    }

    /// Whether any row is steered.
    pub(super) fn steers(&self) -> bool {
        !self.plans.is_empty()
    }

    /// Hands what the device computed to the hooks.
    ///
    /// # Shapes
    /// - `relative_norms`: `[rows]`
    /// - `captured`: `[captured_rows][hidden]`
    /// - `samples`: `[2][num_layers][SAMPLE_ROWS][hidden]`, empty where there are none
    pub(super) fn hand_back(
        &self,
        hooks: &mut Hooks<'_>,
        hidden: usize,
        (relative_norms, captured, samples): (&[f32], &[f32], &[f32]),
    ) {
        if let Some(steer) = &mut hooks.steer {
            for (row, (&plan, &norm)) in self.row_plans.iter().zip(relative_norms).enumerate() {
                if plan != NONE {
                    steer.note_measured(row, norm);
                }
            }
            for &(place, chosen) in &self.samples {
                let first = place_index(place, self.num_layers) * SAMPLE_ROWS;
                let row = |idx: usize| &samples[(first + idx) * hidden..(first + idx + 1) * hidden];
                steer.note_sample(place, chosen, [row(0), row(1), row(2), row(3)]);
            }
        }
        if let Some(capture) = &mut hooks.capture {
            let rows_of = |output: &CaptureOutput, start: usize| {
                let place =
                    |&row: &usize| &captured[(start + row) * hidden..(start + row + 1) * hidden];
                output.rows.iter().flat_map(place).copied().collect::<Vec<f32>>()
            };
            let parts = self.captures.iter().map(|output| {
                let layers = output.layers.iter();
                layers.map(|&(layer, start)| (layer, rows_of(output, start))).collect()
            });
            capture.put(parts.collect());
        }
    }
}

/// As [`PlanHeader::site`].
pub(super) fn plan_site(site: Site) -> u32 {
    u32::from(site == Site::ResidPost)
}

/// A site and layer among `[2][num_layers]`.
fn place_index((site, layer): (Site, usize), num_layers: usize) -> usize {
    site_index(site) * num_layers + layer
}

/// As [`PlanHeader::site`].
pub(crate) fn site_index(site: Site) -> usize {
    usize::from(site == Site::ResidPost)
}

fn plan_header(plan: &SteeringPlan) -> PlanHeader {
    let operator = match plan.operator {
        Operator::Add => 0,
        Operator::AddNormRestored => 1,
        Operator::ProjectOut => 2,
    };
    PlanHeader { site: plan_site(plan.site), operator, strength: plan.strength, padding: 0 }
}
