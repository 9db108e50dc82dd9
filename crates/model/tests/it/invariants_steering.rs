//! Steering changes the rows it names, by what it says, and nothing else.

use skeg_model::steering::{
    LayerVector, Operator, Site, SlotLease, SteeringPlan, SteeringTables, SteeringVector,
};
use skeg_model::{Capture, Hooks, Llama, PackedBatch, SteerRows};

use crate::support::plan;
use crate::tiny::{Stretch, bits, cache, model, models, pack, tokens, values};

fn sequences() -> [Stretch; 2] {
    [Stretch::whole(tokens(1, 9), &[8, 1, 30]), Stretch::whole(tokens(2, 6), &[2, 11])]
}

/// A vector with a row for each of `layers`.
fn vector(llama: &Llama, site: Site, layers: &[usize], seed: f32) -> SteeringVector {
    let hidden_size = llama.config().hidden_size;
    let row = |layer: usize| LayerVector {
        layer,
        values: (0..hidden_size).map(|i| ((i * 7 + layer) as f32 * seed).sin()).collect(),
    };
    SteeringVector { site, layers: layers.iter().map(|&layer| row(layer)).collect() }
}

fn register(llama: &Llama, vectors: &[SteeringVector]) -> (SteeringTables, SlotLease) {
    let mut tables = SteeringTables::new(llama, 8);
    let lease = tables.register(vectors).unwrap();
    (tables, lease)
}

