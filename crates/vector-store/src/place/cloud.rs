//! Buckets of S3, GCS and Azure through the crate `object_store`, which is async: calls run on a runtime of their own.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
    UpdateVersion,
};
use tokio::runtime::{Builder, Runtime};

use super::bucket::{Bucket, BucketObject, Got, Only, Tag};
use super::connector::Connector;
use crate::error::{Error, Result};
use crate::files;

/// How often a request is tried again that may be made twice.
const MAX_RETRIES: usize = 3;
/// After this time it is not tried again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// A bucket of S3, GCS or Azure, or one in memory.
///
/// Calls block, so they are for threads that may: inside an async task they panic, as does every blocking call of tokio.
pub struct CloudBucket {
    name: String,
    /// What all keys begin with.
    prefix: Path,
    /// Tries again what may be made twice.
    store: Arc<dyn ObjectStore>,
    /// Tries nothing again: a conditional write whose answer was lost would find its own work and take it for another's.
    once: Arc<dyn ObjectStore>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl CloudBucket {
    /// The bucket and prefix of `s3://bucket/prefix`, `gs://…` or `az://…`; see [`open`](super::open) for credentials.
    ///
    /// # Errors
    /// [`Error::Place`] for an address or settings that cannot be used.
    pub fn open(address: &str) -> Result<Self> {
        let refuse = |error: object_store::Error| Error::place("open", address, error);
        let store = connect(address, MAX_RETRIES).map_err(refuse)?;
        let once = connect(address, 0).map_err(refuse)?;
        let below = address.split_once("://").map_or(address, |(_, rest)| rest);
        let prefix = below.split_once('/').map_or("", |(_, prefix)| prefix);
        Self::new(address.trim_end_matches('/'), prefix, (store, once))
    }

    /// A bucket in this process, gone with it: for tests and trials.
    ///
    /// # Errors
    /// [`Error::Place`] for a prefix that no object store takes, or when the system gives no timer.
    pub fn in_memory(prefix: &str) -> Result<Self> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        Self::new(&format!("memory:///{prefix}"), prefix, (Arc::clone(&store), store))
    }

    fn new(
        name: &str,
        prefix: &str,
        (store, once): (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>),
    ) -> Result<Self> {
        let prefix = Path::parse(prefix).map_err(|error| Error::place("open", name, error))?;
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|error| Error::place("open", name, error))?;
        Ok(Self { name: name.to_owned(), prefix, store, once, runtime: Some(runtime) })
    }

    fn wait<T>(
        &self,
        action: &'static str,
        key: &str,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        let refused = |reason: &dyn fmt::Display| {
            Error::place(action, format!("{}/{key}", self.name), reason)
        };
        let runtime = self.runtime.as_ref().ok_or_else(|| refused(&"it is closed"))?;
        runtime.block_on(call).map_err(|error| refused(&error))
    }

    fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The key below the prefix.
    fn key(&self, path: &Path) -> Option<String> {
        let parts: Vec<_> =
            path.prefix_match(&self.prefix)?.map(|p| p.as_ref().to_owned()).collect();
        Some(parts.join("/"))
    }
}

impl Bucket for CloudBucket {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn get(&self, key: &str, max_bytes: u64, known: Option<&Tag>) -> Result<Got> {
        let if_none_match = known.and_then(|tag| tag.e_tag.clone());
        let options = GetOptions { if_none_match, ..GetOptions::default() };
        let path = self.path(key);
        let found = self.wait("read", key, async {
            let found = match self.store.get_opts(&path, options).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(Err(Got::Absent)),
                Err(object_store::Error::NotModified { .. }) => return Ok(Err(Got::Unchanged)),
                found => found?,
            };
            let meta = found.meta.clone();
            let tag = Tag { e_tag: meta.e_tag, version: meta.version };
            let mut stream = found.into_stream();
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.try_next().await? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() as u64 > max_bytes {
                    break;
                }
            }
            Ok(Ok((bytes, tag)))
        })?;
        match found {
            Err(got) => Ok(got),
            Ok((bytes, _)) if bytes.len() as u64 > max_bytes => {
                Err(files::too_large(format!("{}/{key}", self.name), max_bytes))
            }
            Ok((bytes, tag)) => Ok(Got::Object(bytes, tag)),
        }
    }

    fn put(&self, key: &str, bytes: &[u8], only: &Only) -> Result<bool> {
        let (store, mode) = match only {
            Only::Always => (&self.store, PutMode::Overwrite),
            Only::IfAbsent => (&self.once, PutMode::Create),
            Only::IfStill(tag) => {
                let version =
                    UpdateVersion { e_tag: tag.e_tag.clone(), version: tag.version.clone() };
                (&self.once, PutMode::Update(version))
            }
        };
        let action = match only {
            Only::Always => "write",
            // Without an answer nobody here knows which it is.
            Only::IfAbsent | Only::IfStill(_) => "say whether it was written:",
        };
        let (path, options) = (self.path(key), PutOptions::from(mode));
        self.wait(action, key, async {
            match store.put_opts(&path, bytes.to_vec().into(), options).await {
                Err(
                    object_store::Error::Precondition { .. }
                    | object_store::Error::AlreadyExists { .. },
                ) => Ok(false),
                written => written.map(|_| true),
            }
        })
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key);
        self.wait("remove", key, async {
            match self.store.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                deleted => deleted,
            }
        })
    }

    fn list(&self, folder: &str, max: usize) -> Result<Vec<BucketObject>> {
        let path = self.path(folder);
        let found: Vec<ObjectMeta> = self.wait("list", folder, async {
            let mut stream = self.store.list(Some(&path));
            let mut found = Vec::new();
            while let Some(object) = stream.try_next().await? {
                found.push(object);
                if found.len() > max {
                    break;
                }
            }
            Ok(found)
        })?;
        if found.len() > max {
            let reason = format!("found more than {max} objects; remove what is not used");
            return Err(Error::place("list", format!("{}/{folder}", self.name), reason));
        }
        let object = |meta: ObjectMeta| {
            let modified = SystemTime::from(meta.last_modified);
            self.key(&meta.location).map(|key| BucketObject { key, modified })
        };
        Ok(found.into_iter().filter_map(object).collect())
    }
}

impl fmt::Debug for CloudBucket {
    /// Without the client, which knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudBucket").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for CloudBucket {
    /// A runtime that is dropped in an async task would wait there, which tokio refuses.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A client of the store that an address names.
fn connect(address: &str, max_retries: usize) -> object_store::Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig { max_retries, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    Ok(match address.split_once("://") {
        Some(("gs", _)) => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_url(address)
                .with_http_connector(Connector)
                .with_retry(retry)
                .build()?,
        ),
        Some(("az", _)) => Arc::new(
            MicrosoftAzureBuilder::from_env()
                .with_url(address)
                .with_http_connector(Connector)
                .with_retry(retry)
                .build()?,
        ),
        _ => Arc::new(
            AmazonS3Builder::from_env()
                .with_url(address)
                .with_http_connector(Connector)
                .with_retry(retry)
                .build()?,
        ),
    })
}
