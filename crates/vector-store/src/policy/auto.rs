//! `[auto]`: what is done with a classifier's verdict.
//!
//! A verdict is a probability of harm and, if it is harmful, a share of each category. The first category decides which thresholds
//! hold. At its threshold the verdict holds, below its `abstain` there is none, and in between it is not sure.

use serde::{Deserialize, Serialize};

use super::{CategoryPolicy, Policy};
use crate::Category;
use crate::error::BadValue;

/// Most categories that one request is steered by.
const MAX_TOP_K: usize = 8;
/// Most tokens between two looks at an answer: with more, most answers are over before the first.
const MAX_RECHECK_EVERY: usize = 1024;

/// When a verdict holds: `0 < abstain <= threshold <= 1`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AutoThresholds {
    /// The probability of harm from which a verdict holds.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0, "maximum" = 1)))]
    pub threshold: f32,
    /// From here up to the threshold it is not sure; left out: the threshold, and it is always sure.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "f32", extend("exclusiveMinimum" = 0, "maximum" = 1))
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abstain: Option<f32>,
}

/// What a verdict comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum AutoDecision {
    /// No category.
    None,
    /// It is not sure.
    Abstain,
    /// These categories, each with its strength: the first as it is alone, the others less, none below its floor.
    Categories(Vec<(Category, f32)>),
}

/// What is done with a classifier's verdict: a probability of harm, and a share of each category.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Auto"))]
#[serde(default, deny_unknown_fields)]
pub struct AutoPolicy {
    /// The probability of harm from which a verdict holds.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0, "maximum" = 1)))]
    pub threshold: f32,
    /// From here up to the threshold the classifier is not sure, and `on_abstain` holds; left out: the threshold.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "f32", extend("exclusiveMinimum" = 0, "maximum" = 1))
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abstain: Option<f32>,
    /// The most categories that one request is steered by: the first of its verdict, and others by their share.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 8)))]
    pub top_k: usize,
    /// A further category counts from this share on.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0, "maximum" = 1)))]
    pub min_share: f32,
    /// Strength grows with the probability of harm, from the floor at the threshold to the default at 1.
    pub scale_strength: bool,
    /// The answer to a prompt that was found harmless is looked at every so many tokens; left out: it is not. Needs a probe that
    /// was trained on answers.
    #[cfg_attr(feature = "schema", schemars(with = "usize", range(min = 1, max = 1024)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recheck_every: Option<usize>,
    /// The probability of harm from which an answer is steered from there on, or ended where policy refuses; left out: as for
    /// prompts. Needs `recheck_every`.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "f32", extend("exclusiveMinimum" = 0, "maximum" = 1))
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recheck_threshold: Option<f32>,
}

impl Default for AutoPolicy {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            abstain: None,
            top_k: 1,
            min_share: 0.25,
            scale_strength: false,
            recheck_every: None,
            recheck_threshold: None,
        }
    }
}

impl AutoThresholds {
    pub(super) fn check(self, field: &str) -> Result<(), Box<BadValue>> {
        let Self { threshold, abstain } = self;
        let lower = abstain.unwrap_or(threshold);
        // NaN is in no range.
        if 0.0 < lower && lower <= threshold && threshold <= 1.0 {
            return Ok(());
        }
        Err(BadValue::new(
            field,
            format_args!("threshold {threshold}, abstain {lower}"),
            "0 < abstain <= threshold <= 1",
            "correct them; leave `abstain` out where there is to be no band",
        ))
    }
}

impl AutoPolicy {
    /// When a verdict holds, where a category's rule does not say.
    #[must_use]
    pub fn thresholds(&self) -> AutoThresholds {
        AutoThresholds { threshold: self.threshold, abstain: self.abstain }
    }

