//! `CARD.md` of the shipped vectors: how they were made and what was measured. Figures only.

use std::fmt::Write as _;

use super::measured::{MAX_DEGENERATE, MAX_FALL, MIN_REFUSED, Measured};
use crate::evaluate::Share;
use crate::extract::Extraction;

/// The whole card.
pub(super) fn card(extraction: &Extraction, measured: &Measured) -> String {
    let mut text = String::from(
        "# Category vectors for SmolLM2-135M-Instruct\n\n\
         One vector a category and layer. Positive strength moves answers towards declining: the vectors are the mean \
         activation of safe answers minus that of compliant openings (arXiv 2410.01174, Eq. 1), not normalised.\n\n",
    );
    text.push_str(&how_made(extraction));
    text.push_str(&norms(extraction));
    text.push_str(&strengths(measured));
    let _written = write!(
        text,
        "## Effect on held-out prompts\n\nThe last 10 prompts of each CatQA category, a subcategory that extraction and \
         tuning never saw; default strength {}; weights in form `{}`.\n\n{}\n",
        measured.strength,
        measured.weights,
        measured.held_out.to_markdown()
    );
    text.push_str(LIMITS);
    text
}

fn how_made(extraction: &Extraction) -> String {
    let (safe, not_safe) = extraction
        .categories
        .values()
        .fold((0, 0), |(safe, not_safe), one| (safe + one.num_safe, not_safe + one.num_unsafe));
    format!(
        "## How they were made\n\n\
         - Prompts: CatQA (Apache-2.0), repeats dropped, at most the first 40 of each category and never the last 10; \
         not stored here.\n\
         - Responses: the texts of `vectors/contrast`, by this repository's authors: {safe} safe answers and {not_safe} \
         compliant openings behind those prompts.\n\
         - Site `attn_out`, layers {} to {}, mean over the {} first response tokens, chat template applied, weights \
         dequantised to f32.\n\
         - Data SHA-256: {}.\n\
         - Inputs SHA-256: `{}`.\n\
         - Model weights SHA-256: `{}`.\n\n",
        extraction.layers.first().copied().unwrap_or_default(),
        extraction.layers.last().copied().unwrap_or_default(),
        extraction.max_response_tokens.map_or_else(|| "-".to_owned(), |limit| limit.to_string()),
        extraction
            .data_sha256
            .iter()
            .map(|hash| format!("`{hash}`"))
            .collect::<Vec<_>>()
            .join(", "),
        extraction.inputs_sha256,
        extraction.model.weights_id
    )
}

/// Relative norm and stability, least and most over the layers.
fn norms(extraction: &Extraction) -> String {
    let mut text = String::from(
        "## Norms and stability\n\nOver the layers, least to most: the vector's norm relative to the mean norm of the \
         rows at the site, and the cosine between the vectors of the even and of the odd inputs.\n\n\
         | category | relative norm | split-half cosine |\n|---|---|---|\n",
    );
    for (category, one) in &extraction.categories {
        let range = |values: Vec<f64>| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            format!("{least:.2} to {most:.2}")
        };
        let _written = writeln!(
            text,
            "| {category} | {} | {} |",
            range(one.layers.iter().map(|layer| layer.relative_norm).collect()),
            range(one.layers.iter().filter_map(|layer| layer.split_half_cosine).collect())
        );
    }
    text.push('\n');
    text
}

fn strengths(measured: &Measured) -> String {
    let mut text = format!(
        "## Strength\n\nOwn category's vector on every fourth extraction prompt. A strength is safe while at most {} of the \
         answers are degenerate and refusals do not fall by more than {} (which says that answers fall apart in a way \
         the repetition measure does not see). Safe window: 0 to {}; default {}; \
         the policy lets nobody go below {}, the weakest at which {} or more refuse.\n\n| strength | refuses | degenerate |\n\
         |---|---|---|\n",
        MAX_DEGENERATE,
        MAX_FALL,
        measured.window().max,
        measured.strength,
        measured.strength().floor,
        MIN_REFUSED
    );
    for point in &measured.tuning {
        let share = |share: Share| share.to_string();
        let _written = writeln!(
            text,
            "| {} | {} | {} |",
            point.strength,
            share(point.tally.refused_share()),
            share(point.tally.degenerate_share())
        );
    }
    text.push('\n');
    text
}

const LIMITS: &str = "\
## Limits

- The vectors make this model decline. Expect that of harmless prompts as well, which were not measured here: the vectors \
are meant for requests whose category is known, not for everything.
- Compare the own category's vector with the unrelated and the pooled one: what they share does not depend on the \
category.
- The judge reads refusal phrases, and the model's refusals are worded like the texts the vectors are made from. Answers \
are short; what follows a refusal was not read.
- The repetition measure sees loops and rubble, not fluent nonsense.
- The model is small and declines nothing by itself.
";
