//! Improvements on arXiv 2410.01174 in closed form, from activations of harmless and harmful prompts.
//!
//! The paper adds one vector at one strength to whatever it is asked. [`NullSpace`] takes out of a vector, or of an
//! activation, what harmless prompts use (`AlphaSteer`, arXiv 2506.07022). [`ConditionalStrength`] and
//! [`ProjectionStrength`] read a prompt's own activation and say which share of the calibrated strength it gets: near 0
//! for harmless prompts, near 1 for harmful ones. [`StrengthFactor::figures`] says how well they tell the two apart.
//!
//! Rows are activations of one layer, one a prompt, `[hidden_size]` each, as [`crate::extract::activations()`] gives
//! them. Everything is computed in f64 in a fixed order; `tests/golden/gen_null_space.py` does the same in `NumPy`.

mod conditional;
mod factor;
mod matrix;
mod null_space;
mod projection;

use crate::error::{Error, Result};

pub use conditional::ConditionalStrength;
pub use factor::{DEFAULT_MAX_FACTOR, FactorFigures, StrengthFactor};
pub use null_space::NullSpace;
pub(crate) use null_space::principal_axes;
pub use projection::ProjectionStrength;

/// The width of rows that are all of one width and finite; `what` names them in errors.
fn check_rows(what: &str, rows: &[&[f32]]) -> Result<usize> {
    let Some(hidden_size) = rows.first().map(|row| row.len()).filter(|&size| size > 0) else {
        return Err(Error::Data(format!("there are no {what} activations; expected at least one")));
    };
    for (idx, row) in rows.iter().enumerate() {
        check_row(what, idx, row, hidden_size)?;
    }
    Ok(hidden_size)
}

/// As [`check_rows`], where the width is given; the rows may be none.
fn check_rows_of(what: &str, rows: &[&[f32]], hidden_size: usize) -> Result<()> {
    rows.iter().enumerate().try_for_each(|(idx, row)| check_row(what, idx, row, hidden_size))
}

fn check_row(what: &str, idx: usize, row: &[f32], hidden_size: usize) -> Result<()> {
    if row.len() != hidden_size {
        return Err(Error::Data(format!(
            "{what} activation {idx} has {} numbers; expected {hidden_size}, from the same model and layer",
            row.len()
        )));
    }
    match row.iter().position(|value| !value.is_finite()) {
        Some(dimension) => Err(Error::Data(format!(
            "{what} activation {idx} is {} in dimension {dimension}; expected finite numbers",
            row[dimension]
        ))),
        None => Ok(()),
    }
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|&value| f64::from(value)).collect()
}

/// `sum weights_i h_i`, from the first element on.
fn dot_row(weights: &[f64], h: &[f32]) -> f64 {
    weights.iter().zip(h).map(|(weight, &value)| weight * f64::from(value)).sum()
}
