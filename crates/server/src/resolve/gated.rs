//! Requests of which the gate has a say: what they ask for is settled once it is known what it finds.
//!
//! With `auto` on, what a caller names is the least that is done, not the most: what the gate finds is added to it. So a header may
//! raise and not lower, unless policy lets the caller lower, who is then taken at its word and not gated.

use axum::http::StatusCode;

use super::{
    Abstained, Decision, Given, HEADER, Resolution, Rules, Source, check_may_compare, decide,
    finish, resolve_category,
};
use crate::errors::ApiError;
use crate::kill_switch::OverrideAction;
use crate::wire::SteeringSpec;

/// A request as far as it is resolved before the model has seen it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Resolved {
    /// Wholly.
    Now(Resolution),
    /// But for what the gate finds.
    Gated(Gated),
}

/// What a gated request asks for beside what is found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gated {
    /// Where `slugs` stood; [`Source::Auto`] where it names none.
    source: Source,
    /// The categories that it names, each known and allowed to the caller.
    slugs: Vec<String>,
    spec: SteeringSpec,
    overridden: Option<OverrideAction>,
}

/// What the gate found, by the policy's thresholds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    /// No category.
    Nothing,
    /// It is not sure.
    Unsure,
    /// These, each with a strength within floor and ceiling.
    Categories(Vec<(String, f32)>),
}

impl Resolved {
    /// The same under an override, if there is one.
    pub(super) fn under(self, overridden: Option<OverrideAction>) -> Self {
        match self {
            Self::Now(resolution) => Self::Now(Resolution { overridden, ..resolution }),
            Self::Gated(gated) => Self::Gated(Gated { overridden, ..gated }),
        }
    }

    /// Whether it is what `default` is, but for who said so.
    pub(super) fn asks_for(&self, default: &Self) -> bool {
        match (self, default) {
            (Self::Now(asked), Self::Now(default)) => {
                Resolution { source: asked.source, ..default.clone() } == *asked
            }
            (Self::Gated(asked), Self::Gated(default)) => {
                Gated { source: asked.source, ..default.clone() } == *asked
            }
            (Self::Now(_), Self::Gated(_)) | (Self::Gated(_), Self::Now(_)) => false,
        }
    }

    /// The resolution of a request that is not gated.
    #[cfg(test)]
    pub(crate) fn now(self) -> Resolution {
        match self {
            Self::Now(resolution) => resolution,
            Self::Gated(gated) => unreachable!("{gated:?}"),
        }
    }
}

impl Gated {
    /// A request that names these categories and is gated. What is wrong about them is told before the model runs.
    pub(super) fn resolved(
        given: Option<Given>,
        slugs: Vec<String>,
        spec: &SteeringSpec,
        rules: &Rules,
    ) -> Result<Resolved, ApiError> {
        let source = match given {
            Some(given) if !slugs.is_empty() => given.source,
            Some(_) | None => Source::Auto,
        };
        // The category is read; what is left is about whatever comes of it.
        let spec = SteeringSpec { category: None, ..spec.clone() };
        for slug in &slugs {
            resolve_category(slug, None, &spec, rules)?;
        }
        if spec.compare {
            check_may_compare(rules)?;
        }
        Ok(Resolved::Gated(Self { source, slugs, spec, overridden: None }))
    }

    /// Whether an unsteered answer is wanted beside a steered one.
    pub(crate) fn compare(&self) -> bool {
        self.spec.compare
    }

    /// What holds as long as nothing is found: for the records of a request that does not come so far.
    pub(crate) fn unsettled(&self, rules: &Rules) -> Result<Resolution, ApiError> {
        let spec = SteeringSpec::default();
        let categories = self.slugs.iter().map(|slug| resolve_category(slug, None, &spec, rules));
        let categories = categories.collect::<Result<Vec<_>, _>>()?;
        let resolution = finish((self.source, None), categories, &spec, rules)?;
        Ok(Resolution { overridden: self.overridden, ..resolution })
    }

    /// The resolution where a classifier gave no verdict, with what the operator wants it to count as.
    pub(crate) fn settle_unclassified(
        &self,
        as_if: &Found,
        rules: &Rules,
    ) -> Result<Resolution, ApiError> {
        let resolution = self.settle(as_if, 0.0, rules)?;
        Ok(Resolution { confidence: None, unclassified: true, ..resolution })
    }

