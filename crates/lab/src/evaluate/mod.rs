//! Evaluation: what steering does to a model's answers, with controls.
//!
//! [`evaluate_quick`] asks held-out prompts under five conditions and counts two things apart:
//! refusals and degenerate texts. A text that is both counts as degenerate and not as a refusal, so broken
//! text can never look safe. Each share comes with its Wilson 95 % interval, and the judge with its
//! measured agreement with people.

mod answer;
mod cached;
mod controls;
mod degenerate;
mod engine_answerer;
mod from_store;
mod ifeval;
mod quality;
mod quick;
mod refusal;
mod report;
mod shared_model;
mod tally;

pub use answer::{Answer, Answerer, AppliedVector, Question};
pub use cached::CachedAnswerer;
pub use controls::Condition;
pub use degenerate::{is_degenerate, word_repetition};
pub use engine_answerer::EngineAnswerer;
pub use ifeval::{IfEval, IfEvalScore};
pub use quality::QualityTally;
pub use quick::{QuickSpec, evaluate_quick};
pub use refusal::{REFUSAL_WINDOW_CHARS, is_refusal};
pub use report::{ConditionReport, QuickReport};
pub use shared_model::{SharedModel, TextSide};
pub use tally::{Share, Tally};

pub(crate) use controls::rows_of;
pub(crate) use tally::Z95;

pub use crate::judge::{Agreement, refusal_agreement};
