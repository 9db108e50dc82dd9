//! Every judge on every labelled set it fits: the run behind `skeg evaluate judges`.

use std::sync::Arc;

use super::agreement::{JudgeAgreement, LabelSource, LabelledSet, agreement};
use super::cache::{Embed, EmbeddingCache};
use super::features::Features;
use super::folds::FoldedJudge;
use super::head::LinearHead;
use super::head_file::MeasuredHeads;
use super::learned::HeadJudge;
use super::on_topic::{ON_TOPIC_COSINE, OnTopicJudge};
use super::overlap::{Seen, SharedRows};
use super::report::{Flagged, JudgesReport, TrainedHead};
use super::rules::{DegenerateJudge, PhraseJudge};
use super::training::{NamedSet, Training};
use super::{Exchange, Judge, Property};
use crate::error::{Error, Result};
use crate::evaluate::Share;
use crate::logistic::check_penalty;
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
    seen: Option<Seen>,
}

impl From<Box<dyn Judge>> for Candidate {
    fn from(judge: Box<dyn Judge>) -> Self {
        Self { judge, seen: None }
    }
}

impl Candidate {
    /// A head that was trained here or before.
    fn of_head(head: &LinearHead, embedder: &Arc<dyn Embed>) -> Result<Self> {
        let judge = HeadJudge::new(head.clone(), Arc::clone(embedder))?;
        Ok(Self { judge: Box::new(judge), seen: Some(Seen::of(&head.trained_on)) })
    }
}

/// Trains heads and compares every judge with the labels of every test set that fits it; the report, and the heads trained
/// here with its rows for them, the rules and the cosine.
///
/// Without an embedder only rules and `others`, judges that need no training here, are measured. The same data, embedder
/// and machine give the same figures.
///
/// # Errors
/// [`Error::Spec`] when there are heads or training sets without an embedder or `l2` is not above 0; [`Error::Data`] when a
/// training set has no labels, a test set shares answers with what a head was trained on and [`JudgesSpec::shared`] refuses that, or
/// no judge fits any test set; [`Error::Interrupted`] when `progress` asks to stop; and what the embedder and `others`
/// return.
pub fn measure_judges(
    spec: &JudgesSpec<'_>,
    embedder: Option<Arc<dyn Embed>>,
    others: Vec<Box<dyn Judge>>,
    progress: &mut dyn Progress,
) -> Result<(JudgesReport, MeasuredHeads)> {
    check_penalty(spec.l2)?;
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
            let given = spec.heads.iter().map(|head| Candidate::of_head(head, embedder));
            let given = given.collect::<Result<Vec<_>>>()?;
            embed_all(spec, &trainings, &**embedder, progress)?;
            for training in &trainings {
                for &features in features_of(training.property()) {
                    let (candidate, head) = train(spec, training, features, embedder, progress)?;
                    candidates.push(candidate);
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
    report.heads.extend(heads.iter().map(|head| TrainedHead::new(head, spec.num_folds, false)));
    report.heads.extend(spec.heads.iter().map(|head| TrainedHead::new(head, None, true)));
    measure_all(&mut candidates, spec, &mut report, progress)?;
    let agreement = report.rows.clone();
    let mut others: Vec<Candidate> = others.into_iter().map(Candidate::from).collect();
    measure_all(&mut others, spec, &mut report, progress)?;
    if report.rows.is_empty() {
        return Err(Error::Data(
            "no test set has answers with labels that a judge could be compared with: `refusal`, `compliance`, `unsafe`, \
             `safe`, `degenerate`, `intact`, `on_topic` or `off_topic` in `response_label`"
                .to_owned(),
        ));
    }
    Ok((report, MeasuredHeads { heads, agreement }))
}

fn rules() -> Vec<Candidate> {
    let rules: [Box<dyn Judge>; 2] = [Box::new(PhraseJudge), Box::new(DegenerateJudge)];
    rules.into_iter().map(Candidate::from).collect()
}

fn features_of(property: Property) -> &'static [Features] {
    match property {
        Property::Refusal => &REFUSAL_FEATURES,
        Property::Harm => &HARM_FEATURES,
        Property::Degenerate | Property::OnTopic => &[],
    }
}

/// Finds answers that a test set shares with what a head was or will be trained on, before minutes of embedding.
fn check_shared(spec: &JudgesSpec<'_>, trainings: &[Training<'_>]) -> Result<()> {
    let trained_here = trainings
        .iter()
        .filter(|_| spec.num_folds.is_none())
        .map(|training| (training.property(), training.sets()));
    let given =
        spec.heads.iter().map(|head| (head.features.property(), head.trained_on.as_slice()));
    for (property, sets) in trained_here.chain(given) {
        let seen = Seen::of(sets);
        for test in spec.tests {
            let labelled = LabelledSet::new(property, &test.data.items);
            seen.leave_out(test, &labelled, spec.shared)?;
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
    let tests_of = |head| spec.tests.iter().map(move |test| (head, test));
    for (head, test) in spec.heads.iter().flat_map(tests_of) {
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
    Ok((Candidate::of_head(&head, embedder)?, head))
}

/// Adds the rows of these judges on every test set.
fn measure_all(
    candidates: &mut [Candidate],
    spec: &JudgesSpec<'_>,
    report: &mut JudgesReport,
    progress: &mut dyn Progress,
) -> Result<()> {
    for candidate in candidates {
        for test in spec.tests {
            measure(candidate, test, spec.shared, report, progress)?;
        }
    }
    Ok(())
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
    if let Some(seen) = &candidate.seen {
        let unseen = seen.leave_out(test, &labelled, shared)?;
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
