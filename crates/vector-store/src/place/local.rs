//! A folder as a place.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Leftover, Listed, Look, Place, Tag};
use crate::current::{Lock, change_current, find_current};
use crate::error::{Error, Result};
use crate::generation::{add_generation, list_generations, read_files};
use crate::history::{Change, HistoryEntry, read_history};
use crate::{Current, Files, GenerationId, files};

/// A store in a folder. Several processes may write to it at once, on one machine or on a network file system with locks.
#[derive(Debug, Clone)]
pub struct LocalPlace {
    root: PathBuf,
}

impl LocalPlace {
    /// The store at a folder, which need not be there yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Place for LocalPlace {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn look(&self, _known: Option<&Tag>) -> Result<Look> {
        Ok(match find_current(&self.root)? {
            Some(current) => Look::Found { current, tag: None },
            None => Look::Absent,
        })
    }

    fn generations(&self) -> Result<Vec<Listed>> {
        let dir = files::generations_dir(&self.root);
        let mut listed = Vec::new();
        for id in list_generations(&self.root)? {
            let path = dir.join(id.as_str());
            // Gone since it was listed: someone removed it.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let modified = metadata.modified().map_err(Error::io("read", &path))?;
            let is_whole = path.join(files::MANIFEST).exists();
            listed.push(Listed { id, modified, is_whole });
        }
        Ok(listed)
    }

    fn read_files(&self, id: &GenerationId) -> Result<Files> {
        read_files(&self.root, id)
    }

    fn add_files(&self, files: &Files) -> Result<GenerationId> {
        add_generation(&self.root, files)
    }

    /// Moved aside in one step under the lock of `CURRENT`, then removed: no publisher finds half of it.
    fn remove(&self, id: &GenerationId) -> Result<()> {
        let dir = files::generations_dir(&self.root);
        let path = dir.join(id.as_str());
        let aside = dir.join(format!("{}{id}", files::REMOVED));
        {
            let _lock = Lock::take(&self.root)?;
            if find_current(&self.root)?.is_some_and(|current| current.generation == *id) {
                return Err(super::objects::serves(&path));
            }
            // What a process that died here left.
            files::remove_all(&aside)?;
            fs::rename(&path, &aside).map_err(Error::io("remove", &path))?;
        }
        files::remove_all(&aside)?;
        files::sync_dir(&dir)
    }

    fn leftovers(&self) -> Result<Vec<Leftover>> {
        let dir = files::generations_dir(&self.root);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("list", &dir))?,
        };
        let mut leftovers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kinds = [files::STAGING, files::REMOVED, files::CLOCK];
            if !kinds.iter().any(|kind| name.starts_with(kind)) {
                continue;
            }
            // Gone since it was listed: its writer lives.
            let Ok(metadata) = entry.metadata() else { continue };
            let modified = metadata.modified().map_err(Error::io("read", entry.path()))?;
            leftovers.push(Leftover { name, modified });
        }
        leftovers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(leftovers)
    }

    /// Moved aside in one step first: either this or the writer's own renaming finds it whole, and the other finds nothing.
    fn remove_leftover(&self, leftover: &Leftover) -> Result<()> {
        let dir = files::generations_dir(&self.root);
        let path = dir.join(&leftover.name);
        let _lock = Lock::take(&self.root)?;
        if !leftover.name.starts_with(files::STAGING) {
            return files::remove_all(&path);
        }
        let aside = dir.join(format!("{}{}", files::REMOVED, leftover.name));
        files::remove_all(&aside)?;
        match fs::rename(&path, &aside) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", &path)(error)),
            Ok(()) => files::remove_all(&aside),
        }
    }

    fn set_current(
        &self,
        id: &GenerationId,
        expected_sequence: Option<u64>,
        change: &Change,
    ) -> Result<Current> {
        change_current(&self.root, id, expected_sequence, change)
    }

    fn history(&self, last: usize) -> Result<Vec<HistoryEntry>> {
        read_history(&self.root, last)
    }

    fn now(&self) -> Result<SystemTime> {
        let dir = files::generations_dir(&self.root);
        let path = dir.join(format!("{}{}", files::CLOCK, std::process::id()));
        let _lock = Lock::take(&self.root)?;
        fs::write(&path, "").map_err(Error::io("write", &path))?;
        let metadata = fs::metadata(&path).and_then(|metadata| metadata.modified());
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        metadata.map_err(Error::io("read", path))
    }
}
