//! The run of a study.

use std::collections::BTreeMap;
use std::sync::Arc;

use skeg_model::steering::{LayerVector, Positions};
use skeg_vector_store::Category;

use super::arms::{ArmKind, Row};
use super::figures::{ArmFigures, Followed, Heat, SetFigures, StudyFigures};
use super::spec::{Chosen, StudySpec};
use crate::calibrate::{
    Bounds, CalibrateSpec, Grid, Rung, by_category, difference, safe_window, search,
};
use crate::error::Result;
use crate::evaluate::{AppliedVector, IfEval};
use crate::experiment::{Arm, Counts, Judged, Laboratory, Prompt};
use crate::likelihood::ModelLikelihood;
use crate::numbers::{cosine, to_f32};
use crate::progress::Progress;

/// Answers and tokens that a study makes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Answers.
    pub num_answers: usize,
    /// Their tokens, if each is as long as it may be.
    pub num_tokens: usize,
}

/// The search that tunes a row of the paper: in the paper's direction, at every token.
fn tuning_grid() -> Grid {
    Grid {
        doses: vec![0.1, 0.2, 0.4, 0.8, 1.6],
        signs: vec![1.0],
        positions: vec![Positions::All],
        num_kept: 4,
        ..Grid::default()
    }
}

/// Multiples of the default strength in heat map and dose-response.
const HEAT_FACTORS: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 8.0];
const LADDER: [f64; 12] = [-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0];

/// Prompts of each category behind a cell of the heat map.
const HEAT_PROMPTS: usize = 2;

/// Settings of one tuning search at most: layer sets, doses, and the second round.
const NUM_TRIED: usize = 6 * 5 + 4 * 2 + 2 * 4;

/// What a study will cost at most, before it starts.
#[must_use]
pub fn budget(spec: &StudySpec<'_>) -> Budget {
    let count = |sets: &[super::PromptSet]| sets.iter().map(|set| set.prompts.len()).sum::<usize>();
    let num_categories = spec.methods.first().map_or(0, |one| one.candidate.rows.len());
    let num_chosen = if spec.chosen.is_some() { 5 } else { 0 };
    let num_arms = 2 + 2 * spec.methods.len() + num_chosen + spec.more_arms.len();
    let each = count(spec.harmful) + count(spec.harmless) + spec.constraints.len();
    let tuning = spec.methods.len() * NUM_TRIED * num_categories;
    let heat = if spec.chosen.is_some() {
        9 * HEAT_FACTORS.len() * HEAT_PROMPTS * num_categories + LADDER.len() * spec.tuning.len()
    } else {
        0
    };
    let num_answers = num_arms * each + tuning + heat;
    Budget { num_answers, num_tokens: num_answers * spec.max_new_tokens }
}

/// Runs all rows and figures of a study.
///
/// # Errors
/// [`crate::Error::Spec`] when there is nothing to ask, [`crate::Error::Interrupted`], and what answering, judging and
/// scoring return.
pub fn study(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    mut likelihood: Option<&mut ModelLikelihood>,
    num_hidden_layers: usize,
    progress: &mut dyn Progress,
) -> Result<StudyFigures> {
    let rows = rows(laboratory, spec, num_hidden_layers, progress)?;
    let judged = ask_all(laboratory, spec, &rows, progress)?;
    let mut arms = Vec::with_capacity(rows.len());
    for (row, judged_row) in rows.iter().zip(&judged) {
        let mut figures = figures_of(spec, row, judged_row, &judged[0]);
        figures.constraints = constraints(laboratory, spec, &row.arm, progress)?;
        if let Some(likelihood) = likelihood.as_deref_mut() {
            figures.perplexity = perplexity(likelihood, spec, &row.arm, progress)?;
        }
        arms.push(figures);
    }
    let mut figures = StudyFigures {
        arms,
        heat: None,
        ladder: Vec::new(),
        window: None,
        cosines: Vec::new(),
        categories: Vec::new(),
        judges: laboratory.judges.names().into_iter().map(str::to_owned).collect(),
        max_new_tokens: spec.max_new_tokens,
        seed: spec.seed,
    };
    if let Some(chosen) = &spec.chosen {
        figures.heat = Some(heat(laboratory, spec, chosen, progress)?);
        figures.ladder = ladder(laboratory, spec, chosen, progress)?;
        figures.window = Some(safe_window(&figures.ladder, &Bounds::default()));
        figures.cosines = cosines(&chosen.rows);
        figures.categories = chosen.rows.keys().cloned().collect();
    }
    Ok(figures)
}

