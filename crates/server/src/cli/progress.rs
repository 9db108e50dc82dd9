//! Long work as a bar on standard error, and Ctrl-C as a wish to stop at a point that can be resumed from.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use skeg_lab::Progress;

use crate::output;

/// The bar of one command.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    interrupted: Arc<AtomicBool>,
}

impl Bar {
    /// Watches for Ctrl-C from here on, on a thread of its own.
    pub(super) fn new() -> std::io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("skeg-interrupt".to_owned()).spawn(move || {
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                flag.store(true, Ordering::Release);
            }
        })?;
        Ok(Self { bar: ProgressBar::hidden(), interrupted })
    }
}

impl Progress for Bar {
    fn start(&mut self, what: &str, total: usize) {
        self.bar = output::step_bar(what, total as u64);
    }

    fn advance(&mut self, num_steps: usize) -> ControlFlow<()> {
        self.bar.inc(num_steps as u64);
        if self.interrupted.load(Ordering::Acquire) {
            self.bar.abandon();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn note(&mut self, message: &str) {
        self.bar.suspend(|| output::note(message));
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}
