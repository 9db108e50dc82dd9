//! The answers of a whole tiny model, read for a probe: which rows of which answers.

use std::sync::{Arc, Mutex};

use skeg_lab::evaluate::SharedModel;
use skeg_lab::probe::{
    ActivationInput, AnswerRows, AnswerSpec, Corpus, Penalties, ProbeSpec, PromptRow, Reads,
    Sources, Thresholds, measure_answers, read_answers, train, train_answers, verdicts,
};
use skeg_lab::{Error, NoProgress};
use skeg_model::KvCacheDtype;
use skeg_model::engine::{
    Engine as _, EngineConfig, Event, EventSink, GenerationRequest, LlamaEngine, SinkClosed,
    StepOutcome,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::Site;

use crate::extraction::StopAfter;
use crate::probe::{LAYERS, corpus};
use crate::tiny_model::{CONTEXT, HIDDEN_SIZE, model, rows_of_pass, shared};

const SPEC: AnswerSpec = AnswerSpec { num_tokens: 6, every: 2, max_prompts: 100, seed: 1 };

fn input() -> ActivationInput {
    ActivationInput {
        site: Site::ResidPost,
        layers: LAYERS.to_vec(),
        hidden_size: HIDDEN_SIZE,
        last: true,
        mean_without: None,
    }
}

fn read(model: &SharedModel, corpus: &Corpus, spec: &AnswerSpec) -> AnswerRows {
    read_answers(model, corpus, &input(), spec, &mut NoProgress).unwrap()
}

fn prompt(model: &SharedModel, corpus: &Corpus, idx: usize) -> Vec<u32> {
    let template = model.text_side.chat_template.as_ref().unwrap();
    let text = template.render(&corpus.prompts[idx].conversation, true).unwrap();
    model.text_side.tokenizer.encode(&text, false).unwrap()
}

struct Sink(Arc<Mutex<Vec<u32>>>);

impl EventSink for Sink {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        if let Event::Token { token, .. } = event {
            self.0.lock().unwrap().push(token.token_id);
        }
        Ok(())
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// The tokens of an answer, without a gate.
fn answer(model: &SharedModel, prompt_token_ids: Vec<u32>, max_new_tokens: usize) -> Vec<u32> {
    let mut engine = LlamaEngine::new(Arc::clone(&model.llama), &EngineConfig::default()).unwrap();
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let request = GenerationRequest {
        prompt_token_ids,
        sampling: SamplingParams::default(),
        max_new_tokens,
        stop_token_ids: Vec::new(),
        steering: None,
        gate: None,
    };
    engine.submit(request, Box::new(Sink(Arc::clone(&tokens)))).unwrap();
    while engine.step().unwrap() == StepOutcome::Advanced {}
    tokens.lock().unwrap().drain(..).collect()
}

/// Some rows at [`LAYERS`] of these tokens, by one pass of its own, with the cache that serves.
fn rows_by_hand(model: &SharedModel, token_ids: Vec<u32>, rows: &[usize]) -> Vec<f32> {
    let all = rows_of_pass(&model.llama, token_ids, &LAYERS, KvCacheDtype::default());
    rows.iter().flat_map(|&row| all[row].clone()).collect()
}

#[test]
fn the_rows_are_those_of_every_nth_token_of_the_unsteered_answer() {
    let (model, corpus) = (shared(), corpus());
    let read = read(&model, &corpus, &SPEC);
    assert_eq!((read.answers.len(), read.num_too_long), (24, 0));
    assert_eq!(read.width, 2 * HIDDEN_SIZE);
    for found in &read.answers {
        let prompt = prompt(&model, &corpus, found.prompt_idx);
        let answer = answer(&model, prompt.clone(), 6);
        // The row of token k yields token k + 1.
        let rows = [2, 4, 6].map(|token| prompt.len() + token - 1);
        let expected = rows_by_hand(&model, [prompt, answer].concat(), &rows);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found.rows), bits(&expected), "prompt {}", found.prompt_idx);
        assert!(!found.refuses);
    }
}

