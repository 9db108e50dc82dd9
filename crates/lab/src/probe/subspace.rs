//! A harm plane within what tells matched pairs apart.
//!
//! The difference of a harmful prompt's row and its harmless twin's holds what harm changes and little of what the two share: topic,
//! length, source. A plane that may use nothing but the main directions of these differences cannot learn the rest.

use std::collections::HashMap;

use super::corpus::Prompt;
use crate::error::{Error, Result};
use crate::improve::principal_axes;
use crate::judge::FeatureRows;
use crate::logistic::{Plane, fit_weighted};
use crate::numbers::{dot, to_f32};

/// Pairs whose differences are looked at, drawn evenly: the axes of more take minutes and are the same.
const MAX_PAIRS: usize = 512;

/// Fits labels `positives` of rows `[n, width]`, the rows of `prompts`, in the span of the `rank` main axes of the pairs' differences:
/// the eigenvectors of their uncentred second moment with the largest eigenvalues, or as many as there are.
///
/// # Errors
/// [`Error::Data`] when no harmless prompt among them is the twin of a harmful one; [`Error::Spec`] when `rank` is 0; what
/// [`fit_weighted`] returns.
pub(super) fn plane_within(
    rows: &FeatureRows,
    prompts: &[&Prompt],
    rank: usize,
    (positives, weights, l2): (&[bool], &[f64], f64),
) -> Result<Plane> {
    if rank == 0 {
        return Err(Error::Spec("a harm plane of rank 0; expected at least 1".to_owned()));
    }
    let axes = axes(rows, &pairs(prompts), rank)?;
    let inside = rows.iter().flat_map(|row| {
        let row = wide(row);
        axes.iter().map(move |axis| to_f32(dot(axis, &row)))
    });
    let inside = FeatureRows::new(inside.collect(), axes.len());
    let Plane { weights, bias } = fit_weighted(&inside, positives, weights, l2)?;
    let mut outside = vec![0.0; rows.width()];
    for (axis, weight) in axes.iter().zip(weights) {
        for (sum, value) in outside.iter_mut().zip(axis) {
            *sum += weight * value;
        }
    }
    Ok(Plane { weights: outside, bias })
}

/// Indices of harmful prompts with their harmless twins in the same set; copies are none.
fn pairs(prompts: &[&Prompt]) -> Vec<(usize, usize)> {
    let own = || prompts.iter().enumerate().filter(|(_, prompt)| prompt.copied_as.is_none());
    let harmful: HashMap<(usize, &str), usize> = own()
        .filter(|(_, prompt)| prompt.harmful)
        .map(|(idx, prompt)| ((prompt.set_idx, prompt.id.as_str()), idx))
        .collect();
    own()
        .filter(|(_, prompt)| !prompt.harmful)
        .filter_map(|(idx, prompt)| {
            let of = prompt.twin_of.as_deref()?;
            Some((*harmful.get(&(prompt.set_idx, of))?, idx))
        })
        .collect()
}

fn axes(rows: &FeatureRows, pairs: &[(usize, usize)], rank: usize) -> Result<Vec<Vec<f64>>> {
    let step = pairs.len().div_ceil(MAX_PAIRS).max(1);
    let difference = |&(harmful, harmless): &(usize, usize)| -> Vec<f64> {
        let values = rows.row(harmful).iter().zip(rows.row(harmless));
        values.map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
    };
    let differences: Vec<Vec<f64>> = pairs.iter().step_by(step).map(difference).collect();
    let trace: f64 = differences.iter().map(|row| dot(row, row)).sum();
    if trace <= 0.0 {
        return Err(Error::Data(format!(
            "{} pairs of prompts that differ in what is read; a harm plane of a given rank needs harmless prompts with the \
             `twin_of` of a harmful prompt of their set",
            if pairs.is_empty() { "no".to_owned() } else { format!("none of {}", pairs.len()) }
        )));
    }
    let axes = principal_axes(&differences, trace, rank)?;
    Ok(axes.into_iter().map(|(_, axis)| axis).collect())
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|&value| f64::from(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs that differ along the first of four numbers, a little along the second, and never along the others; the fourth tells
    /// harmful from harmless as well, in prompts without a twin.
    fn rows_and_prompts() -> (FeatureRows, Vec<Prompt>) {
        let mut values = Vec::new();
        let mut prompts = Vec::new();
        for idx in 0..40 {
            let harmful = idx % 2 == 0;
            let has_twin = idx < 20;
            let topic = f32::from(u8::try_from(idx / 2).unwrap());
            let sign = if harmful { 1.0 } else { -1.0 };
            let wobble = if idx % 4 == 0 { 0.25 } else { -0.25 };
            values.extend([sign + topic * 0.01, wobble, topic, if has_twin { 0.0 } else { sign }]);
            prompts.push(Prompt {
                set_idx: 0,
                id: format!("p{idx}"),
                conversation: Vec::new(),
                harmful,
                category_idx: None,
                copied_as: None,
                twin_of: (!harmful && has_twin).then(|| format!("p{}", idx - 1)),
            });
        }
        (FeatureRows::new(values, 4), prompts)
    }

    fn fit(rank: usize, change: impl Fn(&mut Prompt)) -> Result<Plane> {
        let (rows, mut prompts) = rows_and_prompts();
        prompts.iter_mut().for_each(change);
        let prompts: Vec<&Prompt> = prompts.iter().collect();
        let positives: Vec<bool> = prompts.iter().map(|prompt| prompt.harmful).collect();
        plane_within(&rows, &prompts, rank, (&positives, &[1.0; 40], 0.1))
    }

    #[test]
    fn a_plane_uses_what_tells_pairs_apart_and_nothing_else() {
        let plane = fit(1, |_| ()).unwrap();
        assert!(plane.weights[0] > 0.5, "{plane:?}");
        assert!(plane.weights[3].abs() < 1e-6 && plane.weights[2].abs() < 1e-6, "{plane:?}");
        let plane = fit(3, |_| ()).unwrap();
        assert!(plane.weights[3].abs() < 1e-6, "no more axes than the differences have: {plane:?}");
    }

    #[test]
    fn without_pairs_there_is_no_plane() {
        let error = fit(1, |prompt| prompt.twin_of = None).unwrap_err().to_string();
        assert!(error.contains("no pairs of prompts that differ"), "{error}");
        // Twins of another set, and of a prompt that is not there.
        let apart = |prompt: &mut Prompt| prompt.set_idx = usize::from(prompt.harmful);
        assert!(fit(1, apart).is_err());
        assert!(fit(0, |_| ()).unwrap_err().to_string().contains("rank 0"));
    }
}
