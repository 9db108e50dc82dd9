//! A policy in plain words, for the person who is about to publish it.

use super::{Action, CategoryPolicy, GroupPolicy, OnAbstain, Policy, WhenMissing};
use crate::Positions;

impl Policy {
    /// What it does, in sentences, a line each: the rules of all requests, of each category, of each group.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let missing = match &self.when_missing {
            WhenMissing::Category(category) => format!("falls under `{category}`"),
            WhenMissing::Auto => "gets the category that the classifier finds".to_owned(),
            WhenMissing::None => "is answered unsteered".to_owned(),
            WhenMissing::Reject => "is rejected".to_owned(),
        };
        let mut words = vec![format!("a request that names no category {missing}")];
        if self.when_missing == WhenMissing::Auto {
            let abstained = match &self.on_abstain {
                OnAbstain::Category(category) => format!("falls under `{category}`"),
                OnAbstain::None => "is answered unsteered".to_owned(),
                OnAbstain::Reject => "is rejected".to_owned(),
            };
            words.push(format!(
                "a category that is found holds from a probability of harm of {}",
                self.auto.threshold
            ));
            if let Some(abstain) = self.auto.abstain {
                words.push(format!(
                    "between {abstain} and that the classifier is not sure, and such a request {abstained}"
                ));
            }
        }
        if let Some(every) = self.auto.recheck_every {
            let from = self.auto.recheck_threshold.unwrap_or(self.auto.threshold);
            words.push(format!(
                "the answer to a request that was found harmless is looked at every {every} tokens, and steered or ended from a \
                 probability of harm of {from}"
            ));
        }
        let rules = self.categories.iter();
        words.extend(rules.map(|(category, rule)| format!("{category}: {}", rule.words())));
        let groups = self.groups.iter();
        words.extend(groups.map(|(name, group)| format!("callers of `{name}` {}", group.words())));
        let others = if self.groups.is_empty() { "every caller" } else { "every other caller" };
        words.push(format!("{others} {}", GroupPolicy::default().words()));
        if self.allow_other_quantisation {
            words
                .push("it serves also on weights that the vectors were not measured on".to_owned());
        }
        if self.require_measured {
            words.push("it takes only vectors with measured figures".to_owned());
        }
        words
    }
}

impl CategoryPolicy {
    fn words(&self) -> String {
        let strength = self.strength;
        let tokens = match self.positions {
            Positions::All => "on every token",
            Positions::Prompt => "on the prompt's tokens",
            Positions::Generation => "on the answer's tokens",
        };
        let found = match self.auto {
            Some(auto) => format!("; found from a probability of harm of {}", auto.threshold),
            None => String::new(),
        };
        let words = match self.action {
            Action::Steer => format!(
                "steered at {} ({} to {}), {tokens}",
                strength.default, strength.floor, strength.ceiling
            ),
            Action::Refuse => format!("refused with {:?}", self.refusal),
            Action::Log => format!(
                "answered unsteered and logged (shadow mode); steered it would be at {}, {tokens}",
                strength.default
            ),
        };
        words + &found
    }
}

impl GroupPolicy {
    fn words(&self) -> String {
        let named = match &self.categories {
            None => "any category".to_owned(),
            Some(names) if names.is_empty() => "no category".to_owned(),
            Some(names) => {
                let names: Vec<&str> = names.iter().map(crate::Category::as_str).collect();
                names.join(", ")
            }
        };
        let permissions = [
            (self.may_none, "ask for none"),
            (self.may_raise, "raise strengths"),
            (self.may_lower, "lower strengths"),
            (self.may_compare, "compare with the unsteered answer"),
        ];
        let mut may: Vec<&str> =
            permissions.into_iter().filter(|(may, _)| *may).map(|(_, what)| what).collect();
        if may.is_empty() {
            may.push("nothing else");
        }
        format!("may name {named}; {}", may.join(", "))
    }
}