    /// The resolution, with what was found and the probability of harm.
    pub(crate) fn settle(
        &self,
        found: &Found,
        confidence: f32,
        rules: &Rules,
    ) -> Result<Resolution, ApiError> {
        let mut wanted: Vec<(String, Option<f32>)> =
            self.slugs.iter().map(|slug| (slug.clone(), None)).collect();
        let mut add = |slug: &str, strength: Option<f32>| {
            let is_new = wanted.iter().all(|(named, _)| named != slug);
            if is_new {
                wanted.push((slug.to_owned(), strength));
            }
            is_new
        };
        let mut is_found = false;
        match (found, &rules.on_abstain) {
            (Found::Nothing, _) | (Found::Unsure, Abstained::None) => {}
            (Found::Unsure, Abstained::Category(slug)) => is_found = add(slug, None),
            (Found::Unsure, Abstained::Reject) if self.slugs.is_empty() => {
                return Err(unsure(rules));
            }
            (Found::Unsure, Abstained::Reject) => {}
            (Found::Categories(categories), _) => {
                for (slug, strength) in categories {
                    is_found |= add(slug, Some(*strength));
                }
            }
        }
        // In the policy's order, as categories that are named.
        wanted.sort_by(|(a, _), (b, _)| a.cmp(b));
        let categories = wanted
            .iter()
            .map(|(slug, strength)| resolve_category(slug, *strength, &self.spec, rules))
            .collect::<Result<Vec<_>, _>>()?;
        let source = if is_found { Source::Auto } else { self.source };
        // Of an answer that is not steered there is nothing to compare, and the caller cannot know before.
        let mut spec = self.spec.clone();
        spec.compare &= decide(&categories, rules) == Decision::Steer;
        let resolution = finish((source, Some(confidence)), categories, &spec, rules)?;
        Ok(Resolution { overridden: self.overridden, ..resolution })
    }
}

impl Gated {
    /// The resolution by what an answer shows. There is nothing to compare any more, and a strength or positions that the caller may
    /// not ask for with what was found do not keep it from being steered as policy has it.
    pub(crate) fn settle_answer(
        &self,
        found: &Found,
        confidence: f32,
        rules: &Rules,
    ) -> Result<Resolution, ApiError> {
        let spec = SteeringSpec { compare: false, ..self.spec.clone() };
        let as_asked = Self { spec, ..self.clone() };
        as_asked.settle(found, confidence, rules).or_else(|_| {
            let of_policy = Self { spec: SteeringSpec::default(), ..as_asked };
            of_policy.settle(found, confidence, rules)
        })
    }
}

