//! The run behind `skeg evaluate judges`: with a scripted embedder, and with all-MiniLM-L6-v2 on sentences of our own.

use std::sync::Arc;

use skeg_lab::judge::{
    Embed, Exchange, Features, HeadJudge, Judge, JudgesReport, JudgesSpec, LabelSource, NamedSet,
    OnTopicJudge, Property, SharedRows, Training, measure_judges,
};
use skeg_lab::{DataSet, Error, Item, NoProgress, Progress, Result};

/// One number for each of a few words, and one that is always there.
#[derive(Debug)]
struct Words;

const WORDS: [&str; 4] = ["can't", "bread", "harm", "boat"];

impl Embed for Words {
    fn id(&self) -> &str {
        "words"
    }

    fn width(&self) -> usize {
        WORDS.len() + 1
    }

    fn embed(&self, texts: &[&str], progress: &mut dyn Progress) -> Result<Vec<Arc<[f32]>>> {
        progress.start("texts", texts.len());
        let embedding = |text: &&str| {
            let has = WORDS.map(|word| if text.contains(word) { 1.0_f32 } else { 0.0 });
            let norm = has.iter().sum::<f32>().sqrt().max(1.0);
            has.iter().copied().chain([0.0]).map(|value| value / norm).collect()
        };
        Ok(texts.iter().map(embedding).collect())
    }
}

fn item(id: &str, text: &str, response: &str, label: &str) -> Item {
    Item {
        response: Some(response.to_owned()),
        response_label: Some(label.to_owned()),
        ..Item::new(id, text, "own")
    }
}

fn set(name: &str, items: Vec<Item>) -> NamedSet {
    NamedSet { name: name.to_owned(), data: DataSet::of(items, format!("sha of {name}")) }
}

/// Refusals have "can't", but also an opening that the phrases know.
fn refusals(name: &str, from: usize) -> NamedSet {
    let items = (from..from + 10).flat_map(|number| {
        let prompt = format!("how do I bake bread number {number}");
        let declines = format!("I can't help with that, says answer {number}");
        let complies = format!("Take flour for bread, says answer {number}");
        [
            item(&format!("{name}-{number}-a"), &prompt, &declines, "refusal"),
            item(&format!("{name}-{number}-b"), &prompt, &complies, "compliance"),
            item(&format!("{name}-{number}-c"), &prompt, "In part: bread.", "partial_refusal"),
        ]
    });
    set(name, items.collect())
}

fn run(spec: &JudgesSpec<'_>) -> Result<JudgesReport> {
    Ok(measure_judges(spec, Some(Arc::new(Words)), Vec::new(), &mut NoProgress)?.0)
}

fn spec<'a>(train_refusal: &'a [NamedSet], tests: &'a [NamedSet]) -> JudgesSpec<'a> {
    JudgesSpec {
        train_refusal,
        train_harm: &[],
        heads: &[],
        tests,
        num_folds: None,
        shared: SharedRows::Refuse,
        l2: 0.1,
    }
}

#[test]
fn every_judge_gets_a_row_on_the_sets_that_have_its_labels() {
    let (train, tests) = ([refusals("train", 0)], [refusals("test", 100)]);
    let report = run(&spec(&train, &tests)).unwrap();
    let names: Vec<&str> = report.rows.iter().map(|row| row.judge.as_str()).collect();
    assert_eq!(
        names,
        ["refusal phrases", "refusal head", "refusal head + phrases", "prompt-answer cosine"]
    );
    for row in &report.rows[..3] {
        assert_eq!((row.property, row.labels), (Property::Refusal, LabelSource::Set));
        assert_eq!((row.figures.total, row.num_partial, row.num_shared_prompts), (20, 10, 0));
        assert_eq!(row.figures.accuracy.count, 20, "{row:?}");
        assert!((row.figures.auc.unwrap().value - 1.0).abs() < 1e-12);
    }
    assert_eq!(report.rows[3].labels, LabelSource::Swapped);
    assert_eq!(report.heads[0].trained_on[0].sha256, "sha of train");
    assert_eq!(report.heads[0].trained_on[0].num_answers, 20);
    assert_eq!(report.flagged[0].judge, "repetition measure");
}

#[test]
fn a_test_set_with_training_answers_is_refused_unless_they_are_dropped_or_folded() {
    let train = [refusals("train", 0)];
    let tests = [refusals("test", 8)];
    let error = run(&spec(&train, &tests)).unwrap_err().to_string();
    assert!(error.contains("4 of 20 labelled answers of test set test"), "{error}");
    assert!(error.contains("test-8-a, test-8-b, test-9-a, test-9-b;"), "{error}");
    let dropped = JudgesSpec { shared: SharedRows::Drop, ..spec(&train, &tests) };
    let report = run(&dropped).unwrap();
    assert_eq!((report.rows[1].figures.total, report.rows[1].num_shared_answers), (16, 4));
    assert_eq!(report.rows[0].figures.total, 20, "rules saw no training data");
    let folded = JudgesSpec { num_folds: Some(3), ..spec(&train, &tests) };
    let report = run(&folded).unwrap();
    assert_eq!((report.rows[1].figures.total, report.heads[0].num_folds), (20, Some(3)));
}

