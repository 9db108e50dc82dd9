//! Extractions of a command that may be run again: kept where its other work is.

use std::path::Path;

use anyhow::Context as _;
use skeg_lab::extract::{ExtractSpec, Extraction, RunOptions, Variant, extract_variants};
use skeg_model::LoadedModel;

use super::progress::Bar;

/// Vectors by several variants from one pass; what an earlier run left below `work_dir` is not read again.
pub(super) fn kept_extractions(
    model: &LoadedModel,
    spec: &ExtractSpec,
    variants: &[Variant],
    work_dir: Option<&Path>,
    bar: &mut Bar,
) -> anyhow::Result<Vec<Extraction>> {
    let checkpoint = work_dir.map(|folder| -> anyhow::Result<_> {
        let folder = folder.join("extractions");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        // What is in it says whether it fits; a name of its own keeps runs from each other.
        let inputs: String = spec.inputs_sha256().chars().take(16).collect();
        Ok(folder.join(format!("{inputs}-{:?}-{}.part", spec.site, variants.len())))
    });
    let options = RunOptions {
        checkpoint: checkpoint.transpose()?,
        keep_checkpoint: true,
        ..RunOptions::default()
    };
    Ok(extract_variants(model, spec, variants, &options, bar)?)
}
