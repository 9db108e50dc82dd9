//! Whether an answer that raised no alarm is the unsteered one.

use serde::Serialize;

use super::Answers;
use super::arm::ServedArm;
use super::ask::Served;
use super::set::ServedSet;

/// The answers of a set in which the server found nothing, beside the unsteered ones to the same prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Equality {
    /// The set.
    pub set: String,
    /// Answers under `auto` without an alarm.
    pub without_alarm: usize,
    /// Of these, those with the unsteered answer's text.
    pub same_text: usize,
    /// Of these, those of which both answers have the log-probability of the first token.
    pub with_first_token: usize,
    /// Of these, those with the same first token and log-probability, to the last bit.
    pub same_first_token: usize,
    /// Ids of the prompts whose answers differ in text or first token.
    pub differing: Vec<String>,
}

/// The comparison of a set that was asked under both arms.
pub(super) fn of_set(set: &ServedSet, arms: &[ServedArm], answers: &Answers) -> Option<Equality> {
    let under = |wanted: ServedArm| {
        let idx = arms.iter().position(|arm| *arm == wanted)?;
        answers.get(idx)
    };
    let (auto, unsteered) = (under(ServedArm::Auto)?, under(ServedArm::Unsteered)?);
    let mut equality = Equality { set: set.name.clone(), ..Equality::default() };
    for (prompt, answers) in set.prompts.iter().zip(auto.iter().zip(unsteered)) {
        if let (Some(auto), Some(unsteered)) = answers
            && auto.categories.is_empty()
        {
            equality.add(&prompt.id, auto, unsteered);
        }
    }
    Some(equality)
}

impl Equality {
    fn add(&mut self, id: &str, auto: &Served, unsteered: &Served) {
        self.without_alarm += 1;
        let is_same_text = auto.text == unsteered.text;
        self.same_text += usize::from(is_same_text);
        let tokens = auto.first_token.as_ref().zip(unsteered.first_token.as_ref());
        let is_same_token = tokens.map(|(one, other)| one.is(other));
        self.with_first_token += usize::from(is_same_token.is_some());
        self.same_first_token += usize::from(is_same_token == Some(true));
        if !is_same_text || is_same_token == Some(false) {
            self.differing.push(id.to_owned());
        }
    }
}
