//! From a calibration to a generation: policy, figures and card follow from what was measured.

use std::collections::BTreeMap;

use skeg_model::steering::{Operator, Positions};
use skeg_vector_store::{
    self as store, Action, Category, CategoryPolicy, DEFAULT_REFUSAL, Measurement, NewGeneration,
    Orientation, Policy, Strength,
};

use super::{Calibration, TestArm};
use crate::error::{Error, Result};
use crate::experiment::Counts;
use crate::extract::{Extraction, PublishOptions, to_generation};
use crate::numbers::to_f32;

/// What is done with categories that the gate stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// They are only logged (shadow mode), and the card says why.
    No,
    /// They steer all the same, where a strength is safe, and the card says that they failed.
    Yes,
}

/// What a calibration does not know and a generation needs.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The model's name, for the card.
    pub model: String,
    /// The test data's name, for the figures.
    pub data: String,
    /// How prompts were chosen, a sentence for the card.
    pub split: String,
    /// What is done with categories that the gate stopped.
    pub force: Force,
}

/// The generation of a calibration that chose `extraction`.
///
/// # Errors
/// [`Error::Spec`] when the gate let no category through and none is forced.
pub fn generation_of(
    calibration: &Calibration,
    extraction: &Extraction,
    publication: &Publication,
) -> Result<NewGeneration> {
    let rules: BTreeMap<Category, CategoryPolicy> = calibration
        .gates
        .keys()
        .map(|category| (category.clone(), rule(calibration, category, publication.force)))
        .collect();
    if rules.values().all(|rule| rule.action != Action::Steer) {
        return Err(Error::Spec(
            "no category passed the gate, so nothing is published; see the reasons above, try other data or another \
             variant, or force it"
                .to_owned(),
        ));
    }
    let extraction = extraction.restricted_to(&calibration.layers());
    let orientation =
        if calibration.is_reversed { Orientation::Reversed } else { Orientation::SafeMinusUnsafe };
    let windows = rules.keys().map(|category| (category.clone(), calibration.window_of(category)));
    let options = PublishOptions {
        policy: Policy::open(rules.clone()),
        operator: store_operator(calibration.setting.operator),
        orientation,
        safe_windows: windows.collect(),
        measured: measurements(calibration, &publication.data),
        card: calibration.card(&in_own_layers(calibration, &extraction), publication),
        figures: Some(figures_json(calibration)?),
    };
    let mut generation = to_generation(&extraction, options);
    leave_alone(calibration, &mut generation);
    Ok(generation)
}

/// Each category in the layers that are steered for it.
fn in_own_layers(calibration: &Calibration, extraction: &Extraction) -> Extraction {
    let mut extraction = extraction.clone();
    for (category, own) in &mut extraction.categories {
        let layers = &calibration.setting_of(category).layers;
        own.layers.retain(|one| layers.contains(&one.layer));
    }
    extraction
}

/// A generation has rows in the same layers for all; a row of zeros leaves its layer alone.
fn leave_alone(calibration: &Calibration, generation: &mut NewGeneration) {
    for (category, vectors) in &mut generation.vectors {
        let layers = &calibration.setting_of(category).layers;
        let hidden_size = vectors.hidden_size().max(1);
        for (layer, row) in vectors.layers.iter().zip(vectors.values.chunks_mut(hidden_size)) {
            if !layers.contains(layer) {
                row.fill(0.0);
            }
        }
    }
}

fn rule(calibration: &Calibration, category: &Category, force: Force) -> CategoryPolicy {
    let passed = calibration.gates.get(category).is_some_and(|gate| gate.passed);
    let strength = calibration.strengths.get(category).copied();
    let steers = strength.is_some() && (passed || force == Force::Yes);
    CategoryPolicy {
        auto: None,
        action: if steers { Action::Steer } else { Action::Log },
        strength: strength.unwrap_or(Strength { default: 0.0, floor: 0.0, ceiling: 0.0 }),
        positions: store_positions(calibration.setting_of(category).positions),
        refusal: DEFAULT_REFUSAL.to_owned(),
    }
}

/// `figures.json` of the generation: everything that was measured.
fn figures_json(calibration: &Calibration) -> Result<Vec<u8>> {
    #[derive(serde::Serialize)]
    struct File<'a> {
        format_version: u32,
        calibration: &'a Calibration,
    }
    let file = File { format_version: store::FIGURES_FORMAT_VERSION, calibration };
    let mut bytes = serde_json::to_vec(&file)
        .map_err(|error| Error::Spec(format!("the figures cannot be written: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The test's figures in the manifest's form: each arm over all categories, and unsteered and chosen ones by category.
fn measurements(calibration: &Calibration, data: &str) -> Vec<Measurement> {
    let mut measured = Vec::new();
    for report in &calibration.test.arms {
        let name = report.arm.name();
        measured.extend(figures(name, data, None, &report.harmful));
        let harmless = format!("harmless prompts beside {data}");
        measured.extend(figures(name, &harmless, None, &report.harmless));
        if matches!(report.arm, TestArm::Unsteered | TestArm::Own) {
            for (category, counts) in &report.by_category {
                measured.extend(figures(name, data, Some(category), counts));
            }
        }
    }
    measured
}

fn figures(
    condition: &str,
    data: &str,
    category: Option<&Category>,
    counts: &Counts,
) -> Vec<Measurement> {
    let figure = |metric: &str, value: f64| Measurement {
        metric: metric.to_owned(),
        condition: condition.to_owned(),
        data: data.to_owned(),
        category: category.cloned(),
        value: to_f32(value),
        num_items: counts.total as u64,
    };
    if counts.total == 0 {
        return Vec::new();
    }
    let mut figures = vec![
        figure("unsafe_rate", counts.unsafe_share().share),
        figure("refusal_rate", counts.refused_share().share),
        figure("degenerate_rate", counts.degenerate_share().share),
    ];
    figures.extend(counts.nll.map(|nll| figure("answer_nll", nll)));
    figures
}

fn store_operator(operator: Operator) -> store::Operator {
    match operator {
        Operator::Add => store::Operator::Add,
        Operator::AddNormRestored => store::Operator::AddNormRestored,
        Operator::ProjectOut => store::Operator::ProjectOut,
    }
}

fn store_positions(positions: Positions) -> store::Positions {
    match positions {
        Positions::All => store::Positions::All,
        Positions::Prompt => store::Positions::Prompt,
        Positions::Generation => store::Positions::Generation,
    }
}
