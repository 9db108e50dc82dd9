//! The forward pass against another implementation, and what it refuses.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama as reference;
use skeg_model::testing::{RandomWeights, random_llama, random_llama_and_tensors, tiny_config};
use skeg_model::{Hooks, KvCache, KvCacheDtype, LlamaConfig, PackedBatch, RopeScaling};

use crate::tiny::{Stretch, cache, model, pack, tokens, values};

fn reference_config(config: &LlamaConfig) -> reference::Config {
    let rope_scaling = match config.rope_scaling {
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => Some(reference::Llama3RopeConfig {
            factor: to_f32(factor),
            low_freq_factor: to_f32(low_freq_factor),
            high_freq_factor: to_f32(high_freq_factor),
            original_max_position_embeddings,
            rope_type: reference::Llama3RopeType::Llama3,
        }),
        _ => None,
    };
    reference::Config {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        vocab_size: config.vocab_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        use_flash_attn: false,
        rms_norm_eps: config.rms_norm_eps,
        rope_theta: to_f32(config.rope_theta),
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling,
        max_position_embeddings: config.max_position_embeddings,
        tie_word_embeddings: config.tie_word_embeddings,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the reference keeps its configuration in f32")]
fn to_f32(value: f64) -> f32 {
    value as f32
}

fn check_against_reference(config: &LlamaConfig) {
    let form = RandomWeights::Dense(DType::F32);
    let (llama, tensors) = random_llama_and_tensors(config.clone(), 3, form).unwrap();
    let theirs = reference_config(config);
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let their_llama = reference::Llama::load(weights, &theirs).unwrap();
    let token_ids = tokens(4, 40);
    let ours = pack(&[Stretch::whole(token_ids.clone(), &[9, 3, 5, 1, 7, 30, 2, 8, 0, 11])]);
    let ours = llama.forward(&ours, &mut cache(&llama), &mut Hooks::none()).unwrap();
    for (row, ours) in values(&ours).iter().enumerate() {
        let mut their_cache =
            reference::Cache::new(true, DType::F32, &theirs, &Device::Cpu).unwrap();
        let prefix = Tensor::new(&token_ids[..=row], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = their_llama.forward(&prefix, 0, &mut their_cache).unwrap();
        for (ours, theirs) in ours.iter().zip(&values(&logits)[0]) {
            assert!((ours - theirs).abs() < 1e-4, "row {row}: {ours}, reference {theirs}");
        }
    }
}

#[test]
fn equals_candles_llama() {
    check_against_reference(&tiny_config());
}

#[test]
fn equals_candles_llama_with_tied_embeddings_and_llama3_rope() {
    check_against_reference(&LlamaConfig {
        tie_word_embeddings: true,
        rope_scaling: RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 16,
        },
        ..tiny_config()
    });
}

#[test]
fn a_batch_that_does_not_fit_is_refused_with_a_reason() {
    let llama = model();
    let good = pack(&[Stretch::whole(tokens(1, 6), &[0, 1])]);
    llama.forward(&good, &mut cache(&llama), &mut Hooks::none()).unwrap();
    let check = |change: &dyn Fn(&mut PackedBatch), expected: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let result = llama.forward(&bad, &mut cache(&llama), &mut Hooks::none());
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not say {expected}");
    };
    check(&|b| *b = PackedBatch::default(), "0 token ids");
    check(&|b| b.token_ids[2] = 128, "token id 128");
    check(&|b| b.positions[3] = 7, "not consecutive");
    check(&|b| b.positions = (251..257).collect(), "block table");
    check(
        &|b| {
            b.positions = (251..257).collect();
            b.block_tables = vec![vec![3; 65]];
        },
        "context of 256",
    );
    check(&|b| b.block_tables[0].truncate(1), "does not reach position 4");
    check(&|b| b.block_tables[0][1] = 64, "cache block 64");
    check(&|b| b.block_tables[0][1] = 0, "two rows");
    check(&|b| b.cu_seqlens = vec![0, 5], "cu_seqlens");
    check(&|b| b.cu_seqlens = vec![0, 0, 6], "cu_seqlens");
    check(&|b| b.logit_rows = vec![6], "row 6");
}

#[test]
fn a_cache_of_another_model_is_refused() {
    let llama = model();
    let config = LlamaConfig { num_hidden_layers: 2, ..tiny_config() };
    let other = random_llama(config, 1, RandomWeights::Dense(DType::F32)).unwrap();
    let mut cache = KvCache::new(&other, 8, 4, KvCacheDtype::F32).unwrap();
    let batch = pack(&[Stretch::whole(tokens(1, 6), &[0, 1])]);
    let error = llama.forward(&batch, &mut cache, &mut Hooks::none()).unwrap_err();
    assert!(error.to_string().contains("another model"));
}
