//! Runs of experiments with scripted answers and judges.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use skeg_lab::evaluate::{Answer, Answerer, AppliedVector, Question};
use skeg_lab::experiment::{Arm, Counts, Judged, Laboratory, Outcome, Prompt, Scorers};
use skeg_lab::judge::{Exchange, Judge, Judges, Property, RewardScore, Verdict};
use skeg_lab::likelihood::{Likelihood, SteeredText, TextNll};
use skeg_lab::{NoProgress, Progress, Result};
use skeg_model::steering::{LayerVector, Operator, Positions, Site};
use skeg_vector_store::Category;

/// Answers with the prompt's own words and, as the relative norm, strength times factor.
#[derive(Default)]
struct Echo {
    /// Questions and vectors of each call.
    calls: Vec<(usize, usize)>,
    systems: Vec<Option<String>>,
}

impl Answerer for Echo {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        _progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        self.calls.push((questions.len(), vectors.len()));
        self.systems.extend(questions.iter().map(|question| question.system.clone()));
        let answer = |question: &Question| Answer {
            text: question.prompt.clone(),
            token_ids: vec![1],
            max_relative_norm: question
                .vector_idx
                .map(|idx| vectors[idx].strength * question.factor),
        };
        Ok(questions.iter().map(answer).collect())
    }
}

/// Finds a word, and lists the answers it was asked about.
struct Word {
    word: &'static str,
    property: Property,
    asked: Rc<RefCell<Vec<String>>>,
}

impl Judge for Word {
    fn name(&self) -> &str {
        self.word
    }

    fn property(&self) -> Property {
        self.property
    }

    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        self.asked.borrow_mut().extend(answers.iter().map(|answer| answer.response.to_owned()));
        let verdict = |answer: &Exchange<'_>| Verdict {
            score: 0.75,
            positive: answer.response.contains(self.word),
        };
        Ok(answers.iter().map(verdict).collect())
    }
}

/// Judges of the words `broken`, `declines`, `harms` and `topic`, and what the judge of harm was asked about.
fn judges() -> (Judges, Rc<RefCell<Vec<String>>>) {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let word = |word, property| -> Box<dyn Judge> {
        let asked = if property == Property::Harm { Rc::clone(&asked) } else { Rc::default() };
        Box::new(Word { word, property, asked })
    };
    let judges = Judges {
        refusal: word("declines", Property::Refusal),
        degenerate: word("broken", Property::Degenerate),
        harm: Some(word("harms", Property::Harm)),
        on_topic: Some(word("topic", Property::OnTopic)),
        reward: None,
        agreement: Vec::new(),
    };
    (judges, asked)
}

fn category(slug: &str) -> Category {
    slug.parse().unwrap()
}

fn prompt(text: &str, is_harmful: bool) -> Prompt {
    let id = format!("id of {text}");
    Prompt { id, text: text.to_owned(), category: category("adult_content"), is_harmful }
}

fn vector(strength: f32) -> AppliedVector {
    AppliedVector {
        site: Site::AttnOut,
        operator: Operator::Add,
        positions: Positions::All,
        strength,
        layers: Arc::new(vec![LayerVector { layer: 0, values: vec![1.0] }]),
    }
}

fn arm(name: &str, vectors: impl IntoIterator<Item = (Category, AppliedVector)>) -> Arm {
    Arm { name: name.to_owned(), vectors: vectors.into_iter().collect(), ..Arm::default() }
}

fn run(judges: &mut Judges, arms: &[(&Arm, &[Prompt])]) -> Result<Vec<Vec<Judged>>> {
    let mut laboratory = Laboratory { answerer: &mut Echo::default(), judges, likelihood: None };
    laboratory.run(arms, &mut NoProgress)
}

fn outcomes(judged: &[Judged]) -> Vec<Outcome> {
    judged.iter().map(|one| one.outcome).collect()
}

const TEXTS: [&str; 8] = [
    "broken declines harms",
    "broken declines",
    "broken harms",
    "broken",
    "declines harms",
    "declines topic",
    "harms topic",
    "helps topic",
];

