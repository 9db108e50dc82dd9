//! Logits and attention outputs, plain and steered, against transformers (`tests/golden/gen_logits.py`).
//!
//! In f32 with the file's weights dequantised, so that only the order of sums differs.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use skeg_model::steering::{
    LayerVector, Site, SlotLease, SteeringPlan, SteeringTables, SteeringVector,
};
use skeg_model::{
    Capture, Hooks, KvCache, KvCacheDtype, Llama, LoadOptions, LoadedModel, PackedBatch, SteerRows,
    WeightForm,
};

use crate::dequantised::dequantised_test_model;
use crate::support::{golden, golden_json, plan, test_model};

/// Largest absolute difference of a logit or of a component of `attn_out`, f32 against f32.
const TOLERANCE: f32 = 1e-3;
const BLOCK_SIZE: usize = 16;
const NUM_BLOCKS: usize = 8;
/// Every 16th vocabulary id is in the golden file.
const KEPT_EVERY: usize = 16;

#[derive(Deserialize)]
struct Golden {
    strength: f32,
    attn_out_layers: Vec<usize>,
    resid_post_layer: usize,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    ids: Vec<u32>,
    /// One a row.
    argmax: Vec<usize>,
    /// Greedy, for the steered prompts only.
    continuation_plain: Option<Vec<u32>>,
    continuation_attn_out: Option<Vec<u32>>,
    continuation_resid_post: Option<Vec<u32>>,
}

/// The model, the golden numbers, and the golden vectors in the model's tables.
struct Fixture {
    llama: Llama,
    golden: Golden,
    tensors: HashMap<String, Tensor>,
    tables: SteeringTables,
    plans: HashMap<&'static str, SteeringPlan>,
    _leases: Vec<SlotLease>,
}

impl Fixture {
    fn load() -> Self {
        Self::new(dequantised_test_model())
    }

    fn new(llama: Llama) -> Self {
        let golden: Golden = golden_json("logits.json");
        let tensors =
            candle_core::safetensors::load(self::golden("logits.safetensors"), &Device::Cpu)
                .unwrap();
        let mut tables = SteeringTables::new(&llama, 4);
        let sites = [
            ("attn_out", Site::AttnOut, golden.attn_out_layers.clone()),
            ("resid_post", Site::ResidPost, vec![golden.resid_post_layer]),
        ];
        let mut plans = HashMap::new();
        let mut leases = Vec::new();
        for (mode, site, layers) in sites {
            let vector = vector(&llama, site, &layers);
            let lease = tables.register(&[vector]).unwrap();
            plans.insert(mode, plan(&llama, site, &layers, lease.slots()[0], golden.strength));
            leases.push(lease);
        }
        Self { llama, golden, tensors, tables, plans, _leases: leases }
    }

    /// Logits of every row of a whole sequence, `[seq_len, vocab_size]`; `mode` is `plain` or a steered one.
    fn forward(&self, ids: &[u32], mode: &str, capture: Option<&mut Capture>) -> Vec<Vec<f32>> {
        self.step(&mut self.cache(), ids, 0, mode, capture)
    }

    fn cache(&self) -> KvCache {
        KvCache::new(&self.llama, NUM_BLOCKS, BLOCK_SIZE, KvCacheDtype::F32).unwrap()
    }

    /// Logits of the rows of `ids`, which stand at `first` and after it in the sequence in `cache`.
    fn step(
        &self,
        cache: &mut KvCache,
        ids: &[u32],
        first: usize,
        mode: &str,
        capture: Option<&mut Capture>,
    ) -> Vec<Vec<f32>> {
        let rows = vec![self.plans.get(mode); ids.len()];
        let steer = (mode != "plain").then(|| SteerRows::new(&self.tables, rows));
        let batch = PackedBatch {
            token_ids: ids.to_vec(),
            positions: (first..first + ids.len()).collect(),
            cu_seqlens: vec![0, ids.len()],
            block_tables: vec![(0..8).collect()],
            logit_rows: (0..ids.len()).collect(),
        };
        let mut hooks = Hooks { steer, capture };
        matrix(&self.llama.forward(&batch, cache, &mut hooks).unwrap())
    }

    /// Checks the last row of prompt `index` and returns the largest difference.
    fn check_last_row(&self, row: &[f32], mode: &str, index: usize) -> f32 {
        let expected = list::<f32>(&self.tensors[&format!("logits.{mode}.{index}")]);
        let top = list::<i32>(&self.tensors[&format!("top.{mode}.{index}")]);
        let top = top.into_iter().map(|id| usize::try_from(id).unwrap());
        let found: Vec<f32> =
            (0..row.len()).step_by(KEPT_EVERY).chain(top).map(|id| row[id]).collect();
        check(&found, &expected, &format!("logits of prompt {index}, {mode}"))
    }

