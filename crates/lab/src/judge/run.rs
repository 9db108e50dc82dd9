//! Every judge on every labelled set it fits: the run behind `skeg evaluate judges`.

use std::sync::Arc;

use super::agreement::{JudgeAgreement, LabelSource, LabelledSet, agreement};
use super::cache::{Embed, EmbeddingCache};
use super::features::Features;
use super::folds::FoldedJudge;
use super::head::{LinearHead, TrainingSet};
use super::learned::{HeadJudge, name_of};
use super::logistic::check_penalty;
use super::on_topic::{ON_TOPIC_COSINE, OnTopicJudge};
use super::overlap::{Seen, SharedRows};
use super::report::{Flagged, JudgesReport, TrainedHead};
use super::rules::{DegenerateJudge, PhraseJudge};
use super::training::{NamedSet, Training};
use super::{Exchange, Judge, Property};
use crate::error::{Error, Result};
use crate::evaluate::Share;
use crate::progress::Progress;

/// What is trained and what is tested.
#[derive(Debug, Clone, Copy)]
pub struct JudgesSpec<'a> {
    /// Sets that refusal heads are trained on; none, no head.
    pub train_refusal: &'a [NamedSet],
    /// Sets that the harm head is trained on; none, no head.
    pub train_harm: &'a [NamedSet],
    /// Heads that were trained before, with the same embedder.
    pub heads: &'a [LinearHead],
    /// Sets that judges are compared with people on.
    pub tests: &'a [NamedSet],
    /// Judge prompts that were in training by a [`FoldedJudge`] of so many folds, at least 2; `None`: leave them out.
    pub num_folds: Option<usize>,
    /// What is done with answers that are in a training and in a test set; with folds they need no rule.
    pub shared: SharedRows,
    /// L2 penalty of the heads, for example [`super::L2`].
    pub l2: f64,
}

/// The heads of each property.
const REFUSAL_FEATURES: [Features; 2] = [Features::Opening, Features::OpeningAndPhrases];
const HARM_FEATURES: [Features; 2] = [Features::ResponseAndPhrases, Features::PromptAndResponse];

/// A judge, and what its head has seen, where that must be left out.
struct Candidate {
    judge: Box<dyn Judge>,
    /// Rows, of a head that is trained here.
    seen: Option<Seen>,
    /// Files, of a head that was trained before.
    trained_on: Vec<TrainingSet>,
}

impl From<Box<dyn Judge>> for Candidate {
    fn from(judge: Box<dyn Judge>) -> Self {
        Self { judge, seen: None, trained_on: Vec::new() }
    }
}

/// Trains heads and compares every judge with the labels of every test set that fits it.
///
/// Without an embedder only rules and `others`, judges that need no training here, are measured. The same data, embedder
/// and machine give the same figures.
///
/// # Errors
/// [`Error::Spec`] when there are heads or training sets without an embedder or `l2` is not above 0; [`Error::Data`] when a training set has no labels, a
/// test set shares answers with a training set, or is one of a given head's, and [`JudgesSpec::shared`] refuses that, or no judge
/// fits any test set; [`Error::Interrupted`] when `progress` asks to stop; and what the embedder and `others` return.
pub fn measure_judges(
    spec: &JudgesSpec<'_>,
    embedder: Option<Arc<dyn Embed>>,
    others: Vec<Box<dyn Judge>>,
    progress: &mut dyn Progress,
) -> Result<(JudgesReport, Vec<LinearHead>)> {
    check_penalty(spec.l2)?;
    check_given(spec)?;
    let mut trainings = Vec::new();
    for (property, sets) in
        [(Property::Refusal, spec.train_refusal), (Property::Harm, spec.train_harm)]
    {
        if !sets.is_empty() {
            trainings.push(Training::new(property, sets)?);
        }
    }
    check_shared(spec, &trainings)?;
    let remembering = |inner| Arc::new(EmbeddingCache::new(inner)) as Arc<dyn Embed>;
    let embedder = embedder.map(remembering);
    let mut candidates = rules();
    let (mut report, mut heads) = (JudgesReport::default(), Vec::new());
    match &embedder {
        Some(embedder) => {
            let given = given(spec, embedder, &mut report)?;
            embed_all(spec, &trainings, &**embedder, progress)?;
            for training in &trainings {
                for &features in features_of(training.property()) {
                    let (candidate, head) = train(spec, training, features, embedder, progress)?;
                    candidates.push(candidate);
                    report.heads.push(TrainedHead {
                        judge: name_of(features).to_owned(),
                        trained_on: training.sets().to_vec(),
                        num_folds: spec.num_folds,
                        is_given: false,
                    });
                    heads.push(head);
                }
            }
            candidates.extend(given);
            let judge = OnTopicJudge::new(Arc::clone(embedder), ON_TOPIC_COSINE);
            candidates.push(Candidate::from(Box::new(judge) as Box<dyn Judge>));
        }
        None if trainings.is_empty() && spec.heads.is_empty() => {}
        None => return Err(Error::Spec("heads need an embedder; give one".to_owned())),
    }
    candidates.extend(others.into_iter().map(Candidate::from));
    for candidate in &mut candidates {
        for test in spec.tests {
            measure(candidate, test, spec.shared, &mut report, progress)?;
        }
    }
    if report.rows.is_empty() {
        return Err(Error::Data(
            "no test set has answers with labels that a judge could be compared with: `refusal`, `compliance`, `unsafe`, \
             `safe`, `degenerate`, `intact`, `on_topic` or `off_topic` in `response_label`"
                .to_owned(),
        ));
    }
    Ok((report, heads))
}

