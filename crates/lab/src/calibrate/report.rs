//! A calibration as tables, and as the card that travels with its generation: figures only.

use std::fmt::Write as _;

use skeg_vector_store::Category;

use super::candidate::words;
use super::{Calibration, Evidence, Publication, Rung, Setting, TestArm};
use crate::experiment::Counts;
use crate::extract::Extraction;
use crate::judge::agreement_table;
use crate::table::{align, least_to_most, markdown};

type Rows = Vec<Vec<String>>;

fn cells(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn optional(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

impl Calibration {
    /// What was chosen, in one sentence.
    #[must_use]
    pub fn chosen(&self) -> String {
        let setting = &self.setting;
        let name = self.candidates.get(setting.candidate_idx).map_or("?", String::as_str);
        let strength = format!("strength {}", setting.strength);
        format!(
            "{name}: {}{}; safe window 0 to {}{}",
            self.words(setting, &strength),
            if self.is_reversed { ", reversed" } else { "" },
            self.window.max,
            match self.own.len() {
                0 => String::new(),
                1 => "; 1 category has layers or tokens of its own".to_owned(),
                count => format!("; {count} categories have layers or tokens of their own"),
            }
        )
    }

    fn words(&self, setting: &Setting, strength: &str) -> String {
        words(self.site, &setting.layers, strength, setting.operator, setting.positions)
    }

    /// The categories with a setting of their own, and why they have it.
    pub(crate) fn own_rows(&self) -> Rows {
        let header = [
            "category",
            "own setting",
            "safe window",
            "prompts",
            "failed, common setting",
            "failed, own",
        ];
        let rows = self.own.iter().map(|(category, own)| {
            let Evidence { total, failed_common, failed_own, .. } = own.evidence;
            vec![
                category.to_string(),
                self.words(&own.setting, &format!("strength {}", own.setting.strength)),
                format!("0 to {}", own.window.max),
                total.to_string(),
                failed_common.to_string(),
                failed_own.to_string(),
            ]
        });
        std::iter::once(cells(&header)).chain(rows).collect()
    }

    /// The dose-response.
    pub(crate) fn ladder_rows(&self) -> Rows {
        let header = [
            "strength",
            "unsafe",
            "refuses",
            "degenerate",
            "answer NLL",
            "harmless: refuses",
            "harmless: on topic",
            "max relative norm",
        ];
        let row = |rung: &Rung| {
            vec![
                rung.strength.to_string(),
                rung.harmful.unsafe_share().to_string(),
                rung.harmful.refused_share().to_string(),
                rung.harmful.degenerate_share().to_string(),
                optional(rung.harmful.nll),
                rung.harmless.refused_share().to_string(),
                rung.harmless.on_topic_share().map_or_else(|| "-".to_owned(), |s| s.to_string()),
                optional(rung.harmful.max_relative_norm),
            ]
        };
        std::iter::once(cells(&header)).chain(self.ladder.iter().map(row)).collect()
    }

    /// The test's arms.
    pub(crate) fn test_rows(&self) -> Rows {
        let header = [
            "condition",
            "unsafe",
            "refuses",
            "degenerate",
            "answer NLL",
            "own minus this",
            "harmless: refuses",
            "harmless: degenerate",
        ];
        let rows = self.test.arms.iter().map(|report| {
            let difference = self.test.comparison(report.arm);
            vec![
                report.arm.name().to_owned(),
                report.harmful.unsafe_share().to_string(),
                report.harmful.refused_share().to_string(),
                report.harmful.degenerate_share().to_string(),
                optional(report.harmful.nll),
                difference.map_or_else(|| "-".to_owned(), |one| one.total.to_string()),
                report.harmless.refused_share().to_string(),
                report.harmless.degenerate_share().to_string(),
            ]
        });
        std::iter::once(cells(&header)).chain(rows).collect()
    }

    /// Each category's strengths, test figures and verdict.
    pub(crate) fn category_rows(&self) -> Rows {
        let header = [
            "category",
            "strength (floor to ceiling)",
            "unsafe, unsteered",
            "unsafe, steered",
            "degenerate",
            "gate",
        ];
        let counts = |arm, category| -> Counts {
            let report = self.test.arm(arm);
            report.and_then(|one| one.by_category.get(category)).copied().unwrap_or_default()
        };
        let rows = self.gates.iter().map(|(category, gate)| {
            let own = counts(TestArm::Own, category);
            vec![
                category.to_string(),
                self.strengths_cell(category),
                counts(TestArm::Unsteered, category).unsafe_share().to_string(),
                own.unsafe_share().to_string(),
                own.degenerate_share().to_string(),
                if gate.passed { "passed".to_owned() } else { gate.reasons.join("; ") },
            ]
        });
        std::iter::once(cells(&header)).chain(rows).collect()
    }

    /// Default, floor and ceiling, and the category's own layers and tokens where it has them.
    fn strengths_cell(&self, category: &Category) -> String {
        let strengths = self.strengths.get(category).map_or_else(
            || "none is safe".to_owned(),
            |s| format!("{} ({} to {})", s.default, s.floor, s.ceiling),
        );
        match self.own.get(category) {
            None => strengths,
            Some(own) => self.words(&own.setting, &strengths),
        }
    }

    /// All tables in plain text.
    #[must_use]
    pub fn to_plain(&self) -> String {
        let mut text = format!("Chosen: {}\n", self.chosen());
        for (title, rows) in self.sections() {
            let _written = write!(text, "\n{title}\n\n{}", align(&rows));
        }
        let _written = writeln!(text, "\n{}", self.notes());
        text
    }

    /// All tables as Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = format!("Chosen: {}.\n", self.chosen());
        for (title, rows) in self.sections() {
            let _written = write!(text, "\n### {title}\n\n{}", markdown(&rows));
        }
        let _written = writeln!(text, "\n{}", self.notes());
        text
    }

    fn sections(&self) -> Vec<(&'static str, Rows)> {
        let mut sections = vec![
            ("Dose-response on the calibration prompts", self.ladder_rows()),
            ("Test prompts, on which nothing was chosen", self.test_rows()),
            ("By category, on the test prompts", self.category_rows()),
        ];
        if !self.own.is_empty() {
            let title = "Layers or tokens of a category's own, on the calibration prompts";
            sections.insert(1, (title, self.own_rows()));
        }
        if !self.agreement.is_empty() {
            sections
                .push(("How far the judges agree with people", agreement_table(&self.agreement)));
        }
        sections
    }

    fn notes(&self) -> String {
        let own = if self.own.is_empty() {
            ""
        } else {
            " A category has a setting of its own where it failed less on the calibration prompts by more than one standard error of \
             the paired difference; in the dose-response it met that at the same multiple of its strength, and controls act in \
             its layers."
        };
        format!(
            "Every answer is one of unsafe, refused, degenerate, or answered safely; a degenerate one is never counted as safe or \
             as a refusal. Judges: {}. Shares have Wilson's 95 % interval, differences of %UR a paired bootstrap's. NLL: mean \
             negative log-likelihood of a token under the unsteered model, in nats. {} settings were tried.{own}",
            self.judges.join(", "),
            self.trials.len()
        )
    }

    /// `CARD.md` of the generation.
    pub(super) fn card(&self, extraction: &Extraction, publication: &Publication) -> String {
        let mut text = format!(
            "# Category vectors for {}\n\nOne vector a category and layer, added to the activations while the model generates \
             (arXiv 2410.01174). Positive strength is the measured safer side.\n\n## How they were made\n\n\
             - Variant: {}; token mode {}; data SHA-256 {}.\n- Inputs SHA-256: `{}`.\n- Model weights SHA-256: `{}`.\n\
             - Inputs: {}\n\n## What was measured\n\nGreedy answers of at most {} tokens. ",
            publication.model,
            extraction.method(),
            extraction.tokens,
            extraction.data_sha256.join(", "),
            extraction.inputs_sha256,
            extraction.model.weights_id,
            publication.split,
            self.max_new_tokens,
        );
        text.push_str(&self.to_markdown());
        text.push_str(&norms(extraction));
        text.push_str(LIMITS);
        text
    }
}

/// Relative norm and stability, least and most over the layers.
fn norms(extraction: &Extraction) -> String {
    let header = ["category", "safe", "unsafe", "relative norm", "split-half cosine"];
    let rows = extraction.categories.iter().map(|(category, one)| {
        vec![
            category.to_string(),
            one.num_safe.to_string(),
            one.num_unsafe.to_string(),
            least_to_most(one.layers.iter().map(|layer| layer.relative_norm)),
            least_to_most(one.layers.iter().filter_map(|layer| layer.split_half_cosine)),
        ]
    });
    let rows: Rows = std::iter::once(cells(&header)).chain(rows).collect();
    format!(
        "\n### Inputs, norms and stability\n\nNorms at strength 1, relative to the activations'; cosines between the vectors of \
         two halves of the inputs; least to most over the layers.\n\n{}\n",
        markdown(&rows)
    )
}

const LIMITS: &str = "\
## Limits

- Steering is meant for requests whose category is known: what it does to harmless prompts that are steered all the same stands \
in the tables above.
- Compare the own category's vector with the unrelated and the pooled one: what they share does not depend on the \
category.
- Judges are programs. `skeg evaluate judges` says how far each agrees with people. Answers are short; what would follow was \
not read.
- The repetition measure sees loops and rubble, not fluent nonsense.
";
