//! Likelihoods on a tiny random Llama against candle's Llama, and what steering does to them.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama as reference;
use skeg_lab::evaluate::{AppliedVector, SharedModel};
use skeg_lab::likelihood::{Likelihood, ModelLikelihood, SteeredText};
use skeg_lab::{Error, NoProgress};
use skeg_model::steering::{Operator, Positions, Site};
use skeg_model::testing::tiny_config;
use skeg_model::{Capture, Hooks, KvCache, KvCacheDtype, LlamaConfig, LoadedModel, PackedBatch};

use crate::extraction::StopAfter;
use crate::tiny_model::{CONTEXT, model, model_and_tensors, rendered, rows, shared};

const TOLERANCE: f64 = 1e-4;

/// All under one vector, or unsteered.
pub(crate) fn under<'a>(
    vector: Option<&'a AppliedVector>,
    texts: &[&'a str],
) -> Vec<SteeredText<'a>> {
    texts.iter().map(|text| SteeredText { text, vector }).collect()
}

#[expect(clippy::disallowed_methods, reason = "tests look at values")]
fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// candle's Llama with the same tensors.
struct Reference {
    llama: reference::Llama,
    config: reference::Config,
}

impl Reference {
    #[expect(clippy::cast_possible_truncation, reason = "the reference keeps it in f32")]
    fn new(tensors: HashMap<String, Tensor>) -> Self {
        let LlamaConfig { hidden_size, intermediate_size, vocab_size, .. } = tiny_config();
        let config = reference::Config {
            hidden_size,
            intermediate_size,
            vocab_size,
            num_hidden_layers: tiny_config().num_hidden_layers,
            num_attention_heads: tiny_config().num_attention_heads,
            num_key_value_heads: tiny_config().num_key_value_heads,
            use_flash_attn: false,
            rms_norm_eps: tiny_config().rms_norm_eps,
            rope_theta: tiny_config().rope_theta as f32,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: tiny_config().max_position_embeddings,
            tie_word_embeddings: false,
        };
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Self { llama: reference::Llama::load(weights, &config).unwrap(), config }
    }

    /// `-ln p` of each of `token_ids[from..]`.
    fn nlls(&self, token_ids: &[u32], from: usize) -> Vec<f64> {
        let nll = |place: usize| {
            let mut cache =
                reference::Cache::new(false, DType::F32, &self.config, &Device::Cpu).unwrap();
            let prefix = Tensor::new(&token_ids[..place], &Device::Cpu).unwrap();
            let prefix = prefix.unsqueeze(0).unwrap();
            let logits = self.llama.forward(&prefix, 0, &mut cache).unwrap();
            minus_log_softmax(&values(&logits), token_ids[place])
        };
        (from..token_ids.len()).map(nll).collect()
    }
}

fn minus_log_softmax(logits: &[f32], token_id: u32) -> f64 {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    sum.ln() - f64::from(logits[token_id as usize])
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn ids(model: &LoadedModel, text: &str) -> Vec<u32> {
    model.tokenizer.encode(text, false).unwrap()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < TOLERANCE, "{found}, expected {expected}");
}

#[test]
fn an_answer_is_as_likely_as_candles_llama_finds_it() {
    let (model, tensors) = model_and_tensors();
    let reference = Reference::new(tensors);
    let exchanges = [("Who?", "Nobody at all."), ("Why", "x"), ("And then", ""), ("", "a b c")];
    let expected: Vec<Option<f64>> = exchanges
        .iter()
        .map(|(prompt, answer)| {
            let prompt = ids(&model, &rendered(prompt));
            let whole = [prompt.clone(), ids(&model, answer)].concat();
            (!answer.is_empty()).then(|| mean(&reference.nlls(&whole, prompt.len())))
        })
        .collect();
    let mut likelihood = ModelLikelihood::new(&SharedModel::from(model), CONTEXT).unwrap();
    let found = likelihood.mean_nll(&exchanges, &mut NoProgress).unwrap();
    assert_eq!(found.len(), 4);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.is_some(), expected.is_some());
        close(found.unwrap_or_default(), expected.unwrap_or_default());
    }
    // Alone as in company.
    let alone = likelihood.mean_nll(&exchanges[1..2], &mut NoProgress).unwrap();
    assert_eq!(alone[0].map(f64::to_bits), found[1].map(f64::to_bits));
}

