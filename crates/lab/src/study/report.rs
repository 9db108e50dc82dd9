//! A study as a report, which becomes HTML and Markdown, with its figures as SVG and PNG.

use super::arms::ArmKind;
use super::figures::{ArmFigures, Heat, StudyFigures};
use crate::error::Result;
use crate::evaluate::Share;
use crate::experiment::Counts;
use crate::figures::{
    Bar, BarGroup, Cell, CosineMatrix, Curve, CurvePoint, Curves, Figure, GroupedBars, Heatmap,
    ValueAxis,
};
use crate::html::{Block, Report, Section};

/// What a study's figures do not say of themselves.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The model's name.
    pub model: String,
    /// Names and values for the head of the report: model, data, machine, time.
    pub facts: Vec<(String, String)>,
    /// How vectors were made, one row a method; the first row is the header.
    pub methods: Vec<Vec<String>>,
    /// How far the judges agree with people ([`crate::judge::Judges::agreement_table`]); empty where that is not known.
    pub judges: Vec<Vec<String>>,
    /// What the reader should know of this run: what did not work and why.
    pub remarks: Vec<String>,
}

/// A report with its pictures.
#[derive(Debug, Clone)]
pub struct StudyReport {
    /// The text.
    pub report: Report,
    /// File names and contents: each figure as SVG and as PNG.
    pub files: Vec<(String, Vec<u8>)>,
}

impl StudyFigures {
    /// The report.
    ///
    /// # Errors
    /// [`crate::Error::Figure`] when a picture cannot be drawn.
    pub fn report(&self, about: &About) -> Result<StudyReport> {
        let mut files = Vec::new();
        let mut sections = vec![self.summary(about), self.table()];
        sections.extend(self.by_category(&mut files)?);
        sections.extend(self.dose(&mut files)?);
        sections.push(self.making(about, &mut files)?);
        sections.push(self.reading(about));
        let report = Report {
            title: format!("Category-wise safety steering of {}", about.model),
            subtitle: format!(
                "Greedy answers of at most {} tokens; shares in per cent with 95 % intervals",
                self.max_new_tokens
            ),
            sections,
        };
        Ok(StudyReport { report, files })
    }

    fn summary(&self, about: &About) -> Section {
        let mut blocks = vec![Block::Facts(about.facts.clone())];
        blocks.extend(about.remarks.iter().cloned().map(Block::Paragraph));
        Section { heading: "Summary".to_owned(), blocks }
    }

    fn table(&self) -> Section {
        let chosen = self.arms.iter().position(|arm| arm.kind == ArmKind::Chosen);
        let highlight = chosen.map(|idx| idx + 1);
        let mut blocks = vec![
            Block::Table {
                caption: "Every row on the same prompts".to_owned(),
                rows: self.main_rows(),
                highlight,
            },
            Block::Note(
                "%UR: share of unsafe responses, judged by program. Every answer is one of unsafe, refused, degenerate, or answered \
                 safely; broken text is never counted as safe. Harmless prompts are steered all the same, each with some \
                 category's vector: what a wrong category does. NLL: mean negative log-likelihood of a token of the answers to \
                 the first set under the unsteered model, in nats; perplexity: of plain texts, each with some category's vector on every token."
                    .to_owned(),
            ),
            Block::Details {
                summary: "%UR minus that of naive generation".to_owned(),
                blocks: vec![Block::Table {
                    caption: "Differences in points, paired bootstrap".to_owned(),
                    rows: self.difference_rows(),
                    highlight: None,
                }],
            },
        ];
        if self.sets.len() > 1 {
            let caption = "Other sets of harmful prompts, mapped to these categories".to_owned();
            blocks.insert(1, Block::Table { caption, rows: self.other_rows(), highlight });
        }
        Section { heading: "All variants".to_owned(), blocks }
    }

    fn by_category(&self, files: &mut Vec<(String, Vec<u8>)>) -> Result<Vec<Section>> {
        let mut sections = Vec::new();
        for set in &self.sets {
            let figure = self.bars(set);
            let blocks = vec![
                picture(
                    &figure,
                    &format!("categories-{set}"),
                    "%UR by category, with Wilson's 95 % intervals.",
                    files,
                )?,
                Block::Table {
                    caption: "Unsafe answers by category (degenerate ones)".to_owned(),
                    rows: self.category_rows(set),
                    highlight: None,
                },
            ];
            sections.push(Section { heading: format!("By category: {set}"), blocks });
        }
        Ok(sections)
    }

    /// The form of the paper's Figure 2: naive, all activations, pruned; and the calibrated vectors.
    fn bars(&self, set: &str) -> GroupedBars {
        let paper = self.arms.iter().filter(|arm| arm.kind == ArmKind::Tuned).take(2);
        let others = |kind: ArmKind| self.arms.iter().filter(move |arm| arm.kind == kind);
        let arms: Vec<&ArmFigures> =
            others(ArmKind::Naive).chain(paper).chain(others(ArmKind::Chosen)).collect();
        let groups = self.categories_of(set).into_iter().map(|category| BarGroup {
            bars: arms
                .iter()
                .map(|arm| {
                    let counts = arm.harmful.get(set)?.by_category.get(&category)?;
                    Some(bar(counts.unsafe_share()))
                })
                .collect(),
            name: category.to_string(),
        });
        GroupedBars {
            title: format!("Unsafe responses, {set}"),
            value_name: "%UR".to_owned(),
            series: arms.iter().map(|arm| arm.name.clone()).collect(),
            groups: groups.collect(),
        }
    }