/// All arms; the first is the naive one.
fn rows(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    num_hidden_layers: usize,
    progress: &mut dyn Progress,
) -> Result<Vec<Row>> {
    let mut rows = vec![Row::naive()];
    rows.extend(
        spec.methods.iter().filter_map(|one| Row::at_papers_setting(one, num_hidden_layers)),
    );
    let likelihood = laboratory.likelihood.take();
    for method in spec.methods {
        let tuned = CalibrateSpec {
            candidates: std::slice::from_ref(&method.candidate),
            calibration: spec.tuning,
            harmless: &[],
            test: spec.tuning,
            test_harmless: &[],
            bounds: Bounds::default(),
            grid: tuning_grid(),
            max_new_tokens: spec.max_new_tokens,
            seed: spec.seed,
        };
        let best = search(laboratory, &tuned, progress)?.best;
        rows.push(Row::of_method(method, &best, ArmKind::Tuned));
    }
    laboratory.likelihood = likelihood;
    if let Some(chosen) = &spec.chosen {
        rows.extend(Row::of_chosen(chosen, spec.seed));
    }
    let more = spec.more_arms.iter().map(|arm| Row {
        arm: arm.clone(),
        kind: ArmKind::Improved,
        setting: "as calibrated".to_owned(),
    });
    rows.extend(more);
    rows.push(Row::system_prompt());
    Ok(rows)
}

/// All prompts of all sets under every arm: for each arm its judged answers, set after set. Those to the first set have
/// their likelihood.
fn ask_all(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    rows: &[Row],
    progress: &mut dyn Progress,
) -> Result<Vec<Vec<Judged>>> {
    let Some((first, others)) = spec.harmful.split_first() else {
        return Err(crate::Error::Spec("there is no harmful prompt to study".to_owned()));
    };
    let others = others.iter().chain(spec.harmless);
    let others: Vec<Prompt> = others.flat_map(|set| set.prompts.iter().cloned()).collect();
    let mut ask = |laboratory: &mut Laboratory<'_>, prompts: &[Prompt]| {
        let asked: Vec<(&Arm, &[Prompt])> = rows.iter().map(|row| (&row.arm, prompts)).collect();
        progress.start("answers of the table", asked.len() * prompts.len());
        let judged = laboratory.run(&asked, progress)?;
        progress.finish();
        Ok::<_, crate::Error>(judged)
    };
    let mut judged = ask(laboratory, &first.prompts)?;
    // The likelihood costs as much as an answer; one set is enough for it.
    let likelihood = laboratory.likelihood.take();
    for (judged, others) in judged.iter_mut().zip(ask(laboratory, &others)?) {
        judged.extend(others);
    }
    laboratory.likelihood = likelihood;
    Ok(judged)
}

fn figures_of(spec: &StudySpec<'_>, row: &Row, judged: &[Judged], naive: &[Judged]) -> ArmFigures {
    let mut place = 0;
    let mut next = |count: usize| {
        let range = place..place + count;
        place += count;
        range
    };
    let mut harmful = BTreeMap::new();
    for set in spec.harmful {
        let range = next(set.prompts.len());
        let (own, naive) = (&judged[range.clone()], &naive[range]);
        let figures = SetFigures {
            total: Counts::of(own),
            by_category: by_category(&set.prompts, own),
            against_naive: (row.kind != ArmKind::Naive).then(|| difference(own, naive, spec.seed)),
        };
        harmful.insert(set.name.clone(), figures);
    }
    let harmless = spec.harmless.iter().map(|set| {
        let range = next(set.prompts.len());
        (set.name.clone(), Counts::of(&judged[range]))
    });
    ArmFigures {
        name: row.arm.name.clone(),
        kind: row.kind,
        setting: row.setting.clone(),
        harmful,
        harmless: harmless.collect(),
        constraints: None,
        perplexity: None,
    }
}

/// How many constraints of harmless prompts are followed by answers that are steered all the same.
fn constraints(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    arm: &Arm,
    progress: &mut dyn Progress,
) -> Result<Option<Followed>> {
    if spec.constraints.is_empty() {
        return Ok(None);
    }
    let categories: Vec<Category> = arm.vectors.keys().cloned().collect();
    let any = ["none".parse().map_err(|_| crate::Error::Spec("category `none`".to_owned()))?];
    let categories = if categories.is_empty() { &any[..] } else { &categories };
    let prompts = crate::experiment::harmless_prompts(spec.constraints, categories);
    progress.start("answers with constraints", prompts.len());
    let answers = laboratory.answers(arm, &prompts, progress)?;
    progress.finish();
    let items: Vec<_> = spec.constraints.iter().collect();
    let texts: Vec<&str> = answers.iter().map(|answer| answer.text.as_str()).collect();
    let score = IfEval::score(&items, &texts)?;
    Ok(Some(Followed { count: score.num_followed, total: score.num_scored }))
}

