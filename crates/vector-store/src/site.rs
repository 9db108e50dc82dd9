//! Where vectors act, how, on which tokens, and which way they point: the words of manifest and policy.
//!
//! They mirror the model crate's words without depending on it; whoever knows both maps them exhaustively.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where in a block the vectors were made and act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// The attention block's output after `o_proj`, before the residual add.
    AttnOut,
    /// The residual stream after the block.
    ResidPost,
}

/// What is done to a row `h` with strength `s` and vector `v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// `h + s*v` (arXiv 2410.01174, Eq. 2).
    Add,
    /// `h + s*v`, scaled back to the norm of `h`.
    AddNormRestored,
    /// `h - s * (h.v / v.v) * v`.
    ProjectOut,
}

/// Which tokens of a sequence are steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Every token.
    All,
    /// The rendered prompt.
    Prompt,
    /// From the row that yields the first new token.
    Generation,
}

/// Which difference the vectors are. Either way positive strength is the measured safer side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// As arXiv 2410.01174, Eq. 1 has it: mean of the safe side minus mean of the unsafe side.
    SafeMinusUnsafe,
    /// The negative of it, because measurement found that side to be the safer one.
    Reversed,
}

impl Site {
    /// The word that files and tensor names use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttnOut => "attn_out",
            Self::ResidPost => "resid_post",
        }
    }
}

impl Operator {
    /// The word that files use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::AddNormRestored => "add_norm_restored",
            Self::ProjectOut => "project_out",
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displayed_words_are_the_files_words() {
        for site in [Site::AttnOut, Site::ResidPost] {
            assert_eq!(serde_json::to_value(site).unwrap(), site.as_str());
        }
        for operator in [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut] {
            assert_eq!(serde_json::to_value(operator).unwrap(), operator.as_str());
        }
    }
}
