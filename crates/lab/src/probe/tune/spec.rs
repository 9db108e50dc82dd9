//! How an encoder is tuned.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How an encoder is tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuneSpec {
    /// Layers that change, counted from the last one. Those below them and the embeddings stay as they are.
    pub num_layers: usize,
    /// Times that every prompt is seen.
    pub num_epochs: usize,
    /// Prompts of a step.
    pub batch_size: usize,
    /// Tokens of a text that are read: of a longer one its first and its last, half each.
    pub max_tokens: usize,
    /// Highest learning rate of the encoder.
    pub learning_rate: f64,
    /// Highest learning rate of the head.
    pub head_learning_rate: f64,
    /// Decay of weights that are matrices, as `AdamW` has it.
    pub weight_decay: f64,
    /// Share of the steps in which the rates rise from 0; they fall to 0 in the others.
    pub warm_up: f64,
    /// L2 penalty of the head's first fit, on the frozen encoder's texts; see [`crate::probe::Penalties::dense`].
    pub l2: f64,
    /// Of the order of prompts.
    pub seed: u64,
}

impl Default for TuneSpec {
    fn default() -> Self {
        Self {
            num_layers: 2,
            num_epochs: 1,
            batch_size: 16,
            max_tokens: 96,
            learning_rate: 3e-5,
            head_learning_rate: 1e-3,
            weight_decay: 0.01,
            warm_up: 0.1,
            l2: 0.1,
            seed: 0,
        }
    }
}

impl TuneSpec {
    /// Refuses what cannot be done with an encoder of so many layers and positions.
    ///
    /// # Errors
    /// [`Error::Spec`] with the field, what it is and what was expected.
    pub(super) fn check(&self, num_hidden_layers: usize, max_positions: usize) -> Result<()> {
        let counts = [
            ("layers to tune", self.num_layers, 1, num_hidden_layers),
            ("epochs", self.num_epochs, 1, usize::MAX),
            ("prompts a step", self.batch_size, 1, usize::MAX),
            ("tokens of a text", self.max_tokens, 3, max_positions),
        ];
        for (what, found, least, most) in counts {
            if !(least..=most).contains(&found) {
                let expected = if most == usize::MAX {
                    format!("{least} or more")
                } else {
                    format!("{least} to {most}, as the encoder has")
                };
                return Err(Error::Spec(format!("{found} {what}; expected {expected}")));
            }
        }
        let rates = [
            ("learning rate", self.learning_rate, 1.0),
            ("learning rate of the head", self.head_learning_rate, 1.0),
            ("weight decay", self.weight_decay, 1.0),
            ("share of steps to warm up", self.warm_up, 1.0),
        ];
        for (what, found, most) in rates {
            if !(0.0..=most).contains(&found) {
                return Err(Error::Spec(format!("a {what} of {found}; expected 0 to {most}")));
            }
        }
        Ok(())
    }

    /// What the rates are multiplied by in a step, from 0: a rise along a line and a fall along another, never 0.
    pub(super) fn rate(&self, step: usize, num_steps: usize) -> f64 {
        let (at, total) = (step as f64 + 1.0, num_steps as f64);
        let rising = (self.warm_up * total).max(1.0);
        if at <= rising { at / rising } else { (total - at + 1.0) / (total - rising + 1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall() {
        let spec = TuneSpec::default();
        let rates: Vec<f64> = (0..20).map(|step| spec.rate(step, 20)).collect();
        assert!((rates[0] - 0.5).abs() < 1e-12 && (rates[1] - 1.0).abs() < 1e-12, "{rates:?}");
        assert!(rates[1..].is_sorted_by(|a, b| a > b) && rates[19] > 0.0, "{rates:?}");
        let sudden = TuneSpec { warm_up: 0.0, ..spec };
        assert!((sudden.rate(0, 1) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let good = TuneSpec::default;
        assert!(good().check(6, 512).is_ok());
        for (spec, expected) in [
            (TuneSpec { num_layers: 7, ..good() }, "7 layers to tune; expected 1 to 6"),
            (TuneSpec { num_layers: 0, ..good() }, "0 layers to tune"),
            (TuneSpec { num_epochs: 0, ..good() }, "0 epochs; expected 1 or more"),
            (TuneSpec { batch_size: 0, ..good() }, "0 prompts a step"),
            (TuneSpec { max_tokens: 513, ..good() }, "513 tokens of a text; expected 3 to 512"),
            (TuneSpec { learning_rate: f64::NAN, ..good() }, "a learning rate of NaN"),
            (TuneSpec { weight_decay: -1.0, ..good() }, "a weight decay of -1"),
        ] {
            let error = spec.check(6, 512).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
