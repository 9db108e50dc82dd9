//! Residual sum with its hook, and RMS norm.

use super::dot;
use super::memory::{Memory, bad};
use crate::error::Result;
use crate::gpu::args::{AddNormArgs, NONE, PlanHeader, SAMPLE_ROWS, StepHeader};
use crate::gpu::memory::Element;

/// [`PlanHeader::site`].
const ATTN_OUT: u32 = 0;

/// [`AddNormArgs`].
pub(super) fn add_norm(memory: &mut Memory, args: &AddNormArgs, normed: Element) -> Result<()> {
    let hidden = args.hidden as usize;
    let weight: Vec<f32> = memory.read(args.weight, 0, hidden)?;
    let step = match args.h.is_some() {
        true => Some(memory.at::<StepHeader>(args.step, 0)?),
        false => None,
    };
    for row in 0..args.rows as usize {
        let mut x: Vec<f32> = memory.read(args.x, row * hidden, hidden)?;
        if let Some(step) = step {
            let h: Vec<f32> = memory.read(args.h, row * hidden, hidden)?;
            x = Hook { step, args, row }.add(memory, x, h)?;
            memory.write(args.x, row * hidden, &x)?;
        }
        let scale = 1.0 / (dot(&x, &x) / args.hidden as f32 + args.eps).sqrt();
        let values: Vec<f32> =
            x.iter().zip(&weight).map(|(x, weight)| x * scale * weight).collect();
        memory.write_floats(normed, args.normed, row * hidden, &values)?;
    }
    Ok(())
}

/// One row at the hook of a site and layer.
struct Hook<'a> {
    step: StepHeader,
    args: &'a AddNormArgs,
    row: usize,
}

/// What is done to a row.
struct Steering {
    plan: PlanHeader,
    /// The vector as it lies in the table.
    v: Vec<f32>,
}

impl Hook<'_> {
    /// The residual stream that goes on, with everything that is read and changed on the way.
    fn add(&self, memory: &mut Memory, x: Vec<f32>, h: Vec<f32>) -> Result<Vec<f32>> {
        // What the hook sees, and what is added to it afterwards.
        let (mut at_hook, share) = match self.args.site {
            ATTN_OUT => (h, Some(x)),
            _ => (sum(&x, &h), None),
        };
        let steering = self.steering(memory)?;
        let sample = self.sample(memory)?;
        let before = sample.map(|_| at_hook.clone());
        if self.step.captures_after == 0 {
            self.capture(memory, &at_hook)?;
        }
        if let Some(steering) = &steering {
            let relative_norm = steering.apply(&mut at_hook)?;
            let largest: f32 = memory.at(self.step.relative_norms, self.row)?;
            memory.write(self.step.relative_norms, self.row, &[largest.max(relative_norm)])?;
        }
        if self.step.captures_after != 0 {
            self.capture(memory, &at_hook)?;
        }
        let goes_on = share.as_ref().map_or_else(|| at_hook.clone(), |share| sum(share, &at_hook));
        if let (Some(first), Some(before)) = (sample, before) {
            let zeros = || vec![0.0; goes_on.len()];
            let share = share.unwrap_or_else(zeros);
            // A row that is not steered has no vector; nobody asks for it.
            let v = steering.map_or_else(zeros, |steering| steering.v);
            memory.write(
                self.step.samples,
                first,
                &[before, share, goes_on.clone(), v].concat(),
            )?;
        }
        Ok(goes_on)
    }

    /// Index of this site and layer where there is one thing a site and layer.
    fn place(&self) -> usize {
        self.args.site as usize * self.step.num_layers as usize + self.args.layer as usize
    }

    /// What is done to the row here, if anything.
    fn steering(&self, memory: &Memory) -> Result<Option<Steering>> {
        let index: u32 = memory.at(self.step.row_plans, self.row)?;
        if index == NONE {
            return Ok(None);
        }
        let plan: PlanHeader = memory.at(self.step.plans, index as usize)?;
        if plan.site != self.args.site {
            return Ok(None);
        }
        let (num_layers, num_slots) = (self.step.num_layers as usize, self.step.num_slots);
        let slot_at = index as usize * num_layers + self.args.layer as usize;
        let slot: u32 = memory.at(self.step.plan_slots, slot_at)?;
        if slot == 0 {
            return Ok(None);
        }
        if slot >= num_slots {
            return Err(bad(format!("plan {index} names slot {slot} of {num_slots}")));
        }
        let hidden = self.args.hidden as usize;
        let first = (self.place() * num_slots as usize + slot as usize) * hidden;
        Ok(Some(Steering { plan, v: memory.read(self.step.table, first, hidden)? }))
    }

    /// The first number of the live probe's sample, if it looks at this row here.
    fn sample(&self, memory: &Memory) -> Result<Option<usize>> {
        let row: u32 = memory.at(self.step.sample_rows, self.place())?;
        let first = self.place() * SAMPLE_ROWS * self.args.hidden as usize;
        Ok((row != NONE && row as usize == self.row).then_some(first))
    }

    /// Copies the row to where captures want it.
    fn capture(&self, memory: &mut Memory, at_hook: &[f32]) -> Result<()> {
        let (rows, num_layers) = (self.args.rows as usize, self.step.num_layers as usize);
        for capture in 0..self.step.num_captures as usize {
            let start: u32 =
                memory.at(self.step.capture_starts, capture * 2 * num_layers + self.place())?;
            let row: u32 = memory.at(self.step.capture_rows, capture * rows + self.row)?;
            if start != NONE && row != NONE {
                let to = (start as usize + row as usize) * at_hook.len();
                memory.write(self.step.captured, to, at_hook)?;
            }
        }
        Ok(())
    }
}

impl Steering {
    /// Changes the row and returns `||delta|| / ||h||`: delta is `strength * v`, or the part that is taken out
    /// (arXiv 2410.01174, Eq. 2; arXiv 2406.11717; [`crate::steering::Operator`]).
    fn apply(&self, h: &mut [f32]) -> Result<f32> {
        let (v, PlanHeader { operator, strength, .. }) = (&self.v, self.plan);
        let (h_norm, v_square) = (dot(h, h).sqrt(), dot(v, v));
        let factor = match operator {
            0 | 1 => strength,
            // A zero vector has no direction: nothing lies along it.
            2 => -strength * dot(h, v) / v_square.max(f32::MIN_POSITIVE),
            _ => return Err(bad(format!("operator {operator}; expected 0, 1 or 2"))),
        };
        for (h, v) in h.iter_mut().zip(v) {
            *h += factor * v;
        }
        if operator == 1 {
            let restore = h_norm / dot(h, h).sqrt().max(f32::MIN_POSITIVE);
            for h in h.iter_mut() {
                *h *= restore;
            }
        }
        Ok(factor.abs() * v_square.sqrt() / h_norm.max(f32::MIN_POSITIVE))
    }
}

fn sum(x: &[f32], h: &[f32]) -> Vec<f32> {
    x.iter().zip(h).map(|(x, h)| x + h).collect()
}
