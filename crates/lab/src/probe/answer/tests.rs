//! Training and measuring on rows that are made up.

use skeg_model::steering::Site;
use skeg_vector_store::Category;

use super::*;
use crate::data::{DataSet, Item};
use crate::logistic::Plane;
use crate::probe::{Corpus, Input, Member, Penalties, PromptRow, SourceSet, Stack, TrainedOn};

const SPEC: AnswerSpec = AnswerSpec { num_tokens: 6, every: 2, max_prompts: 100, seed: 1 };

fn categories() -> Vec<Category> {
    ["fraud", "privacy", "other"].map(|slug| Category::parse(slug).unwrap()).to_vec()
}

/// Three sets of ten prompts of fraud, ten of privacy and ten harmless ones, in turn.
fn corpus() -> Corpus {
    let set = |name: &str| {
        let items = (0..30).map(|idx| {
            let category = ["fraud", "privacy", ""][idx % 3];
            Item {
                harmful: Some(!category.is_empty()),
                category: Some(category.to_owned()),
                ..Item::new(format!("{name}{idx}"), format!("{name} number {idx}"), "own")
            }
        });
        SourceSet {
            name: name.to_owned(),
            files: vec![DataSet::of(items.collect(), "ab".to_owned())],
        }
    };
    Corpus::new(&[set("a"), set("b"), set("c")], &categories()).unwrap()
}

/// Reads two layers of two numbers.
fn probe() -> Probe {
    let input = Input::Activations {
        site: Site::ResidPost,
        layers: vec![1, 3],
        hidden_size: 2,
        row: PromptRow::Last,
        prefix_token_ids: Vec::new(),
    };
    let zero = || Plane { weights: vec![0.0; 4], bias: 0.0 };
    let planes = Planes::of(&zero(), &[zero(), zero(), zero()]);
    Probe {
        categories: categories(),
        members: vec![Member { input, planes }],
        stack: Stack::alone(),
        trained_on: TrainedOn::default(),
        answer: None,
    }
}

/// Numbers from -1 to 1 that repeat nowhere near.
fn noise(seed: usize) -> f32 {
    (seed as f32 * 12.9898).sin()
}

/// Answers whose first number says harm, the plainer the longer they are, and whose second says the category. Every fifth harmful
/// prompt is refused, with rows as of a harmless answer. Harmless answers are one row short.
fn rows(corpus: &Corpus) -> AnswerRows {
    let answers = corpus.prompts.iter().enumerate().map(|(prompt_idx, prompt)| {
        let refuses = prompt.harmful && prompt_idx % 5 == 0;
        let num_rows = if prompt.harmful { 3 } else { 2 };
        let rows = (1..=num_rows).flat_map(|length| {
            let sign = if prompt.harmful && !refuses { 1.0 } else { -1.0 };
            let harm = sign * 0.4 * length as f32 + 0.5 * noise(7 * prompt_idx + length);
            let category = prompt.category_idx.map_or(0.0, |idx| idx as f32 * 2.0 - 1.0);
            [harm, category, noise(prompt_idx), noise(3 * prompt_idx + length)]
        });
        ReadAnswer { prompt_idx, refuses, rows: rows.collect() }
    });
    AnswerRows { spec: SPEC, width: 4, answers: answers.collect(), num_too_long: 2 }
}

fn trained() -> (Probe, AnswerTable) {
    let (corpus, probe) = (corpus(), probe());
    let (part, table) =
        train_answers(&probe, &corpus, &rows(&corpus), Penalties::default()).unwrap();
    (Probe { answer: Some(part), ..probe }, table)
}