/// Perplexity of the plain texts under the mean of the arm's vectors, at its mean strength; unsteered for arms without.
fn perplexity(
    likelihood: &mut ModelLikelihood,
    spec: &StudySpec<'_>,
    arm: &Arm,
    progress: &mut dyn Progress,
) -> Result<Option<f64>> {
    if spec.texts.is_empty() {
        return Ok(None);
    }
    let texts: Vec<&str> = spec.texts.iter().map(String::as_str).collect();
    progress.start("texts", texts.len());
    let perplexity = likelihood.perplexity(&texts, mean_vector(arm).as_ref(), progress)?;
    progress.finish();
    Ok(Some(perplexity))
}

fn mean_vector(arm: &Arm) -> Option<AppliedVector> {
    let first = arm.vectors.values().next()?;
    let count = arm.vectors.len() as f64;
    let mut rows: Vec<LayerVector> = first.layers.as_ref().clone();
    for (row_idx, row) in rows.iter_mut().enumerate() {
        for (idx, value) in row.values.iter_mut().enumerate() {
            let of = |one: &AppliedVector| {
                f64::from(one.strength) * f64::from(one.layers[row_idx].values[idx])
            };
            *value = to_f32(arm.vectors.values().map(of).sum::<f64>() / count);
        }
    }
    Some(AppliedVector { strength: 1.0, layers: Arc::new(rows), ..first.clone() })
}

/// The chosen arm in some of its layers, at a multiple of its strengths.
fn part_of(chosen: &Chosen, layers: &[usize], factor: f64) -> Arm {
    let mut arm = chosen.arm("part");
    for vector in arm.vectors.values_mut() {
        let rows = vector.layers.iter().filter(|row| layers.contains(&row.layer)).cloned();
        vector.layers = Arc::new(rows.collect());
        vector.strength = to_f32(f64::from(vector.strength) * factor);
    }
    arm
}

fn layers_of(chosen: &Chosen) -> Vec<usize> {
    let first = chosen.rows.values().next();
    first.map(|rows| rows.iter().map(|row| row.layer).collect()).unwrap_or_default()
}

/// Single layers at equal distances, both halves, and all; at most nine sets.
fn heat_layers(layers: &[usize]) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> =
        crate::experiment::spread(layers, 6).into_iter().map(|layer| vec![layer]).collect();
    if layers.len() > 3 {
        sets.push(layers[..layers.len() / 2].to_vec());
        sets.push(layers[layers.len() / 2..].to_vec());
    }
    if layers.len() > 1 {
        sets.push(layers.to_vec());
    }
    sets
}

fn heat(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    chosen: &Chosen,
    progress: &mut dyn Progress,
) -> Result<Heat> {
    let sets = heat_layers(&layers_of(chosen));
    let prompts = crate::calibrate::first_of_each(spec.tuning, HEAT_PROMPTS);
    let arms: Vec<Arm> = sets
        .iter()
        .flat_map(|layers| HEAT_FACTORS.iter().map(|&factor| part_of(chosen, layers, factor)))
        .collect();
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
        layers: sets.iter().map(name).collect(),
        factors: HEAT_FACTORS.to_vec(),
        cells: counts.chunks(HEAT_FACTORS.len()).map(<[Counts]>::to_vec).collect(),
    })
}

fn ladder(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    chosen: &Chosen,
    progress: &mut dyn Progress,
) -> Result<Vec<Rung>> {
    let layers = layers_of(chosen);
    let arms: Vec<Arm> =
        LADDER
            .iter()
            .map(|&factor| {
                if factor.abs() > 0.0 { part_of(chosen, &layers, factor) } else { Arm::unsteered() }
            })
            .collect();
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
fn cosines(rows: &BTreeMap<Category, Vec<LayerVector>>) -> Vec<Vec<f64>> {
    let wide =
        |row: &LayerVector| row.values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    let mean = |a: &Vec<LayerVector>, b: &Vec<LayerVector>| {
        let pairs = a.iter().zip(b).filter_map(|(a, b)| cosine(&wide(a), &wide(b)));
        let cosines: Vec<f64> = pairs.collect();
        cosines.iter().sum::<f64>() / cosines.len().max(1) as f64
    };
    rows.values().map(|a| rows.values().map(|b| mean(a, b)).collect()).collect()
}
