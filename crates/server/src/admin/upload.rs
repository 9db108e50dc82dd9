//! The files of a generation that is published: in the request, or in a folder under the upload root.
//!
//! The jail: a folder is named relative to the root, without `..`; links are resolved, and whatever lies outside the root then, the folder or
//! one of its files, is refused before it is opened. Only regular files are opened.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::errors::ApiError;

/// More than any generation has.
const MAX_FILES: usize = 16;

/// The bytes of a generation's files by name.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Reads `files` of the request: base64 by name.
pub(super) fn decode(files: BTreeMap<String, String>) -> Result<Files, ApiError> {
    check_count(files.len())?;
    let decode = |(name, text): (String, String)| match STANDARD.decode(text) {
        Ok(bytes) => Ok((name, bytes)),
        Err(error) => {
            let param = format!("files.{}", shown(&name));
            let message = format!("`{param}` is not base64 (RFC 4648, with padding): {error}");
            Err(ApiError::invalid(param, message))
        }
    };
    files.into_iter().map(decode).collect()
}

/// Reads all files of the folder `named` under `root`, no more than `max_bytes` of them together.
pub(super) fn read_folder(root: &Path, named: &str, max_bytes: usize) -> Result<Files, ApiError> {
    let is_plain = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    if named.is_empty() || named.contains('\0') || !Path::new(named).components().all(is_plain) {
        return Err(outside(named));
    }
    let root = fs::canonicalize(root).map_err(|error| unreadable("the upload root", &error))?;
    let folder = resolve(&root, &root.join(named), named)?;
    if !folder.is_dir() {
        let message = format!("`{}` is no folder; name the folder of one generation", shown(named));
        return Err(ApiError::invalid("directory", message));
    }
    let listed = fs::read_dir(&folder).map_err(|error| unreadable(named, &error))?;
    let mut paths = Vec::new();
    for entry in listed.take(MAX_FILES + 1) {
        paths.push(entry.map_err(|error| unreadable(named, &error))?.path());
    }
    check_count(paths.len())?;
    let (mut files, mut room) = (Files::new(), max_bytes);
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = read_file(&resolve(&root, &path, &name)?, &name, room)?;
        room -= bytes.len();
        files.insert(name, bytes);
    }
    Ok(files)
}

/// The place that a path leads to, if that is under the root.
fn resolve(root: &Path, path: &Path, named: &str) -> Result<PathBuf, ApiError> {
    let real = fs::canonicalize(path).map_err(|error| unreadable(named, &error))?;
    if real.starts_with(root) { Ok(real) } else { Err(outside(named)) }
}

fn read_file(path: &Path, name: &str, room: usize) -> Result<Vec<u8>, ApiError> {
    let failed = |error| unreadable(name, &error);
    // Before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        let message = format!("`{}` is not a regular file; leave the files alone", shown(name));
        return Err(ApiError::invalid("directory", message));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(room).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() <= room {
        return Ok(bytes);
    }
    let message = "the files are larger together than `max_upload_bytes` of this server allows";
    Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "upload_too_large", message)
        .with_param("directory"))
}

fn check_count(count: usize) -> Result<(), ApiError> {
    if (1..=MAX_FILES).contains(&count) {
        return Ok(());
    }
    let message =
        format!("found {count} files, expected 1 to {MAX_FILES}; give the files of one generation");
    Err(ApiError::invalid("files", message))
}

fn outside(named: &str) -> ApiError {
    let message = format!(
        "`{}` does not lie under the upload root; name a folder there, relative to it and without `..`",
        shown(named)
    );
    ApiError::forbidden("outside_upload_root", "directory", message)
}

fn unreadable(named: &str, error: &io::Error) -> ApiError {
    let message = format!("`{}` cannot be read: {}", shown(named), error.kind());
    if error.kind() == io::ErrorKind::NotFound {
        ApiError::new(StatusCode::NOT_FOUND, "directory_not_found", message).with_param("directory")
    } else {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "directory_unreadable", message)
            .with_param("directory")
            .with_log(error.to_string())
    }
}

/// A client's text in a message: short, and without control characters.
fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 128;
    text.chars().take(MAX_CHARS).collect::<String>().escape_debug().to_string()
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn code(root: &Path, named: &str) -> &'static str {
        read_folder(root, named, 100).unwrap_err().code()
    }

    #[test]
    fn a_folder_under_the_root_is_read_whole() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/one"), "1").unwrap();
        fs::write(root.join("a/two"), "22").unwrap();
        symlink("../two", root.join("a/b/two")).unwrap();
        symlink("a/b", root.join("link")).unwrap();
        let expected =
            Files::from([("one".to_owned(), b"1".to_vec()), ("two".to_owned(), b"22".to_vec())]);
        for named in ["a/b", "./a/b", "a/b/", "link"] {
            assert_eq!(read_folder(&root, named, 3).unwrap(), expected, "{named}");
        }
        assert_eq!(read_folder(&root, "a/b", 2).unwrap_err().code(), "upload_too_large");
        assert_eq!(code(&root, "a/c"), "directory_not_found");
        assert_eq!(code(&root, "a/two"), "invalid_value");
        // `a` holds a folder.
        assert_eq!(code(&root, "a"), "invalid_value");
    }

    #[test]
    fn nothing_outside_the_root_is_read() {
        let place = tempfile::tempdir().unwrap();
        let (root, beside) = (place.path().join("root"), place.path().join("root-beside"));
        fs::create_dir_all(root.join("inside")).unwrap();
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("secret"), "s").unwrap();
        symlink(&beside, root.join("to-beside")).unwrap();
        symlink(beside.join("secret"), root.join("inside/file")).unwrap();
        symlink("..", root.join("up")).unwrap();
        let absolute = beside.to_str().unwrap();
        for named in [
            "../root-beside",
            "inside/../../root-beside",
            "..",
            "",
            "a\0b",
            absolute,
            "to-beside",
            "up",
            "up/root-beside",
            // The folder is inside, its file is not.
            "inside",
        ] {
            assert_eq!(code(&root, named), "outside_upload_root", "{named}");
        }
    }

    #[test]
    fn what_is_no_base64_is_named() {
        let files = BTreeMap::from([("a".to_owned(), "AQI=".to_owned())]);
        assert_eq!(decode(files).unwrap()["a"], [1, 2]);
        for wrong in ["AQI", "A QI=", "AQI=\n", "_-=="] {
            let files = BTreeMap::from([("a".to_owned(), wrong.to_owned())]);
            let error = decode(files).unwrap_err();
            assert!(error.to_json().contains("files.a"), "{}", error.to_json());
        }
        assert_eq!(decode(BTreeMap::new()).unwrap_err().code(), "invalid_value");
    }
}