#[test]
fn an_answer_part_learns_from_answers_that_do_not_refuse() {
    let (probe, table) = trained();
    let part = probe.answer.as_ref().unwrap();
    // 60 harmful prompts of which every fifth is refused, and 30 harmless ones.
    let corpus = corpus();
    let is_refused = |idx: &usize| corpus.prompts[*idx].harmful && idx.is_multiple_of(5);
    let num_refused = (0..90).filter(is_refused).count();
    let expected = TrainedOnAnswers {
        num_tokens: 6,
        every: 2,
        num_answers: [60 - num_refused, 30],
        num_refused,
    };
    assert_eq!(part.trained_on, expected);
    let counts: Vec<_> =
        table.rows.iter().map(|row| (row.tokens, row.num_harmful, row.num_harmless)).collect();
    let num_harmful = 60 - num_refused;
    assert_eq!(counts, [(2, num_harmful, 30), (4, num_harmful, 30), (6, num_harmful, 0)]);
    assert_eq!(table.num_too_long, 2);
    let aucs: Vec<_> = table.rows.iter().map(|row| row.auc.map(|auc| auc.value)).collect();
    assert!(aucs[0].unwrap() > 0.85 && aucs[1] > aucs[0] && aucs[2].is_none(), "{aucs:?}");

    let harmful = probe.answer_verdict(&[1.5, 1.0, 0.0, 0.0]).unwrap();
    assert!(harmful.harm > 0.9, "{harmful:?}");
    assert_eq!(harmful.first().map(Category::as_str), Some("privacy"));
    let harmless = probe.answer_verdict(&[-1.5, -1.0, 0.0, 0.0]).unwrap();
    assert!(harmless.harm < 0.1, "{harmless:?}");
    assert_eq!(harmless.first().map(Category::as_str), Some("fraud"));
    // Of a category without an answer nobody knows what its answers look like.
    assert_eq!(harmful.categories[2].0.as_str(), "other");
    assert!(harmful.categories[2].1 < 1e-6);
}

#[test]
fn the_calibration_scales_the_logit_of_harm() {
    let (mut probe, _) = trained();
    let part = probe.answer.as_mut().unwrap();
    part.planes =
        Planes::new([vec![1.0, 0.0, 0.0, 0.5], vec![0.0; 12]].concat(), vec![0.25, 0.0, 0.0, 0.0]);
    part.calibration = [2.0, -1.0];
    let verdict = probe.answer_verdict(&[0.5, 9.0, 9.0, 1.0]).unwrap();
    // z = 0.5 + 0.5 + 0.25.
    let expected = 1.0 / (1.0 + (-(2.0 * 1.25 - 1.0_f32)).exp());
    assert!((verdict.harm - expected).abs() < 1e-6, "{verdict:?}");
    let third = verdict.categories.iter().all(|(_, share)| (share - 1.0 / 3.0).abs() < 1e-6);
    assert!(third, "{verdict:?}");
}

#[test]
fn a_probe_keeps_its_answer_part_in_its_file_and_is_read_without_one() {
    let (with, _) = trained();
    let bytes = with.to_bytes().unwrap();
    assert_eq!(Probe::from_bytes(&bytes).unwrap(), with);
    let without = Probe { answer: None, ..with };
    let bytes = without.to_bytes().unwrap();
    let header = String::from_utf8_lossy(&bytes);
    assert!(!header.contains("answer"), "a probe of prompts is written as it was before");
    assert_eq!(Probe::from_bytes(&bytes).unwrap(), without);
    let error = without.answer_verdict(&[0.0; 4]).unwrap_err().to_string();
    assert!(error.contains("no answer part"), "{error}");
}

#[test]
fn an_answer_part_that_does_not_fit_is_refused() {
    let (probe, _) = trained();
    let error = probe.answer_verdict(&[0.0; 3]).unwrap_err().to_string();
    assert!(error.contains("reads 4 activations and was given 3"), "{error}");
    let mut narrow = probe.clone();
    narrow.answer.as_mut().unwrap().planes = Planes::new(vec![0.0; 8], vec![0.0; 4]);
    assert!(narrow.to_bytes().unwrap_err().to_string().contains("answer part has 8 weights"));

    let good = probe.to_bytes().unwrap();
    let at = |text: &str| good.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
    let mut bytes = good.clone();
    bytes[at("answer.calibration")] = b'A';
    let error = Probe::from_bytes(&bytes).unwrap_err().to_string();
    assert!(error.contains("no tensor `answer.calibration`"), "{error}");

    let corpus = corpus();
    let other = AnswerRows { width: 2, ..rows(&corpus) };
    let error = train_answers(&probe, &corpus, &other, Penalties::default()).unwrap_err();
    assert!(error.to_string().contains("rows of 2 numbers"), "{error}");
    let blind = Probe { members: Vec::new(), ..probe };
    let error = train_answers(&blind, &corpus, &rows(&corpus), Penalties::default()).unwrap_err();
    assert!(error.to_string().contains("the probe has none"), "{error}");
}

