//! Rows that improve on the calibrated vectors: projected to the null space of harmless activations, and with a strength
//! that each prompt's own activation decides.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use skeg_model::LoadedModel;
use skeg_model::steering::{LayerVector, Site};
use skeg_vector_store::Category;

use super::spec::Chosen;
use crate::error::Result;
use crate::experiment::{Arm, Prompt};
use crate::extract::{
    ActivationSpec, Activations, PromptForm, RunOptions, Text, TokenMode, activations,
};
use crate::improve::{ConditionalStrength, NullSpace, ProjectionStrength, StrengthFactor};
use crate::numbers::to_f32;
use crate::progress::Progress;

/// Texts that improvements are fitted to; none is a prompt of the study.
#[derive(Debug, Clone)]
pub struct ImproveData {
    /// Harmless prompts.
    pub benign: Vec<Text>,
    /// Harmful prompts.
    pub harmful: Vec<Text>,
}

/// Of ten dimensions those that harmless prompts are taken to use, where vectors are projected: `AlphaSteer` leaves the null
/// space a fixed share too. A share of the second moment would not do, for one massive dimension may hold 99.9 % of it.
const USED_OF_TEN: usize = 4;

/// Share of the second moment that counts as used, where the strength is conditional.
const VARIANCE_KEPT: f64 = 0.99;

/// Ridge of the conditional strength, as a share of the mean squared norm in the null space.
const RIDGE_SHARE: f64 = 1.0;

/// The improved rows, with a sentence each about how they were fitted.
///
/// # Errors
/// [`crate::Error::Data`] when a side has too few texts, [`crate::Error::Interrupted`], and what the model returns.
pub fn improved_arms(
    model: &LoadedModel,
    chosen: &Chosen,
    data: &ImproveData,
    prompts: &[Prompt],
    progress: &mut dyn Progress,
) -> Result<Vec<(Arm, String)>> {
    let mut arms = vec![null_space_arm(model, chosen, data, progress)?];
    arms.extend(conditional_arms(model, chosen, data, prompts, progress)?);
    Ok(arms)
}

fn read(
    model: &LoadedModel,
    texts: &[Text],
    (site, layers, tokens): (Site, Vec<usize>, TokenMode),
    progress: &mut dyn Progress,
) -> Result<Activations> {
    let spec = ActivationSpec { site, layers, tokens, prompt_form: PromptForm::ChatTemplate };
    activations(model, texts, &spec, &RunOptions::default(), progress)
}

/// `P v` for every row, as long as `v`, with `P` of the mean activations of harmless prompts at its layer.
fn null_space_arm(
    model: &LoadedModel,
    chosen: &Chosen,
    data: &ImproveData,
    progress: &mut dyn Progress,
) -> Result<(Arm, String)> {
    let layers = chosen.layers();
    let benign =
        read(model, &data.benign, (chosen.site, layers.clone(), TokenMode::All), progress)?;
    let rank = (model.llama.config().hidden_size * USED_OF_TEN / 10).max(1);
    let spaces: Vec<NullSpace> = (0..layers.len())
        .map(|layer_idx| NullSpace::fit_rank(&benign.rows(layer_idx), rank))
        .collect::<Result<_>>()?;
    let project = |rows: &Vec<LayerVector>| -> Vec<LayerVector> {
        let pairs = rows.iter().zip(&spaces);
        pairs
            .filter_map(|(row, space)| {
                let values = space.project_keep_norm(&row.values)?;
                Some(LayerVector { layer: row.layer, values })
            })
            .collect()
    };
    let rows: BTreeMap<Category, Vec<LayerVector>> =
        chosen.rows.iter().map(|(category, rows)| (category.clone(), project(rows))).collect();
    let mut arm = chosen.arm("calibrated, in the null space of harmless activations");
    for (category, vector) in &mut arm.vectors {
        if let Some(rows) = rows.get(category) {
            vector.layers = Arc::new(rows.clone());
        }
    }
    let rank = spaces.first().map_or(0, NullSpace::rank);
    let about = format!(
        "Null space: the {rank} leading directions of {} harmless prompts are taken out of the vectors, which keep their norms.",
        data.benign.len()
    );
    Ok((arm, about))
}

/// Strength by the prompt's last token in the middle of the model: by projection, and by ridge regression in the null space.
fn conditional_arms(
    model: &LoadedModel,
    chosen: &Chosen,
    data: &ImproveData,
    prompts: &[Prompt],
    progress: &mut dyn Progress,
) -> Result<Vec<(Arm, String)>> {
    let layer = model.identity.num_hidden_layers / 2;
    let place = || (Site::ResidPost, vec![layer], TokenMode::Last);
    let (benign, harmful) = (
        read(model, &data.benign, place(), progress)?,
        read(model, &data.harmful, place(), progress)?,
    );
    let texts: Vec<Text> =
        prompts.iter().map(|prompt| Text::prompt(&prompt.id, &prompt.text)).collect();
    let asked = read(model, &texts, place(), progress)?;
    let (benign, harmful) = (benign.rows(0), harmful.rows(0));
    let space = NullSpace::fit(&benign, VARIANCE_KEPT)?;
    let ridge = ConditionalStrength::ridge_of(RIDGE_SHARE, &harmful, &space)?;
    let by_ridge = ConditionalStrength::fit(&benign, &harmful, &space, ridge)?;
    let by_projection = ProjectionStrength::fit(&benign, &harmful)?;
    let fitted = [
        ("calibrated, strength by projection", &by_projection as &dyn StrengthFactor),
        ("calibrated, strength by null-space ridge", &by_ridge),
    ];
    fitted
        .into_iter()
        .map(|(name, strength)| {
            let factors: HashMap<String, f32> = prompts
                .iter()
                .enumerate()
                .map(|(idx, prompt)| (prompt.id.clone(), to_f32(strength.factor(asked.row(idx, 0)))))
                .collect();
            let is_harmful: Vec<bool> = prompts.iter().map(|prompt| prompt.is_harmful).collect();
            let side = |wanted: bool| -> Vec<&[f32]> {
                (0..prompts.len()).filter(|&idx| is_harmful[idx] == wanted).map(|idx| asked.row(idx, 0)).collect()
            };
            let figures = strength.figures(&side(false), &side(true))?;
            let about = format!(
                "{name}: on the study's prompts mean factor {:.2} for harmless and {:.2} for harmful ones, AUC {}; read at layer \
                 {layer}, fitted to {} harmless and {} harmful prompts of other parts.",
                figures.benign_mean, figures.harmful_mean, figures.auc, benign.len(), harmful.len()
            );
            Ok((Arm { factors, ..chosen.arm(name) }, about))
        })
        .collect()
}
