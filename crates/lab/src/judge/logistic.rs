//! Logistic regression with an L2 penalty, by L-BFGS, in one fixed order of operations.
//!
//! Minimised is `mean_i ln(1 + exp(-y_i z_i)) + l2/2 |w|^2` with `z_i = w.x_i + b`, `y_i` = 1 or -1, over features that were
//! brought to mean 0 and variance 1; the bias is not penalised. That is scikit-learn's objective with `C = 1 / (l2 n)` for
//! `n` rows, so one `l2` serves sets of any size. The mean and variance are folded into the weights that are returned.

use super::features::FeatureRows;
use crate::error::{Error, Result};

/// A fitted plane over raw features: the logit of a row is `weights.x + bias`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plane {
    pub(super) weights: Vec<f64>,
    pub(super) bias: f64,
}

/// Steps remembered by L-BFGS (Nocedal and Wright, "Numerical Optimization", algorithm 7.4).
const MEMORY: usize = 10;
const MAX_ITERATIONS: usize = 2_000;
/// Largest component of the gradient at the minimum, for each row.
const TOLERANCE: f64 = 1e-7;
/// Armijo's condition: the share of the predicted decrease that a step must bring.
const SUFFICIENT_DECREASE: f64 = 1e-4;
/// Halvings of a step before the search gives up: the decrease is lost in rounding.
const MAX_HALVINGS: usize = 40;

/// Fits rows `[n, d]` to labels.
///
/// # Errors
/// [`Error::Data`] when one of the two classes is missing or there are not as many labels as rows; [`Error::Spec`] when
/// `l2` is not above 0.
pub(super) fn fit(rows: &FeatureRows, positives: &[bool], l2: f64) -> Result<Plane> {
    let num_positive = positives.iter().filter(|&&positive| positive).count();
    if positives.len() != rows.len() || num_positive == 0 || num_positive == positives.len() {
        return Err(Error::Data(format!(
            "{} rows to train on, {num_positive} of {} labels positive; expected a label a row, and both kinds",
            rows.len(),
            positives.len()
        )));
    }
    check_penalty(l2)?;
    let (means, scales) = moments(rows);
    let l2 = l2 * rows.len() as f64;
    let problem = Problem { rows: standardised(rows, &means, &scales), positives, l2 };
    let parameters = problem.minimise();
    let (weights, bias) = parameters.split_at(rows.width());
    let weights: Vec<f64> =
        weights.iter().zip(&scales).map(|(weight, scale)| weight * scale).collect();
    let shift: f64 = weights.iter().zip(&means).map(|(weight, mean)| weight * mean).sum();
    Ok(Plane { bias: bias[0] - shift, weights })
}

/// Refuses a penalty under which there may be no minimum.
///
/// # Errors
/// [`Error::Spec`] when it is not a finite number above 0.
pub(super) fn check_penalty(l2: f64) -> Result<()> {
    if l2.is_finite() && l2 > 0.0 {
        return Ok(());
    }
    Err(Error::Spec(format!("the L2 penalty is {l2}; expected a number above 0")))
}

/// Mean of each feature, and 1 over its standard deviation; 0 for a feature that never changes.
fn moments(rows: &FeatureRows) -> (Vec<f64>, Vec<f64>) {
    let n = rows.len() as f64;
    let mut means = vec![0.0; rows.width()];
    for row in rows.iter() {
        for (mean, &value) in means.iter_mut().zip(row) {
            *mean += f64::from(value) / n;
        }
    }
    let mut variances = vec![0.0; rows.width()];
    for row in rows.iter() {
        for ((variance, &value), mean) in variances.iter_mut().zip(row).zip(&means) {
            let distance = f64::from(value) - mean;
            *variance += distance * distance / n;
        }
    }
    // What is left of a constant after rounding is no variance.
    let scale = |variance: f64| if variance > 1e-14 { 1.0 / variance.sqrt() } else { 0.0 };
    (means, variances.into_iter().map(scale).collect())
}