    pub(super) fn check(&self) -> Result<(), Box<BadValue>> {
        self.thresholds().check("auto")?;
        if !(1..=MAX_TOP_K).contains(&self.top_k) {
            let expected = format!("1 to {MAX_TOP_K} categories");
            return Err(BadValue::new("auto.top_k", self.top_k, expected, "leave it out for 1"));
        }
        if !(0.0 < self.min_share && self.min_share <= 1.0) {
            let expected = "a share above 0 and up to 1";
            let advice = "leave it out for 0.25";
            return Err(BadValue::new("auto.min_share", self.min_share, expected, advice));
        }
        self.check_recheck()
    }

    fn check_recheck(&self) -> Result<(), Box<BadValue>> {
        if let Some(every) = self.recheck_every.filter(|e| !(1..=MAX_RECHECK_EVERY).contains(e)) {
            let expected = format!("1 to {MAX_RECHECK_EVERY} tokens");
            let advice = "leave it out where answers are not to be looked at";
            return Err(BadValue::new("auto.recheck_every", every, expected, advice));
        }
        let Some(threshold) = self.recheck_threshold else { return Ok(()) };
        if !(0.0 < threshold && threshold <= 1.0) {
            let expected = "a probability of harm above 0 and up to 1";
            let advice = "leave it out for the threshold of prompts";
            return Err(BadValue::new("auto.recheck_threshold", threshold, expected, advice));
        }
        if self.recheck_every.is_none() {
            let expected = "`auto.recheck_every` beside it";
            let advice = "say how often answers are looked at, or leave both out";
            return Err(BadValue::new("auto.recheck_threshold", threshold, expected, advice));
        }
        Ok(())
    }
}

impl Policy {
    /// When a verdict whose first category this is holds.
    #[must_use]
    pub fn auto_thresholds(&self, first: &Category) -> AutoThresholds {
        let rule = self.categories.get(first);
        rule.and_then(|rule| rule.auto).unwrap_or(self.auto.thresholds())
    }

    /// What a verdict comes to: `harm` is the probability of harm, `shares` are the categories with their share, descending. A
    /// harm that is not a number counts as certain: what cannot be judged is not let through. A verdict that holds and has no
    /// category with a rule is not sure.
    #[must_use]
    pub fn decide(&self, harm: f32, shares: &[(Category, f32)]) -> AutoDecision {
        let harm = if harm.is_nan() { 1.0 } else { harm };
        let rule = |category: &Category| self.categories.get(category);
        let mut known =
            shares.iter().filter_map(|(c, share)| rule(c).map(|rule| (c, *share, rule)));
        let first = known.next();
        let thresholds =
            first.map_or(self.auto.thresholds(), |(category, _, _)| self.auto_thresholds(category));
        if harm < thresholds.abstain.unwrap_or(thresholds.threshold) {
            return AutoDecision::None;
        }
        let Some(first) = first.filter(|_| harm >= thresholds.threshold) else {
            return AutoDecision::Abstain;
        };
        let largest = first.1;
        let others =
            known.filter(|(_, share, _)| *share >= self.auto.min_share).take(self.auto.top_k - 1);
        let strength = |(category, share, rule): (&Category, f32, &CategoryPolicy)| {
            let alone = self.strength_at(harm, thresholds.threshold, rule);
            let weighted = if largest > 0.0 { alone * (share / largest).min(1.0) } else { alone };
            (category.clone(), weighted.max(rule.strength.floor))
        };
        AutoDecision::Categories(std::iter::once(first).chain(others).map(strength).collect())
    }

    /// What a verdict on a part of an answer comes to: the first category alone with its strength, since the engine steers on its own by
    /// nothing else, or `None`, also where no category has a rule. There is no band: an answer is looked at again. As in
    /// [`Self::decide`] a harm that is not a number counts as certain.
    #[must_use]
    pub fn decide_answer(&self, harm: f32, shares: &[(Category, f32)]) -> Option<(Category, f32)> {
        let harm = if harm.is_nan() { 1.0 } else { harm };
        let mut known = shares
            .iter()
            .filter_map(|(category, _)| self.categories.get(category).map(|rule| (category, rule)));
        let (category, rule) = known.next()?;
        let threshold =
            self.auto.recheck_threshold.unwrap_or(self.auto_thresholds(category).threshold);
        let strength = self.strength_at(harm, threshold, rule);
        (harm >= threshold).then(|| (category.clone(), strength))
    }

