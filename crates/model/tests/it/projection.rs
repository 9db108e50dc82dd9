//! The live probe: it reads what the pass did to a row, and changes nothing.

use std::collections::BTreeSet;

use skeg_model::engine::{Engine, EngineConfig, LayerProjections, LlamaEngine};
use skeg_model::steering::{
    Operator, Positions, Site, SlotLease, SteeringPlan, SteeringTables, SteeringVector,
};
use skeg_model::{
    Capture, Hooks, Llama, PackedBatch, ProjectionFinding, ProjectionProbe, ProjectionSample,
    SteerRows,
};

use crate::engine_company::{Ask, Steering, engine, vectors};
use crate::engine_support::{Answer, alone, answer, request, run_to_end, submit, vector};
use crate::support::plan;
use crate::tiny::{Stretch, bits, cache, model, models, pack, tokens};

const OPERATORS: [Operator; 3] = [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut];
const LAYERS: [usize; 2] = [0, 1];

fn batch() -> PackedBatch {
    pack(&[Stretch::whole(tokens(1, 9), &[8, 1, 30]), Stretch::whole(tokens(2, 6), &[2, 11])])
}

fn register(llama: &Llama, vectors: &[SteeringVector]) -> (SteeringTables, SlotLease) {
    let mut tables = SteeringTables::new(llama, 8);
    let lease = tables.register(vectors).unwrap();
    (tables, lease)
}

