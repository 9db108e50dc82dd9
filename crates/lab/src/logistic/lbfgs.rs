//! L-BFGS for smooth convex losses, in one fixed order of operations.
//!
//! Nocedal and Wright, "Numerical Optimization", algorithm 7.4, with a step that is halved until Armijo's condition holds.

/// Steps remembered.
const MEMORY: usize = 10;
const MAX_ITERATIONS: usize = 2_000;
/// Armijo's condition: the share of the predicted decrease that a step must bring.
const SUFFICIENT_DECREASE: f64 = 1e-4;
/// Halvings of a step before the search gives up: the decrease is lost in rounding.
const MAX_HALVINGS: usize = 40;

/// One remembered step: change of the parameters, of the gradient, and 1 over their product.
struct Step {
    change: Vec<f64>,
    gradient_change: Vec<f64>,
    rho: f64,
}

/// The minimum of a strictly convex `loss`, which returns its value and its gradient `[num_parameters]`, from zeros on;
/// reached when no component of the gradient is above `tolerance`.
pub(super) fn minimise(
    num_parameters: usize,
    tolerance: f64,
    loss: impl Fn(&[f64]) -> (f64, Vec<f64>),
) -> Vec<f64> {
    let mut parameters = vec![0.0; num_parameters];
    let (mut value, mut gradient) = loss(&parameters);
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..MAX_ITERATIONS {
        if gradient.iter().all(|component| component.abs() <= tolerance) {
            break;
        }
        let direction = descent(&gradient, &steps);
        let slope = dot(&direction, &gradient);
        let Some((next, next_value, next_gradient)) =
            search(&loss, (&parameters, value), &direction, slope)
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
        (parameters, value, gradient) = (next, next_value, next_gradient);
    }
    parameters
}

/// Halves the step until the loss falls enough; `None` when rounding hides any decrease.
fn search(
    loss: impl Fn(&[f64]) -> (f64, Vec<f64>),
    (from, value): (&[f64], f64),
    direction: &[f64],
    slope: f64,
) -> Option<(Vec<f64>, f64, Vec<f64>)> {
    let mut size = 1.0;
    for _ in 0..MAX_HALVINGS {
        let mut to = from.to_vec();
        add_scaled(&mut to, size, direction);
        let (to_value, gradient) = loss(&to);
        if to_value <= value + SUFFICIENT_DECREASE * size * slope {
            return Some((to, to_value, gradient));
        }
        size *= 0.5;
    }
    None
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

/// Eight sums side by side, so that the processor need not wait for each; then added in order.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
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

pub(super) fn add_scaled(to: &mut [f64], factor: f64, values: &[f64]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += factor * value;
    }
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(x, y)| x - y).collect()
}
