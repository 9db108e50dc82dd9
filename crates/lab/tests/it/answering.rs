//! Who answers: the engine on a tiny random Llama, and answers that are kept.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use skeg_lab::evaluate::{
    Answer, Answerer, AppliedVector, CachedAnswerer, EngineAnswerer, Question,
};
use skeg_lab::{Error, NoProgress, Progress, Result};
use skeg_model::engine::EngineConfig;
use skeg_model::steering::{LayerVector, Operator, Positions, Site};

use crate::extraction::StopAfter;
use crate::tiny_model::{CONTEXT, model, rows};

/// Answers each prompt with what it was asked, and lists the ids of the questions that came to it.
#[derive(Clone, Default)]
struct Counting {
    asked: Rc<RefCell<Vec<String>>>,
    /// Fails after so many answers.
    limit: Option<usize>,
}

impl Counting {
    fn take(&self) -> Vec<String> {
        self.asked.take()
    }
}

impl Answerer for Counting {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        let mut answers = vec![None; questions.len()];
        let mut keep = |idx: usize, answer| {
            answers[idx] = Some(answer);
            Ok(())
        };
        self.answer_each(questions, vectors, &mut keep, progress)?;
        Ok(answers.into_iter().flatten().collect())
    }

    fn answer_each(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        on_answer: &mut dyn FnMut(usize, Answer) -> Result<()>,
        _progress: &mut dyn Progress,
    ) -> Result<()> {
        // The last first: in any order.
        for (idx, question) in questions.iter().enumerate().rev() {
            if self.limit.is_some_and(|limit| self.asked.borrow().len() >= limit) {
                let reason = "enough".to_owned();
                return Err(Error::Unanswered { id: question.id.clone(), reason });
            }
            let strength = question.vector_idx.map(|idx| vectors[idx].strength * question.factor);
            self.asked.borrow_mut().push(question.id.clone());
            let text = format!("to {} at {strength:?}", question.prompt);
            on_answer(idx, Answer { text, token_ids: vec![7], max_relative_norm: strength })?;
        }
        Ok(())
    }
}

fn applied(strength: f32, layers: &Arc<Vec<LayerVector>>) -> AppliedVector {
    AppliedVector {
        site: Site::AttnOut,
        operator: Operator::Add,
        positions: Positions::All,
        strength,
        layers: Arc::clone(layers),
    }
}

fn question(id: &str, vector_idx: Option<usize>) -> Question {
    Question { vector_idx, ..Question::new(id, format!("about {id}")) }
}

/// Answers through a cache that was opened anew.
fn ask(
    inner: &Counting,
    folder: &Path,
    questions: &[Question],
    vectors: &[AppliedVector],
) -> Result<Vec<Answer>> {
    let mut cached = CachedAnswerer::open(inner.clone(), folder, "model".to_owned()).unwrap();
    cached.answer(questions, vectors, &mut NoProgress)
}

#[test]
fn a_second_run_asks_nothing_and_answers_the_same() {
    let (inner, folder) = (Counting::default(), tempfile::tempdir().unwrap());
    let layers = Arc::new(rows(&[0, 2], 0.3));
    let vectors = [applied(1.0, &layers), applied(2.0, &layers)];
    let questions = [question("a", None), question("b", Some(0)), question("c", Some(1))];
    let first = ask(&inner, folder.path(), &questions, &vectors).unwrap();
    assert_eq!(inner.take(), ["c", "b", "a"]);
    assert_eq!(first[2].text, "to about c at Some(2.0)");
    assert_eq!(ask(&inner, folder.path(), &questions, &vectors).unwrap(), first);
    // The same rows elsewhere in memory, vectors and questions in another order, under other ids.
    let layers = Arc::new(layers.as_ref().clone());
    let vectors = [applied(2.0, &layers), applied(1.0, &layers)];
    let renamed = |number: &str, from: &str, vector_idx| Question {
        id: number.to_owned(),
        ..question(from, vector_idx)
    };
    let questions =
        [renamed("1", "c", Some(0)), renamed("2", "b", Some(1)), renamed("3", "a", None)];
    let again = ask(&inner, folder.path(), &questions, &vectors).unwrap();
    assert!(again.iter().eq(first.iter().rev()));
    // What decides an answer is the product of strength and factor.
    let halved = Question { factor: 0.5, ..question("b", Some(0)) };
    ask(&inner, folder.path(), &[halved], &vectors).unwrap();
    assert!(inner.take().is_empty());
    // A new question among old ones is asked alone.
    let questions = [question("a", None), question("d", None), question("b", Some(1))];
    ask(&inner, folder.path(), &questions, &vectors).unwrap();
    assert_eq!(inner.take(), ["d"]);
}

