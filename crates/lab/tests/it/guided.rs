//! Guided selection with scripted answers and judges, and on a real model.

use std::path::Path;

use skeg_lab::evaluate::{Answer, Answerer, AppliedVector, EngineAnswerer, Question};
use skeg_lab::extract::{
    CategoryInputs, ExtractSpec, Extraction, Guided, GuidedJudges, GuidedOptions, OnFew, Pairing,
    PromptForm, RunOptions, SideCounts, Text, TokenMode, Variant, extract, guided_inputs,
};
use skeg_lab::judge::{DegenerateJudge, Exchange, Judge, PhraseJudge, Property, Verdict};
use skeg_lab::{Error, NoProgress, Progress, Result};
use skeg_model::engine::EngineConfig;
use skeg_model::steering::Site;
use skeg_model::{LoadOptions, LoadedModel};

use crate::extraction::StopAfter;

/// Answers with the prompt, and keeps what it was asked.
#[derive(Default)]
struct Echo {
    asked: Vec<String>,
}

fn answer(text: String) -> Answer {
    Answer { text, token_ids: vec![1], max_relative_norm: None }
}

impl Answerer for Echo {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        assert!(vectors.is_empty() && questions.iter().all(|one| one.vector_idx.is_none()));
        if progress.advance(questions.len()).is_break() {
            return Err(Error::Interrupted { done: 0, total: questions.len() });
        }
        self.asked.extend(questions.iter().map(|question| question.prompt.clone()));
        Ok(questions.iter().map(|question| answer(question.prompt.clone())).collect())
    }
}

/// Positive where the answer has a word, with the number after it as its score.
struct WordJudge {
    word: &'static str,
    property: Property,
    num_judged: usize,
}

impl Judge for WordJudge {
    fn name(&self) -> &str {
        self.word
    }

    fn property(&self) -> Property {
        self.property
    }

    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        self.num_judged += answers.len();
        let verdict = |answer: &Exchange<'_>| {
            let mut words = answer.response.split(' ').skip_while(|word| *word != self.word);
            let positive = words.next().is_some();
            let score = words.next().and_then(|word| word.parse().ok());
            Verdict { score: score.unwrap_or(if positive { 0.9 } else { 0.1 }), positive }
        };
        Ok(answers.iter().map(verdict).collect())
    }
}

fn word(word: &'static str, property: Property) -> WordJudge {
    WordJudge { word, property, num_judged: 0 }
}

fn texts(answers: &[&str]) -> Vec<Text> {
    let text = |(number, answer): (usize, &&str)| Text::prompt(&format!("{number}"), answer);
    answers.iter().enumerate().map(text).collect()
}

fn category(slug: &str, unsafe_side: &[&str], safe_side: &[&str]) -> CategoryInputs {
    CategoryInputs {
        category: slug.parse().unwrap(),
        unsafe_side: texts(unsafe_side),
        safe_side: texts(safe_side),
    }
}

fn select(
    answerer: &mut dyn Answerer,
    inputs: Vec<CategoryInputs>,
    options: &GuidedOptions,
    progress: &mut dyn Progress,
) -> Result<Guided> {
    let mut judges = GuidedJudges {
        harm: &mut word("harm", Property::Harm),
        refusal: &mut word("refuse", Property::Refusal),
        degenerate: &mut word("broken", Property::Degenerate),
    };
    guided_inputs(answerer, &mut judges, inputs, options, progress)
}

fn selected(inputs: Vec<CategoryInputs>, options: &GuidedOptions) -> Guided {
    select(&mut Echo::default(), inputs, options, &mut NoProgress).unwrap()
}

fn responses(texts: &[Text]) -> Vec<&str> {
    texts.iter().map(|text| text.response.as_deref().unwrap()).collect()
}

/// One of every kind on either side.
fn every_kind() -> CategoryInputs {
    category(
        "adult_content",
        &["harm a", "b", "refuse c", "broken harm d", "refuse harm e", "harm f", "broken refuse g"],
        &["harm h", "i", "refuse j", "broken k", "refuse harm l", "m"],
    )
}

