//! Data files: JSON Lines, JSON arrays, CSV, TSV and Parquet, in the layouts that public safety sets are published in.
//!
//! Every format gives rows of named fields, every [`Layout`] makes items of rows, and every item goes through the
//! same checks, so that a set reads alike however it was saved. None of the texts is part of this repository,
//! and no error quotes one.
//!
//! ```no_run
//! use skeg_lab::data::{Layout, OnConflict, ReadOptions, read_data};
//!
//! let options = ReadOptions {
//!     layout: Layout::BeaverTails,
//!     on_conflict: OnConflict::Drop,
//!     ..ReadOptions::default()
//! };
//! let set = read_data("beavertails.parquet".as_ref(), &options)?;
//! println!("{} items, {} without a clear label", set.items.len(), set.num_conflicts);
//! # Ok::<(), skeg_lab::Error>(())
//! ```

mod collect;
mod item;
mod layout;
mod mapping;
mod options;
mod overlap;
mod rows;

use std::path::Path;

use crate::error::{Error, Result};
use collect::Collector;
use layout::LayoutReader;

pub use item::Item;
pub use mapping::{CategoryMap, Fit};
pub use options::{FieldNames, Layout, OnConflict, ReadOptions};
pub(crate) use overlap::normalised;
pub use overlap::{overlap, refuse_overlap};
pub use rows::MAX_ROW_BYTES;

/// A data file as read.
#[derive(Debug, Clone)]
pub struct DataSet {
    /// Items in the file's order, without repeats.
    pub items: Vec<Item>,
    /// Items left out because an earlier one has the same prompt, answer and labels.
    pub num_repeats: usize,
    /// Items left out because their labels contradict those of another with the same prompt and answer; always 0
    /// with [`OnConflict::Error`].
    pub num_conflicts: usize,
    /// Items whose row names several categories, before repeats and conflicts are dropped: their `category` is
    /// `None`, so that no vector of one category is made from what also belongs to another, and their `subcategory`
    /// lists the names.
    pub num_several_categories: usize,
    /// The layout that was read: the one asked for, or the one that [`Layout::Auto`] found, which stays `auto` for
    /// a file without rows.
    pub layout: Layout,
    /// Lower-case hex SHA-256 of the file.
    pub sha256: String,
}

impl DataSet {
    /// Items that were made or gathered otherwise, under the digest of what they come from.
    #[must_use]
    pub fn of(items: Vec<Item>, sha256: String) -> Self {
        Self {
            items,
            num_repeats: 0,
            num_conflicts: 0,
            num_several_categories: 0,
            layout: Layout::Skeg,
            sha256,
        }
    }
}

/// Reads a data file. The extension says the format: `.jsonl` or `.ndjson` (one JSON object a line), `.json` (the
/// same, or one array of objects), `.csv` or `.tsv` (a header row first, an empty cell is null), or `.parquet`
/// (uncompressed or snappy).
///
/// # Errors
/// [`Error::Io`]; [`Error::Data`] for another extension, a Parquet file that cannot be read, or given field names
/// that no row has; [`Error::BadRow`] for a row longer than [`MAX_ROW_BYTES`], one that does not fit the
/// layout, an empty text, or an id that is too long or used before; [`Error::Conflict`] where the options say so.
pub fn read_data(path: &Path, options: &ReadOptions) -> Result<DataSet> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut layout = LayoutReader::new(&stem, options);
    let mut collector = Collector::new(path, options.on_conflict);
    let sha256 = rows::for_each(path, &mut |row| {
        let items = layout.items(&row).map_err(|reason| Error::bad_row(path, row.place, reason))?;
        items.into_iter().try_for_each(|item| collector.add(item, row.place))
    })?;
    layout.check_given_names().map_err(|reason| {
        let path = path.display();
        Error::Data(format!("{path}: {reason}"))
    })?;
    let collected = collector.finish();
    Ok(DataSet {
        items: collected.items,
        num_repeats: collected.num_repeats,
        num_conflicts: collected.num_conflicts,
        num_several_categories: layout.num_several_categories(),
        layout: layout.layout(),
        sha256,
    })
}
