//! Who finds categories under a generation, and what of its probe can be used here.

use std::sync::Arc;

use skeg_lab::probe::Probe;
use skeg_vector_store::{Generation, WhenMissing};

use super::ClassifierKind;

/// The probe that finds categories under a generation; `None` where it has none, or another classifier is asked, or none.
///
/// Fails where the policy says `auto` and there is nobody who could find one.
pub(crate) fn probe_for_auto(
    generation: &Generation,
    classifier: ClassifierKind,
) -> Result<Option<Arc<Probe>>, String> {
    let is_auto = generation.policy.when_missing == WhenMissing::Auto;
    let refused = |reason: &str| format!("policy.toml: `when_missing` is `auto`, and {reason}");
    let nobody = match classifier {
        ClassifierKind::Http => return Ok(None),
        ClassifierKind::Off => Some(
            "this server finds no categories (`classifier.kind` is `off`); choose a category, `none` or `reject`",
        ),
        ClassifierKind::Generation if !generation.has_probe() => Some(
            "the generation has no probe.safetensors; train a probe, serve it with `--classifier http`, or choose a category, `none` \
             or `reject`",
        ),
        ClassifierKind::Generation => None,
    };
    if let Some(reason) = nobody {
        return if is_auto { Err(refused(reason)) } else { Ok(None) };
    }
    match probe_of(generation) {
        Ok(probe) => Ok(probe.map(Arc::new)),
        Err(reason) if is_auto => Err(refused(&reason)),
        Err(reason) => {
            tracing::warn!(generation = %generation.id, reason, "`auto` is unavailable");
            Ok(None)
        }
    }
}

/// The probe of a generation; `None` where it has none.
fn probe_of(generation: &Generation) -> Result<Option<Probe>, String> {
    let Some(bytes) = &generation.probe else { return Ok(None) };
    let probe = Probe::from_bytes(bytes).map_err(|error| format!("probe.safetensors: {error}"))?;
    let manifest = &generation.manifest;
    let fits = probe.activation_input().is_none_or(|input| {
        input.hidden_size == manifest.hidden_size
            && input.layers.iter().all(|&layer| layer < manifest.num_hidden_layers)
    });
    if !fits {
        return Err(
            "probe.safetensors: the probe was trained on another model; train it on this one"
                .to_owned(),
        );
    }
    match probe.embedder() {
        Some(embedder) => Err(format!(
            "probe.safetensors: the probe reads embeddings of {embedder}, which a server does not make; train it without that member"
        )),
        None => Ok(Some(probe)),
    }
}
