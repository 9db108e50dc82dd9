//! What an object store must be able to do to be a place: five blocking calls.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::Result;

/// What tells one version of an object from others. Stores have one of the two, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The entity tag of HTTP.
    pub e_tag: Option<String>,
    /// The store's own number of the version.
    pub version: Option<String>,
}

/// What a reader was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// There is no such object.
    Absent,
    /// It is the version that the reader knows.
    Unchanged,
    /// Its bytes, and what tells this version from others.
    Object(Vec<u8>, Tag),
}

/// On which condition an object is written. The store decides it, in one step with the writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Only {
    /// On none.
    Always,
    /// Only if there is none.
    IfAbsent,
    /// Only if it still is this version.
    IfStill(Tag),
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketObject {
    /// Its key, below the bucket's prefix.
    pub key: String,
    /// When it was last written, by the store's clock.
    pub modified: SystemTime,
}

/// A prefix of an object store that reads its own writes at once, as S3, GCS and Azure do. Calls block, with a bound on time.
pub trait Bucket: fmt::Debug + Send + Sync {
    /// The address of the prefix, such as `s3://bucket/prefix`.
    fn name(&self) -> String;

    /// Reads an object of at most `max_bytes`, unless it still is the version of `known`.
    ///
    /// # Errors
    /// [`Error::Layout`](crate::Error::Layout) when it is larger; what the store refuses.
    fn get(&self, key: &str, max_bytes: u64, known: Option<&Tag>) -> Result<Got>;

    /// Writes an object whole; `false` when the condition did not hold and nothing was written.
    ///
    /// # Errors
    /// What the store refuses. With a condition it is then unknown whether the object was written.
    fn put(&self, key: &str, bytes: &[u8], only: &Only) -> Result<bool>;

    /// Removes an object; none there is no error.
    ///
    /// # Errors
    /// What the store refuses.
    fn delete(&self, key: &str) -> Result<()>;

    /// The objects below `folder`.
    ///
    /// # Errors
    /// What the store refuses; more than `max` objects.
    fn list(&self, folder: &str, max: usize) -> Result<Vec<BucketObject>>;
}

impl<B: Bucket + ?Sized> Bucket for Arc<B> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn get(&self, key: &str, max_bytes: u64, known: Option<&Tag>) -> Result<Got> {
        (**self).get(key, max_bytes, known)
    }

    fn put(&self, key: &str, bytes: &[u8], only: &Only) -> Result<bool> {
        (**self).put(key, bytes, only)
    }

    fn delete(&self, key: &str) -> Result<()> {
        (**self).delete(key)
    }

    fn list(&self, folder: &str, max: usize) -> Result<Vec<BucketObject>> {
        (**self).list(folder, max)
    }
}