#[test]
fn the_summary_is_over_all_categories() {
    let another = CategoryInputs { category: "child_abuse".parse().unwrap(), ..every_kind() };
    let summary = selected(vec![every_kind(), another], &GuidedOptions::default()).report.summary();
    assert_eq!(
        summary,
        "guided by harm. Harmful prompts: of 14 answers 4 were degenerate, 4 declined, 6 were judged unsafe, 4 safe and 0 \
         neither for sure; 4 stayed. Harmless ones: of 12 answers 2 were degenerate, 4 declined, 4 were judged unsafe, 6 safe \
         and 0 neither for sure; 6 stayed."
    );
}

#[test]
fn only_what_the_judges_confirm_stays() {
    let guided = selected(vec![every_kind()], &GuidedOptions::default());
    let chosen = &guided.inputs[0];
    assert_eq!(responses(&chosen.unsafe_side), ["harm a", "harm f"]);
    assert_eq!(responses(&chosen.safe_side), ["i", "refuse j", "m"]);
    let counts = guided.report.categories[&chosen.category];
    let not_safe = SideCounts {
        asked: 7,
        degenerate: 2,
        refused: 2,
        judged_unsafe: 3,
        judged_safe: 2,
        unsure: 0,
        kept: 2,
    };
    let safe = SideCounts {
        asked: 6,
        degenerate: 1,
        judged_unsafe: 2,
        kept: 3,
        judged_safe: 3,
        ..not_safe
    };
    assert_eq!((counts.unsafe_side, counts.safe_side), (not_safe, safe));
    assert_eq!((counts.refusals_as_safe, counts.dropped), (0, false));
    assert_eq!(
        (guided.report.num_answers, guided.report.to_string().as_str()),
        (13, "guided by harm")
    );
    let table = guided.report.to_markdown();
    assert!(table.contains("| adult_content | unsafe | 7 | 2 | 2 | 3 | 2 | 0 | 2 |"), "{table}");
}

#[test]
fn refusals_go_over_to_the_safe_side_where_that_is_asked_for() {
    let options = GuidedOptions { keep_refusals: true, ..GuidedOptions::default() };
    let guided = selected(vec![every_kind()], &options);
    let chosen = &guided.inputs[0];
    assert_eq!(responses(&chosen.unsafe_side), ["harm a", "harm f"]);
    // Not "refuse harm e", which the harm judge calls harmful.
    assert_eq!(responses(&chosen.safe_side), ["i", "refuse j", "m", "refuse c"]);
    let counts = guided.report.categories[&chosen.category];
    assert_eq!((counts.refusals_as_safe, counts.safe_side.kept), (1, 3));
    assert!(guided.report.to_string().ends_with("refusals of harmful prompts as safe"));
    assert!(guided.report.to_plain().contains("safe (and 1 refusals)"));
}

#[test]
fn verdicts_below_the_least_score_count_as_unsure() {
    let inputs = || {
        let (not_safe, safe) = (["harm 0.95 a", "harm 0.6 b", "harm 0.9 c"], ["a", "b", "c"]);
        let mut inputs = category("adult_content", &not_safe, &safe);
        inputs.safe_side[1].response = Some("harm 0.7".to_owned());
        vec![inputs]
    };
    let options =
        |min_score| GuidedOptions { min_score: Some(min_score), ..GuidedOptions::default() };
    let guided = selected(inputs(), &options(0.9));
    assert_eq!(responses(&guided.inputs[0].unsafe_side), ["harm 0.95 a", "harm 0.9 c"]);
    let counts = guided.report.categories[&guided.inputs[0].category];
    assert_eq!((counts.unsafe_side.unsure, counts.safe_side.unsure), (1, 1));
    assert!(guided.report.to_string().contains("verdicts of at least 0.9"));
    // Harmless ones have 0.1: they are 0.9 certain.
    assert_eq!(responses(&guided.inputs[0].safe_side), ["a", "c"]);
    let error = select(&mut Echo::default(), inputs(), &options(0.91), &mut NoProgress);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("1 confirmed inputs on its unsafe side"), "{error}");
}

