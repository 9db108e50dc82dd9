//! Logistic regression with an L2 penalty, of two classes and of many, over dense rows and sparse ones.
//!
//! Minimised is `sum_i c_i ln(1 + exp(-y_i z_i)) / sum_i c_i + l2/2 |w|^2` with `z_i = w.x_i + b`, `y_i` = 1 or -1 and a weight `c_i`
//! a row; of many classes the cross-entropy of their softmax takes the place of the first term, and every class has its own `w`
//! and `b`. Biases are not penalised. Dense features are brought to mean 0 and variance 1 first, and mean and variance are folded into
//! the weights that are returned; sparse ones are taken as they are. With equal `c_i` that is scikit-learn's objective with
//! `C = 1 / (l2 n)` for `n` rows, so one `l2` serves sets of any size.

mod design;
mod lbfgs;

pub(crate) use design::{Fit, Rows, SparseRows};

use crate::error::{Error, Result};
use design::Design;

/// A fitted plane over raw features: the logit of a row is `weights.x + bias`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plane {
    pub(crate) weights: Vec<f64>,
    pub(crate) bias: f64,
}

/// Largest component of the gradient at the minimum, for many classes and for sparse rows, where the last digits of a weight are of no use to anybody.
const COARSE_TOLERANCE: f64 = 1e-5;

/// Fits rows to labels, each row as heavy as the others.
///
/// # Errors
/// [`Error::Data`] when one of the two classes is missing or there are not as many labels as rows; [`Error::Spec`] when
/// `l2` is not above 0.
pub(crate) fn fit(rows: &impl Rows, positives: &[bool], l2: f64) -> Result<Plane> {
    fit_weighted(rows, positives, &vec![1.0; rows.len()], l2)
}

/// Fits rows to labels, with a weight a row; of the weights only their ratios count.
///
/// # Errors
/// As [`fit`].
pub(crate) fn fit_weighted(
    rows: &impl Rows,
    positives: &[bool],
    row_weights: &[f64],
    l2: f64,
) -> Result<Plane> {
    check_labels(rows.len(), positives)?;
    check_penalty(l2)?;
    let targets: Vec<usize> = positives.iter().map(|&positive| usize::from(positive)).collect();
    let mut planes = rows.planes(&|design, tolerance| {
        vec![Binary::new(design, &targets, row_weights, l2).minimise(tolerance)]
    });
    Ok(planes.swap_remove(0))
}

/// One plane a class for rows of `num_classes` classes: their softmax is the probability of each.
///
/// # Errors
/// [`Error::Data`] when a class has no row or there are not as many classes as rows; [`Error::Spec`] for a bad `l2`.
pub(crate) fn fit_classes(
    rows: &impl Rows,
    classes: (&[usize], usize),
    row_weights: &[f64],
    l2: f64,
) -> Result<Vec<Plane>> {
    check_classes(rows.len(), classes)?;
    check_penalty(l2)?;
    Ok(rows.planes(&|design, _| minimise_softmax(design, classes, row_weights, l2)))
}

fn check_labels(num_rows: usize, positives: &[bool]) -> Result<()> {
    let num_positive = positives.iter().filter(|&&positive| positive).count();
    if positives.len() != num_rows || num_positive == 0 || num_positive == positives.len() {
        return Err(Error::Data(format!(
            "{num_rows} rows to train on, {num_positive} of {} labels positive; expected a label a row, and both kinds",
            positives.len()
        )));
    }
    Ok(())
}

fn check_classes(num_rows: usize, (classes, num_classes): (&[usize], usize)) -> Result<()> {
    let missing = (0..num_classes).find(|class| !classes.contains(class));
    if classes.len() != num_rows || missing.is_some() || num_classes < 2 {
        return Err(Error::Data(format!(
            "{num_rows} rows to train on with {} labels of {num_classes} classes{}; expected a label a row, two classes or more, and a \
             row of each",
            classes.len(),
            missing.map(|class| format!(", none of class {class}")).unwrap_or_default()
        )));
    }
    Ok(())
}

/// Refuses a penalty under which there may be no minimum.
///
/// # Errors
/// [`Error::Spec`] when it is not a finite number above 0.
pub(crate) fn check_penalty(l2: f64) -> Result<()> {
    if l2.is_finite() && l2 > 0.0 {
        return Ok(());
    }
    Err(Error::Spec(format!("the L2 penalty is {l2}; expected a number above 0")))
}

/// Two classes: parameters are the weights and then the bias.
struct Binary<'a> {
    design: &'a dyn Design,
    targets: &'a [usize],
    /// Sum to 1.
    row_weights: Vec<f64>,
    l2: f64,
}

impl<'a> Binary<'a> {
    fn new(design: &'a dyn Design, targets: &'a [usize], row_weights: &[f64], l2: f64) -> Self {
        Self { design, targets, row_weights: shares(row_weights), l2 }
    }

