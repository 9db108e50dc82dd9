//! A model that is split over ranks against the same model on one: ranks are threads here, and their sums are made in the order of ranks.

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use skeg_model::steering::{Operator, Site};
use skeg_model::testing::{
    RandomWeights, random_llama_on_host_ops, random_llama_on_ranks, tiny_config,
};
use skeg_model::{KvCacheDtype, Llama, LlamaConfig, PackedBatch};

use crate::device_pass::{Hooked, difference, hooked, logits, steps};
use crate::tiny::{Stretch, pack, tokens};

const RANKS: [usize; 3] = [1, 2, 4];

/// Forms with what a split may change of their logits: the order of sums, and where rows are rounded to 16 bits the rounding of a few.
fn forms() -> [(&'static str, LlamaConfig, RandomWeights, f32); 6] {
    let grouped = LlamaConfig {
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 8,
        ..tiny_config()
    };
    let biased = LlamaConfig { attention_bias: true, ..grouped.clone() };
    let tied = LlamaConfig { tie_word_embeddings: true, num_key_value_heads: 8, ..grouped.clone() };
    // Four parts of its columns are whole blocks of 32.
    let wide = LlamaConfig {
        hidden_size: 128,
        head_dim: 16,
        intermediate_size: 256,
        num_hidden_layers: 2,
        ..biased.clone()
    };
    [
        ("f32", grouped.clone(), RandomWeights::Dense(DType::F32), 2e-5),
        ("f32 with biases", biased.clone(), RandomWeights::Dense(DType::F32), 2e-5),
        ("f32, as many key heads, tied", tied, RandomWeights::Dense(DType::F32), 2e-5),
        ("bf16 with biases", biased, RandomWeights::Dense(DType::BF16), 3e-2),
        ("f16", grouped, RandomWeights::Dense(DType::F16), 4e-3),
        ("q8_0 with biases", wide, RandomWeights::Quantized(GgmlDType::Q8_0), 2e-5),
    ]
}

/// The model on one device, split over each number of ranks, and what they may differ by.
fn models() -> impl Iterator<Item = (&'static str, Llama, [Llama; RANKS.len()], f32)> {
    forms().into_iter().map(|(name, config, form, tolerance)| {
        let split = |num_ranks| random_llama_on_ranks(config.clone(), 7, form, num_ranks).unwrap();
        let whole = random_llama_on_host_ops(config.clone(), 7, form).unwrap();
        (name, whole, RANKS.map(split), tolerance)
    })
}

/// Prompts and chunks, then tokens one by one of two of the sequences.
fn many_steps() -> Vec<PackedBatch> {
    let tables: [&[u32]; 2] = [&[40, 3, 17, 9, 60, 1, 2], &[33, 7, 8, 11, 12]];
    let token = |seq: usize, first: usize| Stretch {
        token_ids: tokens(u32::try_from(first).unwrap(), 1),
        first,
        block_table: tables[seq].to_vec(),
    };
    let decodes = (0..2).map(|step| pack(&[token(0, 22 + step), token(1, 18 + step)]));
    steps().into_iter().chain(decodes).collect()
}

#[test]
fn logits_are_those_of_one_rank() {
    for (name, whole, splits, tolerance) in models() {
        for dtype in [KvCacheDtype::F32, KvCacheDtype::F16] {
            let tolerance = tolerance.max(if dtype == KvCacheDtype::F16 { 2e-3 } else { 0.0 });
            let expected = logits(&whole, dtype, &many_steps());
            for (num_ranks, split) in RANKS.into_iter().zip(&splits) {
                let error = difference(&logits(split, dtype, &many_steps()), &expected);
                assert!(error < tolerance, "{name}, {num_ranks} ranks, {dtype}: {error}");
            }
        }
    }
}

/// Were the vector added on every rank before the sum, it would be there as often as there are ranks.
#[test]
fn vectors_are_added_once_and_measured_and_captured_as_on_one_rank() {
    let operators = [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut];
    for (name, whole, splits, tolerance) in models() {
        for site in [Site::AttnOut, Site::ResidPost] {
            for operator in operators {
                let expected = hooked(&whole, site, operator, true);
                for (num_ranks, split) in RANKS.into_iter().zip(&splits) {
                    let what = format!("{name}, {num_ranks} ranks, {site:?}, {operator:?}");
                    same(&what, &hooked(split, site, operator, true), &expected, tolerance);
                }
            }
        }
    }
}

fn same(what: &str, found: &Hooked, expected: &Hooked, tolerance: f32) {
    assert!(difference(&found.logits, &expected.logits) < tolerance, "{what}: logits");
    let norms = |hooked: &Hooked| hooked.measured.iter().copied().flatten().collect::<Vec<f32>>();
    assert!(!norms(expected).is_empty());
    assert!(difference(&norms(found), &norms(expected)) < tolerance, "{what}: relative norms");
    let captured = |hooked: &Hooked| {
        let layers = hooked.captured.iter().flatten();
        let (numbers, values): (Vec<usize>, Vec<Vec<f32>>) = layers.cloned().unzip();
        (numbers, values.concat())
    };
    let (found_layers, found_rows) = captured(found);
    let (layers, rows) = captured(expected);
    assert_eq!((found_layers, layers.is_empty()), (layers, false), "{what}");
    assert!(difference(&found_rows, &rows) < tolerance, "{what}: captures");
    assert_eq!(found.ratios.len(), expected.ratios.len(), "{what}");
    for (found, expected) in found.ratios.iter().zip(&expected.ratios) {
        assert_eq!((found.0, found.1, found.2), (expected.0, expected.1, expected.2), "{what}");
        assert!((found.3 - 1.0).abs() < 1e-3, "{what}: the live probe finds {found:?}");
    }
}

/// A model is a function of its weights: threads come in any order, sums do not.
#[test]
fn results_are_bitwise_the_same_every_time() {
    let (_, config, form, _) = forms().into_iter().nth(1).unwrap();
    let llama = random_llama_on_ranks(config, 7, form, 4).unwrap();
    let plain = || logits(&llama, KvCacheDtype::F16, &many_steps());
    let steered = || hooked(&llama, Site::AttnOut, Operator::Add, false);
    let (first_plain, first_steered) = (plain(), steered());
    for _ in 0..5 {
        assert_eq!(plain(), first_plain);
        assert_eq!(steered(), first_steered);
    }
}

#[test]
fn a_model_that_does_not_divide_is_refused() {
    let form = RandomWeights::Dense(DType::F32);
    let error = random_llama_on_ranks(tiny_config(), 7, form, 4).unwrap_err().to_string();
    for part in ["`4 ranks`", "2 key and value heads", "one of 1, 2 ranks"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // Its columns are 64 and 192: whole blocks of 32 in two parts, and in no four.
    let blocks = RandomWeights::Quantized(GgmlDType::Q8_0);
    random_llama_on_ranks(tiny_config(), 7, blocks, 2).unwrap();
    let narrow = LlamaConfig { num_key_value_heads: 4, ..tiny_config() };
    let error = random_llama_on_ranks(narrow, 7, blocks, 4).unwrap_err().to_string();
    assert!(error.contains("2 blocks of 32 columns (Q8_0)"), "{error}");
}
