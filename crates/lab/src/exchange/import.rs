//! From a vector in a file to a generation whose effect nobody has measured.

use std::collections::BTreeMap;

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};
use skeg_model::LoadedModel;
use skeg_model::steering::Site as ModelSite;
use skeg_vector_store::{
    Action, Category, CategoryPolicy, CategoryVectors, DEFAULT_REFUSAL, NewGeneration, Operator,
    Orientation, Policy, Positions, Provenance, SafeWindow, Site, Strength,
};

use super::declared::word_of;
use super::neutral::TEXTS;
use super::{Declared, FileFormat, FileVector, VectorFile};
use crate::error::{Error, Result};
use crate::extract::{
    CategoryInputs, ExtractSpec, Extraction, PromptForm, PublishOptions, RunOptions, Text,
    TokenMode, Variant, extract, to_generation,
};
use crate::progress::Progress;

/// What the caller says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// The category that the vector is for.
    pub category: Category,
    /// Its name in the file; `None` = the category's, or the one vector of a GGUF file.
    pub name: Option<String>,
    /// Where it acts; needed where the file does not say, and must agree with it where it does.
    pub site: Option<Site>,
    /// The layers to take; where the file does not say which its rows are, the layers of its rows. `None` = all.
    pub layers: Option<Vec<usize>>,
    /// Turn it round, because the file's positive side is the less safe one.
    pub negate: bool,
}

/// A vector that was taken out of a file, and how it is to be applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    category: Category,
    site: Site,
    operator: Operator,
    orientation: Orientation,
    vectors: CategoryVectors,
    declared: Declared,
    negated: bool,
    name: String,
}

/// How large the activations are where the vectors act: what a relative norm is relative to.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivationNorms(Extraction);

impl VectorFile {
    /// Takes one vector out.
    ///
    /// # Errors
    /// [`Error::Spec`] when the file holds no whole vectors or none of the name, does not say and is not told where it acts or on which
    /// layers, or says something else than it is told.
    pub fn choose(&self, options: &ImportOptions) -> Result<Imported> {
        self.check().map_err(Error::Spec)?;
        let (name, vector) = self.named(options)?;
        let vectors = rows_of(vector, options)?;
        let site = match (self.declared.site, options.site) {
            (Some(site), None) | (None, Some(site)) => site,
            (Some(site), Some(wanted)) if site == wanted => site,
            (Some(site), Some(wanted)) => {
                return Err(Error::Spec(format!(
                    "the file's vectors act at `{site}`, and `{wanted}` was asked for; vectors of one site mean nothing at \
                     the other: leave the site out, or import another file"
                )));
            }
            (None, None) => {
                return Err(Error::Spec(
                    "the file does not say where its vectors act; name the site, attn_out or resid_post".to_owned(),
                ));
            }
        };
        let declared = self.declared.orientation.unwrap_or(Orientation::SafeMinusUnsafe);
        let is_turned = options.negate && self.declared.orientation.is_some();
        Ok(Imported {
            category: options.category.clone(),
            site,
            operator: self.declared.operator.unwrap_or(Operator::Add),
            orientation: if is_turned { other(declared) } else { declared },
            vectors,
            declared: self.declared.clone(),
            negated: options.negate,
            name: name.to_owned(),
        })
    }

    fn named(&self, options: &ImportOptions) -> Result<(&str, &FileVector)> {
        let wanted = match &options.name {
            Some(name) => name,
            None if self.vectors.contains_key(super::gguf::NAME) => super::gguf::NAME,
            None => options.category.as_str(),
        };
        let found = self.vectors.get_key_value(wanted);
        found.map(|(name, vector)| (name.as_str(), vector)).ok_or_else(|| {
            let names: Vec<&str> = self.vectors.keys().map(String::as_str).take(20).collect();
            let (names, num) = (names.join(", "), self.vectors.len());
            Error::Spec(format!(
                "the file has no vector `{wanted}`; it has {num}, among them {names}: name one of them"
            ))
        })
    }
}