#[test]
fn whatever_decides_an_answer_makes_it_another_one() {
    let (inner, folder) = (Counting::default(), tempfile::tempdir().unwrap());
    let layers = Arc::new(rows(&[0, 2], 0.3));
    let ask = |question: Question, vector: AppliedVector| {
        ask(&inner, folder.path(), &[question], &[vector]).unwrap();
        inner.take().len()
    };
    let steered = || question("a", Some(0));
    let base = || applied(1.0, &layers);
    assert_eq!(ask(steered(), base()), 1);
    let system = |text: &str| Question { system: Some(text.to_owned()), ..steered() };
    let prompt = Question { prompt: "about b".to_owned(), ..steered() };
    let questions = [
        question("a", None),
        Question { factor: 0.5, ..steered() },
        system("be brief"),
        system(""),
        prompt,
    ];
    for question in questions {
        assert_eq!(ask(question.clone(), base()), 1, "{question:?}");
        assert_eq!(ask(question, base()), 0);
    }
    let with_rows = |rows: Vec<LayerVector>| applied(1.0, &Arc::new(rows));
    let mut other_value = rows(&[0, 2], 0.3);
    other_value[1].values[63] += 1.0;
    let vectors = [
        applied(1.5, &layers),
        applied(-1.0, &layers),
        AppliedVector { site: Site::ResidPost, ..base() },
        AppliedVector { operator: Operator::AddNormRestored, ..base() },
        AppliedVector { positions: Positions::Generation, ..base() },
        with_rows(other_value),
        with_rows(rows(&[0], 0.3)),
        // The same values in other layers.
        with_rows(
            rows(&[0, 2], 0.3)
                .into_iter()
                .map(|row| LayerVector { layer: row.layer / 2, ..row })
                .collect(),
        ),
    ];
    for vector in vectors {
        assert_eq!(ask(steered(), vector.clone()), 1, "{vector:?}");
        assert_eq!(ask(steered(), vector), 0);
    }
    // Another model in the same folder.
    let mut other = CachedAnswerer::open(inner.clone(), folder.path(), "other".to_owned()).unwrap();
    other.answer(&[steered()], &[base()], &mut NoProgress).unwrap();
    assert_eq!(inner.take().len(), 1);
}

#[test]
fn answers_before_a_failure_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let questions = ["a", "b", "c", "d"].map(|id| question(id, None));
    let failing = Counting { limit: Some(3), ..Counting::default() };
    let error = ask(&failing, folder.path(), &questions, &[]).unwrap_err();
    assert!(matches!(&error, Error::Unanswered { id, .. } if id == "a"), "{error}");
    assert_eq!(failing.take(), ["d", "c", "b"]);
    let inner = Counting::default();
    let answers = ask(&inner, folder.path(), &questions, &[]).unwrap();
    assert_eq!(inner.take(), ["a"]);
    assert_eq!(answers[3].text, "to about d at None");
}

#[test]
fn a_question_that_names_no_vector_there_is_never_gets_an_unsteered_answer() {
    let (inner, folder) = (Counting::default(), tempfile::tempdir().unwrap());
    ask(&inner, folder.path(), &[question("a", None)], &[]).unwrap();
    let error = ask(&inner, folder.path(), &[question("a", Some(0))], &[]).unwrap_err();
    assert!(error.to_string().contains("`a` names vector 0 of 0"), "{error}");
    let mut engine = engine(4);
    let vectors = [applied(1.0, &Arc::new(rows(&[1], 0.3)))];
    for (idx, vectors) in [(0, &[][..]), (1, &vectors)] {
        let questions = [question("b", Some(idx))];
        let error = engine.answer(&questions, vectors, &mut NoProgress).unwrap_err();
        assert!(matches!(error, Error::Spec(_)), "{error}");
    }
}

const NEW_TOKENS: usize = 12;

fn engine(num_steering_slots: usize) -> EngineAnswerer {
    let config = EngineConfig {
        num_steering_slots,
        kv_cache_tokens: 4096,
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        ..EngineConfig::default()
    };
    EngineAnswerer::new(model(), &config, NEW_TOKENS).unwrap()
}

fn token_ids(answers: &[Answer]) -> Vec<Vec<u32>> {
    answers.iter().map(|answer| answer.token_ids.clone()).collect()
}

#[test]
fn arms_that_share_rows_share_a_slot() {
    let layers = Arc::new(rows(&[0, 2], 0.3));
    let mut vectors = vec![applied(1.0, &layers), applied(4.0, &layers), applied(-4.0, &layers)];
    let questions: Vec<Question> = (0..3)
        .map(|idx| Question { vector_idx: Some(idx), ..Question::new("q", "Who?") })
        .collect();
    let answers = engine(1).answer(&questions, &vectors, &mut NoProgress).unwrap();
    assert_eq!(answers.iter().map(|answer| &answer.token_ids).collect::<BTreeSet<_>>().len(), 3);
    assert!(answers[1].max_relative_norm > answers[0].max_relative_norm);
    // The same rows at another site, and other rows, need one each.
    vectors.push(AppliedVector { site: Site::ResidPost, ..applied(1.0, &layers) });
    vectors.push(applied(1.0, &Arc::new(rows(&[0, 2], 0.7))));
    let error = engine(2).answer(&questions, &vectors, &mut NoProgress).unwrap_err();
    assert!(
        error.to_string().contains("3 vectors need a slot each and 2 of 2 are free"),
        "{error}"
    );
    assert_eq!(engine(3).answer(&questions, &vectors, &mut NoProgress).unwrap(), answers);
}

