//! The study: the paper's experiment for a model, in one table, with what improves on it, its controls and its costs.
//!
//! arXiv 2410.01174 compares naive generation with vectors of all activations and of pruned ones, unsupervised and guided,
//! against matched and generic harmless texts, by the share of unsafe responses (%UR) and by quality. Each such
//! row runs at the paper's setting (one layer, strength 1) and at the best of a small search; beside them run the
//! calibrated vectors, controls, a system prompt, and rows that the caller adds.

mod arms;
mod chosen;
mod costs;
mod dose;
mod figures;
mod improved;
mod report;
mod run;
mod spec;
mod tables;
mod tuning;

pub use arms::ArmKind;
pub use figures::{ArmFigures, Followed, Heat, SetFigures, StudyFigures};
pub use improved::{ImproveData, improved_arms};
pub use report::{About, StudyReport};
pub use run::study;
pub use spec::{Chosen, ChosenRule, Method, PromptSet, StudySpec};
pub use tuning::{Budget, budget};
