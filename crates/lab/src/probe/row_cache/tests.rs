//! What is kept, what damage does, and what is computed again.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::progress::NoProgress;

fn cache(folder: &Path) -> RowCache {
    RowCache::open(folder, "as-stored").unwrap()
}

/// The one file below a folder.
fn only_file(folder: &Path) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// Rows of two numbers by index, with the indices that were computed.
fn numbered(cache: Option<&RowCache>, names: &[&str]) -> (Vec<f32>, Vec<usize>) {
    let mut computed = Vec::new();
    let wanted = Wanted { what: "rows", num: names.len(), width: 2, num_steps: 1 };
    let key = |cache: &RowCache, idx: usize| cache.key([names[idx].as_bytes()]);
    let mut compute = |idxs: &[usize], _: &mut dyn Progress| {
        computed.extend_from_slice(idxs);
        let row = |&idx: &usize| [f32::from(names[idx].as_bytes()[0]), -1.5];
        Ok(idxs.iter().flat_map(row).collect())
    };
    let rows = rows_of(cache, wanted, &key, &mut compute, &mut NoProgress).unwrap();
    (rows, computed)
}

#[test]
fn a_row_is_there_for_the_next_process_and_only_under_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let one = cache(folder.path());
    let row = [1.5, -0.0, f32::MIN_POSITIVE];
    let key = one.key([b"a".as_slice()]);
    one.put(&key, &row).unwrap();
    one.put(&key, &row).unwrap();
    let found = cache(folder.path()).get(&key).unwrap();
    let found: [f32; 3] = found.try_into().unwrap();
    assert_eq!(found.map(f32::to_bits), row.map(f32::to_bits));
    assert_eq!(one.get(&one.key([b"b".as_slice()])), None);
    // Other weights, other rows.
    let other = RowCache::open(folder.path(), "f32").unwrap();
    assert_eq!(other.get(&other.key([b"a".as_slice()])), None);
}

#[test]
fn a_damaged_row_is_computed_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let (expected, computed) = numbered(Some(&cache), &["a"]);
    assert_eq!(computed, [0]);
    let path = only_file(folder.path());
    let good = std::fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let longer = [good.as_slice(), &[0; 4]].concat();
    for bad in [
        vec![],
        good[..39].to_vec(),
        good[..44].to_vec(),
        flipped(0),
        flipped(8),
        flipped(47),
        longer,
    ] {
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(numbered(Some(&cache), &["a"]), (expected.clone(), vec![0]));
        assert_eq!(numbered(Some(&cache), &["a"]), (expected.clone(), vec![]), "it was mended");
    }
    // Whole, and of another key.
    let other = cache.key([b"b".as_slice()]);
    let (other_folder, name) = cache.place(&other);
    std::fs::create_dir_all(&other_folder).unwrap();
    std::fs::copy(&path, other_folder.join(name)).unwrap();
    assert_eq!(cache.get(&other), None);
}

#[test]
fn only_new_rows_are_computed_and_all_come_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    assert_eq!(numbered(Some(&cache), &["b", "d"]).1, [0, 1]);
    let names = ["a", "b", "c", "d"];
    let (rows, computed) = numbered(Some(&cache), &names);
    assert_eq!(computed, [0, 2]);
    assert_eq!(rows, [97.0, -1.5, 98.0, -1.5, 99.0, -1.5, 100.0, -1.5]);
    assert_eq!(numbered(Some(&cache), &names), (rows.clone(), vec![]));
    assert_eq!(numbered(None, &names), (rows, vec![0, 1, 2, 3]));
    // A row of another width is none of these.
    cache.put(&cache.key([b"a".as_slice()]), &[1.0]).unwrap();
    assert_eq!(numbered(Some(&cache), &names).1, [0]);
}

#[test]
fn what_was_computed_before_an_interruption_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let run = |stop_at: usize| {
        let mut num_computed = 0;
        let wanted = Wanted { what: "rows", num: 150, width: 1, num_steps: 1 };
        let key = |cache: &RowCache, idx: usize| cache.key([idx.to_le_bytes().as_slice()]);
        let mut compute = |idxs: &[usize], _: &mut dyn Progress| {
            if idxs[0] >= stop_at {
                return Err(Error::Interrupted { done: 3, total: idxs.len() });
            }
            num_computed += idxs.len();
            Ok(vec![0.5; idxs.len()])
        };
        let rows = rows_of(Some(&cache), wanted, &key, &mut compute, &mut NoProgress);
        (rows, num_computed)
    };
    let (rows, num_computed) = run(64);
    assert!(matches!(rows, Err(Error::Interrupted { done: 64, total: 150 })), "{rows:?}");
    assert_eq!(num_computed, 64);
    let (rows, num_computed) = run(150);
    assert_eq!((rows.unwrap().len(), num_computed), (150, 86));
}

#[test]
fn a_wrong_number_of_rows_is_refused_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let wanted = Wanted { what: "rows", num: 2, width: 2, num_steps: 1 };
    let key = |cache: &RowCache, idx: usize| cache.key([idx.to_le_bytes().as_slice()]);
    let mut compute = |_: &[usize], _: &mut dyn Progress| Ok(vec![1.0; 3]);
    let error = rows_of(Some(&cache), wanted, &key, &mut compute, &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("3 numbers for 2 rows of 2; expected 4"), "{error}");
    assert_eq!(cache.get(&key(&cache, 0)), None);
}

#[cfg(unix)]
#[test]
fn rows_are_for_their_owner_alone_and_of_bounded_size() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let key = cache.key([b"a".as_slice()]);
    cache.put(&key, &vec![0.0; MAX_ROW + 1]).unwrap();
    assert_eq!(cache.get(&key), None);
    cache.put(&key, &[0.0]).unwrap();
    let mode = std::fs::metadata(only_file(folder.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// One number, the text's length.
#[derive(Debug, Default)]
struct Lengths {
    num_embedded: AtomicUsize,
}

impl Embed for Lengths {
    fn id(&self) -> &str {
        "lengths"
    }

    fn width(&self) -> usize {
        1
    }

    fn embed(&self, texts: &[&str], _: &mut dyn Progress) -> Result<Vec<Arc<[f32]>>> {
        self.num_embedded.fetch_add(texts.len(), Ordering::Relaxed);
        let row = |text: &&str| Arc::from([f32::from(u8::try_from(text.len()).unwrap_or(0))]);
        Ok(texts.iter().map(row).collect())
    }
}

#[test]
fn an_embedding_is_computed_once() {
    let folder = tempfile::tempdir().unwrap();
    for (num_new, texts) in [(2, ["ab", "abc"]), (1, ["abc", "abcd"])] {
        let kept = KeptEmbedder::new(Lengths::default(), cache(folder.path()));
        let rows = kept.embed(&texts, &mut NoProgress).unwrap();
        let lengths: Vec<f32> = rows.iter().map(|row| row[0]).collect();
        let expected: Vec<f32> =
            texts.iter().map(|text| f32::from(u8::try_from(text.len()).unwrap())).collect();
        assert_eq!(lengths, expected);
        assert_eq!(kept.inner.num_embedded.load(Ordering::Relaxed), num_new);
        assert_eq!((kept.id(), kept.width()), ("lengths", 1));
    }
}
