//! Flags of `skeg probe evaluate` on what a probe has seen: no figure is of texts that it was trained on.

use std::path::PathBuf;

use anyhow::bail;
use skeg_lab::DataSet;
use skeg_lab::probe::{SourceSet, TrainedOn, seen_files, shared_texts};

use super::data_flags::DataFlags;
use crate::output;

/// What is done about sets that the probe has seen. A file whose bytes it was trained on is always found.
#[derive(Debug, clap::Args)]
pub(super) struct SeenFlags {
    /// The files that the probe was trained on: a set that shares a prompt with them, but for case and spaces, is refused
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    trained_on: Vec<PathBuf>,
    /// Measure on what the probe was trained on all the same, and only say so
    #[arg(long)]
    allow_overlap: bool,
}

impl SeenFlags {
    /// Refuses sets, as they were `given` and as read, of which the probe has seen something.
    pub(super) fn check(
        &self,
        trained_on: &TrainedOn,
        (given, sets): (&[String], &[SourceSet]),
        data_flags: &DataFlags,
    ) -> anyhow::Result<()> {
        let mut found = Vec::new();
        for seen in seen_files(trained_on, sets) {
            let files = given[seen.set_idx].split_once('=').map_or("", |(_, files)| files);
            let file = files.split(',').nth(seen.file_idx).unwrap_or(files);
            found
                .push(format!("{file} is a file that it was trained on, in `{}`", seen.trained_in));
        }
        let files = self.trained_on.iter().map(|file| data_flags.read(file));
        let files = files.collect::<skeg_lab::Result<Vec<_>>>()?;
        self.note_other_files(trained_on, &files);
        for shared in shared_texts(&files, sets) {
            let file = self.trained_on[shared.trained_idx].display();
            let (num_shared, num_texts) = (shared.num_shared, shared.num_texts);
            found.push(format!(
                "{num_shared} of {num_texts} prompts of `{}` are in {file}",
                shared.set
            ));
        }
        if found.is_empty() {
            return Ok(());
        }
        let found = found.join("; ");
        if self.allow_overlap {
            output::note(&format!("the probe has seen what it is measured on: {found}"));
            return Ok(());
        }
        bail!(
            "the probe has seen what it is to be measured on: {found}; measure on other prompts, or give --allow-overlap"
        )
    }

    /// Says what `--trained-on` has and the probe was not trained on, and the other way round.
    fn note_other_files(&self, trained_on: &TrainedOn, files: &[DataSet]) {
        if files.is_empty() {
            return;
        }
        let hashes = || trained_on.sets.iter().flat_map(|set| &set.sha256);
        for (path, _) in self
            .trained_on
            .iter()
            .zip(files)
            .filter(|(_, file)| !hashes().any(|sha256| *sha256 == file.sha256))
        {
            let path = path.display();
            output::note(&format!("{path} is not a file that the probe was trained on"));
        }
        let is_given = |sha256: &&String| files.iter().any(|file| file.sha256 == **sha256);
        let num_missing = hashes().filter(|sha256| !is_given(sha256)).count();
        if num_missing > 0 {
            output::note(&format!(
                "{num_missing} of the {} files that the probe was trained on are not among --trained-on",
                hashes().count()
            ));
        }
    }
}
