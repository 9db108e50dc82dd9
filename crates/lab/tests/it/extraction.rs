//! Extraction on a tiny random Llama: Eq. 1, token modes, batching, interruption.

use std::ops::ControlFlow;
use std::path::Path;

use proptest::prelude::*;
use skeg_lab::extract::{
    CategoryInputs, EncodedInput, ExtractSpec, Extraction, Pairing, PromptForm, RunOptions, Side,
    Text, TokenMode, Variant, extract_encoded,
};
use skeg_lab::{NoProgress, Progress};
use skeg_model::steering::Site;
use skeg_model::testing::{RandomWeights, random_llama, tiny_config};
use skeg_model::{Capture, Hooks, KvCache, KvCacheDtype, Llama, ModelIdentity, PackedBatch};

const LAYERS: [usize; 2] = [0, 2];
const NUM_INPUTS: usize = 5;

pub(crate) fn llama() -> Llama {
    random_llama(tiny_config(), 11, RandomWeights::Dense(candle_core::DType::F32)).unwrap()
}

pub(crate) fn identity() -> ModelIdentity {
    ModelIdentity {
        architecture_id: "a".repeat(64),
        weights_id: "b".repeat(64),
        hidden_size: 64,
        num_hidden_layers: 3,
    }
}

/// Two categories of five inputs a side; texts stand for token ids, which `inputs` makes up.
pub(crate) fn spec(site: Site, tokens: TokenMode) -> ExtractSpec {
    let side = |name: &str| -> Vec<Text> {
        (0..NUM_INPUTS).map(|idx| Text::with_response(&format!("{name}-{idx}"), "p", "r")).collect()
    };
    let categories = ["adult_content", "physical_harm"].map(|slug| CategoryInputs {
        category: slug.parse().unwrap(),
        unsafe_side: side("unsafe"),
        safe_side: side("safe"),
    });
    ExtractSpec {
        site,
        layers: LAYERS.to_vec(),
        tokens,
        max_response_tokens: None,
        prompt_form: PromptForm::ChatTemplate,
        variant: Variant::default(),
        categories: categories.to_vec(),
        data_sha256: Vec::new(),
    }
}

/// Prompt and response ids that differ in content and length from input to input.
fn token_ids(category_idx: usize, side: Side, idx: usize) -> (Vec<u32>, Vec<u32>) {
    let seed = 31 * category_idx + 7 * idx + if side == Side::Safe { 3 } else { 0 };
    let ids = |start: usize, len: usize| -> Vec<u32> {
        (0..len).map(|step| u32::try_from((start + step * step + 5) % 128).unwrap()).collect()
    };
    (ids(seed, 4 + idx), ids(seed * 3, 3 + (idx + category_idx) % 4))
}

pub(crate) fn inputs(tokens: TokenMode) -> Vec<EncodedInput> {
    let mut inputs = Vec::new();
    for category_idx in 0..2 {
        for side in [Side::Unsafe, Side::Safe] {
            for idx in 0..NUM_INPUTS {
                let (prompt, response) = token_ids(category_idx, side, idx);
                let place = (category_idx, side, idx);
                inputs.push(EncodedInput::new(place, &prompt, &response, tokens).unwrap());
            }
        }
    }
    inputs
}

pub(crate) fn options(max_batch_tokens: usize, checkpoint: Option<&Path>) -> RunOptions {
    RunOptions {
        max_batch_tokens,
        checkpoint: checkpoint.map(Path::to_owned),
        checkpoint_every_inputs: 2,
        keep_checkpoint: false,
    }
}

fn run(site: Site, tokens: TokenMode, max_batch_tokens: usize) -> Extraction {
    let options = options(max_batch_tokens, None);
    let inputs = inputs(tokens);
    let spec = spec(site, tokens);
    extract_encoded(&llama(), &identity(), &spec, &inputs, (&options, &mut NoProgress)).unwrap()
}

pub(crate) fn bits(extraction: &Extraction) -> Vec<u32> {
    extraction
        .categories
        .values()
        .flat_map(|category| &category.layers)
        .flat_map(|layer| layer.vector.iter().map(|value| value.to_bits()))
        .collect()
}

