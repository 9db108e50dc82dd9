//! Damaged files of a generation: an error or a generation, never a panic, and never more memory than their size allows.
//!
//! A program of its own, because it looks at the memory of the whole process: one test, on one thread. The readers and the
//! inputs are those of the fuzz targets.
#![expect(clippy::unwrap_used, reason = "clippy lets tests panic, not the functions they share")]

#[path = "../../../../fuzz/readers/heap.rs"]
mod heap;
#[path = "../../../../fuzz/readers/replay.rs"]
mod replay;
#[path = "../../../../fuzz/readers/store.rs"]
mod store;
#[path = "../it/support.rs"]
#[expect(dead_code, reason = "it is the other test program's")]
mod support;

#[test]
fn a_damaged_file_is_an_error_within_bounds() {
    replay::check(&store::READERS);
    check_long_texts();
    check_nested_headers();
}

/// Long texts of one kind, for what grows faster than its input.
fn check_long_texts() {
    for part in [
        "=", ".", "a.", "[", "{", "[[a]]\n", "a={", "1,", "{},", "\"", "\"\"\"\n", "\\", "\n", "-",
        "0",
    ] {
        for start in ["", "[", "a=[", "[[", "{\"a\":[", "\""] {
            let text = format!("{start}{}", part.repeat(20_000 / part.len()));
            for reader in store::READERS {
                assert!(!(reader.read)(text.as_bytes()), "{}: {start}{part}...", reader.name);
            }
        }
    }
}

/// What takes most memory for its length in a safetensors header: lists of one list each.
fn check_nested_headers() {
    let nested = format!("{}0{}", "[".repeat(100), "]".repeat(100));
    let header = format!(r#"{{"a":[{}]}}"#, vec![nested; 1000].join(","));
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length, header.as_bytes()].concat();
    for reader in store::READERS {
        assert!(!(reader.read)(&bytes), "{}", reader.name);
    }
}
