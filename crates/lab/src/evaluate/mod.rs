//! What calibration and study ask and read answers with: a model that answers, control vectors, refusal phrases, the
//! repetition measure, checkable constraints, and shares with their Wilson 95 % intervals.

mod answer;
mod cached;
mod controls;
mod degenerate;
mod engine_answerer;
mod ifeval;
mod refusal;
mod share;
mod shared_model;

pub use answer::{Answer, Answerer, AppliedVector, Question};
pub use cached::CachedAnswerer;
pub use degenerate::{is_degenerate, word_repetition};
pub use engine_answerer::EngineAnswerer;
pub use ifeval::{IfEval, IfEvalScore};
pub use refusal::{REFUSAL_WINDOW_CHARS, is_refusal};
pub use share::Share;
pub use shared_model::{SharedModel, TextSide};

pub(crate) use controls::{Condition, rows_of};
pub(crate) use share::Z95;