/// Steers `rows` with `plan` and leaves all others.
fn steered(
    llama: &Llama,
    batch: &PackedBatch,
    tables: &SteeringTables,
    plans: Vec<Option<&SteeringPlan>>,
) -> Vec<Vec<u32>> {
    let acts = |plan: &SteeringPlan| {
        plan.strength != 0.0 && plan.slot_by_layer.iter().any(|&slot| slot != 0)
    };
    let acting: Vec<bool> = plans.iter().map(|plan| plan.is_some_and(acts)).collect();
    let mut hooks = Hooks { steer: Some(SteerRows::new(tables, plans)), capture: None };
    let logits = bits(&llama.forward(batch, &mut cache(llama), &mut hooks).unwrap());
    let steer = hooks.steer.unwrap();
    let measured: Vec<bool> = steer.measured().iter().map(Option::is_some).collect();
    assert_eq!(measured, acting, "a row is measured if and only if it is steered");
    logits
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn steering_one_sequence_leaves_the_others_bitwise_equal() {
    for (name, llama) in models() {
        let (tables, lease) = register(&llama, &[vector(&llama, Site::AttnOut, &[0, 1], 0.7)]);
        let plan = plan(&llama, Site::AttnOut, &[0, 1], lease.slots()[0], 1.5);
        let batch = pack(&sequences());
        let unsteered = steered(&llama, &batch, &tables, vec![None; 15]);
        let mut plans = vec![Some(&plan); 9];
        plans.extend([None; 6]);
        let one = steered(&llama, &batch, &tables, plans);
        assert_eq!(one[9..], unsteered[9..], "{name}: the neighbour changed");
        for row in 0..9 {
            assert_ne!(one[row], unsteered[row], "{name}: row {row} was not steered");
        }
    }
}

#[test]
fn earlier_rows_of_a_sequence_do_not_change_when_a_later_one_is_steered() {
    let llama = model();
    let (tables, lease) = register(&llama, &[vector(&llama, Site::ResidPost, &[1], 0.7)]);
    let plan = plan(&llama, Site::ResidPost, &[1], lease.slots()[0], 1.0);
    let batch = pack(&sequences());
    let unsteered = steered(&llama, &batch, &tables, vec![None; 15]);
    let mut plans = vec![None; 15];
    plans[4] = Some(&plan);
    let one = steered(&llama, &batch, &tables, plans);
    assert_eq!(one[..4], unsteered[..4]);
    assert_eq!(one[9..], unsteered[9..]);
    assert!((4..9).all(|row| one[row] != unsteered[row]), "later rows read the steered row's K, V");
}

#[test]
fn each_row_of_a_mixed_batch_is_steered_as_if_alone() {
    for (name, llama) in models() {
        let vectors = [
            vector(&llama, Site::AttnOut, &[0, 1], 0.7),
            vector(&llama, Site::ResidPost, &[1], 0.3),
            vector(&llama, Site::AttnOut, &[1], 0.9),
        ];
        let (tables, lease) = register(&llama, &vectors);
        let slots = lease.slots();
        let plans = [
            plan(&llama, Site::AttnOut, &[0, 1], slots[0], 1.5),
            SteeringPlan {
                operator: Operator::ProjectOut,
                ..plan(&llama, Site::ResidPost, &[1], slots[1], 1.0)
            },
            SteeringPlan {
                operator: Operator::AddNormRestored,
                ..plan(&llama, Site::AttnOut, &[1], slots[2], -2.0)
            },
        ];
        let blocks = [[0_u32, 5, 9], [10, 2, 20], [3, 4, 40]];
        let stretches: Vec<Stretch> = (0..3)
            .map(|i| Stretch::whole(tokens(u32::try_from(i).unwrap(), 5 + i), &blocks[i]))
            .collect();
        let rows: Vec<_> = (0..3).flat_map(|i| vec![Some(&plans[i]); 5 + i]).collect();
        let together = steered(&llama, &pack(&stretches), &tables, rows);
        let mut first = 0;
        for (i, stretch) in stretches.into_iter().enumerate() {
            let alone = steered(&llama, &pack(&[stretch]), &tables, vec![Some(&plans[i]); 5 + i]);
            assert_eq!(together[first..first + 5 + i], alone, "{name}, sequence {i}");
            first += 5 + i;
        }
    }
}

#[test]
fn strength_zero_equals_slot_zero() {
    for (name, llama) in models() {
        let (tables, lease) = register(&llama, &[vector(&llama, Site::AttnOut, &[0, 1], 0.7)]);
        let batch = pack(&sequences());
        let unsteered = steered(&llama, &batch, &tables, vec![None; 15]);
        for strength in [0.0, -0.0] {
            for operator in [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut] {
                let zero = plan(&llama, Site::AttnOut, &[0, 1], lease.slots()[0], strength);
                let zero = SteeringPlan { operator, ..zero };
                let result = steered(&llama, &batch, &tables, vec![Some(&zero); 15]);
                assert_eq!(result, unsteered, "{name}");
            }
        }
        let no_slot = plan(&llama, Site::AttnOut, &[], 0, 3.0);
        let result = steered(&llama, &batch, &tables, vec![Some(&no_slot); 15]);
        assert_eq!(result, unsteered, "{name}");
    }
}

#[test]
fn strength_times_vector_equals_the_product_with_strength_one() {
    let llama = model();
    let base = vector(&llama, Site::AttnOut, &[0, 1, 2], 0.7);
    let mut scaled = base.clone();
    for row in &mut scaled.layers {
        row.values.iter_mut().for_each(|value| *value *= 0.37);
    }
    let (tables, lease) = register(&llama, &[base, scaled]);
    let logits = |slot: u32, strength: f32| {
        let plan = plan(&llama, Site::AttnOut, &[0, 1, 2], slot, strength);
        let steer = SteerRows::new(&tables, vec![Some(&plan); 15]);
        let mut hooks = Hooks { steer: Some(steer), capture: None };
        let batch = pack(&sequences());
        values(&llama.forward(&batch, &mut cache(&llama), &mut hooks).unwrap()).concat()
    };
    let (a, b) = (logits(lease.slots()[0], 0.37), logits(lease.slots()[1], 1.0));
    let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    assert!(norm(&difference) < 1e-5 * norm(&a));
}

/// What a hook made of `[rows, hidden_size]` in one layer: before and after, and the measured norms.
fn around_the_hook(
    llama: &Llama,
    tables: &SteeringTables,
    plan: &SteeringPlan,
    layer: usize,
) -> (Vec<f32>, Vec<f32>, Vec<Option<f32>>) {
    let batch = pack(&sequences());
    let rows: Vec<usize> = (0..15).collect();
    let once = |capture: Capture| {
        let mut capture = capture;
        let steer = SteerRows::new(tables, vec![Some(plan); 15]);
        let mut hooks = Hooks { steer: Some(steer), capture: Some(&mut capture) };
        llama.forward(&batch, &mut cache(llama), &mut hooks).unwrap();
        let measured = hooks.steer.unwrap().measured().to_vec();
        let captured = capture.take();
        let [(captured_layer, values)] = captured.as_slice() else {
            panic!("called {} times for one layer", captured.len())
        };
        assert_eq!(*captured_layer, layer);
        (values.clone(), measured)
    };
    let capture = || Capture::new(plan.site, vec![layer], rows.clone());
    let (before, measured) = once(capture());
    let (after, _) = once(capture().after_steering());
    (before, after, measured)
}

#[test]
fn the_increment_at_the_hook_is_strength_times_vector_once() {
    for (name, llama) in models() {
        for site in [Site::AttnOut, Site::ResidPost] {
            let base = vector(&llama, site, &[1], 0.7);
            let row = base.layers[0].values.clone();
            let (tables, lease) = register(&llama, &[base]);
            let plan = plan(&llama, site, &[1], lease.slots()[0], -0.8);
            let (before, after, measured) = around_the_hook(&llama, &tables, &plan, 1);
            for (idx, (before, after)) in before.iter().zip(&after).enumerate() {
                let expected = before + -0.8 * row[idx % row.len()];
                assert_eq!(after.to_bits(), expected.to_bits(), "{name}, {site:?}, value {idx}");
            }
            for (before, measured) in before.chunks(row.len()).zip(measured) {
                let expected = 0.8 * norm(&row) / norm(before);
                let ratio = f64::from(measured.unwrap()) / expected;
                assert!((ratio - 1.0).abs() < 1e-5, "{name}: measured {measured:?}");
            }
        }
    }
}

#[test]
fn projecting_out_leaves_no_component() {
    let llama = model();
    let base = vector(&llama, Site::ResidPost, &[1], 0.7);
    let v = base.layers[0].values.clone();
    let (tables, lease) = register(&llama, &[base]);
    let plan = SteeringPlan {
        operator: Operator::ProjectOut,
        ..plan(&llama, Site::ResidPost, &[1], lease.slots()[0], 1.0)
    };
    let (before, after, _) = around_the_hook(&llama, &tables, &plan, 1);
    let along = |h: &[f32]| {
        let dot: f64 = h.iter().zip(&v).map(|(h, v)| f64::from(*h) * f64::from(*v)).sum();
        dot.abs() / (norm(h) * norm(&v))
    };
    for (before, after) in before.chunks(v.len()).zip(after.chunks(v.len())) {
        assert!(along(after) < 1e-6, "{} of {} is left", along(after), along(before));
    }
    assert!(before.chunks(v.len()).any(|before| along(before) > 1e-2), "there was nothing to take");
}

#[test]
fn restoring_the_norm_keeps_it_and_turns_the_row() {
    let llama = model();
    let base = vector(&llama, Site::AttnOut, &[2], 0.7);
    let (tables, lease) = register(&llama, &[base]);
    let plan = SteeringPlan {
        operator: Operator::AddNormRestored,
        ..plan(&llama, Site::AttnOut, &[2], lease.slots()[0], 2.0)
    };
    let (before, after, _) = around_the_hook(&llama, &tables, &plan, 2);
    for (before, after) in before.chunks(64).zip(after.chunks(64)) {
        assert!((norm(after) / norm(before) - 1.0).abs() < 1e-5);
        let change: Vec<f32> = before.iter().zip(after).map(|(b, a)| a - b).collect();
        assert!(norm(&change) > 0.1 * norm(before));
    }
}

#[test]
fn a_freed_slot_leaks_nothing_into_the_next_vector() {
    let llama = model();
    let mut tables = SteeringTables::new(&llama, 2);
    let lease = tables.register(&[vector(&llama, Site::AttnOut, &[0, 1, 2], 0.7)]).unwrap();
    let held = tables.register(&[vector(&llama, Site::AttnOut, &[1], 0.7)]);
    assert!(held.unwrap_err().to_string().contains("0 of 1 are free"));
    let old = plan(&llama, Site::AttnOut, &[0, 1, 2], lease.slots()[0], 1.0);
    drop(lease);
    let lease = tables.register(&[vector(&llama, Site::AttnOut, &[1], 0.3)]).unwrap();
    let error = tables.check_plan(&old, &lease).unwrap_err().to_string();
    assert!(error.contains("layer 0"), "{error}");
    let mut hooks =
        Hooks { steer: Some(SteerRows::new(&tables, vec![Some(&old); 15])), capture: None };
    let batch = pack(&sequences());
    let error = llama.forward(&batch, &mut cache(&llama), &mut hooks).unwrap_err().to_string();
    assert!(error.contains("no AttnOut vector for layer 0"), "{error}");
}

#[test]
fn what_cannot_be_applied_is_an_error() {
    let llama = model();
    let (tables, lease) = register(&llama, &[vector(&llama, Site::AttnOut, &[0], 0.7)]);
    let good = plan(&llama, Site::AttnOut, &[0], lease.slots()[0], 1.0);
    tables.check_plan(&good, &lease).unwrap();
    let check = |plan: SteeringPlan, expected: &str| {
        let error = tables.check_plan(&plan, &lease).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not say {expected}");
    };
    check(SteeringPlan { site: Site::ResidPost, ..good.clone() }, "no ResidPost vector");
    check(SteeringPlan { strength: f32::NAN, ..good.clone() }, "not finite");
    check(SteeringPlan { slot_by_layer: vec![1], ..good.clone() }, "1 layers");
    check(SteeringPlan { slot_by_layer: vec![7, 0, 0], ..good.clone() }, "slot 7");
    let other = SlotLease::new(vec![5]);
    assert!(tables.check_plan(&good, &other).unwrap_err().to_string().contains("lease"));

    let forward = |mut hooks: Hooks<'_>| {
        let batch = pack(&sequences());
        llama.forward(&batch, &mut cache(&llama), &mut hooks).unwrap_err().to_string()
    };
    let short = SteerRows::new(&tables, vec![Some(&good); 3]);
    let error = forward(Hooks { steer: Some(short), capture: None });
    assert!(error.contains("3 steering rows"), "{error}");
    let mut row = Capture::new(Site::AttnOut, vec![0], vec![15]);
    assert!(forward(Hooks { steer: None, capture: Some(&mut row) }).contains("row 15"));
    let mut layer = Capture::new(Site::AttnOut, vec![3], vec![0]);
    assert!(forward(Hooks { steer: None, capture: Some(&mut layer) }).contains("layer 3"));
}

#[test]
fn vectors_that_do_not_fit_are_refused_with_a_reason() {
    let llama = model();
    let mut tables = SteeringTables::new(&llama, 4);
    let good = vector(&llama, Site::AttnOut, &[0], 0.7);
    let mut check = |change: &dyn Fn(&mut SteeringVector), expected: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = tables.register(&[good.clone(), bad]).unwrap_err().to_string();
        assert!(error.contains("vector 1") && error.contains(expected), "{error}");
        assert_eq!(tables.num_free_slots(), 3, "a refused registration took slots");
    };
    check(&|v| v.layers[0].layer = 3, "layer 3");
    check(&|v| v.layers[0].values[5] = f32::NAN, "value 5");
    check(&|v| v.layers[0].values.truncate(63), "63 values");
    check(&|v| v.layers.push(v.layers[0].clone()), "twice");
    check(&|v| v.layers.clear(), "no layer");
}
