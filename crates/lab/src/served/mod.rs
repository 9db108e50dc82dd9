//! A running server, asked over HTTP: what finding the category by itself (`auto`) comes to, from prompt to answer.
//!
//! [`compare`] asks every prompt of some sets under several arms ([`ServedArm`]: unsteered, `auto`, one category for all, the true
//! category, a system prompt), judges the answers and counts. Answers stay in memory: the report holds figures and ids.

mod arm;
mod ask;
mod equality;
mod report;
mod row;
mod set;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::judge::{EndpointOptions, Judges, each};
use crate::progress::Progress;
use ask::{Asker, Served};

pub use arm::ServedArm;
pub use equality::Equality;
pub use report::ServedReport;
pub use row::{Alarms, Latency, ServedRow};
pub use set::{ServedPrompt, ServedSet};

/// One prompt under one arm.
#[derive(Debug, Clone, Copy)]
struct Task {
    set_idx: usize,
    prompt_idx: usize,
    arm_idx: usize,
}

/// Answers of one set: `[arm][prompt]`; `None` where the arm has nothing to ask.
type Answers = Vec<Vec<Option<Served>>>;

/// Asks the server at `options` every prompt of `sets` under each of `arms`, several at once, and judges the answers.
///
/// The arms of one prompt follow each other, another one first for each prompt, so that neither a busy machine nor what a server
/// keeps of a prompt favours one. No request is tried again.
///
/// # Errors
/// [`Error::Spec`] for an address or a list of arms or sets that cannot be asked, [`Error::Unanswered`] with the prompt's id for the
/// first request that is refused, fails, or is not answered as its arm asks, [`Error::Interrupted`], and what the judges
/// return.
pub fn compare(
    options: &EndpointOptions,
    sets: &[ServedSet],
    arms: &[ServedArm],
    judges: &mut Judges,
    progress: &mut dyn Progress,
) -> Result<ServedReport> {
    let is_twice = |idx: usize| arms[..idx].contains(&arms[idx]);
    if let Some(idx) = (0..arms.len()).find(|&idx| is_twice(idx)) {
        return Err(Error::Spec(format!("arm `{}` stands twice; name it once", arms[idx])));
    }
    if sets.is_empty() || arms.is_empty() {
        return Err(Error::Spec("no set or no arm to ask; give at least one of each".to_owned()));
    }
    let asker = Asker::new(options)?;
    let answers = ask_all(&asker, options.concurrency, sets, arms, progress)?;
    let mut rows = Vec::new();
    let mut equality = Vec::new();
    for (set, answers) in sets.iter().zip(&answers) {
        rows.extend(row::rows(set, arms, answers, judges, progress)?);
        equality.extend(equality::of_set(set, arms, answers));
    }
    Ok(ServedReport::new(options, sets, rows, equality, judges))
}

fn ask_all(
    asker: &Asker,
    concurrency: usize,
    sets: &[ServedSet],
    arms: &[ServedArm],
    progress: &mut dyn Progress,
) -> Result<Vec<Answers>> {
    let tasks = tasks(sets, arms.len());
    let work = |task: &Task, stop: &AtomicBool| {
        let set = &sets[task.set_idx];
        let answer = asker.ask(&set.name, &set.prompts[task.prompt_idx], &arms[task.arm_idx]);
        if answer.is_err() {
            // Here, so that no thread begins another one on the way to the count.
            stop.store(true, Ordering::Relaxed);
        }
        answer
    };
    let empty = |set: &ServedSet| vec![vec![None; set.prompts.len()]; arms.len()];
    let mut answers: Vec<Answers> = sets.iter().map(empty).collect();
    let (mut num_done, mut failure, mut is_interrupted) = (0, None, false);
    progress.start("answers", tasks.len());
    each(&tasks, concurrency, work, |event| {
        let num_steps = usize::from(event.is_some());
        match event {
            Some((idx, Ok(answer))) => {
                let Task { set_idx, prompt_idx, arm_idx } = tasks[idx];
                answers[set_idx][arm_idx][prompt_idx] = answer;
                num_done += 1;
            }
            Some((_, Err(error))) => failure = failure.take().or(Some(error)),
            None => {}
        }
        is_interrupted |= progress.advance(num_steps).is_break();
        let is_over = is_interrupted || failure.is_some();
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match failure {
        Some(error) => Err(error),
        None if num_done < tasks.len() => {
            Err(Error::Interrupted { done: num_done, total: tasks.len() })
        }
        None => {
            progress.finish();
            Ok(answers)
        }
    }
}

/// Prompt by prompt, the arms of each in turn from another one on.
fn tasks(sets: &[ServedSet], num_arms: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (set_idx, set) in sets.iter().enumerate() {
        for prompt_idx in 0..set.prompts.len() {
            let arm = |turn: usize| (prompt_idx + turn) % num_arms;
            tasks.extend((0..num_arms).map(|turn| Task {
                set_idx,
                prompt_idx,
                arm_idx: arm(turn),
            }));
        }
    }
    tasks
}
