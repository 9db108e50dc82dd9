//! How long work tells the outside how far it is, and hears that it should stop.

use std::ops::ControlFlow;

/// Watches long work; the binary shows it as a bar.
pub trait Progress {
    /// Work of `total` steps begins; `what` names a step in the plural ("inputs", "answers").
    fn start(&mut self, what: &str, total: usize);

    /// `num_steps` more steps are done. `Break` asks the work to stop at this point: it keeps what it
    /// can be resumed from and returns [`crate::Error::Interrupted`].
    fn advance(&mut self, num_steps: usize) -> ControlFlow<()>;

    /// Something the user should know, for example that a checkpoint was not used.
    fn note(&mut self, message: &str);

    /// The work of the last `start` is complete.
    fn finish(&mut self);
}

/// Watches nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&mut self, _what: &str, _total: usize) {}

    fn advance(&mut self, _num_steps: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn note(&mut self, message: &str) {
        tracing::info!("{message}");
    }

    fn finish(&mut self) {}
}