#[test]
fn perplexity_pools_the_tokens_of_all_texts() {
    let (model, tensors) = model_and_tensors();
    let reference = Reference::new(tensors);
    // The second and the last have no token that follows one.
    let texts = ["a longer text, with rare signs: ~|{", "x", "two", ""];
    let nlls: Vec<Vec<f64>> =
        texts.iter().map(|text| reference.nlls(&ids(&model, text), 1)).collect();
    assert_eq!(nlls.iter().map(Vec::len).collect::<Vec<_>>(), [34, 0, 2, 0]);
    let pooled = mean(&nlls.concat());
    let apart = f64::midpoint(mean(&nlls[0]), mean(&nlls[2]));
    assert!((pooled - apart).abs() > 100.0 * TOLERANCE, "{pooled} {apart}: nothing is shown");
    let mut likelihood = ModelLikelihood::new(&SharedModel::from(model), CONTEXT).unwrap();
    let found = likelihood.perplexity(&under(None, &texts), &mut NoProgress).unwrap();
    close(found.ln(), pooled);
    let error = likelihood.perplexity(&under(None, &["x", ""]), &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("no text has two tokens"), "{error}");
}

#[test]
fn what_is_longer_is_scored_up_to_the_limit() {
    let model = shared();
    let mut likelihood = ModelLikelihood::new(&model, 40).unwrap();
    let long = "abcdefghij".repeat(40);
    let mut perplexity = |text: &str| {
        likelihood.perplexity(&under(None, &[text]), &mut NoProgress).unwrap().to_bits()
    };
    assert_eq!(perplexity(&long), perplexity(&long[..40]));
    assert_ne!(perplexity(&long), perplexity(&long[..39]));
    // The prompt takes 15 of the 40 tokens with its template.
    let prompt_len = model.text_side.prompt_token_ids(None, "Who?").unwrap().len();
    let fits = &long[..40 - prompt_len];
    let full = "Who? ".repeat(20);
    let exchanges = [("Who?", long.as_str()), ("Who?", fits), (full.as_str(), "yes")];
    let found = likelihood.mean_nll(&exchanges, &mut NoProgress).unwrap();
    assert!(found[0].is_some());
    assert_eq!((found[0], found[2]), (found[1], None));
    // Never beyond the context.
    let mut largest = ModelLikelihood::new(&model, usize::MAX).unwrap();
    let [whole, cut] = [long.as_str(), &long[..CONTEXT]]
        .map(|text| largest.perplexity(&under(None, &[text]), &mut NoProgress).unwrap().to_bits());
    assert_eq!(whole, cut);
}

#[test]
fn after_an_empty_prompt_without_a_template_the_first_token_is_given() {
    let (model, tensors) = model_and_tensors();
    let reference = Reference::new(tensors);
    let expected = mean(&reference.nlls(&ids(&model, "abcd"), 1));
    let raw = SharedModel::from(LoadedModel { chat_template: None, ..model });
    let mut likelihood = ModelLikelihood::new(&raw, CONTEXT).unwrap();
    let found = likelihood.mean_nll(&[("", "abcd"), ("", "a")], &mut NoProgress).unwrap();
    close(found[0].unwrap(), expected);
    assert_eq!(found[1], None);
}

fn applied(site: Site, layers: &[usize], strength: f32) -> AppliedVector {
    AppliedVector {
        site,
        operator: Operator::Add,
        positions: Positions::All,
        strength,
        layers: Arc::new(rows(layers, 0.37)),
    }
}