/// Every row of one sequence at one layer, from a pass of its own.
fn rows_alone(llama: &Llama, site: Site, layer: usize, token_ids: &[u32]) -> Vec<Vec<f32>> {
    let total = token_ids.len();
    let batch = PackedBatch {
        token_ids: token_ids.to_vec(),
        positions: (0..total).collect(),
        cu_seqlens: vec![0, total],
        block_tables: vec![vec![0, 1]],
        logit_rows: vec![total - 1],
    };
    let mut cache = KvCache::new(llama, 2, 16, KvCacheDtype::F32).unwrap();
    let mut capture = Capture::new(site, vec![layer], (0..total).collect());
    let mut hooks = Hooks { steer: None, capture: Some(&mut capture) };
    llama.forward(&batch, &mut cache, &mut hooks).unwrap();
    let (_, values) = capture.take().remove(0);
    values.chunks(llama.config().hidden_size).map(<[f32]>::to_vec).collect()
}

/// Eq. 1 written out for one category and layer.
fn naive(
    llama: &Llama,
    (site, layer): (Site, usize),
    category_idx: usize,
    choose: impl Fn(usize, usize) -> std::ops::Range<usize>,
) -> Vec<f64> {
    let mut omega = vec![0.0; llama.config().hidden_size];
    for (side, sign) in [(Side::Safe, 1.0), (Side::Unsafe, -1.0)] {
        for idx in 0..NUM_INPUTS {
            let (prompt, response) = token_ids(category_idx, side, idx);
            let rows = rows_alone(llama, site, layer, &[prompt.clone(), response.clone()].concat());
            let chosen = &rows[choose(prompt.len(), response.len())];
            for row in chosen {
                for (omega, value) in omega.iter_mut().zip(row) {
                    *omega += sign * f64::from(*value) / (chosen.len() * NUM_INPUTS) as f64;
                }
            }
        }
    }
    omega
}

fn check_mode(
    site: Site,
    tokens: TokenMode,
    choose: impl Fn(usize, usize) -> std::ops::Range<usize>,
) {
    let extraction = run(site, tokens, 64);
    let llama = llama();
    for (category_idx, category) in extraction.categories.values().enumerate() {
        assert_eq!((category.num_safe, category.num_unsafe), (5, 5));
        for layer in &category.layers {
            let expected = naive(&llama, (site, layer.layer), category_idx, &choose);
            assert!(expected.iter().any(|value| value.abs() > 1e-3));
            for (found, expected) in layer.vector.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{tokens} {found} {expected}");
            }
            let norm = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
            assert!((layer.norm - norm).abs() < 1e-6);
            assert!((layer.relative_norm * layer.activation_norm - layer.norm).abs() < 1e-9);
            assert!(layer.split_half_cosine.unwrap().abs() <= 1.0 + 1e-9);
        }
    }
}

#[test]
fn the_vector_is_the_difference_of_means_over_the_chosen_tokens() {
    for site in [Site::AttnOut, Site::ResidPost] {
        check_mode(site, TokenMode::All, |prompt, response| 0..prompt + response);
        check_mode(site, TokenMode::Prompt, |prompt, _| 0..prompt);
        check_mode(site, TokenMode::Response, |prompt, response| prompt..prompt + response);
        check_mode(site, TokenMode::Last, |prompt, response| {
            prompt + response - 1..prompt + response
        });
    }
}

#[test]
fn the_batch_size_changes_no_bit() {
    let alone = bits(&run(Site::AttnOut, TokenMode::Response, 1));
    for max_batch_tokens in [13, 40, 4096] {
        let batched = bits(&run(Site::AttnOut, TokenMode::Response, max_batch_tokens));
        assert_eq!(alone, batched);
    }
}

#[test]
fn token_modes_give_different_vectors() {
    let modes = [TokenMode::All, TokenMode::Prompt, TokenMode::Response, TokenMode::Last];
    let vectors = modes.map(|tokens| bits(&run(Site::AttnOut, tokens, 64)));
    for (idx, vector) in vectors.iter().enumerate() {
        assert!(!vectors[..idx].contains(vector));
        assert_eq!(modes[idx].to_string().parse::<TokenMode>().unwrap(), modes[idx]);
    }
}

