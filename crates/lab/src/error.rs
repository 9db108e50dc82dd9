//! The crate's error: one variant a cause, with what was found, what was expected and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

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
    /// A row of a data file does not give an item.
    #[error("{path}{place}: {reason}")]
    BadRow {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// What was found and what was expected; never the row's text.
        reason: String,
    },
    /// Two items of a data file have the same prompt and answer and different labels.
    #[error(
        "{path}{place}: labels in conflict: items `{first}` and `{second}` have the same prompt and answer and differ \
         in {fields}; correct the file, or have conflicts dropped"
    )]
    Conflict {
        /// The file.
        path: PathBuf,
        /// Where the second is.
        place: Place,
        /// Id of the first.
        first: String,
        /// Id of the second.
        second: String,
        /// The labels that differ.
        fields: String,
    },
    /// Two sets that must not share a prompt do.
    #[error(
        "{num_texts} texts are in both data sets, among them {pairs}; leave them out of one, and split by text, not by row"
    )]
    Overlap {
        /// How many texts are in both.
        num_texts: usize,
        /// The first ones, by their ids in either set.
        pairs: String,
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
    /// An endpoint gave no verdict on some items. No text of theirs and no key is in the message.
    #[error(
        "endpoint {url} (model `{model}`) {reason}; {num_done} of {num_items} items got an answer{}",
        if *is_kept { ", which is kept: run the same command again to go on" } else { "" }
    )]
    Endpoint {
        /// Its address.
        url: String,
        /// The model asked for.
        model: String,
        /// What it did, and what to do.
        reason: String,
        /// Items of this run that were answered.
        num_done: usize,
        /// Items that were to be asked.
        num_items: usize,
        /// Whether there are answers on disk, for the next run.
        is_kept: bool,
    },
    /// A classifier behind an endpoint gave no verdict. No text of the conversation and no key is in the message.
    #[error("classifier {url} (model `{model}`) {reason}")]
    Classifier {
        /// Its address, with the path.
        url: String,
        /// The model asked for.
        model: String,
        /// What it did, and what to do.
        reason: String,
        /// Whether its time was up.
        timed_out: bool,
    },
    /// A figure cannot be drawn from its data.
    #[error("figure `{title}`: {reason}")]
    Figure {
        /// The figure's title.
        title: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A file of steering vectors is not one, or declares what cannot be done.
    #[error("{path}: {reason}")]
    VectorFile {
        /// The file.
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

impl Error {
    /// [`Error::BadRow`].
    pub(crate) fn bad_row(path: &Path, place: Place, reason: impl Into<String>) -> Self {
        Self::BadRow { path: path.to_owned(), place, reason: reason.into() }
    }

    /// [`Error::VectorFile`].
    pub(crate) fn vector_file(path: &Path, reason: impl Into<String>) -> Self {
        Self::VectorFile { path: path.to_owned(), reason: reason.into() }
    }

    /// [`Error::Io`].
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Where in a data file, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The line on which the row starts.
    Line(usize),
    /// The row, where the format has no lines: Parquet, and JSON arrays.
    Row(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, ":{line}"),
            Self::Row(row) => write!(f, ", row {row}"),
        }
    }
}