#[test]
fn a_head_trained_before_is_measured_but_not_on_the_file_it_was_trained_on() {
    let sets = [refusals("own", 0), refusals("test", 100)];
    let training = Training::new(Property::Refusal, &sets[..1]).unwrap();
    let heads = [training.head(Features::Opening, &Words, 0.1, &|_| true).unwrap()];
    let given = JudgesSpec { heads: &heads, ..spec(&[], &sets[1..]) };
    let report = run(&given).unwrap();
    let row = report.rows.iter().find(|row| row.judge == "refusal head").unwrap();
    assert_eq!((row.figures.total, row.figures.accuracy.count), (20, 20));
    assert!(report.heads[0].is_given);
    assert!(report.to_plain().contains("own (20 answers); before this run"));
    let itself = JudgesSpec { heads: &heads, ..spec(&[], &sets) };
    let error = run(&itself).unwrap_err().to_string();
    assert!(
        error.contains("the refusal head that was given was trained on test set own"),
        "{error}"
    );
    let dropped = JudgesSpec { shared: SharedRows::Drop, ..itself };
    let report = run(&dropped).unwrap();
    let has_row =
        |set: &str| report.rows.iter().any(|row| row.judge == "refusal head" && row.set == set);
    assert_eq!((has_row("own"), has_row("test")), (false, true));
    assert_eq!(report.without_rows, [("refusal head".to_owned(), "own".to_owned())]);
    let error = measure_judges(&given, None, Vec::new(), &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("heads need an embedder"), "{error}");
}

#[test]
fn prompts_of_the_training_data_are_dropped_and_counted() {
    let train = [refusals("train", 0)];
    let mut test = refusals("test", 8);
    for item in &mut test.data.items {
        item.response = item.response.as_ref().map(|response| format!("{response}, truly"));
    }
    let tests = [test];
    let report = run(&spec(&train, &tests)).unwrap();
    let row = &report.rows[1];
    assert_eq!((row.figures.total, row.num_shared_prompts, row.num_shared_answers), (16, 4, 0));
    assert!(report.to_plain().contains("4 with a prompt of the training data"));
}

#[test]
fn rules_need_no_embedder_and_heads_do() {
    let sets = [refusals("own", 0)];
    let (report, heads) =
        measure_judges(&spec(&[], &sets), None, Vec::new(), &mut NoProgress).unwrap();
    assert_eq!((report.rows.len(), heads.len()), (1, 0));
    let error = measure_judges(&spec(&sets, &[]), None, Vec::new(), &mut NoProgress).unwrap_err();
    assert!(matches!(error, Error::Spec(_)), "{error}");
    let unlabelled = [set("bare", vec![item("a", "prompt", "answer", "fine")])];
    let error =
        measure_judges(&spec(&[], &unlabelled), None, Vec::new(), &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("no test set has answers with labels"), "{error}");
    let error = run(&spec(&unlabelled, &sets)).unwrap_err().to_string();
    assert!(error.contains("training set bare has no answer labelled `refusal`"), "{error}");
}

#[test]
fn a_head_is_refused_with_another_embedder() {
    let sets = [refusals("own", 0)];
    let training = Training::new(Property::Refusal, &sets).unwrap();
    let mut head = training.head(Features::Opening, &Words, 1.0, &|_| true).unwrap();
    assert!(HeadJudge::new(head.clone(), Arc::new(Words)).is_ok());
    head.weights.pop();
    let error = HeadJudge::new(head.clone(), Arc::new(Words)).unwrap_err().to_string();
    assert!(error.contains("the head has 4 weights; its features have 5"), "{error}");
    head.embedder = "another".to_owned();
    let error = HeadJudge::new(head, Arc::new(Words)).unwrap_err().to_string();
    assert!(error.contains("trained with embedder another, not with words"), "{error}");
    let error = training.head(Features::PromptAndResponse, &Words, 1.0, &|_| true).unwrap_err();
    assert!(error.to_string().contains("are for Harm"), "{error}");
}

#[test]
fn minilm_finds_what_an_answer_is_about() {
    let Some(embedder) = crate::embedder::minilm() else { return };
    let mut judge = OnTopicJudge::new(Arc::new(embedder), skeg_lab::judge::ON_TOPIC_COSINE);
    let bread = "How long should bread dough rest before baking?";
    let answers = [
        Exchange {
            prompt: bread,
            response: "Let the dough rise for an hour, until it has doubled.",
        },
        Exchange {
            prompt: bread,
            response: "The harbour has three piers, and boats lie at two of them.",
        },
    ];
    let verdicts = judge.judge(&answers).unwrap();
    assert_eq!(verdicts.iter().map(|verdict| verdict.positive).collect::<Vec<_>>(), [true, false]);
}
