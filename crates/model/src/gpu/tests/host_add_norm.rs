//! Residual sum, hooks and norm on the host, against the CPU's kernels.

use candle_core::{Device, Tensor};

use super::random_step::{
    CAPTURED_ROWS, NUM_LAYERS, NUM_SLOTS, RandomStep, SeqShape, StepOnDevice, StepShape,
};
use super::support::{
    Draw, ELEMENTS, bits, check_close, get, get_floats, index, poisoned, put, rounded, tolerance,
    values,
};
use crate::gpu::args::{AddNormArgs, NONE, SAMPLE_ROWS};
use crate::gpu::host::HostOps;
use crate::gpu::memory::{Address, Element};
use crate::gpu::ops::DeviceOps;
use crate::kernels::{self, Cpu, CpuOptions, SteerRow};
use crate::steering::Operator;

/// Large, so that it shows.
const EPS: f32 = 1e-2;
const F32: f32 = 1e-5;

/// A step with its rows, and the operation's arguments for a place.
struct Case {
    step: RandomStep,
    x: Vec<f32>,
    h: Vec<f32>,
    weight: Vec<f32>,
}

impl Case {
    fn new(draw: &mut Draw, lens: &[usize], hidden: usize) -> Self {
        let seqs: Vec<SeqShape> = lens
            .iter()
            .map(|len| SeqShape { first_position: 3, len: *len, decodes: *len == 1 })
            .collect();
        let shape = StepShape { seqs: &seqs, padding_rows: draw.below(3), block_size: 16, hidden };
        let step = RandomStep::new(draw, shape);
        let len = step.num_rows() * hidden;
        Self { x: draw.floats(len), h: draw.floats(len), weight: draw.floats(hidden), step }
    }

    fn put(&self, device: &mut HostOps, element: Element) -> (AddNormArgs, StepOnDevice) {
        let on_device = self.step.put(device);
        let args = AddNormArgs {
            step: on_device.header,
            h: put(device, &self.h),
            x: put(device, &self.x),
            weight: put(device, &self.weight),
            normed: poisoned(device, element, self.x.len()),
            rows: index(self.step.num_rows()),
            hidden: index(self.step.hidden),
            site: 0,
            layer: 0,
            eps: EPS,
            padding: 0,
        };
        (args, on_device)
    }
}

/// What is expected at a place.
struct Expected {
    at_hook: Vec<f32>,
    steered: Vec<f32>,
    goes_on: Vec<f32>,
    relative_norms: Vec<f32>,
}

impl Expected {
    fn new(case: &Case, cpu: &Cpu, site: u32, layer: usize) -> Self {
        let Case { step, x, h, .. } = case;
        let tensor = |values: &[f32]| rows(values, step.hidden);
        let sum = |x: &[f32], h: &[f32]| values(&kernels::add(&tensor(x), &tensor(h)).unwrap());
        let at_hook = if site == 0 { h.clone() } else { sum(x, h) };
        let steered: Vec<SteerRow> = (0..step.num_rows())
            .filter_map(|row| {
                let (plan, slot) = step.slot(row, site, layer)?;
                let operators = [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut];
                let operator = operators[plan.operator as usize];
                Some(SteerRow { row, slot, strength: plan.strength, operator })
            })
            .collect();
        let changed = tensor(&at_hook);
        let vectors = rows(step.vectors(site, layer), step.hidden);
        let norms = kernels::steer(cpu, &changed, &vectors, &steered).unwrap();
        let mut relative_norms = step.relative_norms.clone();
        for (steered, norm) in steered.iter().zip(norms) {
            relative_norms[steered.row] = relative_norms[steered.row].max(norm);
        }
        let steered = values(&changed);
        let goes_on = if site == 0 { sum(x, &steered) } else { steered.clone() };
        Self { at_hook, steered, goes_on, relative_norms }
    }

