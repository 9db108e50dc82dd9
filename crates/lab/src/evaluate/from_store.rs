//! From a stored generation to what an evaluation needs.

use std::collections::BTreeMap;

use skeg_model::steering::LayerVector;
use skeg_vector_store::{Category, Generation};

use super::controls::Condition;
use super::quick::QuickSpec;
use crate::data::Item;
use crate::error::{Error, Result};
use crate::model_words;

impl<'a> QuickSpec<'a> {
    /// All five conditions with a generation's vectors, each category at its policy's default strength.
    ///
    /// # Errors
    /// [`Error::Spec`] when the policy gives its categories different positions, which one run cannot have.
    pub fn of_generation(
        generation: &Generation,
        prompts: BTreeMap<Category, Vec<&'a Item>>,
        max_new_tokens: usize,
    ) -> Result<Self> {
        let rules = &generation.policy.categories;
        let positions = rules.values().next().map(|rule| rule.positions);
        let Some(positions) =
            positions.filter(|first| rules.values().all(|rule| rule.positions == *first))
        else {
            return Err(Error::Spec(
                "the policy steers its categories at different positions; evaluate them apart"
                    .to_owned(),
            ));
        };
        Ok(Self {
            prompts,
            vectors: generation
                .vectors
                .iter()
                .map(|(category, vectors)| {
                    let rows = vectors.rows();
                    let rows = rows.map(|(layer, row)| LayerVector { layer, values: row.to_vec() });
                    (category.clone(), rows.collect())
                })
                .collect(),
            strengths: rules
                .iter()
                .map(|(category, rule)| (category.clone(), rule.strength.default))
                .collect(),
            site: model_words::site(generation.manifest.site),
            operator: model_words::operator(generation.manifest.operator),
            positions: model_words::positions(positions),
            conditions: Condition::ALL.to_vec(),
            seed: 1,
            max_new_tokens,
            judge: Vec::new(),
        })
    }
}
