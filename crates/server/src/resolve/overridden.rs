//! Resolution while the kill switch is on.
//!
//! `refuse_all` takes nothing from the request and refuses it. `default_only` gives what the policy gives to a request that
//! asks for nothing. A request that asks for something else is refused and not quietly served with the default: what it names may be
//! due to be steered, or to be refused, where the default does neither. Where the default is what the gate finds, asking for just
//! that is asking for the default.

use axum::http::StatusCode;
use skeg_model::steering::Positions;
use skeg_vector_store::DEFAULT_REFUSAL;

use super::{Decision, HEADER, Resolution, Resolved, Rules, Source, resolve};
use crate::errors::ApiError;
use crate::kill_switch::OverrideAction;
use crate::wire::SteeringSpec;

/// [`resolve`] under an override, if there is one.
pub(crate) fn resolve_under(
    overridden: Option<OverrideAction>,
    header: Option<&[String]>,
    spec: &SteeringSpec,
    rules: &Rules,
) -> Result<Resolved, ApiError> {
    let resolved = match overridden {
        None => resolve(header, spec, rules)?,
        Some(OverrideAction::RefuseAll) => Resolved::Now(refused()),
        Some(OverrideAction::DefaultOnly) => default_only(header, spec, rules)?,
    };
    Ok(resolved.under(overridden))
}

/// No category is in effect, so the source is the one that requests without a category have.
fn refused() -> Resolution {
    Resolution {
        source: Source::Default,
        confidence: None,
        unclassified: false,
        categories: Vec::new(),
        decision: Decision::Refuse(DEFAULT_REFUSAL.to_owned()),
        positions: Positions::All,
        compare: false,
        overridden: None,
    }
}

/// The policy's default, for a request that asks for nothing or for exactly that.
fn default_only(
    header: Option<&[String]>,
    spec: &SteeringSpec,
    rules: &Rules,
) -> Result<Resolved, ApiError> {
    let silent = SteeringSpec::default();
    let default = resolve(None, &silent, rules);
    if header.is_none() && *spec == silent {
        return default;
    }
    // What makes no sense is told so, as ever.
    let asked = resolve(header, spec, rules)?;
    if default.is_ok_and(|default| asked.asks_for(&default)) {
        return Ok(asked);
    }
    let message = format!(
        "the operator of this server allows its default steering alone at present; leave out `{HEADER}` and `steering`, or try \
         again later"
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, "override_default_only", message)
        .with_param("steering"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{body, rules};
    use super::super::{Missing, ResolvedCategory};
    use super::*;

    fn check(
        action: OverrideAction,
        names: Option<&str>,
        spec: &SteeringSpec,
        rules: &Rules,
    ) -> Result<String, &'static str> {
        let names = names.map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>());
        resolve_under(Some(action), names.as_deref(), spec, rules)
            .map(Resolved::now)
            .inspect(|resolution| assert_eq!(resolution.overridden, Some(action)))
            .map(|r| format!("{}/{}/{}", r.label(), r.source.as_str(), r.decision.as_str()))
            .map_err(|error| error.code())
    }

    fn ok(text: &str) -> Result<String, &'static str> {
        Ok(text.to_owned())
    }

    #[test]
    fn refuse_all_takes_nothing_from_the_request() {
        for names in [None, Some("none"), Some("fraud"), Some("politics"), Some("nonsense")] {
            let found = check(OverrideAction::RefuseAll, names, &SteeringSpec::default(), &rules());
            assert_eq!(found, ok("none/default/refuse"), "{names:?}");
        }
        let compare = SteeringSpec { compare: true, ..body(&["fraud"]) };
        let found = check(OverrideAction::RefuseAll, None, &compare, &rules());
        assert_eq!(found, ok("none/default/refuse"));
    }

    #[test]
    fn default_only_serves_the_default_and_refuses_every_other_wish() {
        const REFUSED: Result<String, &str> = Err("override_default_only");
        let check = |names, spec: &SteeringSpec, missing: &Missing| {
            let rules = Rules { when_missing: missing.clone(), ..rules() };
            check(OverrideAction::DefaultOnly, names, spec, &rules)
        };
        let nothing = SteeringSpec::default();
        let fraud = Missing::Category("fraud".to_owned());
        assert_eq!(check(None, &nothing, &fraud), ok("fraud/default/steer"));
        assert_eq!(check(Some("fraud"), &nothing, &fraud), ok("fraud/header/steer"));
        for other in ["none", "malware", "adult", "politics", "fraud,malware"] {
            assert_eq!(check(Some(other), &nothing, &fraud), REFUSED, "{other}");
        }
        assert_eq!(check(Some("nonsense"), &nothing, &fraud), Err("unknown_category"));
        for wish in [
            SteeringSpec { strength: Some(0.5), ..nothing.clone() },
            SteeringSpec { strength: Some(1.5), ..nothing.clone() },
            SteeringSpec { positions: Some(Positions::Prompt), ..nothing.clone() },
            SteeringSpec { compare: true, ..nothing.clone() },
        ] {
            assert_eq!(check(None, &wish, &fraud), REFUSED, "{wish:?}");
        }
        // What is due is not answered unsteered because the default is unsteered.
        assert_eq!(check(None, &nothing, &Missing::None), ok("none/default/none"));
        assert_eq!(check(Some("fraud"), &nothing, &Missing::None), REFUSED);
        assert_eq!(check(Some("fraud"), &nothing, &Missing::Reject), REFUSED);
        assert_eq!(check(None, &nothing, &Missing::Reject), Err("category_required"));
    }

    #[test]
    fn without_an_override_nothing_is_different() {
        let spec = body(&["fraud"]);
        let found = resolve_under(None, None, &spec, &rules()).unwrap().now();
        assert_eq!(found, resolve(None, &spec, &rules()).unwrap().now());
        let ResolvedCategory { slug, .. } = &found.categories[0];
        assert_eq!((slug.as_str(), found.overridden), ("fraud", None));
    }
}
