//! What fuzzing found worth keeping, read again by the tests of the readers' own crates.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::heap::Reader;

/// Every seed is accepted, and every file of each corpus is read within its bound.
pub(crate) fn check(readers: &[Reader]) {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for reader in readers {
        for (idx, seed) in (reader.seeds)().iter().enumerate() {
            assert!((reader.read)(seed), "{}: seed {idx} is refused", reader.name);
        }
        let folder = corpora.join(reader.name);
        let mut num_accepted = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let read = catch_unwind(AssertUnwindSafe(|| (reader.read)(&bytes)));
            assert!(read.is_ok(), "{}", path.display());
            num_accepted += usize::from(read.unwrap_or_default());
        }
        assert!(num_accepted > 0, "{}: no file is accepted", folder.display());
    }
}
