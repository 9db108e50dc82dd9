//! What a probe reads of the model: the layers and rows of all its members on activations.

use std::collections::BTreeSet;

use skeg_model::engine::PromptActivations;
use skeg_model::steering::Site;

use super::Probe;
use super::member::{Input, PromptRow};
use crate::error::{Error, Result};

/// The activations that a probe reads: what a gate must capture of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivationInput {
    /// Where in a block.
    pub site: Site,
    /// Blocks from 0, ascending: all that a member reads, of either row.
    pub layers: Vec<usize>,
    /// Numbers of one layer's row.
    pub hidden_size: usize,
    /// Whether a member reads the last row.
    pub last: bool,
    /// Where a member reads the mean of the rows: the ids at the beginning of a prompt whose rows do not count.
    pub mean_without: Option<Vec<u32>>,
}

impl ActivationInput {
    /// The first row of a prompt that counts in the mean, below the prompt's length; `None` where no member reads the mean. Of a
    /// prompt without another row the last one counts.
    #[must_use]
    pub fn mean_from(&self, prompt_token_ids: &[u32]) -> Option<usize> {
        let prefix = self.mean_without.as_ref()?;
        let begins_so = prompt_token_ids.starts_with(prefix);
        let from = if begins_so { prefix.len() } else { 0 };
        Some(from.min(prompt_token_ids.len().saturating_sub(1)))
    }

    /// The features of a member on some of the layers.
    pub(super) fn pick(
        &self,
        row: PromptRow,
        layers: &[usize],
        given: PromptActivations<'_>,
    ) -> Result<Vec<f32>> {
        let (name, values) = match row {
            PromptRow::Last => ("the last row", given.last),
            PromptRow::Mean => ("the mean of the rows", given.mean),
        };
        let expected = self.layers.len() * self.hidden_size;
        if values.len() != expected {
            return Err(Error::Data(format!(
                "the probe reads {expected} activations of {name} and was given {}; capture what it asks for",
                values.len()
            )));
        }
        let by_layer = self.layers.iter().zip(values.chunks_exact(self.hidden_size.max(1)));
        let picked = by_layer.filter(|(layer, _)| layers.contains(layer));
        Ok(picked.flat_map(|(_, values)| values).copied().collect())
    }
}

impl Probe {
    /// What it reads of the model; `None` of a probe that reads text alone.
    #[must_use]
    pub fn activation_input(&self) -> Option<ActivationInput> {
        union(self.members.iter().map(|member| &member.input))
    }
}

/// What all of these read of the model, which must read one site of one width; `None` where none does.
pub(super) fn union<'a>(inputs: impl Iterator<Item = &'a Input>) -> Option<ActivationInput> {
    let mut all: Option<ActivationInput> = None;
    let mut of_all = BTreeSet::new();
    for input in inputs {
        let Input::Activations { site, layers, hidden_size, row, prefix_token_ids } = input else {
            continue;
        };
        let all = all.get_or_insert_with(|| ActivationInput {
            site: *site,
            layers: Vec::new(),
            hidden_size: *hidden_size,
            last: false,
            mean_without: None,
        });
        of_all.extend(layers);
        match row {
            PromptRow::Last => all.last = true,
            PromptRow::Mean => all.mean_without = Some(prefix_token_ids.clone()),
        }
    }
    all.map(|all| ActivationInput { layers: of_all.into_iter().collect(), ..all })
}

/// Refuses inputs of which two read the same row, or not the same site of the same model.
pub(super) fn check<'a>(inputs: impl Iterator<Item = &'a Input>) -> Result<()> {
    let readers = inputs.filter_map(|input| match input {
        Input::Activations { site, hidden_size, row, .. } => Some((*row, (*site, *hidden_size))),
        Input::NGrams(_) | Input::Embedding { .. } => None,
    });
    let readers: Vec<_> = readers.collect();
    for row in [PromptRow::Last, PromptRow::Mean] {
        let count = readers.iter().filter(|(of, _)| *of == row).count();
        if count > 1 {
            return Err(Error::Data(format!(
                "a probe with {count} members on row {row:?} of the activations; expected at most one"
            )));
        }
    }
    if readers.windows(2).any(|pair| pair[0].1 != pair[1].1) {
        return Err(Error::Data(
            "a probe whose members read different sites, or rows of different widths; expected one of each"
                .to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
