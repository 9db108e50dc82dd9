//! The kernels of sum, hook and norm, emulated, against the host's operation.

use super::random_step::{
    CAPTURE_STRIDE, CAPTURED_ROWS, NUM_LAYERS, RandomStep, SeqShape, StepShape,
};
use super::support::{
    Draw, ELEMENTS, bits, check_close, get, get_floats, kernel_ops, kernel_tolerance, poisoned, put,
};
use crate::gpu::args::{AddNormArgs, NONE, SAMPLE_ROWS};
use crate::gpu::host::HostOps;
use crate::gpu::memory::{Address, Element};
use crate::gpu::ops::DeviceOps;

const F32: f32 = 1e-5;

/// A step with its rows, at a site of a layer.
struct Case {
    step: RandomStep,
    x: Vec<f32>,
    h: Vec<f32>,
    weight: Vec<f32>,
    site: u32,
    layer: u32,
}

/// What is there afterwards.
struct Found {
    x: Vec<f32>,
    normed: Vec<f32>,
    relative_norms: Vec<f32>,
    captured: Vec<f32>,
    samples: Vec<f32>,
}

impl Case {
    fn new(draw: &mut Draw, (rows, hidden): (usize, usize)) -> Self {
        let seqs = [SeqShape { first_position: 0, len: rows, decodes: false }];
        let padding_rows = draw.below(3);
        let shape = StepShape { seqs: &seqs, padding_rows, block_size: 16, hidden };
        let mut step = RandomStep::new(draw, shape);
        // Captures have room for so many rows.
        for row in step.capture_rows.iter_mut().filter(|row| **row >= CAPTURE_STRIDE) {
            *row = NONE;
        }
        let len = step.num_rows() * hidden;
        Self {
            x: draw.floats(len),
            h: draw.floats(len),
            weight: draw.floats(hidden),
            site: draw.index(2),
            layer: draw.index(NUM_LAYERS),
            step,
        }
    }

    fn run(&self, device: &mut dyn DeviceOps, normed: Element, with_h: bool) -> Found {
        let step = self.step.put(device);
        let (len, hidden) = (self.x.len(), self.step.hidden);
        let args = AddNormArgs {
            step: if with_h { step.header } else { Address::NONE },
            h: if with_h { put(device, &self.h) } else { Address::NONE },
            x: put(device, &self.x),
            weight: put(device, &self.weight),
            normed: poisoned(device, normed, len),
            rows: u32::try_from(self.step.num_rows()).unwrap(),
            hidden: u32::try_from(hidden).unwrap(),
            site: self.site,
            layer: self.layer,
            eps: 1e-5,
            padding: 0,
        };
        device.add_norm(&args, normed).unwrap();
        Found {
            x: get(device, args.x, len),
            normed: get_floats(device, normed, args.normed, len),
            relative_norms: get(device, step.relative_norms, self.step.num_rows()),
            captured: get(device, step.captured, CAPTURED_ROWS * hidden),
            samples: get(device, step.samples, 2 * NUM_LAYERS * SAMPLE_ROWS * hidden),
        }
    }

    /// Runs it on both and compares.
    fn check(&self, device: &mut dyn DeviceOps, normed: Element, what: &str) {
        let kernel = self.run(device, normed, true);
        let host = self.run(&mut HostOps::default(), normed, true);
        check_close(&kernel.normed, &host.normed, kernel_tolerance(normed), what);
        check_close(&kernel.captured, &host.captured, F32, what);
        check_close(&kernel.samples, &host.samples, F32, what);
        let hidden = self.step.hidden;
        for row in 0..self.step.num_rows() {
            let part = row * hidden..(row + 1) * hidden;
            let (found, expected) = (&kernel.x[part.clone()], &host.x[part]);
            check_close(found, expected, F32, what);
            if self.step.slot(row, self.site, self.layer as usize).is_none() {
                assert_eq!(bits(found), bits(expected), "row {row}, not steered, {what}");
            }
            let (found, expected) = (kernel.relative_norms[row], host.relative_norms[row]);
            // Against ||h||, since what is taken out of a row may be small beside it. Infinite for a row of zeros that a
            // vector is added to.
            let is_close = (found - expected).abs() <= F32 * expected.max(1.0);
            assert!(is_close || found.to_bits() == expected.to_bits(), "row {row}, {what}");
        }
    }
}