    /// The loss and its gradient.
    fn loss(&self, parameters: &[f64]) -> (f64, Vec<f64>) {
        let (weights, bias) = parameters.split_at(self.design.width());
        let mut loss = 0.5 * self.l2 * lbfgs::dot(weights, weights);
        let mut gradient: Vec<f64> = weights.iter().map(|weight| self.l2 * weight).collect();
        let mut bias_gradient = 0.0;
        for (row_idx, (&target, row_weight)) in
            self.targets.iter().zip(&self.row_weights).enumerate()
        {
            let logit = self.design.dot(row_idx, weights) + bias[0];
            let margin = if target == 1 { logit } else { -logit };
            // ln(1 + exp(-margin)) without overflow.
            loss += row_weight * ((-margin.abs()).exp().ln_1p() + (-margin).max(0.0));
            let error = row_weight * (sigmoid(logit) - target as f64);
            self.design.add_scaled(row_idx, error, &mut gradient);
            bias_gradient += error;
        }
        gradient.push(bias_gradient);
        (loss, gradient)
    }

    fn minimise(&self, tolerance: f64) -> Plane {
        let width = self.design.width();
        let mut weights = lbfgs::minimise(width + 1, tolerance, |parameters| self.loss(parameters));
        let bias = weights.pop().unwrap_or_default();
        Plane { weights, bias }
    }
}

/// Many classes: parameters are, class by class, the weights and then the bias.
fn minimise_softmax(
    design: &dyn Design,
    (classes, num_classes): (&[usize], usize),
    row_weights: &[f64],
    l2: f64,
) -> Vec<Plane> {
    let width = design.width();
    let row_weights = shares(row_weights);
    let loss = |parameters: &[f64]| {
        let planes: Vec<&[f64]> = parameters.chunks_exact(width + 1).collect();
        let mut gradient: Vec<f64> = parameters.iter().map(|parameter| l2 * parameter).collect();
        let mut loss = 0.0;
        for (plane, gradient) in planes.iter().zip(gradient.chunks_exact_mut(width + 1)) {
            loss += 0.5 * l2 * lbfgs::dot(&plane[..width], &plane[..width]);
            gradient[width] = 0.0;
        }
        for (row_idx, (&class, row_weight)) in classes.iter().zip(&row_weights).enumerate() {
            let logits =
                planes.iter().map(|plane| design.dot(row_idx, &plane[..width]) + plane[width]);
            let probabilities = softmax(&logits.collect::<Vec<_>>());
            loss -= row_weight * probabilities[class].max(f64::MIN_POSITIVE).ln();
            for (idx, gradient) in gradient.chunks_exact_mut(width + 1).enumerate() {
                let target = if idx == class { 1.0 } else { 0.0 };
                let error = row_weight * (probabilities[idx] - target);
                design.add_scaled(row_idx, error, &mut gradient[..width]);
                gradient[width] += error;
            }
        }
        (loss, gradient)
    };
    let parameters = lbfgs::minimise(num_classes * (width + 1), COARSE_TOLERANCE, loss);
    let plane = |parameters: &[f64]| Plane {
        weights: parameters[..width].to_vec(),
        bias: parameters[width],
    };
    parameters.chunks_exact(width + 1).map(plane).collect()
}

/// Weights `[num_members]` that make the softmax of `sum_m w_m logits_m` likeliest: `McFadden`'s conditional logit, with the L2 penalty
/// around 0. `logits` are `[n, num_members, num_classes]`.
///
/// # Errors
/// As [`fit_classes`], except that a class may lack a row.
pub(crate) fn fit_member_weights(
    logits: &[Vec<&[f64]>],
    classes: &[usize],
    l2: f64,
) -> Result<Vec<f64>> {
    check_penalty(l2)?;
    let num_members = logits.first().map_or(0, Vec::len);
    if logits.len() != classes.len() || num_members == 0 {
        return Err(Error::Data(format!(
            "{} rows of members' logits and {} classes; expected as many, and at least one",
            logits.len(),
            classes.len()
        )));
    }
    let share = 1.0 / logits.len() as f64;
    let loss = |weights: &[f64]| {
        let mut loss = 0.5 * l2 * lbfgs::dot(weights, weights);
        let mut gradient: Vec<f64> = weights.iter().map(|weight| l2 * weight).collect();
        for (members, &class) in logits.iter().zip(classes) {
            let summed = (0..members[0].len()).map(|idx| {
                members.iter().zip(weights).map(|(logits, weight)| weight * logits[idx]).sum()
            });
            let probabilities = softmax(&summed.collect::<Vec<f64>>());
            loss -= share * probabilities[class].max(f64::MIN_POSITIVE).ln();
            for (gradient, logits) in gradient.iter_mut().zip(members) {
                *gradient += share * (lbfgs::dot(&probabilities, logits) - logits[class]);
            }
        }
        (loss, gradient)
    };
    Ok(lbfgs::minimise(num_members, COARSE_TOLERANCE, loss))
}

/// The weights as shares of their sum.
fn shares(row_weights: &[f64]) -> Vec<f64> {
    let sum: f64 = row_weights.iter().sum();
    row_weights.iter().map(|weight| weight / sum).collect()
}

/// `1 / (1 + exp(-logit))` without overflow.
pub(crate) fn sigmoid(logit: f64) -> f64 {
    let odds = (-logit.abs()).exp();
    if logit < 0.0 { odds / (1.0 + odds) } else { 1.0 / (1.0 + odds) }
}

/// Probabilities of logits `[num_classes]`, at least one: the largest is brought to 0 first, so that nothing overflows.
pub(crate) fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let odds: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = odds.iter().sum();
    odds.into_iter().map(|odds| odds / sum).collect()
}

#[cfg(test)]
mod tests;