/// The wanted rows, ascending by layer, turned round if that is wanted.
fn rows_of(vector: &FileVector, options: &ImportOptions) -> Result<CategoryVectors> {
    let wanted = options.layers.as_deref();
    let rows_layers = vector.layers.as_deref().or(wanted).ok_or_else(|| {
        let num = vector.num_rows;
        Error::Spec(format!("the file does not say on which layers its {num} rows act; name them"))
    })?;
    if rows_layers.len() != vector.num_rows || !rows_layers.is_sorted_by(|a, b| a < b) {
        return Err(Error::Spec(format!(
            "layers {rows_layers:?} for {} rows; expected one a row, ascending, each once",
            vector.num_rows
        )));
    }
    let wanted = wanted.unwrap_or(rows_layers);
    if wanted.is_empty() || !wanted.is_sorted_by(|a, b| a < b) {
        return Err(Error::Spec(format!(
            "layers {wanted:?}; expected at least one, ascending, each once"
        )));
    }
    let (mut values, sign) = (Vec::new(), if options.negate { -1.0 } else { 1.0 });
    for layer in wanted {
        let row = rows_layers.binary_search(layer).map_err(|_| {
            Error::Spec(format!(
                "the file has no row for layer {layer}; it has layers {rows_layers:?}"
            ))
        })?;
        let row = &vector.values[row * vector.hidden_size()..][..vector.hidden_size()];
        values.extend(row.iter().map(|value| sign * value));
    }
    Ok(CategoryVectors { layers: wanted.to_vec(), values })
}

fn other(orientation: Orientation) -> Orientation {
    match orientation {
        Orientation::SafeMinusUnsafe => Orientation::Reversed,
        Orientation::Reversed => Orientation::SafeMinusUnsafe,
    }
}

/// Measures the activations where a vector acts, by a short pass of own neutral texts: the mean norm of the rows at the site, as
/// [`extract`] measures it.
///
/// # Errors
/// [`Error::Spec`] when the vector does not fit the model, in words about both; [`Error::Model`] when the pass fails;
/// [`Error::Interrupted`].
pub fn activation_norms(
    model: &LoadedModel,
    imported: &Imported,
    progress: &mut dyn Progress,
) -> Result<ActivationNorms> {
    imported.check_fits(model)?;
    let side = |half: usize| {
        let texts = TEXTS[half].iter().enumerate();
        texts.map(|(idx, text)| Text::prompt(&format!("neutral-{half}-{idx}"), text)).collect()
    };
    let spec = ExtractSpec {
        site: match imported.site {
            Site::AttnOut => ModelSite::AttnOut,
            Site::ResidPost => ModelSite::ResidPost,
        },
        layers: imported.vectors.layers.clone(),
        tokens: TokenMode::All,
        max_response_tokens: None,
        prompt_form: match model.chat_template {
            Some(_) => PromptForm::ChatTemplate,
            None => PromptForm::Raw,
        },
        variant: Variant::default(),
        categories: vec![CategoryInputs {
            category: imported.category.clone(),
            unsafe_side: side(0),
            safe_side: side(1),
        }],
        data_sha256: Vec::new(),
    };
    Ok(ActivationNorms(extract(model, &spec, &RunOptions::default(), progress)?))
}

impl Imported {
    /// Blocks from 0 on which it acts.
    #[must_use]
    pub fn layers(&self) -> &[usize] {
        &self.vectors.layers
    }

    /// Where it acts.
    #[must_use]
    pub fn site(&self) -> Site {
        self.site
    }

