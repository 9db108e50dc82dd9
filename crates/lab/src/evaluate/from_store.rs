//! From a stored generation to what an evaluation needs.

use std::collections::BTreeMap;

use skeg_model::steering::{LayerVector, Operator, Positions, Site};
use skeg_vector_store::{Category, Generation};

use super::controls::Condition;
use super::quick::QuickSpec;
use crate::data::Item;
use crate::error::{Error, Result};

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
            site: model_site(generation.manifest.site),
            operator: model_operator(generation.manifest.operator),
            positions: model_positions(positions),
            conditions: Condition::ALL.to_vec(),
            seed: 1,
            max_new_tokens,
            judge: Vec::new(),
        })
    }
}

fn model_site(site: skeg_vector_store::Site) -> Site {
    match site {
        skeg_vector_store::Site::AttnOut => Site::AttnOut,
        skeg_vector_store::Site::ResidPost => Site::ResidPost,
    }
}

fn model_operator(operator: skeg_vector_store::Operator) -> Operator {
    match operator {
        skeg_vector_store::Operator::Add => Operator::Add,
        skeg_vector_store::Operator::AddNormRestored => Operator::AddNormRestored,
        skeg_vector_store::Operator::ProjectOut => Operator::ProjectOut,
    }
}

fn model_positions(positions: skeg_vector_store::Positions) -> Positions {
    match positions {
        skeg_vector_store::Positions::All => Positions::All,
        skeg_vector_store::Positions::Prompt => Positions::Prompt,
        skeg_vector_store::Positions::Generation => Positions::Generation,
    }
}