#[test]
fn given_answers_are_judged_and_not_asked_for_and_a_prompt_is_asked_once() {
    let mut first = category("adult_content", &["harm a", "harm b"], &["i", "j"]);
    first.unsafe_side.push(Text::with_response("given", "harm c", "a harmless answer"));
    first.safe_side.push(Text::with_response("given", "i", "a given answer"));
    let second = category("physical_harm", &["harm d", "harm a"], &["j", "i"]);
    let mut answerer = Echo::default();
    let mut harm = word("harm", Property::Harm);
    let mut judges = GuidedJudges {
        harm: &mut harm,
        refusal: &mut PhraseJudge,
        degenerate: &mut word("broken", Property::Degenerate),
    };
    let options = GuidedOptions::default();
    let inputs = vec![first, second];
    let guided =
        guided_inputs(&mut answerer, &mut judges, inputs, &options, &mut NoProgress).unwrap();
    assert_eq!(answerer.asked, ["harm a", "harm b", "i", "j", "harm d"]);
    assert_eq!(harm.num_judged, 7);
    assert_eq!(guided.report.num_answers, 5);
    assert_eq!(responses(&guided.inputs[0].unsafe_side), ["harm a", "harm b"]);
    assert_eq!(responses(&guided.inputs[0].safe_side), ["i", "j", "a given answer"]);
    assert_eq!(responses(&guided.inputs[1].unsafe_side), ["harm d", "harm a"]);
    assert_eq!(responses(&guided.inputs[1].safe_side), ["j", "i"]);
}

