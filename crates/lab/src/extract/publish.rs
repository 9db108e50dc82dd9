//! From an extraction to a generation that the vector store can write.

use std::collections::BTreeMap;

use skeg_model::steering::Site;
use skeg_vector_store::{
    CategoryProvenance, CategoryVectors, Measurement, ModelBinding, NewGeneration, Operator,
    Orientation, Policy, Provenance, SafeWindow,
};

use super::run::{CategoryExtraction, Extraction};
use super::spec::PromptForm;
use crate::numbers::to_f32;

/// What an extraction does not know and a generation needs.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishOptions {
    /// What is done with the vectors; a rule for every category.
    pub policy: Policy,
    /// How they are applied.
    pub operator: Operator,
    /// Which side was measured to be the safer one. [`Orientation::Reversed`] turns every vector round.
    pub orientation: Orientation,
    /// The measured strengths, for every category that the policy steers.
    pub safe_windows: BTreeMap<skeg_vector_store::Category, SafeWindow>,
    /// What was measured.
    pub measured: Vec<Measurement>,
    /// The text of `CARD.md`.
    pub card: String,
}

/// Puts an extraction into the store's form. It holds no time and no machine's name, so that the same
/// vectors and options give the same bytes.
#[must_use]
pub fn to_generation(extraction: &Extraction, options: PublishOptions) -> NewGeneration {
    let categories = &extraction.categories;
    let activation_norms = categories.iter().map(|(category, vectors)| {
        let norms = vectors.layers.iter().map(|layer| to_f32(layer.activation_norm)).collect();
        (category.clone(), norms)
    });
    NewGeneration {
        model: ModelBinding {
            architecture_id: extraction.model.architecture_id.clone(),
            weights_id: extraction.model.weights_id.clone(),
            hidden_size: extraction.model.hidden_size,
            num_hidden_layers: extraction.model.num_hidden_layers,
        },
        also_measured_on: Vec::new(),
        site: store_site(extraction.site),
        operator: options.operator,
        orientation: options.orientation,
        vectors: categories
            .iter()
            .map(|(category, vectors)| (category.clone(), rows(vectors, options.orientation)))
            .collect(),
        activation_norms: activation_norms.collect(),
        safe_windows: options.safe_windows,
        provenance: provenance(extraction),
        measured: options.measured,
        policy: options.policy,
        probe: None,
        card: options.card,
    }
}

/// The store's word for a site.
fn store_site(site: Site) -> skeg_vector_store::Site {
    match site {
        Site::AttnOut => skeg_vector_store::Site::AttnOut,
        Site::ResidPost => skeg_vector_store::Site::ResidPost,
    }
}

fn rows(extraction: &CategoryExtraction, orientation: Orientation) -> CategoryVectors {
    let sign = match orientation {
        Orientation::SafeMinusUnsafe => 1.0,
        Orientation::Reversed => -1.0,
    };
    CategoryVectors {
        layers: extraction.layers.iter().map(|layer| layer.layer).collect(),
        values: extraction
            .layers
            .iter()
            .flat_map(|layer| layer.vector.iter().map(|value| sign * value))
            .collect(),
    }
}

fn provenance(extraction: &Extraction) -> Provenance {
    let categories = extraction.categories.iter().map(|(category, vectors)| {
        // All or none: a cosine a layer, unless a half had no input.
        let cosines: Option<Vec<f32>> =
            vectors.layers.iter().map(|layer| layer.split_half_cosine.map(to_f32)).collect();
        let record = CategoryProvenance {
            num_safe: vectors.num_safe,
            num_unsafe: vectors.num_unsafe,
            split_half_cosine: cosines.unwrap_or_default(),
        };
        (category.clone(), record)
    });
    Provenance {
        method: extraction.method(),
        tokens: match extraction.max_response_tokens {
            None => extraction.tokens.to_string(),
            Some(limit) => format!("{} (first {limit} of a response)", extraction.tokens),
        },
        prompt_form: match extraction.prompt_form {
            PromptForm::ChatTemplate => "chat_template",
            PromptForm::Raw => "raw",
        }
        .to_owned(),
        data_sha256: extraction.data_sha256.clone(),
        inputs_sha256: extraction.inputs_sha256.clone(),
        made_by: concat!("skeg ", env!("CARGO_PKG_VERSION")).to_owned(),
        made_at: None,
        categories: categories.collect(),
    }
}
