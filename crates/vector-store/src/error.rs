//! The crate's error: one variant a cause, each with the place, what was found, what was expected and what to do.

use std::fmt;
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
    /// The manifest, the figures or the signatures are of a format that this program does not read.
    #[error(
        "{path}: field `format_version`: found {found}, expected {expected}; \
         use a program that reads this version, or write the generation again with this one"
    )]
    UnsupportedFormat {
        /// The file.
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
    #[error("{path}: field `{place}`: {bad}", bad = .0, path = .0.path.display(), place = .0.place)]
    Field(Box<BadValue>),
    /// A tensor is missing, unexpected, or not what the manifest says; the place is its name, `<category>/<site>`.
    #[error("{path}: tensor `{place}`: {bad}", bad = .0, path = .0.path.display(), place = .0.place)]
    Tensor(Box<BadValue>),
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
    #[error("{path}: field `{place}`: wrong model: {bad}", bad = .0, path = .0.path.display(), place = .0.place)]
    WrongModel(Box<BadValue>),
    /// Keys are trusted, and none of them signed the generation.
    #[error(
        "generation {generation} is not trusted: found {found}, expected a signature of {expected}; sign it with such a key \
         (`skeg vectors sign`), or trust the key that signed it"
    )]
    Untrusted {
        /// The generation.
        generation: GenerationId,
        /// Who signed it, if anybody.
        found: String,
        /// The keys that are trusted, by name.
        expected: String,
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
    /// A place that is not a folder of this machine refused something, or cannot be reached.
    #[error("cannot {action} {place}: {reason}")]
    Place {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The place, or the object in it.
        place: String,
        /// Its reason, or what was expected and what to do.
        reason: String,
    },
    /// A place that is followed says less than it had said before; what was copied from it stays.
    #[error(
        "{place}: `CURRENT` has sequence {found} and generation {generation}, expected nothing before sequence {kept}, \
         which {cache} follows already; if that is meant, publish there above {kept}, or empty {cache}",
        cache = .cache.display()
    )]
    Rewound {
        /// The place that is followed.
        place: String,
        /// The sequence it has now.
        found: u64,
        /// The generation it names now.
        generation: GenerationId,
        /// The folder of the copy.
        cache: PathBuf,
        /// The sequence of the copy.
        kept: u64,
    },
    /// The generation is valid, but what it needs before it goes live could not be made.
    #[error("generation {generation} cannot go live: {reason}")]
    Prepare {
        /// The generation.
        generation: GenerationId,
        /// The reason of the store's `prepare` closure.
        reason: String,
    },
    /// The generation was refused a moment ago, and it is too early to try it again.
    #[error("{reason}; it will be tried again")]
    Refused {
        /// The generation.
        generation: GenerationId,
        /// Why it was refused.
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

    pub(crate) fn place(
        action: &'static str,
        place: impl Into<String>,
        reason: impl fmt::Display,
    ) -> Self {
        Self::Place { action, place: place.into(), reason: reason.to_string() }
    }

    pub(crate) fn layout(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Layout { path: path.into(), reason: reason.into() }
    }
}

/// A value that is not acceptable, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found}, expected {expected}; {advice}")]
pub struct BadValue {
    /// The file.
    pub path: PathBuf,
    /// The field, dotted as the file nests it, or the tensor's name.
    pub place: String,
    /// What is there.
    pub found: String,
    /// What is acceptable.
    pub expected: String,
    /// What to do.
    pub advice: String,
}

impl BadValue {
    /// A value of which it is not known yet which file it came from.
    pub(crate) fn new(
        place: impl Into<String>,
        found: impl fmt::Display,
        expected: impl Into<String>,
        advice: impl Into<String>,
    ) -> Box<Self> {
        Box::new(Self {
            path: PathBuf::new(),
            place: place.into(),
            found: found.to_string(),
            expected: expected.into(),
            advice: advice.into(),
        })
    }

    /// The same value with its file.
    pub(crate) fn in_file(mut self: Box<Self>, path: impl Into<PathBuf>) -> Box<Self> {
        self.path = path.into();
        self
    }
}