fn standardised(rows: &FeatureRows, means: &[f64], scales: &[f64]) -> Vec<Vec<f64>> {
    rows.iter()
        .map(|row| {
            let values = row.iter().zip(means).zip(scales);
            values.map(|((&value, mean), scale)| (f64::from(value) - mean) * scale).collect()
        })
        .collect()
}

/// Parameters are the weights and then the bias; loss and penalty are sums over the rows.
struct Problem<'a> {
    rows: Vec<Vec<f64>>,
    positives: &'a [bool],
    l2: f64,
}

/// One remembered step: change of the parameters, of the gradient, and 1 over their product.
struct Step {
    change: Vec<f64>,
    gradient_change: Vec<f64>,
    rho: f64,
}

impl Problem<'_> {
    /// The loss and its gradient.
    fn loss(&self, parameters: &[f64]) -> (f64, Vec<f64>) {
        let (weights, bias) = parameters.split_at(parameters.len() - 1);
        let mut loss = 0.5 * self.l2 * dot(weights, weights);
        let mut gradient: Vec<f64> = weights.iter().map(|weight| self.l2 * weight).collect();
        let mut bias_gradient = 0.0;
        for (row, &positive) in self.rows.iter().zip(self.positives) {
            let logit = dot(weights, row) + bias[0];
            let margin = if positive { logit } else { -logit };
            // ln(1 + exp(-margin)) without overflow.
            loss += (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
            let error = sigmoid(logit) - if positive { 1.0 } else { 0.0 };
            add_scaled(&mut gradient, error, row);
            bias_gradient += error;
        }
        gradient.push(bias_gradient);
        (loss, gradient)
    }

    /// The minimum: the loss is strictly convex in the weights, so there is one.
    fn minimise(&self) -> Vec<f64> {
        let width = self.rows.first().map_or(0, Vec::len);
        let mut parameters = vec![0.0; width + 1];
        let (mut loss, mut gradient) = self.loss(&parameters);
        let tolerance = TOLERANCE * self.rows.len() as f64;
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..MAX_ITERATIONS {
            if gradient.iter().all(|component| component.abs() <= tolerance) {
                break;
            }
            let direction = descent(&gradient, &steps);
            let slope = dot(&direction, &gradient);
            let Some((next, next_loss, next_gradient)) =
                self.search(&parameters, loss, &direction, slope)
            else {
                break;
            };
            let change = difference(&next, &parameters);
            let gradient_change = difference(&next_gradient, &gradient);
            let curvature = dot(&change, &gradient_change);
            if curvature > 0.0 {
                steps.push(Step { change, gradient_change, rho: 1.0 / curvature });
                steps.drain(..steps.len().saturating_sub(MEMORY));
            }
            (parameters, loss, gradient) = (next, next_loss, next_gradient);
        }
        parameters
    }

    /// Halves the step until the loss falls enough; `None` when rounding hides any decrease.
    fn search(
        &self,
        from: &[f64],
        loss: f64,
        direction: &[f64],
        slope: f64,
    ) -> Option<(Vec<f64>, f64, Vec<f64>)> {
        let mut size = 1.0;
        for _ in 0..MAX_HALVINGS {
            let mut to = from.to_vec();
            add_scaled(&mut to, size, direction);
            let (to_loss, gradient) = self.loss(&to);
            if to_loss <= loss + SUFFICIENT_DECREASE * size * slope {
                return Some((to, to_loss, gradient));
            }
            size *= 0.5;
        }
        None
    }
}

