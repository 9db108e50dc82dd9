//! The crate's error: one variant a cause, with what was found, what was expected and what to do.

use std::path::PathBuf;

/// What can go wrong in extraction and evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line of a data file is not an item.
    #[error("{path}:{line}: {reason}")]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What was found and what was expected.
        reason: String,
    },
    /// Data is well formed but cannot serve its purpose.
    #[error("data: {0}")]
    Data(String),
    /// An extraction or evaluation was asked for that cannot be made.
    #[error("spec: {0}")]
    Spec(String),
    /// Whoever watches the progress asked to stop. An extraction with a checkpoint file goes on from there.
    #[error("interrupted after {done} of {total}; run the same command again to go on")]
    Interrupted {
        /// Inputs whose work is done.
        done: usize,
        /// Inputs in all.
        total: usize,
    },
    /// The engine gave up a sequence.
    #[error("question `{id}` was not answered: {reason}")]
    Unanswered {
        /// The question's id.
        id: String,
        /// The engine's reason.
        reason: String,
    },
    /// A sentence embedder could not be loaded or run.
    #[error("embedder {path}: {reason}")]
    Embedder {
        /// Its folder or the file at fault.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// The model refused its input, or a pass failed.
    #[error(transparent)]
    Model(#[from] skeg_model::Error),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