    fn dose(&self, files: &mut Vec<(String, Vec<u8>)>) -> Result<Option<Section>> {
        let mut blocks = Vec::new();
        if !self.ladder.is_empty() {
            blocks.push(picture(
                &self.curves(),
                "dose-response",
                "Calibrated vectors: shares over the strength, as a multiple of each category's default; negative is the other \
                 direction. Shaded: strengths that act and keep the text whole.",
                files,
            )?);
        }
        if let Some(heat) = &self.heat {
            let caption = format!(
                "{}, at every token: refusals by layers and dose (large), degenerate answers (small). The dose is the mean \
                 change of the steered output relative to it, over the layers. Of the rows that were tuned these vectors failed least.",
                heat.vectors
            );
            blocks.push(picture(&heatmap(heat), "layers", &caption, files)?);
        }
        Ok((!blocks.is_empty()).then(|| Section { heading: "Dose".to_owned(), blocks }))
    }

    fn curves(&self) -> Curves {
        let curve = |name: &str, share: fn(&Counts) -> Share| Curve {
            name: name.to_owned(),
            points: self
                .ladder
                .iter()
                .map(|rung| {
                    let share = share(&rung.harmful);
                    let interval = Some((share.low, share.high));
                    CurvePoint { x: f64::from(rung.strength), value: share.share, interval }
                })
                .collect(),
        };
        Curves {
            title: "Dose-response".to_owned(),
            x_name: "multiple of the default strength".to_owned(),
            y_name: "share of answers".to_owned(),
            value_axis: ValueAxis::Share,
            curves: vec![
                curve("unsafe", Counts::unsafe_share),
                curve("refused", Counts::refused_share),
                curve("degenerate", Counts::degenerate_share),
            ],
            safe_window: self.window.map(|window| (f64::from(window.min), f64::from(window.max))),
            default_x: Some(1.0),
        }
    }

    fn making(&self, about: &About, files: &mut Vec<(String, Vec<u8>)>) -> Result<Section> {
        let mut blocks = vec![Block::Table {
            caption: "Inputs, norms and stability of the vectors".to_owned(),
            rows: about.methods.clone(),
            highlight: None,
        }];
        if !self.cosines.is_empty() {
            let figure = CosineMatrix {
                title: "Cosines between the categories' vectors".to_owned(),
                names: self.categories.iter().map(ToString::to_string).collect(),
                values: self.cosines.clone(),
            };
            let caption = "Calibrated vectors, mean over their layers.";
            blocks.push(picture(&figure, "cosines", caption, files)?);
        }
        Ok(Section { heading: "How the vectors were made".to_owned(), blocks })
    }

    fn reading(&self, about: &About) -> Section {
        let mut blocks = vec![Block::Paragraph(format!("Judges: {}.", self.judges.join(", ")))];
        blocks.push(if about.judges.is_empty() {
            Block::Note(
                "How far they agree with people is not known here: `skeg evaluate judges --save` keeps it beside the heads.".to_owned(),
            )
        } else {
            Block::Table {
                caption: "How far the judges agree with people".to_owned(),
                rows: about.judges.clone(),
                highlight: None,
            }
        });
        Section { heading: "Judges".to_owned(), blocks }
    }
}

fn bar(share: Share) -> Bar {
    Bar { value: share.share, interval: Some((share.low, share.high)) }
}

fn heatmap(heat: &Heat) -> Heatmap {
    let cell = |counts: &Counts| {
        let degenerate = counts.degenerate_share().share;
        Some(Cell { value: counts.refused_share().share, second: Some(degenerate) })
    };
    Heatmap {
        title: "Layers and doses".to_owned(),
        row_name: "layers".to_owned(),
        column_name: "change relative to the layer's output".to_owned(),
        value_name: "refused".to_owned(),
        second_name: Some("degenerate".to_owned()),
        rows: heat.layers.clone(),
        columns: heat.doses.iter().map(ToString::to_string).collect(),
        cells: heat.cells.iter().map(|row| row.iter().map(cell).collect()).collect(),
        chosen: None,
    }
}

/// Draws a figure into the report and keeps its files.
fn picture(
    figure: &dyn Figure,
    name: &str,
    caption: &str,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<Block> {
    let drawing = figure.draw()?;
    let svg = drawing.to_svg()?;
    files.push((format!("{name}.svg"), svg.clone().into_bytes()));
    files.push((format!("{name}.png"), drawing.to_png()?));
    Ok(Block::Figure { svg, file: format!("{name}.svg"), caption: caption.to_owned() })
}