    /// Greedy tokens after `ids`, one step each over the cache.
    fn continuation(&self, ids: &[u32], mode: &str, num_tokens: usize) -> Vec<u32> {
        let mut cache = self.cache();
        let mut rows = self.step(&mut cache, ids, 0, mode, None);
        let mut found: Vec<u32> = Vec::new();
        while found.len() < num_tokens {
            let token = u32::try_from(argmax(rows.last().unwrap())).unwrap();
            rows = self.step(&mut cache, &[token], ids.len() + found.len(), mode, None);
            found.push(token);
        }
        found
    }
}

/// `sin(0.37 * i + 1.3 * layer)`, the same in the generator.
#[expect(clippy::cast_possible_truncation, reason = "rounded to f32 once, as in the generator")]
fn vector(llama: &Llama, site: Site, layers: &[usize]) -> SteeringVector {
    let row = |layer: usize| LayerVector {
        layer,
        values: (0..llama.config().hidden_size)
            .map(|i| (0.37 * i as f64 + 1.3 * layer as f64).sin() as f32)
            .collect(),
    };
    SteeringVector { site, layers: layers.iter().map(|&layer| row(layer)).collect() }
}

/// Asserts equal lengths and differences within the tolerance; returns the largest one.
fn check(found: &[f32], expected: &[f32], what: &str) -> f32 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= TOLERANCE, "{what}: differs by {largest}");
    assert!(found.iter().all(|value| value.is_finite()), "{what}: not finite");
    largest
}

fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}

#[expect(clippy::disallowed_methods, reason = "tests look at values")]
fn matrix(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_vec2().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "tests look at values")]
fn list<T: candle_core::WithDType>(tensor: &Tensor) -> Vec<T> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn real_model_logits_are_those_of_transformers() {
    let fixture = Fixture::load();
    for (index, prompt) in fixture.golden.prompts.iter().enumerate() {
        let rows = fixture.forward(&prompt.ids, "plain", None);
        let largest = fixture.check_last_row(rows.last().unwrap(), "plain", index);
        println!("prompt {index}: logits differ by at most {largest:e}");
        let found: Vec<usize> = rows.iter().map(|row| argmax(row)).collect();
        assert_eq!(found, prompt.argmax, "prompt {index}");
    }
}

#[test]
fn real_model_attention_outputs_are_those_of_transformers() {
    let fixture = Fixture::load();
    for (index, prompt) in fixture.golden.prompts.iter().take(3).enumerate() {
        let rows = (0..prompt.ids.len()).collect();
        let mut capture = Capture::new(Site::AttnOut, vec![0, 14, 29], rows);
        fixture.forward(&prompt.ids, "plain", Some(&mut capture));
        let captured = capture.take();
        assert_eq!(captured.len(), 3);
        for (layer, found) in captured {
            let expected = list::<f32>(&fixture.tensors[&format!("attn_out.{index}.{layer}")]);
            let largest =
                check(&found, &expected, &format!("attn_out of prompt {index}, layer {layer}"));
            println!("prompt {index}: attn_out of layer {layer} differs by at most {largest:e}");
        }
    }
}

#[test]
fn real_model_steered_logits_are_those_of_transformers_with_the_same_hook() {
    let fixture = Fixture::load();
    for (index, prompt) in fixture.golden.prompts.iter().take(3).enumerate() {
        for mode in ["attn_out", "resid_post"] {
            let rows = fixture.forward(&prompt.ids, mode, None);
            let largest = fixture.check_last_row(rows.last().unwrap(), mode, index);
            println!("prompt {index}: {mode} logits differ by at most {largest:e}");
        }
    }
}

#[test]
fn real_model_greedy_continuations_are_those_of_transformers() {
    let fixture = Fixture::load();
    for (index, prompt) in fixture.golden.prompts.iter().take(3).enumerate() {
        let modes = [
            ("plain", &prompt.continuation_plain),
            ("attn_out", &prompt.continuation_attn_out),
            ("resid_post", &prompt.continuation_resid_post),
        ];
        for (mode, expected) in modes {
            let expected = expected.as_ref().expect("a golden continuation");
            let found = fixture.continuation(&prompt.ids, mode, expected.len());
            assert_eq!(&found, expected, "prompt {index}, {mode}");
        }
    }
}

#[test]
fn real_model_as_loaded_in_f32_gives_the_same_bits() {
    let options = LoadOptions { weights: WeightForm::F32, ..LoadOptions::default() };
    let loaded = Fixture::new(LoadedModel::load(&test_model(), &options).unwrap().llama);
    let dequantised = Fixture::load();
    let bits = |fixture: &Fixture, ids: &[u32]| -> Vec<u32> {
        fixture.forward(ids, "plain", None).concat().into_iter().map(f32::to_bits).collect()
    };
    let ids = &loaded.golden.prompts[1].ids;
    assert_eq!(bits(&loaded, ids), bits(&dequantised, ids));
}
