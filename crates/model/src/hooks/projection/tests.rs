//! What the probe says of a row that was changed by hand.

use candle_core::Device;

use super::*;
use crate::steering::{LayerVector, SteeringVector};
use crate::testing::{RandomWeights, random_llama, tiny_config};

const PLACE: (Site, usize) = (Site::ResidPost, 1);
const OPERATORS: [Operator; 3] = [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut];

fn values(seed: f32) -> Vec<f32> {
    (0..64_u8).map(|i| (f32::from(i) * seed).sin()).collect()
}

/// Two slots, 1 and 2, at [`PLACE`].
fn tables() -> SteeringTables {
    let form = RandomWeights::Dense(candle_core::DType::F32);
    let llama = random_llama(tiny_config(), 1, form).unwrap();
    let mut tables = SteeringTables::new(&llama, 3);
    let vector = |seed| SteeringVector {
        site: PLACE.0,
        layers: vec![LayerVector { layer: PLACE.1, values: values(seed) }],
    };
    drop(tables.register(&[vector(0.7), vector(0.3)]).unwrap());
    tables
}

fn steered(row: usize, slot: usize, operator: Operator) -> SteerRow {
    SteerRow { row, slot, strength: 0.8, operator }
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, (values.len() / 64, 64), &Device::Cpu).unwrap()
}

/// The sample of a row `h` beside `x` that became `after`.
fn sample(steered: SteerRow, h: &[f32], x: Option<&[f32]>, after: &[f32]) -> ProjectionSample {
    let x = x.map(tensor);
    let before = Before::read(PLACE, steered, &tables(), &tensor(h), x.as_ref()).unwrap();
    let mut probe = ProjectionProbe::default();
    probe.note(&before, &tensor(after)).unwrap();
    probe.take()[0]
}

/// `operator(h)`, by definition, in f64.
fn changed(operator: Operator, strength: f64, h: &[f32], v: &[f32]) -> Vec<f32> {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let h: Vec<f64> = h.iter().map(|&h| f64::from(h)).collect();
    let v: Vec<f64> = v.iter().map(|&v| f64::from(v)).collect();
    let hv: f64 = h.iter().zip(&v).map(|(h, v)| h * v).sum();
    let factor = match operator {
        Operator::Add | Operator::AddNormRestored => strength,
        Operator::ProjectOut => -strength * hv / norm(&v).powi(2),
    };
    let sum: Vec<f64> = h.iter().zip(&v).map(|(h, v)| h + factor * v).collect();
    let restore = if operator == Operator::AddNormRestored { norm(&h) / norm(&sum) } else { 1.0 };
    #[expect(clippy::cast_possible_truncation, reason = "a row is f32")]
    sum.iter().map(|sum| (sum * restore) as f32).collect()
}

#[test]
fn what_was_carried_out_has_ratio_one_and_what_was_not_is_unmoved() {
    let (h, v, x) = (values(1.1), values(0.7), values(2.3));
    let sum = |h: &[f32]| h.iter().zip(&x).map(|(h, x)| h + x).collect::<Vec<f32>>();
    for operator in OPERATORS {
        let steered = steered(0, 1, operator);
        let good = changed(operator, 0.8, &h, &v);
        let wrong = changed(operator, -0.8, &h, &v);
        for (sample, expected) in [
            (sample(steered, &h, None, &good), ProjectionFinding::Moved),
            (sample(steered, &h, Some(&x), &sum(&good)), ProjectionFinding::Moved),
            (sample(steered, &h, None, &h), ProjectionFinding::Unmoved),
            (sample(steered, &h, Some(&x), &sum(&h)), ProjectionFinding::Unmoved),
            (sample(steered, &h, None, &wrong), ProjectionFinding::Unmoved),
        ] {
            assert_eq!(sample.finding, expected, "{operator:?}: {sample:?}");
            let ratio = sample.ratio().unwrap();
            let moved = expected == ProjectionFinding::Moved;
            assert!((ratio - if moved { 1.0 } else { 0.0 }).abs() < 1e-5, "{operator:?}: {ratio}");
        }
    }
}

