//! What a generation's card says of its probe.

use super::member::{Input, PromptRow};
use super::{Probe, TrainingSource};

/// The heading under which a card speaks of its probe; up to the next heading of its level or the card's end is the probe's.
const HEADING: &str = "## The gate";

impl Probe {
    /// A generation's card with this probe's section: what it reads, what it was trained on, and below that `report`, Markdown of
    /// what was measured (as `skeg probe evaluate --out` writes it), its headings three levels down and without its pictures, which
    /// are not part of a generation. A section that is there is replaced.
    #[must_use]
    pub fn card(&self, card: &str, report: Option<&str>) -> String {
        let without = without_section(card);
        format!("{}\n\n{}", without.trim_end(), self.section(report)).trim_start().to_owned()
    }

    fn section(&self, report: Option<&str>) -> String {
        let members: Vec<String> = self.members.iter().map(|member| words(&member.input)).collect();
        let mut lines = vec![
            HEADING.to_owned(),
            String::new(),
            "`auto` finds the category of a request by `probe.safetensors`.".to_owned(),
            String::new(),
            format!("- Reads: {}.", members.join("; ")),
            format!("- Categories: {}.", self.categories.len()),
        ];
        lines.extend(self.trained_on.sets.iter().map(source));
        if let Some(report) = report {
            lines.extend([String::new(), "### What was measured of it".to_owned(), String::new()]);
            lines.extend(without_pictures(report).trim().lines().map(deeper));
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

fn words(input: &Input) -> String {
    match input {
        Input::Activations { site, layers, row, .. } => {
            let site = site.as_str();
            let layers: Vec<String> = layers.iter().map(usize::to_string).collect();
            let row = match row {
                PromptRow::Last => "the last row of the prompt",
                PromptRow::Mean => "the mean of the prompt's rows",
            };
            format!("{row} at {site}, layers {}", layers.join(", "))
        }
        Input::NGrams(ngrams) => format!("hashed n-grams of the text, {} features", ngrams.width()),
        Input::Embedding { embedder, .. } => format!("embeddings by {embedder}"),
    }
}

fn source(source: &TrainingSource) -> String {
    let TrainingSource { name, sha256, num_prompts: [harmful, harmless], num_augmented } = source;
    let files = sha256.join(", ");
    let copies = match num_augmented {
        0 => String::new(),
        _ => format!(", {num_augmented} disguised copies"),
    };
    format!("- Trained on {name}: {harmful} harmful, {harmless} harmless{copies}; SHA-256 {files}.")
}

fn without_pictures(report: &str) -> String {
    let lines = report.lines().filter(|line| !line.starts_with("!["));
    lines.collect::<Vec<_>>().join("\n")
}

fn deeper(line: &str) -> String {
    if line.starts_with('#') { format!("###{line}") } else { line.to_owned() }
}

fn without_section(card: &str) -> String {
    let mut is_inside = false;
    let kept = card.lines().filter(|line| {
        if line.starts_with("## ") || line.starts_with("# ") {
            is_inside = *line == HEADING;
        }
        !is_inside
    });
    kept.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::{Member, NGrams, Planes, Stack, TrainedOn};
    use super::*;

    fn probe() -> Probe {
        let ngrams = NGrams { log2_buckets: 2, ..NGrams::default() };
        let width = ngrams.width();
        Probe {
            categories: Vec::new(),
            members: vec![Member {
                input: Input::NGrams(ngrams),
                planes: Planes::new(vec![0.0; width], vec![0.0]),
            }],
            stack: Stack { harm: vec![1.0], bias: 0.0, categories: vec![1.0] },
            answer: None,
            trained_on: TrainedOn {
                sets: vec![TrainingSource {
                    name: "own".to_owned(),
                    sha256: vec!["ab".to_owned(), "cd".to_owned()],
                    num_prompts: [3, 4],
                    num_augmented: 5,
                }],
            },
        }
    }

    #[test]
    fn a_card_names_the_probe_once_whatever_it_said_before() {
        let card = "# Card\n\ntext\n\n## More\n\nfigures\n";
        let first =
            probe().card(card, Some("# Probe\n\n## Sets\n\n| a |\n\n![Recall](recall.svg)\n"));
        assert!(
            first.starts_with("# Card\n\ntext\n\n## More\n\nfigures\n\n## The gate\n"),
            "{first}"
        );
        for part in [
            "- Trained on own: 3 harmful, 4 harmless, 5 disguised copies; SHA-256 ab, cd.\n",
            "hashed n-grams of the text, ",
            "### What was measured of it\n\n#### Probe\n\n##### Sets\n\n| a |\n",
        ] {
            assert!(first.contains(part) && !first.contains("svg"), "{part} in {first}");
        }
        // A section in the middle goes, with the headings inside it; what follows stays.
        let middle = first.replace("\n## More", "\n## The gate\n\nold\n\n### Deep\n\n## More");
        let again = probe().card(&middle, None);
        assert_eq!(again.matches("## The gate").count(), 1, "{again}");
        assert!(!again.contains("old") && !again.contains("Sets"), "{again}");
        assert!(again.contains("## More\n\nfigures\n\n## The gate\n"), "{again}");
        assert_eq!(probe().card(&again, None), again);
    }
}
