//! A whole model by the kernels, against the same by their counterparts.

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use super::support::{check_close, kernel_ops, kernel_tolerance};
use crate::batch::PackedBatch;
use crate::config::LlamaConfig;
use crate::gpu::memory::Element;
use crate::gpu::ranks::Ranks;
use crate::hooks::{Capture, Hooks, ProjectionProbe, SteerRows};
use crate::kv_cache::{KvCache, KvCacheDtype};
use crate::llama::Llama;
use crate::sampling::{Answer, Ask, Filter};
use crate::steering::{LayerVector, Operator, Site, SteeringPlan, SteeringTables, SteeringVector};
use crate::testing::{RandomWeights, random_llama_into, random_llama_on_host_ops, tiny_config};

const NUM_LAYERS: usize = 2;
/// A temperature at which weights are no numbers: the kernels leave such a draw from a filter to the host.
const UNDECIDED: f32 = 1e-42;

fn config(head_dim: usize) -> LlamaConfig {
    LlamaConfig { head_dim, num_hidden_layers: NUM_LAYERS, attention_bias: true, ..tiny_config() }
}

/// The same model by the kernels and by their counterparts; `None` without a compiler.
fn pair(config: &LlamaConfig, form: RandomWeights) -> Option<[Llama; 2]> {
    let ranks = Ranks::one(kernel_ops()?);
    let host = random_llama_on_host_ops(config.clone(), 7, form).unwrap();
    Some([random_llama_into(config.clone(), 7, form, ranks).unwrap(), host])
}

/// Rows of two sequences from `first` on: so many each.
fn batch(first: [usize; 2], lens: [usize; 2]) -> PackedBatch {
    let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    for (seq, (first, len)) in first.into_iter().zip(lens).enumerate() {
        let token = |position: usize| u32::try_from((position * 37 + seq * 11) % 128).unwrap();
        batch.token_ids.extend((first..first + len).map(token));
        batch.positions.extend(first..first + len);
        batch.cu_seqlens.push(batch.token_ids.len());
        batch.logit_rows.push(batch.token_ids.len() - 1);
    }
    batch.block_tables = vec![vec![4, 1, 9, 7], vec![3, 0, 2]];
    batch
}

/// What four steps of a model give: logits, relative norms, captured rows, and the tokens chosen in the last two.
#[derive(Default)]
struct Found {
    logits: Vec<f32>,
    norms: Vec<f32>,
    captured: Vec<f32>,
    tokens: Vec<u32>,
}

fn run(llama: &Llama, dtype: KvCacheDtype) -> Found {
    let hidden_size = llama.config().hidden_size;
    let layer = |layer: usize| LayerVector {
        layer,
        values: (0..hidden_size).map(|i| ((i * 3 + layer) as f32 * 0.3).sin()).collect(),
    };
    let vector =
        SteeringVector { site: Site::AttnOut, layers: (0..NUM_LAYERS).map(layer).collect() };
    let mut tables = SteeringTables::new(llama, 3);
    let lease = tables.register(&[vector]).unwrap();
    let plan = SteeringPlan {
        site: Site::AttnOut,
        operator: Operator::AddNormRestored,
        positions: crate::steering::Positions::All,
        strength: 1.2,
        slot_by_layer: vec![lease.slots()[0]; NUM_LAYERS],
    };
    let mut cache = KvCache::new(llama, 10, 8, dtype).unwrap();
    let mut found = Found::default();
    // A prompt of its own kernel beside a short one, then single tokens: once with logits, and twice with tokens asked for.
    let steps = [([0, 0], [19, 5]), ([19, 5], [1, 1]), ([20, 6], [1, 1]), ([21, 7], [1, 1])];
    for (first, lens) in steps {
        let batch = batch(first, lens);
        let plans = (0..batch.total_tokens()).map(|row| (row % 3 == 0).then_some(&plan)).collect();
        let mut probe = ProjectionProbe::default();
        let mut capture = Capture::new(Site::ResidPost, vec![1], vec![batch.total_tokens() - 1]);
        let mut hooks = Hooks {
            steer: Some(SteerRows::new(&tables, plans).probed_by(Some(&mut probe))),
            capture: Some(&mut capture),
        };
        let asks = match first[0] {
            20 => [Ask::Greedy, Ask::Draw { temperature: 0.8, unit: 0.37 }],
            21 => [0.8, UNDECIDED].map(|temperature| Ask::Filtered {
                temperature,
                unit: 0.37,
                filter: Filter { top_k: 40, top_p: 0.9, min_p: 0.01 },
            }),
            _ => [Ask::Logits; 2],
        };
        let output = llama.step(&batch, &mut cache, &mut hooks, &asks, &mut || ()).unwrap();
        found.norms.extend(hooks.steer.unwrap().measured().iter().flatten());
        found.captured.extend(capture.take().into_iter().flat_map(|(_, values)| values));
        for sample in probe.take() {
            assert!((sample.ratio().unwrap() - 1.0).abs() < 1e-2, "{sample:?}");
        }
        for answer in output.answers() {
            match answer {
                Answer::Logits(logits) => found.logits.extend(logits),
                Answer::Token { id, is_finite } => {
                    assert!(is_finite);
                    found.tokens.push(id);
                }
            }
        }
    }
    found
}

#[test]
fn logits_hooks_and_tokens_are_those_of_the_counterparts() {
    let forms = [
        (64, RandomWeights::Dense(DType::F32), KvCacheDtype::F32),
        (16, RandomWeights::Dense(DType::F16), KvCacheDtype::F16),
        (64, RandomWeights::Dense(DType::BF16), KvCacheDtype::F16),
        (16, RandomWeights::Quantized(GgmlDType::Q8_0), KvCacheDtype::F16),
    ];
    for (head_dim, form, dtype) in forms {
        let Some([kernels, host]) = pair(&config(head_dim), form) else { return };
        let (found, expected) = (run(&kernels, dtype), run(&host, dtype));
        let element = match form {
            RandomWeights::Dense(DType::F32) => Element::F32,
            RandomWeights::Dense(DType::BF16) => Element::Bf16,
            _ => Element::F16,
        };
        // Two layers of roundings; a GPU's products of blocks round rows to 8 bits.
        let tolerance = match form {
            RandomWeights::Quantized(_) if cfg!(feature = "cuda") => 5e-2,
            _ => 3.0 * kernel_tolerance(element),
        };
        let what = format!("{form:?}, heads of {head_dim}");
        check_close(&found.logits, &expected.logits, tolerance, &what);
        check_close(&found.norms, &expected.norms, tolerance, &what);
        check_close(&found.captured, &expected.captured, tolerance, &what);
        assert_eq!(found.tokens.len(), 4, "{what}");
        if element == Element::F32 {
            assert_eq!(found.tokens, expected.tokens, "{what}");
        }
    }
}