#[test]
fn half_of_the_plan_is_the_limit() {
    let (h, v) = (values(1.1), values(0.7));
    let part = |share: f64| {
        let after = changed(Operator::Add, 0.8 * share, &h, &v);
        sample(steered(0, 1, Operator::Add), &h, None, &after)
    };
    assert!(!part(0.51).is_broken() && part(0.49).is_broken());
    assert!((part(0.49).ratio().unwrap() - 0.49).abs() < 1e-5);
}

#[test]
fn what_f32_cannot_tell_is_not_judged() {
    let v = values(0.7);
    let huge: Vec<f32> = values(1.1).iter().map(|h| h * 1e8).collect();
    let add = steered(0, 1, Operator::Add);
    assert_eq!(sample(add, &huge, None, &huge).finding, ProjectionFinding::Unresolved);
    assert_eq!(sample(add, &v, Some(&huge), &huge).finding, ProjectionFinding::Unresolved);
    let infinite = vec![f32::INFINITY; 64];
    let found = sample(add, &infinite, None, &infinite);
    assert_eq!((found.finding, found.ratio()), (ProjectionFinding::Unresolved, None));
    // Nothing lies along the vector, so nothing is to be taken out.
    let out = steered(0, 1, Operator::ProjectOut);
    assert_eq!(sample(out, &[0.0; 64], None, &[0.0; 64]).finding, ProjectionFinding::Unresolved);
}

#[test]
fn a_row_that_stops_being_finite_did_not_move_as_planned() {
    let found = sample(steered(0, 1, Operator::Add), &values(1.1), None, &[f32::NAN; 64]);
    assert_eq!((found.finding, found.ratio()), (ProjectionFinding::Unmoved, Some(0.0)));
}

#[test]
fn a_table_that_holds_another_row_is_found_even_if_the_row_moved_along_it() {
    let tables = tables();
    let table = tables.table(PLACE.0, PLACE.1).unwrap();
    for other in [values(0.3), vec![0.0; 64]] {
        table.slice_set(&tensor(&other), 0, 1).unwrap();
        let h = values(1.1);
        let after = changed(Operator::Add, 0.8, &h, &other);
        let steered = steered(0, 1, Operator::Add);
        let before = Before::read(PLACE, steered, &tables, &tensor(&h), None).unwrap();
        let found = before.compare(&after);
        assert_eq!(found.finding, ProjectionFinding::WrongVector);
        assert_eq!(found.ratio(), Some(0.0));
        assert!(found.is_broken());
    }
}

#[test]
fn vectors_take_turns_and_so_do_their_rows() {
    let mut probe = ProjectionProbe::default();
    let row = |row, slot| steered(row, slot, Operator::Add);
    let mut turns = |listed: &[SteerRow], place| {
        let chosen = probe.choose(place, listed).unwrap();
        (chosen.slot, chosen.row)
    };
    // A prompt of many rows does not crowd out the one row of another.
    let both = [row(0, 2), row(1, 2), row(2, 2), row(3, 1)];
    let found: Vec<_> = (0..6).map(|_| turns(&both, PLACE)).collect();
    assert_eq!(found, [(1, 3), (2, 0), (1, 3), (2, 1), (1, 3), (2, 2)]);
    // Whoever is in every second batch only is not passed over.
    let one = [row(0, 1)];
    let found: Vec<_> =
        (0..6).map(|idx| turns(if idx % 2 == 0 { &one } else { &both }, PLACE).0).collect();
    assert_eq!(found, [1, 2, 1, 2, 1, 2]);
    // Each place has turns of its own.
    assert_eq!(turns(&both, (Site::AttnOut, 1)), (1, 3));
}