/// Minus the gradient times the inverse Hessian that the steps suggest (the two-loop recursion); of length 1 at first.
fn descent(gradient: &[f64], steps: &[Step]) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|component| -component).collect();
    let mut alphas = Vec::with_capacity(steps.len());
    for step in steps.iter().rev() {
        let alpha = step.rho * dot(&step.change, &direction);
        add_scaled(&mut direction, -alpha, &step.gradient_change);
        alphas.push(alpha);
    }
    let scale = steps.last().map_or_else(
        || 1.0 / dot(gradient, gradient).sqrt(),
        |step| 1.0 / (step.rho * dot(&step.gradient_change, &step.gradient_change)),
    );
    direction.iter_mut().for_each(|component| *component *= scale);
    for (step, alpha) in steps.iter().zip(alphas.iter().rev()) {
        let beta = step.rho * dot(&step.gradient_change, &direction);
        add_scaled(&mut direction, alpha - beta, &step.change);
    }
    direction
}

/// `1 / (1 + exp(-logit))` without overflow.
pub(super) fn sigmoid(logit: f64) -> f64 {
    let odds = (-logit.abs()).exp();
    if logit < 0.0 { odds / (1.0 + odds) } else { 1.0 / (1.0 + odds) }
}

/// Eight sums side by side, so that the processor need not wait for each; then added in order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_lanes.remainder().iter().zip(b_lanes.remainder());
    let rest: f64 = rest.map(|(x, y)| x * y).sum();
    for (xs, ys) in a_lanes.zip(b_lanes) {
        for ((sum, x), y) in sums.iter_mut().zip(xs).zip(ys) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f64>() + rest
}

fn add_scaled(to: &mut [f64], factor: f64, values: &[f64]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += factor * value;
    }
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(x, y)| x - y).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 rows of 4 features: two waves, a constant, a saw.
    fn data() -> (FeatureRows, Vec<bool>) {
        let row = |i: i32| {
            let x = f64::from(i);
            let features =
                [(x * 1.1).sin(), (x * 0.37).cos() * 3.0 + 1.0, 2.0, f64::from(i % 7) / 7.0];
            (features.map(crate::numbers::to_f32), (x * 1.1).sin() + (x * 2.1).cos() > 0.0)
        };
        let (rows, positives): (Vec<[f32; 4]>, Vec<bool>) = (0..40).map(row).unzip();
        (FeatureRows::new(rows.concat(), 4), positives)
    }

    /// scikit-learn 1.9.1: `LogisticRegression(C=1 / (l2 * 40), tol=1e-12)` on `StandardScaler`'s output, folded back:
    /// `w / std`, `b - sum(w / std * mean)`.
    #[test]
    fn the_plane_is_that_of_scikit_learn() {
        let (rows, positives) = data();
        for (l2, weights, bias) in [
            (1.0 / 40.0, [1.838_721_718, -0.080_455_656, 0.0, -1.522_098_040], 0.874_777_732),
            (10.0 / 40.0, [0.863_309_136, -0.020_618_872, 0.0, -0.751_420_092], 0.445_492_769),
        ] {
            let plane = fit(&rows, &positives, l2).unwrap();
            assert!((plane.bias - bias).abs() < 1e-5, "{plane:?}");
            for (weight, expected) in plane.weights.iter().zip(weights) {
                assert!((weight - expected).abs() < 1e-5, "{plane:?}");
            }
            assert_eq!(plane, fit(&rows, &positives, l2).unwrap());
        }
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let (rows, positives) = data();
        let error = fit(&rows, &positives[1..], 1.0).unwrap_err().to_string();
        assert!(error.contains("40 rows to train on, 20 of 39 labels positive"), "{error}");
        let error = fit(&rows, &[true; 40], 1.0).unwrap_err().to_string();
        assert!(error.contains("40 of 40 labels positive; expected"), "{error}");
        assert!(fit(&rows, &positives, 0.0).is_err());
    }

    #[test]
    fn separable_rows_are_separated() {
        let rows = FeatureRows::new((0..20_i16).map(f32::from).collect(), 1);
        let positives: Vec<bool> = (0..20).map(|i| i >= 7).collect();
        let plane = fit(&rows, &positives, 1e-3).unwrap();
        for (row, positive) in rows.iter().zip(positives) {
            let logit = plane.weights[0] * f64::from(row[0]) + plane.bias;
            assert_eq!(logit > 0.0, positive, "{row:?}");
        }
    }
}
