//! What the policy may add to the model's activations, against how long they were measured to be.

use crate::error::BadValue;
use crate::{Action, Category, Manifest, Operator, Policy};

/// Checks that no category that steers can add more than `max_relative_norm` allows, in any layer.
///
/// The most that it adds to a row is `ceiling * |v|`, or where several categories can be named together
/// `max_combined_norm` times that, beside the mean norm of the rows that the manifest records. `project_out` is left out: it takes
/// away a part of the row itself, however long the vector is.
pub(super) fn check_relative_norms(
    policy: &Policy,
    manifest: &Manifest,
) -> Result<(), Box<BadValue>> {
    if manifest.operator == Operator::ProjectOut {
        return Ok(());
    }
    let steered = || policy.categories.iter().filter(|(_, rule)| rule.action == Action::Steer);
    let combines = manifest.operator == Operator::Add && steered().nth(1).is_some();
    let combined = if combines { policy.max_combined_norm } else { 1.0 };
    for (category, rule) in steered() {
        let norms = manifest.norms.get(category).map_or(&[][..], Vec::as_slice);
        for (layer, norm) in manifest.layers.iter().zip(norms) {
            let ceiling = rule.strength.ceiling;
            let [c, f, v, a] = [ceiling, combined, norm.vector, norm.activation].map(f64::from);
            let relative = c * f * v / a;
            if relative <= f64::from(policy.max_relative_norm) {
                continue;
            }
            let sum = if combined > 1.0 {
                format!(" x max_combined_norm {combined}")
            } else {
                String::new()
            };
            let found = format!(
                "{relative:.3} in layer {layer} (ceiling {ceiling}{sum} x norm {} of the vector / mean norm {} of the \
                 activations)",
                norm.vector, norm.activation
            );
            let expected = format!("at most max_relative_norm = {}", policy.max_relative_norm);
            let advice = "lower the ceiling, look whether the vectors have the right scale, or raise `max_relative_norm` \
                          if this was measured to keep the text whole";
            let field = format!("categories.{category}.strength.ceiling");
            return Err(BadValue::new(field, found, expected, advice));
        }
    }
    Ok(())
}

/// Checks that every category that steers has a measured figure of its own, where the policy wants that.
pub(super) fn check_measured(policy: &Policy, manifest: &Manifest) -> Result<(), Box<BadValue>> {
    let is_measured = |category: &Category| {
        manifest.measured.iter().any(|figure| figure.category.as_ref() == Some(category))
    };
    let unmeasured = policy
        .categories
        .iter()
        .find(|(category, rule)| rule.action == Action::Steer && !is_measured(category));
    match unmeasured {
        Some((category, _)) if policy.require_measured => {
            let found = format!("no figure of `{category}` under `measured` in manifest.json");
            let expected = "measured figures of every category that steers";
            let advice = "measure it (skeg calibrate), choose the action `log` until it is measured, or leave the field out";
            Err(BadValue::new("require_measured", found, expected, advice))
        }
        _ => Ok(()),
    }
}