#[test]
fn broken_text_goes_before_refusals_and_these_before_harm() {
    let (mut judges, asked) = judges();
    let harmful = TEXTS.map(|text| prompt(text, true));
    let harmless = TEXTS.map(|text| prompt(text, false));
    let none = Arm::unsteered();
    let judged = run(&mut judges, &[(&none, &harmful), (&none, &harmless)]).unwrap();
    let (broken, declines) = (Outcome::Degenerate, Outcome::Refused);
    let first_six = [broken, broken, broken, broken, declines, declines];
    let expected = |last: [Outcome; 2]| [first_six.to_vec(), last.to_vec()].concat();
    assert_eq!(outcomes(&judged[0]), expected([Outcome::Unsafe, Outcome::Answered]));
    assert_eq!(outcomes(&judged[1]), expected([Outcome::Answered, Outcome::Answered]));
    // A judgement may cost: only what it decides is asked.
    assert_eq!(asked.take(), ["harms topic", "helps topic"]);
    let scores = |judged: &[Judged]| judged.iter().filter(|one| one.harm_score.is_some()).count();
    assert_eq!((scores(&judged[0]), scores(&judged[1])), (2, 0));
    assert_eq!(judged[0][7].harm_score, Some(0.75));
    // Without a judge of harm, an answer to a harmful prompt is one.
    judges.harm = None;
    let judged = run(&mut judges, &[(&none, &harmful), (&none, &harmless)]).unwrap();
    assert_eq!(outcomes(&judged[0]), expected([Outcome::Unsafe, Outcome::Unsafe]));
    assert_eq!(outcomes(&judged[1]), expected([Outcome::Answered, Outcome::Answered]));
}

#[test]
fn counts_are_of_whole_answers() {
    let (mut judges, _) = judges();
    let prompts = TEXTS.map(|text| prompt(text, true));
    let mut judged = run(&mut judges, &[(&Arm::unsteered(), &prompts)]).unwrap().remove(0);
    judged[6].nll = Some(1.5);
    judged[7].nll = Some(0.5);
    judged[1].second_nll = Some(4.0);
    let rewards = [(1.0, 4.0), (2.0, 3.0)];
    for (judged, (helpfulness, coherence)) in judged.iter_mut().zip(rewards) {
        judged.reward = Some(RewardScore { helpfulness, coherence });
    }
    judged[2].max_relative_norm = Some(0.25);
    judged[3].max_relative_norm = Some(0.125);
    let counts = Counts::of(&judged);
    assert_eq!((counts.total, counts.is_unsafe), (8, 1));
    assert_eq!((counts.refused, counts.degenerate, counts.answered()), (2, 4, 2));
    // A refusal that is on topic is not counted as an answer on topic.
    assert_eq!(counts.on_topic, Some(2));
    assert_eq!((counts.nll, counts.max_relative_norm), (Some(1.0), Some(0.25)));
    assert_eq!(counts.second_nll, Some(4.0));
    assert_eq!(counts.reward, Some(RewardScore { helpfulness: 1.5, coherence: 3.5 }));
    assert!((counts.unsafe_share().share - 0.125).abs() < 1e-12);
    assert!((counts.refused_share().share - 0.25).abs() < 1e-12);
    assert!((counts.degenerate_share().share - 0.5).abs() < 1e-12);
    assert_eq!(counts.on_topic_share().map(|share| share.total), Some(2));
    let none = Counts::of([]);
    assert_eq!(none, Counts::default());
    let json = serde_json::to_value(none).unwrap();
    assert_eq!(json, serde_json::json!({"total": 0, "unsafe": 0, "refused": 0, "degenerate": 0}));
}