#[test]
fn strength_0_is_unsteered_to_the_last_bit_and_more_is_not() {
    let mut likelihood = ModelLikelihood::new(&shared(), CONTEXT).unwrap();
    let texts = ["some plain text", "and some more"];
    let mut perplexity = |vector: Option<AppliedVector>| {
        likelihood.perplexity(&under(vector.as_ref(), &texts), &mut NoProgress).unwrap().to_bits()
    };
    let plain = perplexity(None);
    for site in [Site::AttnOut, Site::ResidPost] {
        assert_eq!(perplexity(Some(applied(site, &[0, 2], 0.0))), plain);
        assert_ne!(perplexity(Some(applied(site, &[0, 2], 1.0))), plain);
    }
    // The steering ends with its call.
    assert_eq!(perplexity(None), plain);
}

/// What the last block gives out for every row of a text, `[rows][hidden]`.
fn last_rows(model: &LoadedModel, token_ids: &[u32]) -> Vec<Vec<f32>> {
    let count = token_ids.len();
    let batch = PackedBatch {
        token_ids: token_ids.to_vec(),
        positions: (0..count).collect(),
        cu_seqlens: vec![0, count],
        block_tables: vec![vec![0, 1]],
        logit_rows: vec![count - 1],
    };
    let config = model.llama.config();
    let mut cache = KvCache::new(&model.llama, 2, 32, KvCacheDtype::F32).unwrap();
    let layer = config.num_hidden_layers - 1;
    let mut capture = Capture::new(Site::ResidPost, vec![layer], (0..count).collect());
    let mut hooks = Hooks { steer: None, capture: Some(&mut capture) };
    model.llama.forward(&batch, &mut cache, &mut hooks).unwrap();
    let (_, values) = capture.take().remove(0);
    values.chunks(config.hidden_size).map(<[f32]>::to_vec).collect()
}

/// Eq. 2 by hand at the end of the last block: norm and head of `h + strength * v`.
#[test]
fn every_token_is_steered_by_strength_times_vector() {
    let (model, tensors) = model_and_tensors();
    let text = "a text to be steered";
    let token_ids = ids(&model, text);
    let vector = applied(Site::ResidPost, &[2], -2.5);
    let norm_weight = values(&tensors["model.norm.weight"]);
    let head = values(&tensors["lm_head.weight"]);
    let eps = model.llama.config().rms_norm_eps;
    let nlls: Vec<f64> = last_rows(&model, &token_ids)
        .iter()
        .zip(&token_ids[1..])
        .map(|(row, &next)| {
            let steered: Vec<f64> = row
                .iter()
                .zip(&vector.layers[0].values)
                .map(|(&value, &push)| f64::from(value) - 2.5 * f64::from(push))
                .collect();
            let square = steered.iter().map(|value| value * value).sum::<f64>();
            let scale = 1.0 / (square / steered.len() as f64 + eps).sqrt();
            let logits = head.chunks(steered.len()).map(|weights| {
                let terms = weights.iter().zip(&steered).zip(&norm_weight);
                terms.map(|((w, x), n)| f64::from(*w) * x * scale * f64::from(*n)).sum::<f64>()
            });
            let logits: Vec<f64> = logits.collect();
            logits.iter().map(|logit| logit.exp()).sum::<f64>().ln() - logits[next as usize]
        })
        .collect();
    let mut likelihood = ModelLikelihood::new(&SharedModel::from(model), CONTEXT).unwrap();
    let found = likelihood.perplexity(&under(Some(&vector), &[text]), &mut NoProgress).unwrap();
    close(found.ln(), mean(&nlls));
}

#[test]
fn scoring_can_be_interrupted() {
    let mut likelihood = ModelLikelihood::new(&SharedModel::from(model()), CONTEXT).unwrap();
    let mut stop = StopAfter { num_left: Some(2), ..StopAfter::default() };
    let error =
        likelihood.perplexity(&under(None, &["one", "two", "three"]), &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { done: 2, total: 3 }), "{error}");
    let error = likelihood.mean_nll(&[("a", "b"), ("c", "d")], &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { done: 1, total: 2 }), "{error}");
}