    /// What captures leave, poison elsewhere.
    fn captured(&self, step: &RandomStep, place: usize) -> Vec<f32> {
        let hidden = step.hidden;
        let mut captured = vec![f32::NAN; CAPTURED_ROWS * hidden];
        let source = if step.captures_after { &self.steered } else { &self.at_hook };
        for (capture, rows) in step.capture_rows.chunks(step.num_rows()).enumerate() {
            let start = step.capture_starts[capture * 2 * NUM_LAYERS + place];
            for (row, to) in rows.iter().enumerate().filter(|(_, to)| start != NONE && **to != NONE)
            {
                let to = (start + to) as usize * hidden;
                captured[to..to + hidden].copy_from_slice(&source[row * hidden..][..hidden]);
            }
        }
        captured
    }

    /// What the live probe's sample holds, poison elsewhere.
    fn samples(&self, case: &Case, site: u32, layer: usize) -> Vec<f32> {
        let Case { step, x, .. } = case;
        let (hidden, place) = (step.hidden, site as usize * NUM_LAYERS + layer);
        let mut samples = vec![f32::NAN; 2 * NUM_LAYERS * SAMPLE_ROWS * hidden];
        if step.sample_rows[place] != NONE {
            let row = step.sample_rows[place] as usize;
            let of = |values: &[f32]| values[row * hidden..][..hidden].to_vec();
            let share = if site == 0 { of(x) } else { vec![0.0; hidden] };
            let (_, slot) = step.slot(row, site, layer).unwrap();
            let vector = step.vectors(site, layer)[slot * hidden..][..hidden].to_vec();
            let sample = [of(&self.at_hook), share, of(&self.goes_on), vector].concat();
            samples[place * sample.len()..][..sample.len()].copy_from_slice(&sample);
        }
        samples
    }
}

#[test]
fn the_sum_its_hook_and_the_norm_equal_the_cpus() {
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let mut draw = Draw::new(7);
    let (mut num_steered, mut num_samples) = (0, 0);
    for lens in [&[1][..], &[1, 1], &[1, 5, 1], &[20, 1, 12]] {
        for hidden in [64, 96, 130] {
            for (site, layer) in [(0, 0), (0, 2), (1, 0), (1, 1)] {
                let element = ELEMENTS[draw.below(3)];
                let case = Case::new(&mut draw, lens, hidden);
                let expected = Expected::new(&case, &cpu, site, layer);
                let what = format!("{lens:?} rows of {hidden}, site {site}, layer {layer}");
                let mut device = HostOps::default();
                let (args, on_device) = case.put(&mut device, element);
                let args = AddNormArgs { site, layer: index(layer), ..args };
                device.add_norm(&args, element).unwrap();

                let len = case.x.len();
                let x: Vec<f32> = get(&mut device, args.x, len);
                check_close(&x, &expected.goes_on, F32, &what);
                for row in 0..case.step.num_rows() {
                    let part = row * hidden..(row + 1) * hidden;
                    if case.step.slot(row, site, layer).is_none() {
                        let plain = &expected.goes_on[part.clone()];
                        assert_eq!(bits(&x[part]), bits(plain), "row {row} of {what}");
                    } else {
                        num_steered += 1;
                    }
                }
                let weight = Tensor::new(case.weight.as_slice(), &Device::Cpu).unwrap();
                let goes_on = rows(&expected.goes_on, hidden);
                let normed =
                    values(&kernels::rms_norm(&cpu, &goes_on, &weight, f64::from(EPS)).unwrap());
                let found = get_floats(&mut device, element, args.normed, len);
                check_close(&found, &normed, tolerance(element), &what);

                let norms: Vec<f32> =
                    get(&mut device, on_device.relative_norms, case.step.num_rows());
                for (found, expected) in norms.iter().zip(&expected.relative_norms) {
                    check_close(&[*found], &[*expected], F32, &what);
                }
                let place = site as usize * NUM_LAYERS + layer;
                let captured = expected.captured(&case.step, place);
                let found: Vec<f32> = get(&mut device, on_device.captured, captured.len());
                check_close(&found, &captured, F32, &what);
                let samples = expected.samples(&case, site, layer);
                let found: Vec<f32> = get(&mut device, on_device.samples, samples.len());
                check_close(&found, &samples, F32, &what);
                num_samples += usize::from(case.step.sample_rows[place] != NONE);
            }
        }
    }
    assert!(num_steered > 100 && num_samples > 20, "{num_steered} steered, {num_samples} sampled");
}

