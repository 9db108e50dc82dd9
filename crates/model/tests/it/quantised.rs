//! What quantisation costs: the weights as stored against the same weights dequantised to f32.
//!
//! As stored, a row of activations is rounded to 8 bits a block of 32 before each product; nothing else differs. The
//! distance is stated as the Kullback-Leibler divergence of the next token's distribution (nats) and as the
//! share of rows whose most likely token is the same.

use candle_core::Tensor;
use serde::Deserialize;
use skeg_model::{Hooks, KvCache, KvCacheDtype, Llama, LoadOptions, LoadedModel, PackedBatch};

use crate::dequantised::dequantised_test_model;
use crate::support::{golden_json, test_model};

/// Largest mean divergence over all rows, in nats.
const MEAN_DIVERGENCE: f64 = 0.005;
/// Largest divergence of one row, in nats.
const LARGEST_DIVERGENCE: f64 = 0.05;
/// Least share of rows with the same most likely token.
const TOP_1_AGREEMENT: f64 = 0.94;

const BLOCK_SIZE: usize = 16;
const NUM_BLOCKS: u32 = 8;

#[derive(Deserialize)]
struct Golden {
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    ids: Vec<u32>,
}

/// Logits of every row of a sequence.
#[expect(clippy::disallowed_methods, reason = "tests look at values")]
fn logits(llama: &Llama, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut cache =
        KvCache::new(llama, NUM_BLOCKS as usize, BLOCK_SIZE, KvCacheDtype::F32).unwrap();
    let batch = PackedBatch {
        token_ids: ids.to_vec(),
        positions: (0..ids.len()).collect(),
        cu_seqlens: vec![0, ids.len()],
        block_tables: vec![(0..NUM_BLOCKS).collect()],
        logit_rows: (0..ids.len()).collect(),
    };
    let rows: Tensor = llama.forward(&batch, &mut cache, &mut Hooks::none()).unwrap();
    rows.to_vec2().unwrap()
}

/// Natural logarithms of the softmax.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit - largest) - sum.ln()).collect()
}

/// `sum p (ln p - ln q)`, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let pairs = log_softmax(p).into_iter().zip(log_softmax(q));
    pairs.map(|(p, q)| p.exp() * (p - q)).sum()
}

fn most_likely(row: &[f32]) -> Option<usize> {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id)
}

#[test]
fn real_model_as_stored_is_close_to_its_weights_in_f32() {
    let reference = dequantised_test_model();
    let stored = LoadedModel::load(&test_model(), &LoadOptions::default()).unwrap().llama;
    let golden: Golden = golden_json("logits.json");
    let mut divergences = Vec::new();
    let mut num_agreeing = 0;
    for prompt in &golden.prompts {
        let expected = logits(&reference, &prompt.ids);
        let found = logits(&stored, &prompt.ids);
        for (expected, found) in expected.iter().zip(&found) {
            divergences.push(divergence(expected, found));
            num_agreeing += usize::from(most_likely(expected) == most_likely(found));
        }
    }
    let num_rows = divergences.len() as f64;
    let mean = divergences.iter().sum::<f64>() / num_rows;
    let largest = divergences.iter().copied().fold(0.0, f64::max);
    let agreement = num_agreeing as f64 / num_rows;
    println!(
        "{num_rows} rows: mean divergence {mean:.5} nats, largest {largest:.5}, top-1 agreement {agreement:.4}"
    );
    assert!(num_rows > 100.0, "too few rows to say anything: {num_rows}");
    assert!(mean <= MEAN_DIVERGENCE, "mean divergence {mean} nats");
    assert!(largest <= LARGEST_DIVERGENCE, "largest divergence {largest} nats");
    assert!(agreement >= TOP_1_AGREEMENT, "top-1 agreement {agreement}");
    // Not the same pass twice: as stored, rounding must show.
    assert!(mean > 0.0, "the stored weights gave the very logits of f32");
}
