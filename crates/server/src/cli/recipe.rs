//! What vectors are made from: the recipes of `skeg extract` and `skeg calibrate`.

use std::path::Path;

use skeg_lab::ContrastSet;
use skeg_lab::calibrate::{CONTRAST_RESPONSE_TOKENS, Recipe};
use skeg_lab::extract::TokenMode;

/// [`Recipe`] by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RecipeName {
    /// Safe answers against compliant openings behind the harmful prompts.
    Contrast,
    /// Harmful prompts against harmless ones.
    Prompts,
    /// Unsafe answers against safe ones.
    Responses,
}

impl RecipeName {
    pub(super) fn recipe(self) -> Recipe {
        match self {
            Self::Contrast => Recipe::Contrast,
            Self::Prompts => Recipe::Prompts,
            Self::Responses => Recipe::Responses,
        }
    }

    /// What was compared with what, a sentence for the card.
    pub(super) fn inputs(self) -> String {
        match self {
            Self::Contrast => format!(
                "safe answers against compliant openings (contrast texts) behind the harmful prompts, first \
                 {CONTRAST_RESPONSE_TOKENS} tokens of each."
            ),
            Self::Prompts => "harmful prompts against harmless ones.".to_owned(),
            Self::Responses => "unsafe answers against safe ones.".to_owned(),
        }
    }

    /// Tokens that count, and how many of a response: of contrast texts the first words, which decide whether they decline.
    pub(super) fn tokens(self) -> (TokenMode, Option<usize>) {
        match self {
            Self::Contrast => (TokenMode::Response, Some(CONTRAST_RESPONSE_TOKENS)),
            Self::Prompts => (TokenMode::All, None),
            Self::Responses => (TokenMode::Response, None),
        }
    }
}

/// The built-in contrast texts, and those of a folder.
pub(super) fn contrast(folder: Option<&Path>) -> anyhow::Result<ContrastSet> {
    let built_in = ContrastSet::built_in()?;
    Ok(match folder {
        Some(folder) => built_in.with_folder(folder)?,
        None => built_in,
    })
}