#[test]
fn without_a_sum_there_is_no_hook_and_rows_stay() {
    let mut draw = Draw::new(8);
    let case = Case::new(&mut draw, &[4, 1], 96);
    let norm = |element| {
        let mut device = HostOps::default();
        let (args, on_device) = case.put(&mut device, element);
        // No header either: nothing of it is read.
        let args = AddNormArgs { h: Address::NONE, step: Address::NONE, ..args };
        device.add_norm(&args, element).unwrap();
        assert_eq!(bits(&get(&mut device, args.x, case.x.len())), bits(&case.x));
        let captured: Vec<f32> = get(&mut device, on_device.captured, CAPTURED_ROWS * 96);
        assert!(captured.iter().all(|value| value.is_nan()));
        get_floats(&mut device, element, args.normed, case.x.len())
    };
    let exact = norm(Element::F32);
    for (row, x) in case.x.chunks(96).enumerate() {
        let square = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 96.0;
        for (idx, x) in x.iter().enumerate() {
            let expected = f64::from(*x) / (square + f64::from(EPS)).sqrt();
            let expected = expected * f64::from(case.weight[idx]);
            let found = f64::from(exact[row * 96 + idx]);
            assert!((found - expected).abs() < 1e-5, "row {row}, value {idx}");
        }
    }
    // What the next product takes is rounded once, ties to even.
    for element in [Element::F16, Element::Bf16] {
        assert_eq!(bits(&norm(element)), bits(&rounded(element, &exact)));
    }
}

/// A vector of zeros has no direction, and a row of zeros no norm, be it the row at the hook or the one that is steered.
#[test]
fn zeros_are_no_division_by_zero() {
    let mut draw = Draw::new(9);
    for operator in 0..3 {
        let mut case = Case::new(&mut draw, &[1, 1], 64);
        case.step.row_plans[..2].fill(0);
        case.step.plans[0].operator = operator;
        case.step.plan_slots[0] = 1;
        case.step.relative_norms.fill(0.0);
        // Small beside one, large beside the smallest number.
        let value = if operator == 2 { 0.0 } else { 1e-18 };
        case.step.table[64..128].fill(value);
        case.h[..64].fill(0.0);
        case.h[64..128].fill(-case.step.plans[0].strength * value);
        let mut device = HostOps::default();
        let (args, on_device) = case.put(&mut device, Element::F32);
        device.add_norm(&args, Element::F32).unwrap();
        let x: Vec<f32> = get(&mut device, args.x, 128);
        assert!(x.iter().all(|value| value.is_finite()), "operator {operator}: {x:?}");
        assert_eq!(bits(&x[64..]), bits(&case.x[64..128]), "operator {operator}: zeros are added");
        let norms: Vec<f32> = get(&mut device, on_device.relative_norms, 2);
        assert!(norms.iter().all(|norm| norm.is_finite()), "operator {operator}: {norms:?}");
        assert_eq!(norms.iter().all(|norm| *norm == 0.0), operator == 2, "{norms:?}");
    }
}

#[test]
fn a_plan_that_does_not_fit_is_an_error() {
    let mut draw = Draw::new(10);
    let run = |case: &Case| {
        let mut device = HostOps::default();
        let (args, _) = case.put(&mut device, Element::F32);
        device.add_norm(&args, Element::F32)
    };
    let mut case = Case::new(&mut draw, &[2], 64);
    case.step.row_plans[0] = 0;
    case.step.plan_slots[0] = 1;
    run(&case).unwrap();
    let with = |change: fn(&mut RandomStep)| {
        let mut step = case.step.clone();
        change(&mut step);
        Case { step, x: case.x.clone(), h: case.h.clone(), weight: case.weight.clone() }
    };
    assert!(run(&with(|step| step.plan_slots[0] = index(NUM_SLOTS))).is_err());
    assert!(run(&with(|step| step.plans[0].operator = 3)).is_err());
    assert!(run(&with(|step| step.row_plans[0] = 1_000_000)).is_err());
}

fn rows(values: &[f32], hidden: usize) -> Tensor {
    Tensor::from_vec(values.to_vec(), (values.len() / hidden, hidden), &Device::Cpu).unwrap()
}