#[test]
fn the_norms_kernels_equal_the_host() {
    let mut draw = Draw::new(11);
    // A width for each kernel, whole and not.
    let shapes = [
        (1, 64),
        (2, 1024),
        (7, 33),
        (33, 96),
        (130, 130),
        (33, 1),
        (7, 1028),
        (2, 4096),
        (2, 4100),
        (2, 8190),
        (1, 9000),
    ];
    let mut num_steered = 0;
    for shape in shapes {
        // A launch costs what all memory so far does.
        let Some(mut device) = kernel_ops() else { return };
        let repeats = if shape.1 < 2000 { 4 } else { 2 };
        for repeat in 0..repeats {
            let element = ELEMENTS[draw.below(3)];
            let case = Case::new(&mut draw, shape);
            let Case { site, layer, .. } = case;
            let what = format!("{shape:?} {element:?}, site {site}, layer {layer}, {repeat}");
            case.check(&mut *device, element, &what);
            let is_steered = |row: &usize| case.step.slot(*row, site, layer as usize).is_some();
            num_steered += (0..case.step.num_rows()).filter(is_steered).count();
        }
    }
    assert!(num_steered > 100, "{num_steered}");
}

/// At every site, with captures before and after, every operator on the first row.
#[test]
fn every_operator_is_applied_at_every_site() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(12);
    for (site, captures_after, operator) in
        (0..12).map(|case| (case % 2, case / 2 % 2 == 0, case / 4))
    {
        let mut case = Case { site, layer: 1, ..Case::new(&mut draw, (3, 72)) };
        case.step.row_plans[0] = 0;
        (case.step.plans[0].site, case.step.plans[0].operator) = (site, operator);
        case.step.plan_slots[1] = 2;
        case.step.relative_norms.fill(0.0);
        case.step.captures_after = captures_after;
        case.step.sample_rows.fill(0);
        for (capture, starts) in (0..).zip(case.step.capture_starts.chunks_mut(2 * NUM_LAYERS)) {
            starts.fill(capture * CAPTURE_STRIDE);
        }
        case.check(&mut *device, Element::F32, &format!("site {site}, operator {operator}"));
    }
}

#[test]
fn zeros_give_no_nan() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(13);
    for operator in 0..3 {
        let mut case = Case { site: 0, layer: 0, ..Case::new(&mut draw, (2, 64)) };
        case.step.row_plans[..2].fill(0);
        case.step.plans[0].operator = operator;
        case.step.plan_slots[0] = 1;
        case.step.relative_norms.fill(0.0);
        case.h[..64].fill(0.0);
        case.step.table[64..128].fill(if operator == 2 { 0.0 } else { 1.0 });
        let found = case.run(&mut *device, Element::F32, true);
        assert!(found.x.iter().all(|value| value.is_finite()), "operator {operator}");
        case.check(&mut *device, Element::F32, &format!("operator {operator}"));
    }
}

#[test]
fn without_a_sum_nothing_of_the_step_is_read() {
    let Some(mut device) = kernel_ops() else { return };
    let case = Case::new(&mut Draw::new(14), (5, 200));
    let found = case.run(&mut *device, Element::F16, false);
    let host = case.run(&mut HostOps::default(), Element::F16, false);
    assert_eq!(bits(&found.x), bits(&case.x));
    check_close(&found.normed, &host.normed, kernel_tolerance(Element::F16), "normed");
    assert!(found.captured.iter().chain(&found.samples).all(|value| value.is_nan()));
}

/// What a row comes to does not depend on the rows beside it.
#[test]
fn a_row_has_the_same_bits_alone() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(15);
    let many = Case { site: 0, layer: 0, ..Case::new(&mut draw, (9, 516)) };
    let together = many.run(&mut *device, Element::Bf16, true);
    for row in 0..9 {
        let part = row * 516..(row + 1) * 516;
        let mut alone = Case { site: 0, layer: 0, ..Case::new(&mut draw, (1, 516)) };
        alone.step.row_plans[0] = many.step.row_plans[row];
        alone.step.plans.clone_from(&many.step.plans);
        alone.step.plan_slots.clone_from(&many.step.plan_slots);
        alone.step.table.clone_from(&many.step.table);
        alone.x[..516].copy_from_slice(&many.x[part.clone()]);
        alone.h[..516].copy_from_slice(&many.h[part.clone()]);
        alone.weight.clone_from(&many.weight);
        let found = alone.run(&mut *device, Element::Bf16, true);
        assert_eq!(bits(&found.x[..516]), bits(&together.x[part.clone()]), "row {row}");
        assert_eq!(bits(&found.normed[..516]), bits(&together.normed[part]), "row {row}");
    }
}
