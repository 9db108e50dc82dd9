//! The run behind `skeg evaluate judges`: with a scripted embedder, and with all-MiniLM-L6-v2 on sentences of our own.

use std::sync::Arc;

use skeg_lab::judge::{
    Embed, Exchange, Features, HeadJudge, Judge, JudgeAgreement, Judges, JudgesReport, JudgesSpec,
    LabelSource, MeasuredHeads, NamedSet, OnTopicJudge, Property, SharedRows, Training, Verdict,
    load_heads, measure_judges, save_heads,
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

/// The heads trained on `sets` and measured on `tests`, from their file.
fn kept(sets: &[NamedSet], tests: &[NamedSet], others: Vec<Box<dyn Judge>>) -> MeasuredHeads {
    let spec = spec(sets, tests);
    let (_, heads) = measure_judges(&spec, Some(Arc::new(Words)), others, &mut NoProgress).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads.json");
    save_heads(&path, &heads).unwrap();
    load_heads(&path).unwrap()
}

fn row<'a>(report: &'a JudgesReport, judge: &str, set: &str) -> Option<&'a JudgeAgreement> {
    report.rows.iter().find(|row| row.judge == judge && row.set == set)
}

#[test]
fn a_head_from_a_file_is_treated_as_one_that_is_trained_in_the_run() {
    let train = [refusals("train", 0)];
    // Two prompts of the training set with its answers, two with others, and ten new ones.
    let mut overlapping = refusals("test", 6);
    for item in &mut overlapping.data.items[6..12] {
        item.response = item.response.as_ref().map(|response| format!("{response}, truly"));
    }
    let tests = [overlapping, refusals("new", 100)];
    let MeasuredHeads { heads, .. } = kept(&train, &tests[1..], Vec::new());
    assert_eq!(heads.len(), 2);
    let trained = spec(&train, &tests);
    let given = JudgesSpec { train_refusal: &[], heads: &heads, ..trained };
    let [expected, refused] = [trained, given].map(|spec| run(&spec).unwrap_err().to_string());
    assert!(refused.contains("test-6-a, test-6-b, test-7-a, test-7-b;"), "{refused}");
    assert_eq!(refused, expected);
    let [trained, given] =
        [trained, given].map(|spec| run(&JudgesSpec { shared: SharedRows::Drop, ..spec }).unwrap());
    for judge in ["refusal head", "refusal head + phrases"] {
        let found = row(&given, judge, "test").unwrap();
        let left_out = (found.num_shared_prompts, found.num_shared_answers);
        assert_eq!((found.figures.total, left_out), (12, (4, 4)));
        for set in ["test", "new"] {
            let (trained, given) = (row(&trained, judge, set), row(&given, judge, set));
            let figures = [trained, given].map(|row| row.unwrap().figures);
            assert_eq!(figures[0].accuracy, figures[1].accuracy);
            assert_eq!(figures[0].total, figures[1].total);
        }
    }
    assert!(given.heads[0].is_given && given.heads[0].knows_rows);
    assert!(given.heads[0].trained_on[0].rows.is_none(), "a report has no hashes");
    assert!(given.to_plain().contains("train (20 answers); before this run, and test prompts"));
    let itself = JudgesSpec { heads: &heads, shared: SharedRows::Drop, ..spec(&[], &train) };
    assert_eq!(run(&itself).unwrap().without_rows.len(), 2);
}

#[test]
fn a_head_from_a_file_of_version_1_is_refused_on_its_own_file_alone() {
    let sets = [refusals("own", 0), refusals("test", 8)];
    let mut heads = kept(&sets[..1], &[refusals("new", 100)], Vec::new()).heads;
    for set in heads.iter_mut().flat_map(|head| &mut head.trained_on) {
        set.rows = None;
    }
    let given = JudgesSpec { heads: &heads, ..spec(&[], &sets[1..]) };
    let report = run(&given).unwrap();
    let figures = row(&report, "refusal head", "test").unwrap().figures;
    assert_eq!((figures.total, figures.accuracy.count), (20, 20));
    assert!(report.heads[0].is_given && !report.heads[0].knows_rows);
    let plain = report.to_plain();
    assert!(plain.contains("own (20 answers); before this run, so test prompts"), "{plain}");
    let itself = JudgesSpec { heads: &heads, ..spec(&[], &sets) };
    let error = run(&itself).unwrap_err().to_string();
    assert!(error.contains("20 of 20 labelled answers of test set own"), "{error}");
    let report = run(&JudgesSpec { shared: SharedRows::Drop, ..itself }).unwrap();
    assert!(row(&report, "refusal head", "own").is_none());
    assert!(row(&report, "refusal head", "test").is_some());
    assert_eq!(report.without_rows[0], ("refusal head".to_owned(), "own".to_owned()));
    let error = measure_judges(&given, None, Vec::new(), &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("heads need an embedder"), "{error}");
}

/// A judge from elsewhere.
struct Other;

impl Judge for Other {
    fn name(&self) -> &str {
        "guard"
    }

    fn property(&self) -> Property {
        Property::Refusal
    }

    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        Ok(vec![Verdict::of_rule(true); answers.len()])
    }
}

#[test]
fn a_file_of_heads_says_how_far_the_judges_in_use_agree_with_people() {
    let sets = [refusals("own", 0), refusals("test", 100)];
    let MeasuredHeads { heads, agreement } = kept(&sets[..1], &sets[1..], vec![Box::new(Other)]);
    let names: Vec<&str> = agreement.iter().map(|row| row.judge.as_str()).collect();
    // Not `guard`: its name does not say what it is.
    assert_eq!(
        names,
        ["refusal phrases", "refusal head", "refusal head + phrases", "prompt-answer cosine"]
    );
    let mut judges = Judges::rules().with_embedder(Arc::new(Words), &heads).unwrap();
    judges.agreement = agreement;
    let table = judges.agreement_table();
    assert_eq!(table[0][..4], ["judge", "set", "n", "positive"]);
    assert_eq!(table[1][..4], ["refusal head + phrases", "test", "20", "10"]);
    assert_eq!(table[2][..4], ["prompt-answer cosine", "test, swapped", "60", "30"]);
    assert_eq!(table.len(), 3);
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
    assert_eq!((report.rows.len(), heads.heads.len()), (1, 0));
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
