//! Category vectors and policy as immutable generations on disk: validated, pinned and reloaded while serving.
//!
//! A *generation* is a content-addressed folder with a manifest, a policy, one vector tensor a category, a card, and
//! where there are some a probe and figures. `CURRENT` names the one that serves. The model crate is handed plain numbers and never sees a
//! category; this crate never sees a model, only its [`ModelBinding`].
//!
//! ```text
//! <root>/CURRENT                    {"sequence": 42, "generation": "<id>"}
//! <root>/CURRENT.lock               held while CURRENT is replaced
//! <root>/history/<sequence>.json    who changed CURRENT, when and why; nothing is decided by it
//! <root>/generations/<id>/          manifest.json policy.toml vectors.safetensors CARD.md
//!                                  [probe.safetensors] [figures.json] [SIGNATURES.json]
//! ```
//!
//! `<id>` is the first 16 hex digits of the *root hash*: the SHA-256 over one line `name NUL sha256 LF` for each file
//! of the folder, manifest included, in byte order of the names (the digests in lower-case hex). The manifest lists
//! the digests of the other files. So no byte of a generation can change without a changed id. `SIGNATURES.json` alone is outside of
//! it: who answers for a generation may come later ([`signature`]).
//!
//! What the crate holds to:
//! - Reading is strict. Whatever does not match the format, the model, the recorded norms, the measured safe window or the
//!   bound on what is added to the model's activations is an [`Error`] that names the file and the field, what was found, what
//!   was expected and what to do.
//! - Positive strength is the measured safer side. `0 <= floor <= default <= ceiling`, inside the safe window.
//!   Strength is never folded into the vectors.
//! - Writing is deterministic: equal content gives equal bytes and so the same id.
//! - With [`TrustedKeys`] a [`Store`] and a [`Mirror`] take only what one of them signed.
//! - The same layout lies in a folder or under a prefix of an object store; both are a [`Place`](place::Place), which a
//!   [`Mirror`] follows into a folder. Several publishers may work at once: `CURRENT` changes by compare-and-set.
//! - A reload that fails keeps the last good generation; readers pin by [`std::sync::Arc`] and never wait.
//!
//! ```
//! use skeg_vector_store::{Category, Policy, resolve_alias};
//!
//! let policy = Policy::parse(
//!     r#"
//!     when_missing = "reject"
//!     [categories.malware_viruses]
//!     action = "steer"
//!     positions = "all"
//!     strength = { default = 0.7, floor = 0.4, ceiling = 1.0 }
//!     "#,
//! )?;
//! let category: Category = "malware_viruses".parse()?;
//! assert_eq!(policy.strength(&category, None)?, 0.7);
//! assert!(policy.strength(&category, Some(1.5)).is_err());
//! assert_eq!(resolve_alias("S7").unwrap().as_str(), "privacy_violation");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod aliases;
mod category;
mod combine;
mod current;
pub mod diff;
mod error;
mod files;
pub mod gc;
mod generation;
mod hash;
mod history;
mod manifest;
pub mod mirror;
pub mod place;
mod policy;
pub mod signature;
mod site;
mod store;
mod vectors;

pub use aliases::{ALIASES, Alias, Taxonomy, resolve_alias};
pub use category::{Category, ParseCategoryError};
pub use combine::{CombineError, combine};
pub use current::{Current, change_current, read_current, set_current};
pub use diff::Difference;
pub use error::{BadValue, Error, Result};
pub use files::Files;
pub use generation::{
    FIGURES_FORMAT_VERSION, FileReport, Generation, NewGeneration, Verification, add_generation,
    list_generations, load_files, load_generation, read_files, verify, with_card, with_policy,
    with_probe, write_generation,
};
pub use hash::{GenerationId, ParseGenerationIdError};
pub use history::{Change, ChangeKind, HistoryEntry, MAX_HISTORY, read_history, rollback_target};
pub use manifest::{
    CategoryProvenance, FORMAT_VERSION, LayerNorm, Manifest, Measurement, ModelBinding, Provenance,
    SafeWindow,
};
pub use mirror::Mirror;
#[cfg(feature = "schema")]
pub use policy::policy_schema;
pub use policy::{
    Action, AutoDecision, AutoPolicy, AutoThresholds, CategoryPolicy, DEFAULT_MAX_RELATIVE_NORM,
    DEFAULT_REFUSAL, GroupPolicy, OnAbstain, Policy, Strength, StrengthError, WhenMissing,
};
pub use signature::{PublicKey, SecretKey, Signatures, TrustedKeys, sign_files};
pub use site::{Operator, Orientation, Positions, Site};
pub use store::{Live, Reload, ReloadEvent, Store, WatchGuard, WatchOptions};
pub use vectors::CategoryVectors;
