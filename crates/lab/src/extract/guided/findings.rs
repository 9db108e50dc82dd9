//! The model's answers, and what the judges make of them.

use std::collections::HashMap;

use super::GuidedJudges;
use crate::error::{Error, Result};
use crate::evaluate::{Answerer, Question};
use crate::extract::spec::{CategoryInputs, Text};
use crate::judge::{Exchange, Judge, Verdict};
use crate::progress::Progress;

/// Exchanges that are judged between two looks at whether to stop.
const CHUNK: usize = 256;

/// What the harm judge made of an answer, unless it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Degenerate,
    Unsafe,
    Safe,
    Unsure,
}

/// What the judges made of one exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finding {
    pub(super) standing: Standing,
    /// False for broken answers.
    pub(super) is_refusal: bool,
}

impl Finding {
    pub(super) fn is_unsafe(self) -> bool {
        self.standing == Standing::Unsafe && !self.is_refusal
    }

    pub(super) fn is_safe(self) -> bool {
        self.standing == Standing::Safe
    }
}

/// Every text: category by category, the unsafe side first.
fn texts(inputs: &[CategoryInputs]) -> impl Iterator<Item = &Text> {
    inputs.iter().flat_map(|one| one.unsafe_side.iter().chain(&one.safe_side))
}

/// Gives every text without a response the model's answer; how many prompts were asked.
pub(super) fn answer_all(
    answerer: &mut dyn Answerer,
    inputs: &mut [CategoryInputs],
    progress: &mut dyn Progress,
) -> Result<usize> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut questions = Vec::new();
    for text in texts(inputs).filter(|text| text.response.is_none()) {
        if !numbers.contains_key(&text.prompt) {
            numbers.insert(text.prompt.clone(), questions.len());
            questions.push(Question {
                id: text.id.clone(),
                prompt: text.prompt.clone(),
                vector_idx: None,
            });
        }
    }
    if questions.is_empty() {
        return Ok(0);
    }
    progress.start("answers", questions.len());
    let answers = answerer.answer(&questions, &[], progress)?;
    progress.finish();
    check_len("answers", answers.len(), questions.len())?;
    for category in inputs {
        for text in category.unsafe_side.iter_mut().chain(&mut category.safe_side) {
            if text.response.is_none() {
                let answer = numbers.get(&text.prompt).and_then(|&number| answers.get(number));
                text.response = answer.map(|answer| answer.text.clone());
            }
        }
    }
    Ok(questions.len())
}

/// A finding for every text, in the order of [`texts`]; each exchange is judged once.
pub(super) fn judge_all(
    judges: &mut GuidedJudges<'_>,
    inputs: &[CategoryInputs],
    min_score: Option<f64>,
    progress: &mut dyn Progress,
) -> Result<Vec<Finding>> {
    let mut numbers = HashMap::new();
    let mut exchanges = Vec::new();
    let mut places = Vec::new();
    for text in texts(inputs) {
        let response = text.response.as_deref().unwrap_or_default();
        let exchange = Exchange { prompt: &text.prompt, response };
        let number = *numbers.entry(exchange).or_insert(exchanges.len());
        if number == exchanges.len() {
            exchanges.push(exchange);
        }
        places.push(number);
    }
    progress.start("verdicts", exchanges.len());
    let mut findings = Vec::with_capacity(exchanges.len());
    for chunk in exchanges.chunks(CHUNK) {
        findings.extend(judge_chunk(judges, chunk, min_score)?);
        let (done, total) = (findings.len(), exchanges.len());
        if progress.advance(chunk.len()).is_break() && done < total {
            return Err(Error::Interrupted { done, total });
        }
    }
    progress.finish();
    Ok(places.into_iter().filter_map(|number| findings.get(number).copied()).collect())
}

fn judge_chunk(
    judges: &mut GuidedJudges<'_>,
    exchanges: &[Exchange<'_>],
    min_score: Option<f64>,
) -> Result<Vec<Finding>> {
    let degenerate = verdicts(judges.degenerate, exchanges)?;
    let refusal = verdicts(judges.refusal, exchanges)?;
    let is_whole = |number: usize| {
        !degenerate[number].positive && !exchanges[number].response.trim().is_empty()
    };
    let whole: Vec<Exchange<'_>> = exchanges
        .iter()
        .enumerate()
        .filter_map(|(number, &exchange)| is_whole(number).then_some(exchange))
        .collect();
    let mut harm = verdicts(judges.harm, &whole)?.into_iter();
    let findings = refusal.iter().enumerate().map(|(number, refusal)| {
        match is_whole(number).then(|| harm.next()).flatten() {
            None => Finding { standing: Standing::Degenerate, is_refusal: false },
            Some(harm) => {
                Finding { standing: standing(harm, min_score), is_refusal: refusal.positive }
            }
        }
    });
    Ok(findings.collect())
}

fn verdicts(judge: &mut dyn Judge, exchanges: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
    if exchanges.is_empty() {
        return Ok(Vec::new());
    }
    let verdicts = judge.judge(exchanges)?;
    check_len(&format!("verdicts of judge `{}`", judge.name()), verdicts.len(), exchanges.len())?;
    Ok(verdicts)
}

fn check_len(what: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Spec(format!("{found} {what}; expected {expected}, one for each")))
}

fn standing(harm: Verdict, min_score: Option<f64>) -> Standing {
    let certainty = if harm.positive { harm.score } else { 1.0 - harm.score };
    match (harm.positive, min_score) {
        (_, Some(least)) if certainty < least => Standing::Unsure,
        (true, _) => Standing::Unsafe,
        (false, _) => Standing::Safe,
    }
}