/// One pass with the probe, and the bits of its logits.
fn probed(
    llama: &Llama,
    batch: &PackedBatch,
    tables: &SteeringTables,
    plans: Vec<Option<&SteeringPlan>>,
    probe: Option<&mut ProjectionProbe>,
) -> Vec<Vec<u32>> {
    let steer = Some(SteerRows::new(tables, plans).probed_by(probe));
    let mut hooks = Hooks { steer, capture: None };
    bits(&llama.forward(batch, &mut cache(llama), &mut hooks).unwrap())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// A row as the block made it, before the hook of the same place.
fn row_at_the_hook(
    llama: &Llama,
    tables: &SteeringTables,
    plan: &SteeringPlan,
    sample: &ProjectionSample,
) -> Vec<f32> {
    let mut capture = Capture::new(sample.site, vec![sample.layer], vec![sample.row]);
    let steer = Some(SteerRows::new(tables, vec![Some(plan); 15]));
    let mut hooks = Hooks { steer, capture: Some(&mut capture) };
    llama.forward(&batch(), &mut cache(llama), &mut hooks).unwrap();
    capture.take()[0].1.clone()
}

/// The change of `<h, v> / ||v||` by the definition of the operator: carried out, then projected.
fn expected(operator: Operator, strength: f64, h: &[f32], v: &[f32]) -> f64 {
    let (hh, hv, vv) = (dot(h, h), dot(h, v), dot(v, v));
    let factor = if operator == Operator::ProjectOut { -strength * hv / vv } else { strength };
    let sum: Vec<f64> =
        h.iter().zip(v).map(|(h, v)| f64::from(*h) + factor * f64::from(*v)).collect();
    let square: f64 = sum.iter().map(|sum| sum * sum).sum();
    let restore = if operator == Operator::AddNormRestored { (hh / square).sqrt() } else { 1.0 };
    let along: f64 = sum.iter().zip(v).map(|(sum, v)| restore * sum * f64::from(*v)).sum();
    (along - hv) / vv.sqrt()
}

#[test]
fn the_measured_change_is_the_planned_one_at_every_steered_layer() {
    for (name, llama) in models() {
        for site in [Site::AttnOut, Site::ResidPost] {
            let base = vector(site, llama.config().hidden_size, &LAYERS, 0.7);
            let (tables, lease) = register(&llama, std::slice::from_ref(&base));
            for operator in OPERATORS {
                for strength in [0.8, -1.5] {
                    let plan = plan(&llama, site, &LAYERS, lease.slots()[0], strength);
                    let plan = SteeringPlan { operator, ..plan };
                    let mut probe = ProjectionProbe::default();
                    probed(&llama, &batch(), &tables, vec![Some(&plan); 15], Some(&mut probe));
                    let samples = probe.take();
                    assert_eq!(samples.iter().map(|s| s.layer).collect::<Vec<_>>(), LAYERS);
                    for sample in samples {
                        let context = format!("{name}, {operator:?} {strength}: {sample:?}");
                        let h = row_at_the_hook(&llama, &tables, &plan, &sample);
                        let v = &base.layers[sample.layer].values;
                        let expected = expected(operator, f64::from(strength), &h, v);
                        if operator == Operator::Add {
                            let by_formula = f64::from(strength) * dot(v, v).sqrt();
                            assert!((expected / by_formula - 1.0).abs() < 1e-9, "{context}");
                        }
                        // What f32 gives of rows of some tens.
                        let tolerance = 1e-4 * expected.abs() + 1e-5;
                        assert!((sample.planned - expected).abs() < tolerance, "{context}");
                        assert!((sample.measured - expected).abs() < tolerance, "{context}");
                        if sample.finding == ProjectionFinding::Unresolved {
                            // The row happens to stand nearly at right angles to the vector, and nothing else may excuse it.
                            assert_eq!(operator, Operator::ProjectOut, "{context}");
                            assert!(expected.abs() < 1e-3 * dot(&h, &h).sqrt(), "{context}");
                            continue;
                        }
                        assert_eq!(sample.finding, ProjectionFinding::Moved, "{context}");
                        assert!((sample.ratio().unwrap() - 1.0).abs() < 1e-2, "{context}");
                    }
                }
            }
        }
    }
}

/// A plan for each sequence of [`batch`], at two sites, and their rows.
fn two_plans(llama: &Llama, lease: &SlotLease) -> [SteeringPlan; 2] {
    let other = plan(llama, Site::ResidPost, &[1], lease.slots()[1], -1.2);
    [
        plan(llama, Site::AttnOut, &LAYERS, lease.slots()[0], 0.8),
        SteeringPlan { operator: Operator::AddNormRestored, ..other },
    ]
}

fn rows_of([first, second]: &[SteeringPlan; 2]) -> Vec<Option<&SteeringPlan>> {
    let mut rows = vec![Some(first); 9];
    rows.extend([Some(second); 6]);
    rows
}

#[test]
fn a_pass_with_the_probe_is_bitwise_the_pass_without() {
    for (name, llama) in models() {
        let hidden_size = llama.config().hidden_size;
        let vectors = [
            vector(Site::AttnOut, hidden_size, &LAYERS, 0.7),
            vector(Site::ResidPost, hidden_size, &[1], 0.3),
        ];
        let (tables, lease) = register(&llama, &vectors);
        let plans = two_plans(&llama, &lease);
        let without = probed(&llama, &batch(), &tables, rows_of(&plans), None);
        let mut probe = ProjectionProbe::default();
        for _ in 0..3 {
            let with = probed(&llama, &batch(), &tables, rows_of(&plans), Some(&mut probe));
            assert_eq!(with, without, "{name}");
            let places: Vec<_> = probe.take().iter().map(|s| (s.site, s.layer)).collect();
            let expected = [(Site::AttnOut, 0), (Site::AttnOut, 1), (Site::ResidPost, 1)];
            assert_eq!(places, expected, "{name}");
        }
    }
}

#[test]
fn every_vector_of_a_batch_is_seen_and_every_row_in_the_end() {
    let llama = model();
    let vectors = [0.7, 0.3].map(|seed| vector(Site::AttnOut, 64, &LAYERS, seed));
    let (tables, lease) = register(&llama, &vectors);
    let plans = [0, 1].map(|idx| plan(&llama, Site::AttnOut, &LAYERS, lease.slots()[idx], 0.8));
    let mut probe = ProjectionProbe::default();
    let mut rows = BTreeSet::new();
    for pass in 0..18 {
        probed(&llama, &batch(), &tables, rows_of(&plans), Some(&mut probe));
        for sample in probe.take() {
            rows.insert((sample.layer, sample.row));
            assert_eq!(sample.slot == lease.slots()[0] as usize, sample.row < 9);
        }
        let seen = |rows: std::ops::Range<usize>, all: &BTreeSet<(usize, usize)>| {
            LAYERS.iter().all(|layer| rows.clone().any(|row| all.contains(&(*layer, row))))
        };
        assert!(pass == 0 || seen(0..9, &rows) && seen(9..15, &rows), "pass {pass}");
    }
    assert_eq!(rows.len(), 2 * 15);
}

#[test]
fn what_is_not_steered_gives_no_sample() {
    let llama = model();
    let (tables, lease) = register(&llama, &[vector(Site::AttnOut, 64, &LAYERS, 0.7)]);
    let mut probe = ProjectionProbe::default();
    let zero = plan(&llama, Site::AttnOut, &LAYERS, lease.slots()[0], 0.0);
    let no_slot = plan(&llama, Site::AttnOut, &[], 0, 3.0);
    for plan in [None, Some(&zero), Some(&no_slot)] {
        probed(&llama, &batch(), &tables, vec![plan; 15], Some(&mut probe));
        assert_eq!(probe.take(), []);
    }
    // A pass leaves nothing of the one before.
    let one = plan(&llama, Site::AttnOut, &LAYERS, lease.slots()[0], 1.0);
    probed(&llama, &batch(), &tables, vec![Some(&one); 15], Some(&mut probe));
    probed(&llama, &batch(), &tables, vec![None; 15], Some(&mut probe));
    assert_eq!(probe.take(), []);
}

fn ask(seed: u32, vector_idx: usize, operator: Operator) -> Ask {
    let steering = Steering { vector_idx, strength: 0.8, operator, positions: Positions::All };
    Ask { request: request(tokens(seed, 14), 9), steering: Some(steering) }
}

fn probing(interval: usize) -> LlamaEngine {
    engine(&EngineConfig {
        projection_sample_interval: interval,
        block_size: 4,
        ..EngineConfig::default()
    })
}

/// The answers of requests of all operators and both sites, in company, and what the probe found.
fn in_company(interval: usize) -> (Vec<Answer>, Vec<LayerProjections>, usize) {
    let mut engine = probing(interval);
    let lease = engine.register_vectors(&vectors()).unwrap();
    let asks = (1..).zip(OPERATORS.into_iter().enumerate());
    let readers: Vec<_> = asks
        .map(|(seed, (idx, operator))| submit(&mut engine, ask(seed, idx, operator).bind(&lease)).1)
        .collect();
    let steps = run_to_end(&mut engine);
    (readers.iter().map(answer).collect(), engine.projections().read(), steps)
}

fn samples(found: &[LayerProjections]) -> u64 {
    found.iter().map(|layer| layer.samples).sum()
}

#[test]
fn answers_with_the_probe_on_every_step_are_bitwise_those_without() {
    let (expected, found, steps) = in_company(0);
    assert_eq!(found, []);
    let mut last = u64::MAX;
    for interval in [1, 2, 3, 64] {
        let (answers, found, _) = in_company(interval);
        assert_eq!(answers, expected, "interval {interval}");
        // One at each place where a vector of the batch acts: attn_out of three layers, resid_post of two.
        let measured = u64::try_from(steps.div_ceil(interval)).unwrap();
        assert_eq!(samples(&found), 5 * measured, "interval {interval}");
        assert_eq!(found.iter().map(|layer| layer.layer).collect::<Vec<_>>(), [0, 1, 2]);
        for layer in &found {
            assert_eq!(layer.unmoved, 0, "{layer:?}");
            let mean = layer.ratio_sum / layer.num_judged() as f64;
            assert!(layer.num_judged() > 0 && (mean - 1.0).abs() < 1e-2, "{layer:?}");
        }
        assert!(samples(&found) <= last);
        last = samples(&found);
    }
}

#[test]
fn steps_that_steer_nothing_are_neither_measured_nor_counted() {
    let mut engine = probing(2);
    let lease = engine.register_vectors(&vectors()).unwrap();
    alone(&mut engine, request(tokens(1, 14), 9));
    assert_eq!(engine.projections().read(), []);
    // Nine steps that steer one layer: the first, third and so on.
    alone(&mut engine, ask(1, 1, Operator::Add).bind(&lease));
    assert_eq!(samples(&engine.projections().read()), 5);
    alone(&mut engine, request(tokens(2, 14), 9));
    assert_eq!(samples(&engine.projections().read()), 5);
}

#[test]
fn rows_from_the_prefix_cache_are_not_measured_and_those_behind_them_are() {
    let mut engine = probing(1);
    let lease = engine.register_vectors(&vectors()).unwrap();
    let ask = ask(1, 0, Operator::Add);
    let first = alone(&mut engine, ask.bind(&lease));
    let before = samples(&engine.projections().read());
    let second = alone(&mut engine, ask.bind(&lease));
    assert_eq!(engine.stats().read().prefix_cache_hit_tokens, 12);
    assert_eq!(second, first);
    let found = engine.projections().read();
    assert_eq!((before, samples(&found)), (27, 54));
    assert!(found.iter().all(|layer| layer.unmoved == 0), "{found:?}");
}
