//! What the variants of one run need to be kept, side by side.

use super::encode::{EncodedInput, Side};
use super::kept::Kept;
use super::run::LayerExtraction;
use super::spec::ExtractSpec;
use super::statistics::{RowMean, Statistics};
use super::sums::Sums;
use super::variant::Variant;
use crate::error::{Error, Result};

/// Running sums, the activations of every input, or both: each variant is made from what it would be made from alone,
/// so that the others change no bit of it.
#[derive(Debug, Clone)]
pub(crate) enum Several<'a> {
    /// For variants for which sums are enough.
    Sums(Sums),
    /// For variants that look at single differences.
    Kept(Kept<'a>),
    /// For some of either kind.
    Both(Sums, Kept<'a>),
}

/// Checks variants that are to be made from one pass over the spec's inputs.
///
/// # Errors
/// [`Error::Spec`] when there is none, a number makes no sense, or the pairing is not the spec's.
pub(crate) fn check_variants(
    spec: &ExtractSpec,
    variants: &[Variant],
    hidden_size: usize,
) -> Result<()> {
    if variants.is_empty() {
        return Err(Error::Spec("no variant was asked for; expected at least one".to_owned()));
    }
    variants.iter().try_for_each(|variant| variant.check(Some(hidden_size)))?;
    match variants.iter().find(|variant| variant.pairing != spec.variant.pairing) {
        None => Ok(()),
        Some(variant) => Err(Error::Spec(format!(
            "variant `{variant}` pairs inputs otherwise than the spec, `{}`; pairings need inputs of their own, so \
             extract them in a run of its own",
            spec.variant
        ))),
    }
}

impl<'a> Several<'a> {
    pub(crate) fn new(
        spec: &'a ExtractSpec,
        variants: &[Variant],
        inputs: &[EncodedInput],
        hidden_size: usize,
    ) -> Self {
        let sums = || Sums::new(spec.categories.len(), &spec.layers, hidden_size);
        let kept = || Kept::new(spec, inputs, hidden_size);
        if variants.iter().all(Variant::needs_sums_alone) {
            Self::Sums(sums())
        } else if variants.iter().any(Variant::needs_sums_alone) {
            Self::Both(sums(), kept())
        } else {
            Self::Kept(kept())
        }
    }

    /// What a variant is made from.
    fn of(&self, variant: &Variant) -> &dyn Statistics {
        match self {
            Self::Sums(sums) => sums,
            Self::Kept(kept) => kept,
            Self::Both(sums, _) if variant.needs_sums_alone() => sums,
            Self::Both(_, kept) => kept,
        }
    }
}

impl Statistics for Several<'_> {
    fn num_done(&self) -> usize {
        match self {
            Self::Sums(sums) | Self::Both(sums, _) => sums.num_done(),
            Self::Kept(kept) => kept.num_done(),
        }
    }

    fn add(&mut self, input: &EncodedInput, means: &[RowMean]) {
        match self {
            Self::Sums(sums) => sums.add(input, means),
            Self::Kept(kept) => kept.add(input, means),
            Self::Both(sums, kept) => {
                sums.add(input, means);
                kept.add(input, means);
            }
        }
    }

    fn num_inputs(&self, category_idx: usize, side: Side) -> u64 {
        match self {
            Self::Sums(sums) | Self::Both(sums, _) => sums.num_inputs(category_idx, side),
            Self::Kept(kept) => kept.num_inputs(category_idx, side),
        }
    }

    fn layers_of(&self, category_idx: usize, variant: &Variant) -> Vec<LayerExtraction> {
        self.of(variant).layers_of(category_idx, variant)
    }

    /// The sums, whose length the run fixes, then what was kept.
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Sums(sums) => sums.to_bytes(),
            Self::Kept(kept) => kept.to_bytes(),
            Self::Both(sums, kept) => [sums.to_bytes(), kept.to_bytes()].concat(),
        }
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Sums(sums) => sums.restore(bytes),
            Self::Kept(kept) => kept.restore(bytes),
            Self::Both(sums, kept) => {
                let Some((first, second)) = bytes.split_at_checked(sums.to_bytes().len()) else {
                    return false;
                };
                let (mut new_sums, mut new_kept) = (sums.clone(), kept.clone());
                let is_whole = new_sums.restore(first)
                    && new_kept.restore(second)
                    && new_sums.num_done() == new_kept.num_done();
                if is_whole {
                    (*sums, *kept) = (new_sums, new_kept);
                }
                is_whole
            }
        }
    }
}
