//! The pass of a GPU, done by the plain counterpart of every kernel, against the pass of the CPU.

use skeg_model::steering::{
    LayerVector, Operator, Site, SteeringPlan, SteeringTables, SteeringVector,
};
use skeg_model::testing::{random_llama, random_llama_on_host_ops};
use skeg_model::{Capture, Hooks, KvCacheDtype, Llama, PackedBatch, ProjectionProbe, SteerRows};

use crate::support::plan;
use crate::tiny::{Stretch, cache_of, forms, pack, tokens, values};

/// Largest difference between two passes, as a share of the largest value.
pub(crate) fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f32, |scale, value| scale.max(value.abs()));
    let error = found.iter().zip(expected).fold(0f32, |error, (found, expected)| {
        let difference = (found - expected).abs();
        assert!(difference.is_finite(), "{found}, {expected}");
        error.max(difference)
    });
    error / scale
}

/// What the passes may differ by: activations are rounded to the weights' type on a GPU, and the CPU's product of quantised
/// blocks rounds them to 8 bits.
fn tolerance(name: &str) -> f32 {
    match name {
        _ if name.starts_with("bf16") => 3e-2,
        _ if name.starts_with("f16") => 4e-3,
        _ if name.starts_with('q') => 5e-2,
        _ => 2e-5,
    }
}

/// The same model on the CPU's pass and on a GPU's.
fn pairs() -> impl Iterator<Item = (&'static str, Llama, Llama)> {
    forms().into_iter().map(|(name, config, form)| {
        let cpu = random_llama(config.clone(), 7, form).unwrap();
        (name, cpu, random_llama_on_host_ops(config, 7, form).unwrap())
    })
}

/// Two steps: a long prompt beside two short ones and a single token, then one more token of each and another chunk.
pub(crate) fn steps() -> [PackedBatch; 2] {
    let tables: [&[u32]; 4] = [&[40, 3, 17, 9, 60, 1, 2], &[5], &[33, 7, 8, 11, 12], &[20, 21, 22]];
    let lens = [21, 1, 17, 3];
    let of = |idx: usize, first: usize, len: usize| Stretch {
        token_ids: tokens(u32::try_from(idx).unwrap(), first + len)[first..].to_vec(),
        first,
        block_table: tables[idx].to_vec(),
    };
    let prompts: Vec<Stretch> =
        lens.iter().enumerate().map(|(idx, &len)| of(idx, 0, len)).collect();
    let next: Vec<Stretch> = lens
        .iter()
        .enumerate()
        .map(|(idx, &len)| of(idx, len, if idx == 3 { 8 } else { 1 }))
        .collect();
    [pack(&prompts), pack(&next)]
}

pub(crate) fn logits(llama: &Llama, dtype: KvCacheDtype, steps: &[PackedBatch]) -> Vec<f32> {
    let mut cache = cache_of(llama, dtype);
    let step = |batch| llama.forward(batch, &mut cache, &mut Hooks::none()).unwrap();
    steps.iter().map(step).flat_map(|logits| values(&logits)).flatten().collect()
}

#[test]
fn logits_are_those_of_the_cpu() {
    for (name, cpu, device) in pairs() {
        for dtype in [KvCacheDtype::F32, KvCacheDtype::F16] {
            let found = logits(&device, dtype, &steps());
            let error = difference(&found, &logits(&cpu, dtype, &steps()));
            let tolerance =
                tolerance(name).max(if dtype == KvCacheDtype::F16 { 2e-3 } else { 0.0 });
            assert!(error < tolerance, "{name}, {dtype}: {error}");
        }
    }
}

/// A step of single tokens is filled up to the next size of a graph.
#[test]
fn steps_of_single_tokens_are_those_of_the_cpu_at_every_size() {
    let (_, cpu, device) = pairs().next().unwrap();
    for num_seqs in [1, 2, 3, 5, 9] {
        let step = |first: usize| {
            let stretches: Vec<Stretch> = (0..num_seqs)
                .map(|seq| Stretch {
                    token_ids: tokens(seq + u32::try_from(first).unwrap(), 1),
                    first,
                    block_table: vec![2 * seq, 2 * seq + 1],
                })
                .collect();
            pack(&stretches)
        };
        let steps: Vec<PackedBatch> = (0..6).map(step).collect();
        let found = logits(&device, KvCacheDtype::F32, &steps);
        let error = difference(&found, &logits(&cpu, KvCacheDtype::F32, &steps));
        assert!(error < 2e-5, "{num_seqs} sequences: {error}");
    }
}