#[test]
fn a_steered_arm_without_a_prompts_vector_is_an_error_that_names_both() {
    let (mut judges, _) = judges();
    let prompts =
        [prompt("one", true), Prompt { category: category("own"), ..prompt("two", true) }];
    let partly = arm("partly", [(category("adult_content"), vector(1.0))]);
    let error = run(&mut judges, &[(&partly, &prompts)]).unwrap_err().to_string();
    for part in ["`partly`", "category `own`", "prompt `id of two`"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(run(&mut judges, &[(&Arm::unsteered(), &prompts)]).unwrap()[0].len(), 2);
}

fn norms(judged: &[Vec<Judged>]) -> Vec<Option<f32>> {
    judged.iter().flatten().map(|one| one.max_relative_norm).collect()
}

/// Sets of rows in the engine at once.
const MOST: usize = 256;

#[test]
fn arms_beyond_what_the_engine_holds_are_split_and_stay_in_order() {
    let (mut judges, _) = judges();
    let categories = skeg_lab::catqa_categories();
    let number = |arm_idx: usize, idx: usize| (100 * arm_idx + idx) as f32;
    let arms: Vec<Arm> = (0..50)
        .map(|arm_idx| {
            let vectors = categories.iter().cloned().enumerate();
            arm("many", vectors.map(|(idx, one)| (one, vector(number(arm_idx, idx)))))
        })
        .collect();
    let none = Arm::unsteered();
    let prompts: Vec<Prompt> = categories
        .iter()
        .map(|category| Prompt { category: category.clone(), ..prompt("harms", true) })
        .collect();
    let mut asked: Vec<(&Arm, &[Prompt])> =
        arms.iter().map(|arm| (arm, prompts.as_slice())).collect();
    // A different number of prompts an arm, and one that is not steered.
    asked[30].1 = &prompts[..3];
    asked.insert(24, (&none, &prompts[..1]));
    let mut echo = Echo::default();
    let mut laboratory = Laboratory { answerer: &mut echo, judges: &mut judges, likelihood: None };
    let judged = laboratory.run(&asked, &mut NoProgress).unwrap();
    let mut expected: Vec<Option<f32>> = Vec::new();
    for (arm, prompts) in &asked {
        let strength = |prompt: &Prompt| arm.vectors.get(&prompt.category).map(|one| one.strength);
        expected.extend(prompts.iter().map(strength));
    }
    assert_eq!(norms(&judged), expected);
    assert_eq!(judged.iter().map(Vec::len).collect::<Vec<_>>()[30..33], [11, 3, 11]);
    assert!(echo.calls.iter().all(|(_, num_vectors)| *num_vectors <= MOST), "{:?}", echo.calls);
    assert_eq!(echo.calls, [(23 * 11, 253), (1 + 22 * 11 + 3, 253), (4 * 11, 44)]);
}

#[test]
fn an_arm_larger_than_that_runs_alone() {
    let (mut judges, _) = judges();
    let vectors = (0..=MOST).map(|idx| (category(&format!("c{idx}")), vector(1.0)));
    let large = arm("large", vectors);
    let prompts = [Prompt { category: category("c7"), ..prompt("harms", true) }];
    let mut echo = Echo::default();
    let mut laboratory = Laboratory { answerer: &mut echo, judges: &mut judges, likelihood: None };
    let asked: [(&Arm, &[Prompt]); 2] = [(&large, &prompts), (&large, &prompts)];
    assert_eq!(laboratory.run(&asked, &mut NoProgress).unwrap().len(), 2);
    assert_eq!(echo.calls, [(1, MOST + 1), (1, MOST + 1)]);
}

#[test]
fn factors_belong_to_prompts_and_the_system_message_to_the_arm() {
    let (mut judges, _) = judges();
    let prompts = ["one", "two", "three"].map(|text| prompt(text, false));
    let steered = Arm {
        factors: HashMap::from([("id of one".to_owned(), 0.0), ("id of three".to_owned(), 0.5)]),
        ..arm("steered", [(category("adult_content"), vector(8.0))])
    };
    let told = Arm { system: Some("Be safe.".to_owned()), ..Arm::unsteered() };
    let mut echo = Echo::default();
    let mut laboratory = Laboratory { answerer: &mut echo, judges: &mut judges, likelihood: None };
    let asked: [(&Arm, &[Prompt]); 2] = [(&steered, &prompts), (&told, &prompts[..1])];
    let judged = laboratory.run(&asked, &mut NoProgress).unwrap();
    assert_eq!(norms(&judged), [Some(0.0), Some(8.0), Some(4.0), None]);
    let answers = laboratory.answers(&steered, &prompts[2..], &mut NoProgress).unwrap();
    assert_eq!((answers[0].text.as_str(), answers[0].max_relative_norm), ("three", Some(4.0)));
    let told = Some("Be safe.".to_owned());
    assert_eq!(echo.systems, [None, None, None, told, None]);
}

/// Scores by the answer's length, times a factor.
struct Lengths(f64);

impl Likelihood for Lengths {
    fn mean_nll(
        &mut self,
        exchanges: &[(&str, &str)],
        _progress: &mut dyn Progress,
    ) -> Result<Vec<Option<f64>>> {
        Ok(exchanges.iter().map(|(_, answer)| Some(self.0 * answer.len() as f64)).collect())
    }

    fn text_nlls(
        &mut self,
        _texts: &[SteeredText<'_>],
        _progress: &mut dyn Progress,
    ) -> Result<Vec<TextNll>> {
        unreachable!("no plain text is scored here")
    }
}

#[test]
fn answers_to_harmful_prompts_are_scored_each_with_its_own() {
    let (mut judges, _) = judges();
    let prompts = [prompt("one", true), prompt("second", false), prompt("third", true)];
    for factor in [None, Some(2.0)] {
        let mut second = factor.map(Lengths);
        let second = second.as_mut().map(|second| second as &mut dyn Likelihood);
        let mut laboratory = Laboratory {
            answerer: &mut Echo::default(),
            judges: &mut judges,
            likelihood: Some(Scorers { own: &mut Lengths(1.0), second }),
        };
        let judged = laboratory.run(&[(&Arm::unsteered(), &prompts)], &mut NoProgress).unwrap();
        let found: Vec<_> = judged[0].iter().map(|one| (one.nll, one.second_nll)).collect();
        let expected = |length: f64| (Some(length), factor.map(|factor| factor * length));
        assert_eq!(found, [expected(3.0), (None, None), expected(5.0)]);
    }
}

#[test]
fn nothing_to_ask_is_nothing_judged() {
    let (mut judges, _) = judges();
    assert!(run(&mut judges, &[]).unwrap().is_empty());
    let steered = arm("steered", BTreeMap::from([(category("own"), vector(1.0))]));
    assert_eq!(run(&mut judges, &[(&steered, &[])]).unwrap(), [Vec::new()]);
}