    /// The strength of a category that is the first of its verdict.
    fn strength_at(&self, harm: f32, threshold: f32, rule: &CategoryPolicy) -> f32 {
        let strength = rule.strength;
        if !self.auto.scale_strength || threshold >= 1.0 {
            return strength.default;
        }
        let surety = ((harm - threshold) / (1.0 - threshold)).clamp(0.0, 1.0);
        strength.floor + (strength.default - strength.floor) * surety
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(auto: &str) -> Policy {
        let category = |name: &str, more: &str| {
            format!(
                "[categories.{name}]\naction = \"steer\"\npositions = \"all\"\nstrength = {{ default = 0.8, floor = 0.2, ceiling = \
                 1.0 }}\n{more}\n"
            )
        };
        let text = format!(
            "when_missing = \"none\"\n{auto}\n{}{}{}",
            category("a", ""),
            category("b", "auto = { threshold = 0.3, abstain = 0.1 }"),
            category("c", ""),
        );
        Policy::parse(&text).unwrap()
    }

    fn shares(shares: &[(&str, f32)]) -> Vec<(Category, f32)> {
        shares.iter().map(|(slug, share)| (Category::parse(slug).unwrap(), *share)).collect()
    }

    /// `slug strength` of each, rounded.
    fn decide(policy: &Policy, harm: f32, of: &[(&str, f32)]) -> String {
        match policy.decide(harm, &shares(of)) {
            AutoDecision::None => "none".to_owned(),
            AutoDecision::Abstain => "abstain".to_owned(),
            AutoDecision::Categories(found) => {
                let found: Vec<String> = found.iter().map(|(c, s)| format!("{c} {s:.2}")).collect();
                found.join(", ")
            }
        }
    }

    const MOSTLY_A: &[(&str, f32)] = &[("a", 0.5), ("b", 0.3), ("c", 0.2)];
    const MOSTLY_B: &[(&str, f32)] = &[("b", 0.5), ("a", 0.5)];

    #[test]
    fn the_first_category_decides_when_a_verdict_holds() {
        let policy = policy("[auto]\nthreshold = 0.6\nabstain = 0.4");
        for (harm, of, expected) in [
            (0.39, MOSTLY_A, "none"),
            (0.4, MOSTLY_A, "abstain"),
            (0.59, MOSTLY_A, "abstain"),
            (0.6, MOSTLY_A, "a 0.80"),
            (0.09, MOSTLY_B, "none"),
            (0.1, MOSTLY_B, "abstain"),
            (0.3, MOSTLY_B, "b 0.80"),
            (f32::NAN, MOSTLY_A, "a 0.80"),
            (1.0, &[], "abstain"),
            (1.0, &[("z", 1.0)], "abstain"),
            (0.0, &[], "none"),
        ] {
            assert_eq!(decide(&policy, harm, of), expected, "{harm} {of:?}");
        }
    }

    #[test]
    fn without_a_table_one_half_decides_and_nothing_is_in_between() {
        let policy = policy("");
        assert_eq!(policy.auto, AutoPolicy::default());
        assert_eq!(decide(&policy, 0.49, MOSTLY_A), "none");
        assert_eq!(decide(&policy, 0.5, MOSTLY_A), "a 0.80");
    }

    #[test]
    fn further_categories_count_by_their_share_and_never_below_their_floor() {
        let two = policy("[auto]\ntop_k = 2");
        assert_eq!(decide(&two, 0.9, MOSTLY_A), "a 0.80, b 0.48");
        assert_eq!(decide(&two, 0.9, &[("a", 0.9), ("b", 0.1)]), "a 0.80");
        let three = policy("[auto]\ntop_k = 3\nmin_share = 0.05");
        assert_eq!(decide(&three, 0.9, &[("a", 0.9), ("b", 0.06), ("c", 0.04)]), "a 0.80, b 0.20");
    }

    #[test]
    fn strength_can_grow_with_the_probability_of_harm() {
        let policy = policy("[auto]\nthreshold = 0.5\nscale_strength = true");
        assert_eq!(decide(&policy, 0.5, MOSTLY_A), "a 0.20");
        assert_eq!(decide(&policy, 0.75, MOSTLY_A), "a 0.50");
        assert_eq!(decide(&policy, 1.0, MOSTLY_A), "a 0.80");
    }

    #[test]
    fn an_answer_is_steered_by_its_first_category_alone_from_a_threshold_of_its_own() {
        let answer = |policy: &Policy, harm: f32, of: &[(&str, f32)]| {
            let found = policy.decide_answer(harm, &shares(of));
            found.map_or("none".to_owned(), |(c, s)| format!("{c} {s:.2}"))
        };
        let own = policy(
            "[auto]\ntop_k = 3\nmin_share = 0.1\nrecheck_every = 8\nrecheck_threshold = 0.9",
        );
        let as_prompts = policy("[auto]\nthreshold = 0.6\nabstain = 0.4\nrecheck_every = 8");
        for (policy, harm, of, expected) in [
            (&own, 0.89, MOSTLY_A, "none"),
            (&own, 0.9, MOSTLY_A, "a 0.80"),
            (&own, 0.89, MOSTLY_B, "none"),
            (&own, f32::NAN, MOSTLY_B, "b 0.80"),
            (&own, 1.0, &[("z", 1.0)], "none"),
            (&own, 1.0, &[("z", 0.9), ("c", 0.1)], "c 0.80"),
            (&own, 1.0, &[], "none"),
            (&as_prompts, 0.59, MOSTLY_A, "none"),
            (&as_prompts, 0.6, MOSTLY_A, "a 0.80"),
            (&as_prompts, 0.3, MOSTLY_B, "b 0.80"),
        ] {
            assert_eq!(answer(policy, harm, of), expected, "{harm} {of:?}");
        }
        let scaled =
            policy("[auto]\nscale_strength = true\nrecheck_every = 8\nrecheck_threshold = 0.8");
        assert_eq!(answer(&scaled, 0.9, MOSTLY_A), "a 0.50");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_field() {
        let base = policy("").to_toml().unwrap();
        for (auto, field) in [
            ("threshold = 1.5", "auto"),
            ("threshold = nan", "auto"),
            ("threshold = 0.5\nabstain = 0.6", "auto"),
            ("abstain = 0.0", "auto"),
            ("top_k = 0", "auto.top_k"),
            ("top_k = 9", "auto.top_k"),
            ("min_share = 0.0", "auto.min_share"),
            ("recheck_every = 0", "auto.recheck_every"),
            ("recheck_every = 1025", "auto.recheck_every"),
            ("recheck_every = 8\nrecheck_threshold = 0.0", "auto.recheck_threshold"),
            ("recheck_every = 8\nrecheck_threshold = nan", "auto.recheck_threshold"),
            ("recheck_threshold = 0.9", "`auto.recheck_every` beside it"),
            ("unknown = 1", "unknown"),
        ] {
            let error =
                Policy::parse(&format!("{base}\n[auto]\n{auto}\n")).unwrap_err().to_string();
            assert!(error.contains(field), "{auto}: {error}");
        }
        let bad = base.replacen("0.1", "0.7", 1);
        let error = Policy::parse(&bad).unwrap_err().to_string();
        assert!(error.contains("categories.b.auto"), "{error}");
    }

    #[test]
    fn a_policy_is_written_as_it_was_read() {
        let auto = "[auto]\nthreshold = 0.6\nabstain = 0.4\ntop_k = 2\nmin_share = 0.1\nscale_strength = true\nrecheck_every = \
                    1024\nrecheck_threshold = 0.75";
        let policy = policy(auto);
        assert_eq!((policy.auto.top_k, policy.auto.scale_strength), (2, true));
        let looks = (policy.auto.recheck_every, policy.auto.recheck_threshold);
        assert_eq!(looks, (Some(1024), Some(0.75)));
        assert_eq!(Policy::parse(&policy.to_toml().unwrap()).unwrap(), policy);
    }
}
