//! How far a probe can be believed, in figures: functions of scores and labels, with no text in them.
//!
//! [`SetTable`] says how often a probe alarms, set by set; [`ProbeReport`] puts the rest together: [`Operating`] per set, [`Calibration`] and [`CategoryReport`] over all prompts.
//! [`write_pictures`] draws it. Intervals are of 95 % and take a threshold as given.

mod calibration;
mod categories;
mod operating;
mod pictures;
mod report;
mod set_table;

use super::Verdict;
use crate::error::{Error, Result};

pub use calibration::{Bin, Calibration, NUM_BINS};
pub use categories::{CategoryFigures, CategoryReport, ConfusionRow};
pub use operating::{FALSE_ALARM_LIMITS, MAX_POINTS, Operating, OperatingPoint, RECALL_WANTED};
pub use pictures::{confusion, recall_curves, reliability, write_pictures};
pub use report::{Against, ProbeReport, SetOperating};
pub use set_table::{SetRow, SetTable};

/// Probability of harm from which a prompt alarms, where alarms are counted.
pub const ALARM_THRESHOLD: f64 = 0.5;

fn is_alarm(verdict: &Verdict) -> bool {
    f64::from(verdict.harm) >= ALARM_THRESHOLD
}

/// Refuses what is no probability.
fn check_probabilities(scores: &[f64]) -> Result<()> {
    let wrong = scores.iter().enumerate().find(|(_, score)| !(0.0..=1.0).contains(*score));
    wrong.map_or(Ok(()), |(idx, score)| {
        Err(Error::Data(format!(
            "the score of prompt {idx} is {score}; expected a probability of harm from 0 to 1"
        )))
    })
}