#[test]
fn a_source_that_alone_has_harmless_answers_is_named() {
    let corpus = corpus();
    let mut rows = rows(&corpus);
    rows.answers.retain(|answer| {
        let prompt = &corpus.prompts[answer.prompt_idx];
        prompt.harmful || prompt.set_idx == 1
    });
    let error = train_answers(&probe(), &corpus, &rows, Penalties::default()).unwrap_err();
    assert!(error.to_string().contains("answers without set `b`"), "{error}");
}

#[test]
fn what_looks_catch_is_counted_over_what_the_prompt_part_lets_through() {
    let corpus = corpus();
    let part = AnswerPart {
        // The first number is the logit of harm.
        planes: Planes::new([vec![1.0, 0.0, 0.0, 0.0], vec![0.0; 12]].concat(), vec![0.0; 4]),
        calibration: [1.0, 0.0],
        trained_on: TrainedOnAnswers::default(),
    };
    let probe = Probe { answer: Some(part), ..probe() };
    // Prompts 0 and 1 of each three are harmful, 2 is harmless.
    let answer = |prompt_idx: usize, refuses: bool, logits: [f32; 3]| ReadAnswer {
        prompt_idx,
        refuses,
        rows: logits.iter().flat_map(|&logit| [logit, 0.0, 0.0, 0.0]).collect(),
    };
    let rows = AnswerRows {
        spec: SPEC,
        width: 4,
        answers: vec![
            // Alarmed by its prompt.
            answer(0, false, [5.0, 5.0, 5.0]),
            // Refused all the same.
            answer(1, true, [5.0, 5.0, 5.0]),
            // Caught at the second look, and never.
            answer(3, false, [-5.0, 5.0, -5.0]),
            answer(4, false, [-5.0, -5.0, -5.0]),
            // Harmless: alarmed by its prompt, at the third look, never.
            answer(2, false, [5.0, 5.0, 5.0]),
            answer(5, false, [-5.0, -5.0, 5.0]),
            answer(8, true, [-5.0, -5.0, -5.0]),
        ],
        num_too_long: 0,
    };
    let alarmed = [0, 2];
    let verdicts: Vec<Verdict> = (0..corpus.prompts.len())
        .map(|idx| Verdict {
            harm: if alarmed.contains(&idx) { 0.75 } else { 0.25 },
            categories: Vec::new(),
        })
        .collect();
    let thresholds = Thresholds { prompt: 0.5, answer: 0.9 };
    let report = measure_answers(&probe, &corpus, &verdicts, &rows, thresholds).unwrap();
    let of = |share: &crate::evaluate::Share| (share.count, share.total);
    assert_eq!((of(&report.missed), of(&report.refused)), ((3, 4), (1, 3)));
    let caught: Vec<_> = report
        .caught
        .iter()
        .map(|row| (row.tokens, of(&row.caught), of(&row.false_alarms)))
        .collect();
    assert_eq!(caught, [(2, (0, 2), (0, 2)), (4, (1, 2), (0, 2)), (6, (1, 2), (1, 2))]);
    assert_eq!((report.table.rows[0].num_harmful, report.table.rows[0].num_harmless), (3, 3));
    let lower = Thresholds { prompt: 0.2, answer: 0.9 };
    let report = measure_answers(&probe, &corpus, &verdicts, &rows, lower).unwrap();
    assert_eq!((of(&report.missed), of(&report.caught[2].caught)), ((0, 4), (0, 0)));
    assert!(report.to_plain().contains("within tokens"), "{}", report.to_plain());
    assert!(measure_answers(&probe, &corpus, &verdicts[1..], &rows, thresholds).is_err());
}