fn unsure(rules: &Rules) -> ApiError {
    let message = format!(
        "it is not clear which category this request belongs to, and the policy rejects such requests; send the header `{HEADER}` with \
         one of: {}",
        rules.slugs()
    );
    ApiError::new(StatusCode::BAD_REQUEST, "auto_abstained", message).with_param(HEADER)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{body, rules};
    use super::super::{GroupRule, Missing, resolve};
    use super::*;

    /// `auto` by policy, for a caller who may not lower.
    fn auto() -> Rules {
        let rules = rules();
        Rules {
            when_missing: Missing::Auto,
            has_gate: true,
            group: GroupRule { may_lower: false, ..rules.group.clone() },
            ..rules
        }
    }

    fn resolved(
        names: Option<&str>,
        spec: &SteeringSpec,
        rules: &Rules,
    ) -> Result<Resolved, &'static str> {
        let names = names.map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>());
        resolve(names.as_deref(), spec, rules).map_err(|error| error.code())
    }

    fn settled(names: Option<&str>, found: &Found, rules: &Rules) -> Result<String, &'static str> {
        match resolved(names, &SteeringSpec::default(), rules)? {
            Resolved::Now(resolution) => Ok(format!("not gated: {}", resolution.label())),
            Resolved::Gated(gated) => {
                let resolution = gated.settle(found, 0.75, rules).map_err(|error| error.code())?;
                assert_eq!(resolution.confidence, Some(0.75));
                let strengths: Vec<String> =
                    resolution.categories.iter().map(|c| c.strength.to_string()).collect();
                Ok(format!(
                    "{}/{}/{}/{}",
                    resolution.label(),
                    resolution.source.as_str(),
                    resolution.decision.as_str(),
                    strengths.join(",")
                ))
            }
        }
    }

    fn ok(text: &str) -> Result<String, &'static str> {
        Ok(text.to_owned())
    }

    fn found(categories: &[(&str, f32)]) -> Found {
        Found::Categories(categories.iter().map(|(slug, s)| ((*slug).to_owned(), *s)).collect())
    }

    #[test]
    fn what_is_found_holds_where_nothing_is_named() {
        let rules = auto();
        for names in [None, Some("auto")] {
            assert_eq!(settled(names, &Found::Nothing, &rules), ok("none/auto/none/"));
            assert_eq!(
                settled(names, &found(&[("fraud", 0.8)]), &rules),
                ok("fraud/auto/steer/0.8")
            );
            let two = found(&[("malware", 1.0), ("fraud", 0.5)]);
            assert_eq!(settled(names, &two, &rules), ok("fraud,malware/auto/steer/0.5,1"));
            assert_eq!(
                settled(names, &found(&[("adult", 1.0)]), &rules),
                ok("adult/auto/refuse/1")
            );
            assert_eq!(
                settled(names, &found(&[("politics", 1.0)]), &rules),
                ok("politics/auto/log/1")
            );
        }
    }

    #[test]
    fn a_name_raises_and_does_not_lower() {
        let rules = auto();
        let fraud = Some("fraud");
        assert_eq!(settled(fraud, &Found::Nothing, &rules), ok("fraud/header/steer/1"));
        assert_eq!(settled(fraud, &found(&[("fraud", 0.6)]), &rules), ok("fraud/header/steer/1"));
        let malware = found(&[("malware", 0.6)]);
        assert_eq!(settled(fraud, &malware, &rules), ok("fraud,malware/auto/steer/1,0.6"));
        // Nor by naming what is only logged.
        assert_eq!(
            settled(Some("politics"), &malware, &rules),
            ok("malware,politics/auto/steer/0.6,1")
        );
        assert_eq!(
            settled(fraud, &found(&[("adult", 1.0)]), &rules),
            ok("adult,fraud/auto/refuse/1,1")
        );
        // Who may lower is taken at its word, and so is an allowed `none`.
        let group = GroupRule { may_lower: true, ..rules.group.clone() };
        let lowering = Rules { group, ..rules.clone() };
        assert_eq!(settled(fraud, &malware, &lowering), ok("not gated: fraud"));
        assert_eq!(settled(Some("none"), &malware, &rules), ok("not gated: none"));
        let group = GroupRule { may_none: false, ..rules.group.clone() };
        assert_eq!(
            settled(Some("none"), &malware, &Rules { group, ..rules }),
            Err("steering_required")
        );
    }

    #[test]
    fn a_gate_that_is_not_sure_is_what_the_policy_says() {
        let with = |on_abstain| Rules { on_abstain, ..auto() };
        let fraud = Abstained::Category("fraud".to_owned());
        assert_eq!(settled(None, &Found::Unsure, &with(fraud.clone())), ok("fraud/auto/steer/1"));
        assert_eq!(
            settled(Some("malware"), &Found::Unsure, &with(fraud)),
            ok("fraud,malware/auto/steer/1,1")
        );
        assert_eq!(settled(None, &Found::Unsure, &with(Abstained::None)), ok("none/auto/none/"));
        assert_eq!(settled(None, &Found::Unsure, &with(Abstained::Reject)), Err("auto_abstained"));
        assert_eq!(
            settled(Some("fraud"), &Found::Unsure, &with(Abstained::Reject)),
            ok("fraud/header/steer/1")
        );
    }

    #[test]
    fn auto_can_be_asked_for_under_another_policy_and_then_names_are_taken_as_they_are() {
        let rules = Rules { when_missing: Missing::None, ..auto() };
        assert_eq!(
            settled(Some("auto"), &found(&[("fraud", 0.7)]), &rules),
            ok("fraud/auto/steer/0.7")
        );
        assert_eq!(settled(Some("fraud"), &Found::Nothing, &rules), ok("not gated: fraud"));
        let without = Rules { has_gate: false, ..rules };
        assert_eq!(settled(Some("auto"), &Found::Nothing, &without), Err("auto_unavailable"));
    }

    #[test]
    fn what_is_wrong_is_told_before_the_model_runs_and_a_strength_holds_for_what_is_found() {
        let rules = auto();
        let strength =
            |strength| SteeringSpec { strength: Some(strength), ..SteeringSpec::default() };
        assert_eq!(resolved(Some("fraud"), &strength(9.0), &rules), Err("strength_out_of_range"));
        assert_eq!(resolved(Some("fraud"), &strength(0.6), &rules), Err("strength_not_allowed"));
        let group = GroupRule { may_compare: false, ..rules.group.clone() };
        let silent = Rules { group, ..rules.clone() };
        let compare = SteeringSpec { compare: true, ..SteeringSpec::default() };
        assert_eq!(resolved(None, &compare, &silent), Err("compare_not_allowed"));
        let Ok(Resolved::Gated(gated)) = resolved(None, &strength(1.5), &rules) else { panic!() };
        let fraud = gated.settle(&found(&[("fraud", 0.6)]), 0.9, &rules).unwrap();
        assert!((fraud.categories[0].strength - 1.5).abs() < 1e-6);
        assert!(gated.settle(&Found::Nothing, 0.1, &rules).unwrap().categories.is_empty());
    }

    #[test]
    fn a_comparison_of_nothing_is_an_answer() {
        let rules = auto();
        let compare = SteeringSpec { compare: true, ..body(&["auto"]) };
        let Ok(Resolved::Gated(gated)) = resolved(None, &compare, &rules) else { panic!() };
        assert!(gated.compare());
        assert!(!gated.settle(&Found::Nothing, 0.1, &rules).unwrap().compare);
        assert!(gated.settle(&found(&[("fraud", 1.0)]), 0.9, &rules).unwrap().compare);
    }
}