/// Stops after a number of inputs and keeps what it was told.
#[derive(Default)]
pub(crate) struct StopAfter {
    pub(crate) num_left: Option<usize>,
    pub(crate) num_done: usize,
    pub(crate) notes: Vec<String>,
}

impl Progress for StopAfter {
    fn start(&mut self, _what: &str, _total: usize) {}

    fn advance(&mut self, num_steps: usize) -> ControlFlow<()> {
        self.num_done += num_steps;
        match self.num_left {
            Some(limit) if self.num_done >= limit => ControlFlow::Break(()),
            Some(_) | None => ControlFlow::Continue(()),
        }
    }

    fn note(&mut self, message: &str) {
        self.notes.push(message.to_owned());
    }

    fn finish(&mut self) {}
}

#[test]
fn a_state_file_of_another_run_or_a_damaged_one_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("vectors.part");
    let (tokens, options) = (TokenMode::Response, options(1, Some(&part)));
    let (llama, inputs) = (llama(), inputs(tokens));
    let run = |site: Site, progress: &mut StopAfter| {
        extract_encoded(&llama, &identity(), &spec(site, tokens), &inputs, (&options, progress))
    };
    let stop = || StopAfter { num_left: Some(4), ..StopAfter::default() };

    run(Site::ResidPost, &mut stop()).unwrap_err();
    let mut progress = StopAfter::default();
    let fresh = run(Site::AttnOut, &mut progress).unwrap();
    assert!(progress.notes[0].contains("another spec"), "{:?}", progress.notes);
    assert_eq!(bits(&fresh), bits(&self::run(Site::AttnOut, tokens, 64)));

    run(Site::AttnOut, &mut stop()).unwrap_err();
    let mut content = std::fs::read(&part).unwrap();
    content.pop();
    std::fs::write(&part, content).unwrap();
    let mut progress = StopAfter::default();
    assert_eq!(bits(&run(Site::AttnOut, &mut progress).unwrap()), bits(&fresh));
    assert!(progress.notes[0].contains("damaged"), "{:?}", progress.notes);
}

#[test]
fn specs_that_cannot_be_extracted_are_refused_by_name() {
    let good = || spec(Site::AttnOut, TokenMode::Response);
    let mut no_response = good();
    no_response.categories[1].safe_side[3].response = None;
    let mut empty_side = good();
    empty_side.categories[0].unsafe_side.clear();
    let mut twice = good();
    twice.categories[1].category = twice.categories[0].category.clone();
    let mut unmatched = good();
    unmatched.variant.pairing = Pairing::Matched;
    unmatched.categories[0].safe_side.pop();
    let mut unsorted = good();
    unsorted.layers = vec![2, 2];
    for (spec, expected) in [
        (no_response, "`safe-3` on the safe side has no response"),
        (empty_side, "`adult_content` has no input on its unsafe side"),
        (twice, "`adult_content` is there twice"),
        (unmatched, "`adult_content` has 4 safe and 5 unsafe inputs"),
        (unsorted, "layers [2, 2]"),
    ] {
        let error = spec.check().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn swapping_the_sides_negates_the_vector(limit in 1_usize..80) {
        let forward = run(Site::AttnOut, TokenMode::All, limit);
        let mut swapped = inputs(TokenMode::All);
        for input in &mut swapped {
            input.side = match input.side {
                Side::Safe => Side::Unsafe,
                Side::Unsafe => Side::Safe,
            };
        }
        let spec = spec(Site::AttnOut, TokenMode::All);
        let options = options(limit, None);
        let backward = extract_encoded(
            &llama(), &identity(), &spec, &swapped, (&options, &mut NoProgress),
        ).unwrap();
        for (a, b) in forward.categories.values().zip(backward.categories.values()) {
            for (a, b) in a.layers.iter().zip(&b.layers) {
                let negated: Vec<f32> = b.vector.iter().map(|value| -value).collect();
                prop_assert_eq!(&a.vector, &negated);
            }
        }
    }
}