fn rules() -> Vec<Candidate> {
    let rules: [Box<dyn Judge>; 2] = [Box::new(PhraseJudge), Box::new(DegenerateJudge)];
    rules.into_iter().map(Candidate::from).collect()
}

/// The heads that were trained before as judges.
fn given(
    spec: &JudgesSpec<'_>,
    embedder: &Arc<dyn Embed>,
    report: &mut JudgesReport,
) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::with_capacity(spec.heads.len());
    for head in spec.heads {
        let judge = HeadJudge::new(head.clone(), Arc::clone(embedder))?;
        report.heads.push(TrainedHead {
            judge: judge.name().to_owned(),
            trained_on: head.trained_on.clone(),
            num_folds: None,
            is_given: true,
        });
        let judge: Box<dyn Judge> = Box::new(judge);
        candidates
            .push(Candidate { trained_on: head.trained_on.clone(), ..Candidate::from(judge) });
    }
    Ok(candidates)
}

/// Finds test sets that a given head was trained on, by their files' hashes, before anything takes long.
fn check_given(spec: &JudgesSpec<'_>) -> Result<()> {
    if spec.shared == SharedRows::Drop {
        return Ok(());
    }
    for (head, test) in given_pairs(spec) {
        let is_measured =
            !LabelledSet::new(head.features.property(), &test.data.items).rows.is_empty();
        if let Some(set) = trained_on(&head.trained_on, test).filter(|_| is_measured) {
            return Err(Error::Data(format!(
                "the {} that was given was trained on test set {} (there {}, the same SHA-256); a head must not be tested on \
                 what it was trained on: leave the test set out, or have it dropped for this head",
                name_of(head.features),
                test.name,
                set.name
            )));
        }
    }
    Ok(())
}

/// Each given head with each test set.
fn given_pairs<'a>(
    spec: &JudgesSpec<'a>,
) -> impl Iterator<Item = (&'a LinearHead, &'a NamedSet)> + use<'a> {
    let (heads, tests) = (spec.heads, spec.tests);
    heads.iter().flat_map(move |head| tests.iter().map(move |test| (head, test)))
}

/// The training set that is the test's file.
fn trained_on<'a>(sets: &'a [TrainingSet], test: &NamedSet) -> Option<&'a TrainingSet> {
    sets.iter().find(|set| set.sha256 == test.data.sha256)
}

fn features_of(property: Property) -> &'static [Features] {
    match property {
        Property::Refusal => &REFUSAL_FEATURES,
        Property::Harm => &HARM_FEATURES,
        Property::Degenerate | Property::OnTopic => &[],
    }
}

/// Finds shared answers before minutes of embedding.
fn check_shared(spec: &JudgesSpec<'_>, trainings: &[Training<'_>]) -> Result<()> {
    if spec.num_folds.is_some() {
        return Ok(());
    }
    for training in trainings {
        let seen = Seen::of(training.rows());
        for test in spec.tests {
            let labelled = LabelledSet::new(training.property(), &test.data.items);
            seen.leave_out(&test.name, &labelled, spec.shared)?;
        }
    }
    Ok(())
}

