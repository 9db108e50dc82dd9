//! The plan of one sequence and the vectors it refers to.

use serde::{Deserialize, Serialize};

/// Where in a block the residual stream is read or changed (TransformerLens names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// The attention block's output after `o_proj`, before the residual add:
    /// `blocks.{i}.hook_attn_out`. The paper's site.
    AttnOut,
    /// The residual stream after the block: `blocks.{i}.hook_resid_post`.
    ResidPost,
}

impl Site {
    /// The word that files and flags use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttnOut => "attn_out",
            Self::ResidPost => "resid_post",
        }
    }
}

/// What is done to a row `h` with strength `s` and vector `v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// `h + s*v` (arXiv 2410.01174, Eq. 2).
    Add,
    /// `(h + s*v) * ||h|| / ||h + s*v||`: the direction of `add`, the norm of `h`.
    AddNormRestored,
    /// `h - s * (h.v / v.v) * v`: with strength 1 nothing of `h` along `v` is left (arXiv 2406.11717).
    ProjectOut,
}

/// Which tokens of a sequence are steered; P is the length of the rendered prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Every token.
    All,
    /// Tokens t < P: template and earlier turns included.
    Prompt,
    /// Tokens t >= P-1: from the row that yields the first new token.
    Generation,
}

impl Positions {
    /// Whether the token at `position` (from 0) of a sequence with `prompt_len` prompt tokens is steered.
    #[must_use]
    pub fn covers(self, position: usize, prompt_len: usize) -> bool {
        match self {
            Self::All => true,
            Self::Prompt => position < prompt_len,
            Self::Generation => position + 1 >= prompt_len,
        }
    }
}

/// The steering of one sequence: plain numbers, resolved once at admission.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeringPlan {
    /// Where it acts.
    pub site: Site,
    /// What it does there.
    pub operator: Operator,
    /// On which tokens.
    pub positions: Positions,
    /// Signed factor, the paper's m; 0 does nothing (bitwise).
    pub strength: f32,
    /// `[num_hidden_layers]`: the slot used in each layer, 0 where the layer is left alone. All
    /// non-zero slots must belong to the lease that travels with the plan.
    pub slot_by_layer: Vec<u32>,
}

impl SteeringPlan {
    /// Whether a row it covers is changed at all: some strength, in some layer.
    pub(crate) fn acts(&self) -> bool {
        self.strength != 0.0 && self.slot_by_layer.iter().any(|&slot| slot != 0)
    }
}

/// One vector for registration: rows for some layers of one site.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeringVector {
    /// The site the rows were made for.
    pub site: Site,
    /// Rows, one a layer, each layer at most once.
    pub layers: Vec<LayerVector>,
}

/// The row of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerVector {
    /// Block index from 0.
    pub layer: usize,
    /// `[hidden_size]`, f32, finite, not normalised.
    pub values: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_starts_at_the_row_that_yields_the_first_new_token() {
        let covered: Vec<usize> = (0..6).filter(|&t| Positions::Generation.covers(t, 4)).collect();
        assert_eq!(covered, [3, 4, 5]);
        let covered: Vec<usize> = (0..6).filter(|&t| Positions::Prompt.covers(t, 4)).collect();
        assert_eq!(covered, [0, 1, 2, 3]);
        assert!((0..6).all(|t| Positions::All.covers(t, 4)));
    }
}