#[test]
fn each_answer_is_handed_over_once_with_its_question() {
    let questions: Vec<Question> =
        (0..9).map(|number| Question::new("q", "Who? ".repeat(1 + number % 4))).collect();
    let mut engine = engine(0);
    let mut handed: Vec<Vec<Answer>> = vec![Vec::new(); questions.len()];
    let mut keep = |idx: usize, answer: Answer| {
        handed[idx].push(answer);
        Ok(())
    };
    engine.answer_each(&questions, &[], &mut keep, &mut NoProgress).unwrap();
    assert!(handed.iter().all(|answers| answers.len() == 1));
    let handed = handed.concat();
    assert!(handed.iter().all(|answer| answer.token_ids.len() == NEW_TOKENS));
    assert_eq!(handed, engine.answer(&questions, &[], &mut NoProgress).unwrap());
    for (answer, question) in handed.iter().zip(&questions) {
        let alone = std::slice::from_ref(question);
        assert_eq!(engine.answer(alone, &[], &mut NoProgress).unwrap()[0], *answer);
    }
    // What the caller says of an answer ends the run.
    let mut refuse = |_, _| Err(Error::Data("no room".to_owned()));
    let error = engine.answer_each(&questions, &[], &mut refuse, &mut NoProgress).unwrap_err();
    assert_eq!(error.to_string(), "data: no room");
}

#[test]
fn a_factor_scales_the_strength_and_0_is_unsteered() {
    let vectors = [4.0, 2.0].map(|strength| applied(strength, &Arc::new(rows(&[0, 2], 0.3))));
    let ask = |vector_idx, factor| Question { vector_idx, factor, ..Question::new("q", "Who?") };
    let questions = [
        ask(None, 1.0),
        ask(Some(0), 0.0),
        ask(Some(0), 0.5),
        ask(Some(1), 1.0),
        ask(Some(0), 1.0),
    ];
    let answers = engine(2).answer(&questions, &vectors, &mut NoProgress).unwrap();
    let found = token_ids(&answers);
    assert_eq!(found[0], found[1]);
    assert_eq!(
        (&found[2], answers[2].max_relative_norm),
        (&found[3], answers[3].max_relative_norm)
    );
    assert!(found[0] != found[3] && found[3] != found[4] && found[0] != found[4], "{found:?}");
}

#[test]
fn a_system_message_stands_before_the_prompt() {
    let system = Some("Be brief.".to_owned());
    let questions = [Question::new("q", "Who?"), Question { system, ..Question::new("q", "Who?") }];
    let found = token_ids(&engine(0).answer(&questions, &[], &mut NoProgress).unwrap());
    assert_ne!(found[0], found[1]);
}

#[test]
fn a_prompt_that_does_not_fit_is_named_and_keeps_no_slot() {
    let vectors = |seed| [applied(4.0, &Arc::new(rows(&[0, 2], seed)))];
    let good = Question { vector_idx: Some(0), ..Question::new("good", "Who?") };
    let long = Question { id: "long".to_owned(), prompt: "x".repeat(CONTEXT), ..good.clone() };
    let mut engine = engine(1);
    let expected =
        engine.answer(std::slice::from_ref(&good), &vectors(0.7), &mut NoProgress).unwrap();
    let both = [good.clone(), long];
    let error = engine.answer(&both, &vectors(0.3), &mut NoProgress).unwrap_err();
    assert!(matches!(&error, Error::Unanswered { id, .. } if id == "long"), "{error}");
    assert!(error.to_string().contains("do not fit the context of 256"), "{error}");
    assert_eq!(engine.answer(&[good], &vectors(0.7), &mut NoProgress).unwrap(), expected);
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    let vectors = |seed| [applied(4.0, &Arc::new(rows(&[0, 2], seed)))];
    let questions: Vec<Question> = (0..9)
        .map(|number| Question {
            vector_idx: Some(0),
            ..Question::new(number.to_string(), "Who? ".repeat(1 + number % 4))
        })
        .collect();
    let mut engine = engine(1);
    let mut stop = StopAfter { num_left: Some(1), ..StopAfter::default() };
    let error = engine.answer(&questions, &vectors(0.3), &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { total: 9, .. }), "{error}");
    let mut progress = StopAfter::default();
    let answers = engine.answer(&questions, &vectors(0.7), &mut progress).unwrap();
    assert_eq!((answers.len(), progress.num_done), (9, 9));
}