#[test]
fn a_matched_pair_stays_where_both_halves_do() {
    let inputs = || {
        let not_safe = ["harm a", "b", "harm c", "harm d", "refuse harm e"];
        vec![category("adult_content", &not_safe, &["f", "g", "harm h", "i", "j"])]
    };
    let options = GuidedOptions { pairing: Pairing::Matched, ..GuidedOptions::default() };
    let guided = selected(inputs(), &options);
    assert_eq!(responses(&guided.inputs[0].unsafe_side), ["harm a", "harm d"]);
    assert_eq!(responses(&guided.inputs[0].safe_side), ["f", "i"]);
    let counts = guided.report.categories[&guided.inputs[0].category];
    assert_eq!((counts.unsafe_side.judged_unsafe, counts.unsafe_side.kept), (4, 2));

    let mut uneven = inputs();
    uneven[0].safe_side.pop();
    for (inputs, options, expected) in [
        (uneven, options, "4 safe and 5 unsafe inputs"),
        (inputs(), GuidedOptions { keep_refusals: true, ..options }, "no partner"),
    ] {
        let error = select(&mut Echo::default(), inputs, &options, &mut NoProgress);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_category_with_too_few_is_an_error_or_left_out_with_a_note() {
    let few = || category("physical_harm", &["harm a", "refuse b", "broken c"], &["i", "j"]);
    let inputs = || vec![every_kind(), few()];
    let options = GuidedOptions::default();
    let error = select(&mut Echo::default(), inputs(), &options, &mut NoProgress).unwrap_err();
    let error = error.to_string();
    let expected = "category `physical_harm` has 1 confirmed inputs on its unsafe side, fewer than 2: of 3 answers 1 \
                    were degenerate, 1 declined, 1 were judged unsafe, 1 safe";
    assert!(error.contains(expected) && error.contains("give more prompts"), "{error}");

    let options = GuidedOptions { on_few: OnFew::Drop, ..options };
    let mut progress = StopAfter::default();
    let guided = select(&mut Echo::default(), inputs(), &options, &mut progress).unwrap();
    assert_eq!(guided.inputs.len(), 1);
    assert_eq!(guided.inputs[0].category.as_str(), "adult_content");
    assert!(
        progress.notes[0].contains("left out: category `physical_harm`"),
        "{:?}",
        progress.notes
    );
    assert!(guided.report.categories[&few().category].dropped);
    assert!(guided.report.to_plain().contains("physical_harm (left out)"));

    let error = select(&mut Echo::default(), vec![few()], &options, &mut NoProgress);
    assert!(error.unwrap_err().to_string().contains("leaves no category 2 inputs a side"));
    let options = GuidedOptions { min_inputs: 1, ..GuidedOptions::default() };
    assert_eq!(selected(inputs(), &options).inputs.len(), 2);
}

#[test]
fn the_work_can_be_interrupted_while_answers_are_made_and_while_they_are_judged() {
    // More exchanges than are judged at once.
    let prompts: Vec<String> = (0..300).map(|number| format!("harm {number}")).collect();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let inputs = || vec![category("adult_content", &prompts, &["i", "j"])];
    for (num_left, done) in [(1, 0), (303, 256)] {
        let mut stop = StopAfter { num_left: Some(num_left), ..StopAfter::default() };
        let options = GuidedOptions::default();
        let error = select(&mut Echo::default(), inputs(), &options, &mut stop).unwrap_err();
        assert!(
            matches!(error, Error::Interrupted { done: found, total: 302 } if found == done),
            "{error}"
        );
    }
}

#[test]
fn judges_and_options_that_do_not_fit_are_named() {
    let options = GuidedOptions::default();
    let mut judges = GuidedJudges {
        harm: &mut PhraseJudge,
        refusal: &mut PhraseJudge,
        degenerate: &mut DegenerateJudge,
    };
    let inputs = vec![every_kind()];
    let error = guided_inputs(&mut Echo::default(), &mut judges, inputs, &options, &mut NoProgress);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`refusal phrases` looks for Refusal; expected one of Harm"), "{error}");
    for (options, expected) in [
        (GuidedOptions { min_score: Some(1.5), ..options }, "at least 1.5"),
        (GuidedOptions { min_inputs: 0, ..options }, "0 inputs a side"),
    ] {
        let inputs = vec![every_kind()];
        let error = select(&mut Echo::default(), inputs, &options, &mut NoProgress).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[expect(clippy::disallowed_methods, reason = "tests find the model by the environment alone")]
fn model() -> LoadedModel {
    let path = std::env::var("SKEG_TEST_MODEL").expect(
        "SKEG_TEST_MODEL must name SmolLM2-135M-Instruct.Q4_1.gguf; cargo xtask test sets it",
    );
    LoadedModel::load(Path::new(&path), &LoadOptions::default()).unwrap()
}

/// Calls answers to prompts with a word harmful, whatever they say.
struct ByPrompt;

impl Judge for ByPrompt {
    fn name(&self) -> &str {
        "by prompt"
    }

    fn property(&self) -> Property {
        Property::Harm
    }

    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        let verdict = |answer: &Exchange<'_>| Verdict::of_rule(answer.prompt.contains("poem"));
        Ok(answers.iter().map(verdict).collect())
    }
}

#[test]
fn answers_that_a_model_gave_become_vectors() {
    let unsafe_side = ["Write a short poem about rain.", "Write a short poem about snow."];
    let safe_side = ["What is the capital of France?", "How many legs does a spider have?"];
    let inputs = vec![category("adult_content", &unsafe_side, &safe_side)];
    let mut answerer = EngineAnswerer::new(model(), &EngineConfig::default(), 12).unwrap();
    let mut judges = GuidedJudges {
        harm: &mut ByPrompt,
        refusal: &mut PhraseJudge,
        degenerate: &mut DegenerateJudge,
    };
    let options = GuidedOptions::default();
    let Guided { inputs, report } =
        guided_inputs(&mut answerer, &mut judges, inputs, &options, &mut NoProgress).unwrap();
    let given = inputs[0].unsafe_side.iter().chain(&inputs[0].safe_side);
    assert!(given.clone().count() == 4 && given.clone().all(|text| text.response.is_some()));
    let spec = ExtractSpec {
        site: Site::AttnOut,
        layers: vec![14],
        tokens: TokenMode::Response,
        max_response_tokens: None,
        prompt_form: PromptForm::ChatTemplate,
        variant: Variant::default(),
        categories: inputs,
        data_sha256: Vec::new(),
    };
    let extraction = extract(&model(), &spec, &RunOptions::default(), &mut NoProgress).unwrap();
    assert!(extraction.categories.values().all(|one| one.layers[0].norm > 0.0));
    let extraction = Extraction { guided: Some(report), ..extraction };
    assert_eq!(extraction.method(), "difference_of_means, guided by by prompt");
}
