//! The gate that is measured: it reads what a probe reads, and steers nothing whatever it finds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use skeg_lab::probe::{ActivationInput, Probe, TextScores};
use skeg_model::engine::{Gate, GateDecision, PromptActivations};
use skeg_model::steering::Site;

/// Reads rows of a prompt and says that nothing is due.
#[derive(Debug)]
pub(super) struct Reader {
    reads: ActivationInput,
    /// What makes a verdict of the rows, as in the server; without it they are read and no more.
    probe: Option<(Probe, TextScores)>,
    num_decided: AtomicUsize,
    failure: OnceLock<String>,
}

impl Reader {
    pub(super) fn new(reads: ActivationInput, probe: Option<(Probe, TextScores)>) -> Self {
        Self { reads, probe, num_decided: AtomicUsize::new(0), failure: OnceLock::new() }
    }

    /// How often it was asked since it was asked this.
    pub(super) fn take_num_decided(&self) -> usize {
        self.num_decided.swap(0, Ordering::Relaxed)
    }

    /// Why a verdict failed, if one did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

impl Gate for Reader {
    fn site(&self) -> Site {
        self.reads.site
    }

    fn layers(&self) -> &[usize] {
        &self.reads.layers
    }

    /// All rows of a prompt: at least as many as count where prompts begin with a template's words.
    fn mean_from(&self) -> Option<usize> {
        self.reads.mean_without.as_ref().map(|_| 0)
    }

    fn decide(&self, activations: PromptActivations<'_>) -> GateDecision {
        self.num_decided.fetch_add(1, Ordering::Relaxed);
        if let Some((probe, text)) = &self.probe {
            match probe.verdict(text, Some(activations)) {
                Ok(verdict) => drop(std::hint::black_box(verdict)),
                // The first is kept; the others say the same.
                Err(error) => drop(self.failure.set(error.to_string())),
            }
        }
        GateDecision::Unsteered
    }
}
