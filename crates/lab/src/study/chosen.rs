//! The calibrated vectors of a study: what a stored generation steers, as its policy applies it.

use std::collections::BTreeMap;

use skeg_model::steering::LayerVector;
use skeg_vector_store::{Action, Generation};

use super::spec::{Chosen, ChosenRule};
use crate::error::{Error, Result};
use crate::model_words;

impl Chosen {
    /// The layers of its rows, ascending.
    #[must_use]
    pub fn layers(&self) -> Vec<usize> {
        let first = self.rows.values().next();
        first.map(|rows| rows.iter().map(|row| row.layer).collect()).unwrap_or_default()
    }

    /// The categories that the policy of `generation` steers, each at its default strength. A category that is only logged
    /// or refused is left out, so a study leaves its prompts unsteered.
    ///
    /// A layer that a category leaves alone keeps its row of zeros, which changes nothing: a study reads all categories'
    /// rows side by side.
    ///
    /// # Errors
    /// [`Error::Spec`] when the policy steers no category.
    pub fn of_generation(generation: &Generation) -> Result<Self> {
        let acts = |row: &[f32]| row.iter().any(|&value| value != 0.0);
        let (mut rules, mut rows) = (BTreeMap::new(), BTreeMap::new());
        for (category, rule) in &generation.policy.categories {
            let Some(vectors) = generation.vectors.get(category) else { continue };
            if rule.action == Action::Steer && vectors.rows().any(|(_, row)| acts(row)) {
                let own = vectors.rows();
                let own = own.map(|(layer, row)| LayerVector { layer, values: row.to_vec() });
                rows.insert(category.clone(), own.collect());
                let strength = rule.strength.default;
                let positions = model_words::positions(rule.positions);
                rules.insert(category.clone(), ChosenRule { strength, positions });
            }
        }
        if rules.is_empty() {
            return Err(Error::Spec(format!(
                "the policy of generation {} steers no category, so there is nothing to study; calibrate first",
                generation.id
            )));
        }
        Ok(Self {
            name: generation.id.to_string(),
            site: model_words::site(generation.manifest.site),
            operator: model_words::operator(generation.manifest.operator),
            rows,
            rules,
        })
    }
}
