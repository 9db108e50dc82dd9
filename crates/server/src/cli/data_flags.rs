//! Flags of the commands that read data files.

use std::path::Path;

use skeg_lab::data::{Layout, OnConflict};
use skeg_lab::{DataSet, ReadOptions, read_data};

/// How data files are read.
#[derive(Debug, clap::Args)]
pub(super) struct DataFlags {
    /// What the fields of a row mean: skeg, catqa, beavertails, `pku_saferlhf`, alpaca, generic (prompt, response and their
    /// like), or auto (by the first row's fields)
    #[arg(long, value_name = "LAYOUT", default_value_t = Layout::Skeg)]
    data_layout: Layout,
    /// Rows with the same prompt and answer and different labels: error, or drop all of them
    #[arg(long, value_name = "error|drop", default_value = "error")]
    on_conflict: OnConflict,
}

impl DataFlags {
    /// Reads one file.
    pub(super) fn read(&self, path: &Path) -> skeg_lab::Result<DataSet> {
        let options = ReadOptions {
            layout: self.data_layout,
            on_conflict: self.on_conflict,
            ..ReadOptions::default()
        };
        read_data(path, &options)
    }
}