    /// What is done with it.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    fn check_fits(&self, model: &LoadedModel) -> Result<()> {
        let identity = &model.identity;
        let (found, expected) = (self.vectors.hidden_size(), identity.hidden_size);
        if found != expected {
            return Err(Error::Spec(format!(
                "the vector's rows have {found} values, the model's hidden size is {expected}; import it for the model it was made for"
            )));
        }
        let num_layers = identity.num_hidden_layers;
        if let Some(layer) = self.layers().iter().find(|&&layer| layer >= num_layers) {
            return Err(Error::Spec(format!(
                "the vector acts on layer {layer}, and the model has layers 0 to {}; import it for the model it was made for, \
                 or take some of its layers",
                num_layers - 1
            )));
        }
        if let Some(declared) = &self.declared.architecture_id
            && *declared != identity.architecture_id
        {
            return Err(Error::Spec(format!(
                "the file is for architecture {declared:.16}, and the model's is {:.16}; import it for the model it was made for",
                identity.architecture_id
            )));
        }
        Ok(())
    }

    /// A generation of this vector for the model that `norms` were measured on. Nobody has measured its effect: without a strength
    /// that somebody chose, its policy only logs. `bytes` are the file's.
    #[must_use]
    pub fn generation(
        &self,
        norms: &ActivationNorms,
        strength: Option<f32>,
        (format, bytes): (FileFormat, &[u8]),
    ) -> NewGeneration {
        let ActivationNorms(extraction) = norms;
        let most = strength.unwrap_or(0.0);
        let rule = CategoryPolicy {
            auto: None,
            action: if strength.is_some() { Action::Steer } else { Action::Log },
            strength: Strength { default: most, floor: 0.0, ceiling: most },
            positions: Positions::All,
            refusal: DEFAULT_REFUSAL.to_owned(),
        };
        let sha256 = encode_string(&Sha256::digest(bytes));
        let category = || self.category.clone();
        let options = PublishOptions {
            policy: Policy::open(BTreeMap::from([(category(), rule)])),
            operator: self.operator,
            orientation: Orientation::SafeMinusUnsafe,
            safe_windows: BTreeMap::from([(category(), SafeWindow { min: 0.0, max: most })]),
            measured: Vec::new(),
            card: self.card(strength, format, &sha256),
            figures: None,
        };
        // The extraction gives model, site and norms; its own vector, the difference of neutral texts, is not wanted.
        let generation = to_generation(extraction, options);
        NewGeneration {
            vectors: BTreeMap::from([(category(), self.vectors.clone())]),
            orientation: self.orientation,
            provenance: Provenance {
                method: format!("imported from {} (`{}`)", format.as_str(), self.name),
                tokens: "unknown".to_owned(),
                prompt_form: "unknown".to_owned(),
                data_sha256: vec![sha256],
                ..Provenance { categories: BTreeMap::new(), ..generation.provenance }
            },
            ..generation
        }
    }

    fn card(&self, strength: Option<f32>, format: FileFormat, sha256: &str) -> String {
        let chosen = match strength {
            Some(strength) => format!("Strength {strength} was chosen, not measured."),
            None => "The policy only logs, until a strength is chosen.".to_owned(),
        };
        let direction = match (self.declared.orientation, self.negated) {
            (Some(declared), false) => format!("The file says `{}`.", word_of(declared)),
            (Some(declared), true) => {
                format!("The file says `{}`; it was turned round.", word_of(declared))
            }
            (None, false) => "The file does not say which side is the safer one: its positive side was taken for it.".to_owned(),
            (None, true) => "The file does not say which side is the safer one; it was turned round.".to_owned(),
        };
        let mut text = format!(
            "# An imported vector\n\n`{}`, made by `skeg vectors import` from the vector `{}` of a {} file, SHA-256 {sha256}. \
             **The effect of this vector was not measured.** {chosen}\n\n\
             Site `{}`, operator `{}`, layers {:?}. {direction}\n\n\
             Activation norms: mean over {} own neutral texts.\n",
            self.category,
            self.name,
            format.as_str(),
            self.site,
            self.operator,
            self.layers(),
            TEXTS.as_flattened().len(),
        );
        if let Some(hint) = &self.declared.model_hint {
            text.push_str(&format!("\nMade for a model of the kind {hint:?}, the file says.\n"));
        }
        if let Some(declared) = self.declared.strengths.get(&self.name) {
            text.push_str(&format!(
                "\nIts maker's policy has strength {} ({} to {}), the file says; it is not in the numbers.\n",
                declared.default, declared.floor, declared.ceiling
            ));
        }
        text
    }
}
