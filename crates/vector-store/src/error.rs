//! The crate's error: one variant a cause, each with the place, what was found, what was expected and what to do.

use std::path::PathBuf;

use crate::GenerationId;

/// What can go wrong with a store on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused a file or folder.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file or folder is missing, too large, unexpected, or lies outside the store.
    #[error("{path}: {reason}")]
    Layout {
        /// The file or folder.
        path: PathBuf,
        /// What was found, what was expected and what to do.
        reason: String,
    },
    /// The manifest is of a format that this program does not read.
    #[error(
        "{path}: field `format_version`: found {found}, expected {expected}; \
         use a program that reads this version, or write the generation again with this one"
    )]
    UnsupportedFormat {
        /// The manifest.
        path: PathBuf,
        /// The version in the file.
        found: String,
        /// The version this program reads.
        expected: u32,
    },
    /// A file is not in the language its name says, has an unknown field, or lacks one.
    #[error("{path}: {reason}; correct the file and write the generation again")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        reason: String,
    },
    /// A field's value is not acceptable.
    #[error("{path}: field `{field}`: found {found}, expected {expected}; {advice}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, dotted as the file nests it.
        field: String,
        /// The value.
        found: String,
        /// What is acceptable.
        expected: String,
        /// What to do.
        advice: String,
    },
    /// A tensor is missing, unexpected, or not what the manifest says.
    #[error("{path}: tensor `{tensor}`: found {found}, expected {expected}; {advice}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name, `<category>/<site>`.
        tensor: String,
        /// What the file has.
        found: String,
        /// What is acceptable.
        expected: String,
        /// What to do.
        advice: String,
    },
    /// The bytes are not those that were written.
    #[error(
        "{path}: damaged: found SHA-256 {found}, expected {expected}; \
         copy the generation again from where it was made"
    )]
    Damaged {
        /// The file, or the folder when the root hash differs.
        path: PathBuf,
        /// The digest of what is there, lower-case hex.
        found: String,
        /// The digest on record, or the first digits of it.
        expected: String,
    },
    /// The generation was made for another model.
    #[error("{path}: field `{field}`: wrong model: found {found}, expected {expected}; {advice}")]
    WrongModel {
        /// The manifest.
        path: PathBuf,
        /// The field that differs.
        field: &'static str,
        /// What the generation was made for.
        found: String,
        /// What the loaded model has.
        expected: String,
        /// What to do.
        advice: &'static str,
    },
    /// Someone else changed `CURRENT` first.
    #[error(
        "{path}: field `sequence`: found {found}, expected {expected}; \
         another publisher was first: read CURRENT again and decide anew"
    )]
    Conflict {
        /// `CURRENT`.
        path: PathBuf,
        /// The sequence in the file; 0 if there is none.
        found: u64,
        /// The sequence the caller had seen.
        expected: u64,
    },
    /// The generation is valid, but what it needs before it goes live could not be made.
    #[error("generation {generation} cannot go live: {reason}")]
    Prepare {
        /// The generation.
        generation: GenerationId,
        /// The reason of the store's `prepare` closure.
        reason: String,
    },
    /// The watching thread could not be started.
    #[error("cannot watch {path}: {source}")]
    Watch {
        /// The store's root.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn layout(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Layout { path: path.into(), reason: reason.into() }
    }
}

/// A value that is not acceptable, before it is known which file it came from.
#[derive(Debug)]
pub(crate) struct BadField {
    pub(crate) field: String,
    pub(crate) found: String,
    pub(crate) expected: String,
    pub(crate) advice: String,
}

impl BadField {
    pub(crate) fn new(
        field: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            found: found.to_string(),
            expected: expected.into(),
            advice: advice.into(),
        }
    }

    pub(crate) fn in_file(self, path: impl Into<PathBuf>) -> Error {
        Error::Field {
            path: path.into(),
            field: self.field,
            found: self.found,
            expected: self.expected,
            advice: self.advice,
        }
    }
}
