//! Experiments: prompts under conditions ("arms"), answered by the engine that serves and judged.
//!
//! [`Laboratory::run`] asks the prompts of many arms in one batch; [`Counts`] says what the answers amount to. Calibration
//! and the full evaluation are made of such runs.

mod judged;
mod laboratory;
mod prompts;

pub(crate) use judged::judge;
pub use judged::{Counts, Judged, Outcome};
pub use laboratory::{Arm, Laboratory, Scorers};
pub use prompts::{Prompt, harmful_prompts, harmless_prompts, spread};
