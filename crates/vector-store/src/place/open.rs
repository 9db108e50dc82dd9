//! From an address to a place.

use std::path::Path;

use super::{LocalPlace, Place};
use crate::error::{Error, Result};

/// The place of an address: a path or `file:///path`; with the feature `object-store` also `s3://bucket/prefix`,
/// `gs://bucket/prefix` and `az://container/prefix`. Nothing is read yet.
///
/// Credentials and endpoints come from the environment variables that the crate `object_store` documents, such as
/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL` and, for an endpoint without TLS,
/// `AWS_ALLOW_HTTP=true`; `GOOGLE_APPLICATION_CREDENTIALS`; `AZURE_STORAGE_ACCOUNT_NAME` and `AZURE_STORAGE_ACCOUNT_KEY`.
///
/// # Errors
/// [`Error::Place`] for an address of another kind, and for settings that the object store cannot be used with.
pub fn open(address: &str) -> Result<Box<dyn Place>> {
    let Some((scheme, rest)) = address.split_once("://") else {
        return Ok(Box::new(LocalPlace::new(Path::new(address))));
    };
    match scheme {
        "file" if rest.starts_with('/') => Ok(Box::new(LocalPlace::new(Path::new(rest)))),
        "s3" | "gs" | "az" => open_bucket(address),
        _ => {
            let reason = "expected a path, file:///path, s3://bucket/prefix, gs://bucket/prefix or \
                          az://container/prefix";
            Err(Error::place("open", address, reason))
        }
    }
}

#[cfg(feature = "object-store")]
fn open_bucket(address: &str) -> Result<Box<dyn Place>> {
    Ok(Box::new(super::ObjectPlace::new(super::CloudBucket::open(address)?)))
}

#[cfg(not(feature = "object-store"))]
fn open_bucket(address: &str) -> Result<Box<dyn Place>> {
    let reason =
        "this program was built without object stores; build it with the feature `object-store`";
    Err(Error::place("open", address, reason))
}
