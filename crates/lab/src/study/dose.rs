//! What the dose does: a heat map of the paper's row that acts best, the dose-response of the calibrated vectors, and how
//! alike those are.

use std::collections::BTreeMap;

use skeg_model::steering::{LayerVector, Operator, Positions};
use skeg_vector_store::Category;

use super::arms::leave_others_unsteered;
use super::figures::Heat;
use super::spec::{Chosen, Method, StudySpec};
use crate::calibrate::{Candidate, Rung, Setting, by_category, first_of_each};
use crate::error::Result;
use crate::experiment::{Arm, Counts, Laboratory, Prompt, spread};
use crate::numbers::{cosine, to_f32};
use crate::progress::Progress;

/// Doses of the heat map: the change of a row relative to it, if the layers' vectors were added to one row.
const HEAT_DOSES: [f64; 5] = [0.1, 0.2, 0.4, 0.8, 1.6];

/// Multiples of the default strength in the dose-response.
const LADDER: [f64; 12] = [-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0];

/// Prompts of each category behind a cell of the heat map.
const HEAT_PROMPTS: usize = 2;

/// Answers that heat map and dose-response take at most.
pub(super) fn most_answers(spec: &StudySpec<'_>) -> usize {
    let sets = spec.methods.iter().map(|method| heat_layers(&method.candidate.layers).len());
    let num_cells = sets.max().unwrap_or_default() * HEAT_DOSES.len();
    let num_rungs = if spec.chosen.is_some() { LADDER.len() } else { 0 };
    num_cells * first_of_each(spec.tuning, HEAT_PROMPTS).len() + num_rungs * spec.tuning.len()
}

/// An arm at a multiple of its strengths; the rows are shared.
fn scaled(arm: &Arm, factor: f64) -> Arm {
    let mut arm = arm.clone();
    for vector in arm.vectors.values_mut() {
        vector.strength = to_f32(f64::from(vector.strength) * factor);
    }
    arm
}

/// Single layers at equal distances, both halves, and all; at most nine sets.
fn heat_layers(layers: &[usize]) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> =
        spread(layers, 6).into_iter().map(|layer| vec![layer]).collect();
    if layers.len() > 3 {
        sets.push(layers[..layers.len() / 2].to_vec());
        sets.push(layers[layers.len() / 2..].to_vec());
    }
    if layers.len() > 1 {
        sets.push(layers.to_vec());
    }
    sets
}

/// A method's vectors in some of their layers, at each dose, on every token.
fn heat_arms(candidate: &Candidate, layers: &[usize], prompts: &[Prompt]) -> Vec<Arm> {
    let rows = candidate.shared_rows_in(layers);
    let arm = |&dose: &f64| {
        let setting = Setting {
            candidate_idx: 0,
            layers: layers.to_vec(),
            positions: Positions::All,
            operator: Operator::Add,
            strength: candidate.strength_of(dose, layers),
        };
        let mut arm = setting.arm("heat", candidate.site, &rows, &BTreeMap::new());
        leave_others_unsteered(&mut arm, prompts);
        arm
    };
    HEAT_DOSES.iter().map(arm).collect()
}

/// Refusals and broken answers by layer set and dose.
pub(super) fn heat(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    method: &Method,
    progress: &mut dyn Progress,
) -> Result<Heat> {
    let sets = heat_layers(&method.candidate.layers);
    let prompts = first_of_each(spec.tuning, HEAT_PROMPTS);
    let arms: Vec<Arm> =
        sets.iter().flat_map(|layers| heat_arms(&method.candidate, layers, &prompts)).collect();
    let asked: Vec<(&Arm, &[Prompt])> = arms.iter().map(|arm| (arm, prompts.as_slice())).collect();
    progress.start("answers of the heat map", asked.len() * prompts.len());
    let likelihood = laboratory.likelihood.take();
    let judged = laboratory.run(&asked, progress)?;
    laboratory.likelihood = likelihood;
    progress.finish();
    let counts: Vec<Counts> = judged.iter().map(Counts::of).collect();
    let name = |layers: &Vec<usize>| match (layers.first(), layers.last()) {
        (Some(first), Some(last)) if first != last => format!("{first}-{last}"),
        (first, _) => first.map_or_else(String::new, ToString::to_string),
    };
    Ok(Heat {
        vectors: method.name.clone(),
        layers: sets.iter().map(name).collect(),
        doses: HEAT_DOSES.to_vec(),
        cells: counts.chunks(HEAT_DOSES.len()).map(<[Counts]>::to_vec).collect(),
    })
}

/// The dose-response over both signs, ascending.
pub(super) fn ladder(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    chosen: &Chosen,
    progress: &mut dyn Progress,
) -> Result<Vec<Rung>> {
    let mut whole = chosen.arm("dose-response");
    leave_others_unsteered(&mut whole, spec.tuning);
    let arm = |&factor: &f64| {
        if factor == 0.0 { Arm::unsteered() } else { scaled(&whole, factor) }
    };
    let arms: Vec<Arm> = LADDER.iter().map(arm).collect();
    let asked: Vec<(&Arm, &[Prompt])> = arms.iter().map(|arm| (arm, spec.tuning)).collect();
    progress.start("answers of the dose-response", asked.len() * spec.tuning.len());
    let judged = laboratory.run(&asked, progress)?;
    progress.finish();
    let rungs = LADDER.iter().zip(&judged).map(|(&factor, judged)| Rung {
        strength: to_f32(factor),
        harmful: Counts::of(judged),
        by_category: by_category(spec.tuning, judged),
        harmless: Counts::default(),
    });
    Ok(rungs.collect())
}

/// Cosines between the categories' vectors, mean over the layers.
pub(super) fn cosines(rows: &BTreeMap<Category, Vec<LayerVector>>) -> Vec<Vec<f64>> {
    let wide =
        |row: &LayerVector| row.values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    let mean = |a: &Vec<LayerVector>, b: &Vec<LayerVector>| {
        let pairs = a.iter().zip(b).filter_map(|(a, b)| cosine(&wide(a), &wide(b)));
        let cosines: Vec<f64> = pairs.collect();
        cosines.iter().sum::<f64>() / cosines.len().max(1) as f64
    };
    rows.values().map(|a| rows.values().map(|b| mean(a, b)).collect()).collect()
}