/// Embeds what training and judges will ask for, under one bar; the embedder remembers it.
fn embed_all(
    spec: &JudgesSpec<'_>,
    trainings: &[Training<'_>],
    embedder: &dyn Embed,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut texts = Vec::new();
    for training in trainings {
        let rows = training.rows().iter().map(|row| row.exchange);
        let mut answers: Vec<Exchange<'_>> = rows.collect();
        for test in spec.tests {
            let labelled = LabelledSet::new(training.property(), &test.data.items);
            answers.extend(labelled.rows.iter().map(|row| row.exchange));
        }
        for &features in features_of(training.property()) {
            texts.extend(features.texts(&answers));
        }
    }
    for (head, test) in given_pairs(spec) {
        let labelled = LabelledSet::new(head.features.property(), &test.data.items);
        let answers: Vec<Exchange<'_>> = labelled.rows.iter().map(|row| row.exchange).collect();
        texts.extend(head.features.texts(&answers));
    }
    for item in spec.tests.iter().flat_map(|test| &test.data.items) {
        // For the cosine.
        texts.extend(
            item.response.iter().flat_map(|response| [&item.text, response]).map(String::as_str),
        );
    }
    embedder.embed(&texts, progress)?;
    Ok(())
}

fn train(
    spec: &JudgesSpec<'_>,
    training: &Training<'_>,
    features: Features,
    embedder: &Arc<dyn Embed>,
    progress: &mut dyn Progress,
) -> Result<(Candidate, LinearHead)> {
    if let Some(num_folds) = spec.num_folds {
        let judge =
            FoldedJudge::train(training, features, embedder, (spec.l2, num_folds), progress)?;
        let head = judge.head().clone();
        let judge: Box<dyn Judge> = Box::new(judge);
        return Ok((judge.into(), head));
    }
    let head = training.head(features, &**embedder, spec.l2, &|_| true)?;
    let judge = HeadJudge::new(head.clone(), Arc::clone(embedder))?;
    let seen = Some(Seen::of(training.rows()));
    Ok((Candidate { judge: Box::new(judge), seen, trained_on: Vec::new() }, head))
}

/// Adds a judge's row on a test set, if the set has labels for it; without, a rule for broken texts says how many it
/// finds, and the cosine is measured on swapped answers.
fn measure(
    candidate: &mut Candidate,
    test: &NamedSet,
    shared: SharedRows,
    report: &mut JudgesReport,
    progress: &mut dyn Progress,
) -> Result<()> {
    let property = candidate.judge.property();
    let mut labelled = LabelledSet::new(property, &test.data.items);
    let (mut num_shared_prompts, mut num_shared_answers) = (0, 0);
    let mut labels = LabelSource::Set;
    if labelled.rows.is_empty() && property == Property::OnTopic {
        labelled = LabelledSet::swapped(&test.data.items);
        labels = LabelSource::Swapped;
    }
    if labelled.rows.is_empty() {
        if property == Property::Degenerate {
            report.flagged.extend(flagged(&mut *candidate.judge, test)?);
        }
        return Ok(());
    }
    if trained_on(&candidate.trained_on, test).is_some() {
        report.without_rows.push((candidate.judge.name().to_owned(), test.name.clone()));
        return Ok(());
    }
    if let Some(seen) = &candidate.seen {
        let unseen = seen.leave_out(&test.name, &labelled, shared)?;
        labelled = unseen.set;
        (num_shared_prompts, num_shared_answers) =
            (unseen.num_shared_prompts, unseen.num_shared_answers);
        if labelled.rows.is_empty() {
            report.without_rows.push((candidate.judge.name().to_owned(), test.name.clone()));
            return Ok(());
        }
    }
    let answers: Vec<Exchange<'_>> = labelled.rows.iter().map(|row| row.exchange).collect();
    candidate.judge.prepare(&answers, progress)?;
    let row = agreement(&mut *candidate.judge, &test.name, &labelled)?;
    report.rows.push(JudgeAgreement { labels, num_shared_prompts, num_shared_answers, ..row });
    Ok(())
}

/// How many answers of a set without labels a judge marks; `None` where it has no answers.
fn flagged(judge: &mut dyn Judge, test: &NamedSet) -> Result<Option<Flagged>> {
    let answers: Vec<Exchange<'_>> = test
        .data
        .items
        .iter()
        .filter_map(|item| {
            Some(Exchange { prompt: &item.text, response: item.response.as_deref()? })
        })
        .collect();
    let verdicts = judge.judge(&answers)?;
    let count = verdicts.iter().filter(|verdict| verdict.positive).count();
    Ok((!answers.is_empty()).then(|| Flagged {
        judge: judge.name().to_owned(),
        set: test.name.clone(),
        share: Share::new(count, answers.len()),
    }))
}