#[test]
fn an_answer_that_ends_early_has_the_rows_before_its_end() {
    let (mut model, corpus) = (model(), corpus());
    let probe = shared();
    let tokens = answer(&probe, prompt(&probe, &corpus, 0), 6);
    // The first token that was not there before, from the fourth on, or the end of the range.
    let end = (3..6).find(|&idx| !tokens[..idx].contains(&tokens[idx])).expect("a new token");
    model.stop_token_ids = vec![tokens[end]];
    let read = read(&SharedModel::from(model), &corpus, &SPEC);
    assert_eq!(read.answers[0].rows.len() / read.width, end / 2);
}

#[test]
fn prompts_are_drawn_by_seed_and_kind_and_long_ones_left_out() {
    let (model, mut corpus) = (shared(), corpus());
    let idxs = |seed: u64| -> Vec<usize> {
        let spec = AnswerSpec { max_prompts: 3, seed, ..SPEC };
        read(&model, &corpus, &spec).answers.iter().map(|answer| answer.prompt_idx).collect()
    };
    let first = idxs(1);
    let count = |set_idx: usize, harmful: bool| {
        let prompts = first.iter().map(|&idx| &corpus.prompts[idx]);
        prompts.filter(|p| p.set_idx == set_idx && p.harmful == harmful).count()
    };
    assert_eq!([count(0, true), count(0, false), count(1, true), count(1, false)], [3; 4]);
    assert!(first.is_sorted());
    assert_eq!(idxs(1), first);
    assert_ne!(idxs(2), first);
    // As many tokens as characters: with an answer it does not fit any more.
    corpus.prompts[0].conversation[0].content = "x".repeat(CONTEXT - 12);
    let read = read(&model, &corpus, &SPEC);
    assert_eq!((read.answers.len(), read.num_too_long), (23, 1));
}

#[test]
fn a_probe_of_answers_is_trained_and_measured_from_the_model_alone() {
    let (loaded, corpus) = (model(), corpus());
    let reads =
        Reads::Activations { site: Site::ResidPost, layers: LAYERS.to_vec(), row: PromptRow::Last };
    let spec = ProbeSpec { members: vec![reads], ..ProbeSpec::default() };
    let sources = Sources { model: Some(&loaded), ..Sources::default() };
    let mut probe = train(&corpus, &spec, sources, &mut NoProgress).unwrap().probe;
    let found = verdicts(&probe, &corpus, sources, &mut NoProgress).unwrap();
    let input = probe.activation_input().unwrap();
    let model = SharedModel::from(loaded);
    let rows = read_answers(&model, &corpus, &input, &SPEC, &mut NoProgress).unwrap();
    let (part, table) = train_answers(&probe, &corpus, &rows, Penalties::default()).unwrap();
    let counts: Vec<_> =
        table.rows.iter().map(|row| (row.tokens, row.num_harmful, row.num_harmless)).collect();
    assert_eq!(counts, [(2, 16, 8), (4, 16, 8), (6, 16, 8)]);
    let again = train_answers(&probe, &corpus, &rows, Penalties::default()).unwrap();
    assert_eq!((&again.0, &again.1), (&part, &table));
    probe.answer = Some(part);
    let thresholds = Thresholds { prompt: 0.5, answer: 0.5 };
    let report = measure_answers(&probe, &corpus, &found, &rows, thresholds).unwrap();
    assert_eq!(report.missed.total, 16);
    assert_eq!(report.caught.len(), 3);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let (shared, corpus) = (shared(), corpus());
    for spec in [
        AnswerSpec { every: 0, ..SPEC },
        AnswerSpec { every: 7, ..SPEC },
        AnswerSpec { max_prompts: 0, ..SPEC },
    ] {
        let error = read_answers(&shared, &corpus, &input(), &spec, &mut NoProgress).unwrap_err();
        assert!(matches!(error, Error::Spec(_)), "{error}");
    }
    let without = SharedModel::from(skeg_model::LoadedModel { chat_template: None, ..model() });
    let error = read_answers(&without, &corpus, &input(), &SPEC, &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("no chat template"), "{error}");
    let stopped = read_answers(
        &shared,
        &corpus,
        &input(),
        &SPEC,
        &mut StopAfter { num_left: Some(1), num_done: 0, notes: Vec::new() },
    );
    assert!(matches!(stopped, Err(Error::Interrupted { total: 24, .. })));
}
