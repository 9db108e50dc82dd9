//! The crate's error: one variant a cause, with what was found, what was expected and what to do.

use std::path::PathBuf;

/// What can go wrong while a model is loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, mapped or read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is there but is not what its name says.
    #[error("{path}: {reason}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        reason: String,
    },
    /// The configuration asks for something that is not implemented, or contradicts itself.
    #[error("{path}: field `{field}`: {reason}")]
    Config {
        /// The file that holds the field.
        path: PathBuf,
        /// The field, as the file spells it.
        field: String,
        /// What was found and what is supported.
        reason: String,
    },
    /// A tensor is missing, or has another shape than the configuration says.
    #[error("{path}: tensor `{tensor}`: {reason}")]
    Weight {
        /// The file that should hold the tensor.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// Text could not be tokenised, or ids could not be turned into text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template is missing, does not compile, or refused the messages.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// The device is not there, or this build cannot use it.
    #[error("device `{device}`: {reason}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A steering plan, vector or capture does not fit the model.
    #[error("steering: {0}")]
    Steering(String),
    /// A request does not fit the model's context or the engine's limits.
    #[error("request: {0}")]
    Request(String),
    /// A tensor operation failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
