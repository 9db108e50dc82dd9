//! The run of a study.

use std::collections::BTreeMap;

use super::arms::{ArmKind, Row, leave_others_unsteered};
use super::costs::{constraints, perplexity};
use super::dose::{cosines, heat, ladder};
use super::figures::{ArmFigures, SetFigures, StudyFigures};
use super::spec::{Method, StudySpec};
use super::tuning::{prompts_of, tuning};
use crate::calibrate::{Bounds, by_category, difference, safe_window, search};
use crate::error::Result;
use crate::experiment::{Arm, Counts, Judged, Laboratory, Prompt};
use crate::progress::Progress;

/// Runs all rows and figures of a study.
///
/// # Errors
/// [`crate::Error::Spec`] when there is nothing to ask, [`crate::Error::Interrupted`], and what answering, judging and
/// scoring return.
pub fn study(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    num_hidden_layers: usize,
    progress: &mut dyn Progress,
) -> Result<StudyFigures> {
    let (rows, strongest) = rows(laboratory, spec, num_hidden_layers, progress)?;
    let judged = ask_all(laboratory, spec, &rows, progress)?;
    let mut arms = Vec::with_capacity(rows.len());
    for (row, judged_row) in rows.iter().zip(&judged) {
        let mut figures = figures_of(spec, row, judged_row, &judged[0]);
        figures.constraints = constraints(laboratory, spec, &row.arm, progress)?;
        if let Some(scorers) = &mut laboratory.likelihood {
            figures.perplexity = perplexity(scorers.own, spec, &row.arm, progress)?;
        }
        arms.push(figures);
    }
    let mut figures = StudyFigures {
        arms,
        sets: spec.harmful.iter().map(|set| set.name.clone()).collect(),
        heat: None,
        ladder: Vec::new(),
        window: None,
        cosines: Vec::new(),
        categories: Vec::new(),
        judges: laboratory.judges.names().into_iter().map(str::to_owned).collect(),
        max_new_tokens: spec.max_new_tokens,
        seed: spec.seed,
    };
    if let Some(method) = strongest {
        figures.heat = Some(heat(laboratory, spec, method, progress)?);
    }
    if let Some(chosen) = &spec.chosen {
        figures.ladder = ladder(laboratory, spec, chosen, progress)?;
        figures.window = Some(safe_window(&figures.ladder, &Bounds::default()));
        figures.cosines = cosines(&chosen.rows);
        figures.categories = chosen.rows.keys().cloned().collect();
    }
    Ok(figures)
}

/// All arms, the first the naive one; and the method that failed least when tuned.
fn rows<'a>(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'a>,
    num_hidden_layers: usize,
    progress: &mut dyn Progress,
) -> Result<(Vec<Row>, Option<&'a Method>)> {
    let mut rows = vec![Row::naive()];
    rows.extend(
        spec.methods.iter().filter_map(|one| Row::at_papers_setting(one, num_hidden_layers)),
    );
    let likelihood = laboratory.likelihood.take();
    let mut strongest: Option<(f64, &Method)> = None;
    for method in spec.methods {
        let prompts = prompts_of(spec, method);
        if prompts.is_empty() {
            continue;
        }
        let found = search(laboratory, &tuning(spec, method, &prompts), progress)?;
        rows.push(Row::of_method(method, &found.best, ArmKind::Tuned));
        let failed = found.failed_share();
        if strongest.is_none_or(|(least, _)| failed < least) {
            strongest = Some((failed, method));
        }
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
    let sets = || spec.harmful.iter().chain(spec.harmless);
    for row in &mut rows {
        leave_others_unsteered(&mut row.arm, sets().flat_map(|set| &set.prompts));
    }
    Ok((rows, strongest.map(|(_, method)| method)))
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