/// What one hooked pass gives out: logits, measured norms, captured rows, and the live probe's ratios.
#[derive(Debug, PartialEq)]
pub(crate) struct Hooked {
    pub(crate) logits: Vec<f32>,
    pub(crate) measured: Vec<Option<f32>>,
    pub(crate) captured: Vec<Vec<(usize, Vec<f32>)>>,
    pub(crate) ratios: Vec<(Site, usize, usize, f64)>,
}

pub(crate) fn hooked(llama: &Llama, site: Site, operator: Operator, after: bool) -> Hooked {
    let hidden_size = llama.config().hidden_size;
    let vector = |seed: f32| SteeringVector {
        site,
        layers: (0..llama.config().num_hidden_layers)
            .map(|layer| LayerVector {
                layer,
                values: (0..hidden_size).map(|i| ((i * 3 + layer) as f32 * seed).sin()).collect(),
            })
            .collect(),
    };
    let mut tables = SteeringTables::new(llama, 4);
    let lease = tables.register(&[vector(0.3), vector(0.7)]).unwrap();
    let of = |slot: usize, layers: &[usize], strength: f32| SteeringPlan {
        operator,
        ..plan(llama, site, layers, lease.slots()[slot], strength)
    };
    let plans = [of(0, &[0, 1], 1.5), of(1, &[1], -0.5), of(1, &[0], 0.0)];
    let batch = steps()[0].clone();
    let rows = (0..batch.total_tokens()).map(|row| plans.get(row % 5)).collect();
    let mut probe = ProjectionProbe::default();
    let capture = Capture::new(Site::AttnOut, vec![1, 0], vec![7, 0, 7]).and(
        Site::ResidPost,
        vec![0],
        vec![2, 40],
    );
    let mut capture = if after { capture.after_steering() } else { capture };
    let mut hooks = Hooks {
        steer: Some(SteerRows::new(&tables, rows).probed_by(Some(&mut probe))),
        capture: Some(&mut capture),
    };
    let mut cache = cache_of(llama, KvCacheDtype::F32);
    let logits = llama.forward(&batch, &mut cache, &mut hooks).unwrap();
    let measured = hooks.steer.unwrap().measured().to_vec();
    let ratio = |sample: skeg_model::ProjectionSample| {
        (sample.site, sample.layer, sample.row, sample.ratio().unwrap())
    };
    Hooked {
        logits: values(&logits).into_iter().flatten().collect(),
        measured,
        captured: capture.take_all(),
        ratios: probe.take().into_iter().map(ratio).collect(),
    }
}

#[test]
fn steering_captures_and_the_live_probe_are_those_of_the_cpu() {
    let operators = [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut];
    for (name, cpu, device) in pairs() {
        let tolerance = tolerance(name);
        for site in [Site::AttnOut, Site::ResidPost] {
            for (operator, after) in operators.into_iter().zip([false, true, true]) {
                let what = format!("{name}, {site:?}, {operator:?}");
                let found = hooked(&device, site, operator, after);
                let expected = hooked(&cpu, site, operator, after);
                assert!(difference(&found.logits, &expected.logits) < tolerance, "{what}");
                let steered = |measured: &[Option<f32>]| -> Vec<bool> {
                    measured.iter().map(Option::is_some).collect()
                };
                assert_eq!(steered(&found.measured), steered(&expected.measured), "{what}");
                let norms = |measured: &[Option<f32>]| -> Vec<f32> {
                    measured.iter().copied().flatten().collect()
                };
                let error = difference(&norms(&found.measured), &norms(&expected.measured));
                assert!(error < tolerance, "{what}: relative norms: {error}");
                for (found, expected) in found.captured.iter().zip(&expected.captured) {
                    assert_eq!(found.len(), expected.len(), "{what}");
                    for ((layer, found), (of, expected)) in found.iter().zip(expected) {
                        assert_eq!(layer, of, "{what}");
                        assert!(difference(found, expected) < tolerance, "{what}, layer {layer}");
                    }
                }
                assert!(!found.ratios.is_empty());
                for (found, expected) in found.ratios.iter().zip(&expected.ratios) {
                    assert_eq!((found.0, found.1, found.2), (expected.0, expected.1, expected.2));
                    assert!((found.3 - 1.0).abs() < 1e-3, "{what}: {found:?}");
                }
            }
        }
    }
}
