//! A bucket in memory that can be away, die after so many writes, call its tester, and tell what was asked of it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use skeg_vector_store::place::{
    Bucket, BucketObject, CloudBucket, Got, ObjectPlace, Only, Place, Tag,
};
use skeg_vector_store::{Error, GenerationId, Result, add_generation, read_files};

use crate::support::write;

/// Called once, before a call that its text names.
type Hook = Box<dyn FnOnce() + Send>;

/// What all users of a bucket share.
pub(crate) struct TestBucket {
    inner: Arc<CloudBucket>,
    pub(crate) is_away: AtomicBool,
    /// Writes that still succeed.
    writes_left: AtomicUsize,
    /// Whether the first write that fails takes effect all the same, as when its answer is lost.
    answer_is_lost: bool,
    pub(crate) calls: Mutex<Vec<String>>,
    hook: Mutex<Option<(String, Hook)>>,
}

impl fmt::Debug for TestBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestBucket")
    }
}

/// An empty bucket.
pub(crate) fn empty() -> Arc<CloudBucket> {
    Arc::new(CloudBucket::in_memory("fleet/vectors").unwrap())
}

/// A place on a bucket, for a user to whom nothing happens.
pub(crate) fn place(bucket: &Arc<CloudBucket>) -> ObjectPlace {
    ObjectPlace::new(Arc::clone(bucket))
}

impl TestBucket {
    pub(crate) fn new(inner: &Arc<CloudBucket>) -> Self {
        Self {
            inner: Arc::clone(inner),
            is_away: AtomicBool::new(false),
            writes_left: AtomicUsize::new(usize::MAX),
            answer_is_lost: false,
            calls: Mutex::default(),
            hook: Mutex::default(),
        }
    }

    /// One whose user dies with the write after `writes`.
    pub(crate) fn dying(inner: &Arc<CloudBucket>, writes: usize, answer_is_lost: bool) -> Self {
        let writes_left = AtomicUsize::new(writes);
        Self { writes_left, answer_is_lost, ..Self::new(inner) }
    }

    /// Calls `hook` before the first call whose words begin with `before`.
    pub(crate) fn before(self, before: &str, hook: impl FnOnce() + Send + 'static) -> Self {
        *self.hook.lock().unwrap() = Some((before.to_owned(), Box::new(hook)));
        self
    }

    fn call(&self, words: String) -> Result<()> {
        let mut hook = self.hook.lock().unwrap();
        let is_due = hook.as_ref().is_some_and(|(before, _)| words.starts_with(before));
        let due = if is_due { hook.take() } else { None };
        drop(hook);
        if let Some((_, hook)) = due {
            hook();
        }
        self.calls.lock().unwrap().push(words);
        if self.is_away.load(Ordering::SeqCst) { Err(refused("away")) } else { Ok(()) }
    }

    fn write<T>(&self, write: impl FnOnce() -> Result<T>) -> Result<T> {
        let left = self.writes_left.load(Ordering::SeqCst);
        if left > 0 {
            self.writes_left.store(left - 1, Ordering::SeqCst);
            return write();
        }
        if self.answer_is_lost && !self.is_away.swap(true, Ordering::SeqCst) {
            write()?;
        }
        Err(refused("dead"))
    }
}

fn refused(reason: &str) -> Error {
    Error::Place { action: "reach", place: "the bucket".to_owned(), reason: reason.to_owned() }
}

impl Bucket for TestBucket {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn get(&self, key: &str, max_bytes: u64, known: Option<&Tag>) -> Result<Got> {
        self.call(format!("get {key}"))?;
        self.inner.get(key, max_bytes, known)
    }

    fn put(&self, key: &str, bytes: &[u8], only: &Only) -> Result<bool> {
        self.call(format!("put {key}"))?;
        self.write(|| self.inner.put(key, bytes, only))
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.call(format!("delete {key}"))?;
        self.write(|| self.inner.delete(key))
    }

    fn list(&self, folder: &str, max: usize) -> Result<Vec<BucketObject>> {
        self.call(format!("list {folder}"))?;
        self.inner.list(folder, max)
    }
}

/// Writes the generation of a mark into any place.
pub(crate) fn write_to(place: &dyn Place, mark: u8) -> GenerationId {
    let folder = tempfile::tempdir().unwrap();
    let id = write(folder.path(), mark);
    let files = read_files(folder.path(), &id).unwrap();
    assert_eq!(place.add_files(&files).unwrap(), id);
    assert_eq!(add_generation(folder.path(), &files).unwrap(), id);
    id
}

/// Writes the generation of a mark into any place and makes it the one that serves.
pub(crate) fn publish_to(place: &dyn Place, mark: u8) -> GenerationId {
    let id = write_to(place, mark);
    place.set_current(&id, None, &skeg_vector_store::Change::default()).unwrap();
    id
}
