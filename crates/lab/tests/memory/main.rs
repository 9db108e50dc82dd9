//! Damaged files of vectors and of probes: an error or a file, never a panic, and never more memory than the file's size allows.
//!
//! A program of its own, because it looks at the memory of the whole process: one test, on one thread. The readers are those
//! of the fuzz targets, and so are the inputs that are read at the end.
#![expect(clippy::unwrap_used, reason = "clippy lets tests panic, not the functions they share")]

#[path = "../../../../fuzz/readers/exchange.rs"]
mod exchange;
#[path = "../../../../fuzz/readers/heap.rs"]
mod heap;
#[path = "../../../../fuzz/readers/probe.rs"]
mod probe;
#[path = "../../../../fuzz/readers/replay.rs"]
mod replay;

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use skeg_lab::exchange::FileFormat;

use exchange::{file, is_read};

const NUM_RANDOM: usize = 20_000;

/// Every bit of some bytes, one at a time: how many changes were accepted.
fn num_accepted(bytes: &[u8], format: FileFormat, place: Range<usize>) -> usize {
    let mut changed = bytes.to_vec();
    let mut num = 0;
    for at in place {
        for bit in 0..8 {
            changed[at] ^= 1 << bit;
            num += usize::from(is_read(&changed, format, &format!("bit {bit} of byte {at}")));
            changed[at] ^= 1 << bit;
        }
    }
    num
}

/// Where `text` begins, each time.
fn places(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    (0..bytes.len()).filter(|&at| bytes[at..].starts_with(text)).collect()
}

#[test]
fn a_damaged_file_is_an_error_within_bounds() {
    for (format, names) in [
        (FileFormat::Gguf, &["direction"][..]),
        (FileFormat::Safetensors, &["fraud_deception", "malware_viruses"]),
        (FileFormat::Npz, &["fraud_deception", "malware_viruses"]),
    ] {
        let bytes = file(names).to_bytes(format).unwrap();
        assert!(is_read(&bytes, format, "whole"));
        // Rows of 32 bytes need no padding, so that every byte counts.
        for length in 0..bytes.len() {
            assert!(!is_read(&bytes[..length], format, "truncated"), "{format:?} at {length}");
        }
        // Some bytes are numbers or names that may be others.
        assert!(num_accepted(&bytes, format, 0..bytes.len()) > 0);
        check_structure(&bytes, format);
        check_random(&bytes, |bytes, what| is_read(bytes, format, what));
    }
    check_many_layers();
    replay::check(&exchange::READERS);
    check_probes();
    check_nested_probes();
    replay::check(&probe::READERS);
}

/// Many layers and many vectors of one row: no vector has the layers before they are as many as its rows.
fn check_many_layers() {
    let layers: Vec<String> = (0..20_000).map(|layer| layer.to_string()).collect();
    let entry = |idx: usize| {
        let (start, end) = (4 * idx, 4 * idx + 4);
        format!(r#""v{idx}":{{"dtype":"F32","shape":[1,1],"data_offsets":[{start},{end}]}}"#)
    };
    let entries: Vec<String> = (0..2000).map(entry).collect();
    let header = format!(
        r#"{{"__metadata__":{{"layers":"[{}]"}},{}}}"#,
        layers.join(","),
        entries.join(",")
    );
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length, header.as_bytes(), &[0; 4 * 2000]].concat();
    assert!(!is_read(&bytes, FileFormat::Safetensors, "many layers"));
}

/// Bytes that say how the rest is read: no change of theirs is accepted.
fn check_structure(bytes: &[u8], format: FileFormat) {
    match format {
        FileFormat::Gguf => {
            assert_eq!(num_accepted(bytes, format, 8..24), 0, "counts");
            for at in places(bytes, b"direction.") {
                // The name's length and text before the layer; dimensions, type and offset behind it.
                assert_eq!(num_accepted(bytes, format, at - 8..at + 10), 0);
                assert_eq!(num_accepted(bytes, format, at + 11..at + 35), 0);
            }
        }
        FileFormat::Safetensors => {
            assert_eq!(num_accepted(bytes, format, 0..8), 0, "the header's length");
            for text in [&b"\"F32\""[..], b"\"shape\"", b"\"data_offsets\""] {
                for at in places(bytes, text) {
                    assert_eq!(num_accepted(bytes, format, at..at + text.len()), 0);
                }
            }
        }
        FileFormat::Npz => {
            // What an array's header and numbers are is in its checksum.
            for at in places(bytes, b"\x93NUMPY") {
                assert_eq!(num_accepted(bytes, format, at..at + 150), 0);
            }
            let end = bytes.len();
            assert_eq!(num_accepted(bytes, format, end - 22..end), 0, "the end of the directory");
        }
    }
}

/// Probes cut short, and with every bit changed.
fn check_probes() {
    for bytes in (probe::READERS[0].seeds)() {
        for length in 0..bytes.len() {
            assert!(!probe::is_read(&bytes[..length], "truncated"), "at {length}");
        }
        let mut changed = bytes.clone();
        let mut num_accepted = 0;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                changed[at] ^= 1 << bit;
                num_accepted +=
                    usize::from(probe::is_read(&changed, &format!("bit {bit} of byte {at}")));
                changed[at] ^= 1 << bit;
            }
        }
        assert!(num_accepted > 0, "weights may be others");
        check_random(&bytes, probe::is_read);
    }
}

/// What takes most memory for its length: lists of one list each, in the header and in what the probe says of itself.
fn check_nested_probes() {
    let nested = format!("{}0{}", "[".repeat(100), "]".repeat(100));
    let lists = vec![nested; 1000].join(",");
    let spec = format!(
        r#"{{\"format_version\":1,\"members\":[{{\"x\":[{lists}],\"kind\":\"n_grams\"}}]}}"#
    );
    for header in [
        format!(r#"{{"a":[{lists}]}}"#),
        format!(r#"{{"__metadata__":{{"classes":"[\"none\"]","spec":"{spec}"}}}}"#),
        format!(r#"{{"__metadata__":{{"classes":"[{lists}]","spec":"{spec}"}}}}"#),
    ] {
        let length = (header.len() as u64).to_le_bytes();
        assert!(!probe::is_read(&[&length, header.as_bytes()].concat(), &header[..40]));
    }
}

/// Several bytes at once, among them lengths that no memory has.
fn check_random(bytes: &[u8], is_read: impl Fn(&[u8], &str) -> bool) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut below = move |most: usize| usize::try_from(rng.next_u32()).unwrap() % most;
    for round in 0..NUM_RANDOM {
        let mut changed = bytes.to_vec();
        for _ in 0..=below(3) {
            let at = below(changed.len());
            match below(4) {
                0 => changed[at] = u8::try_from(below(256)).unwrap(),
                1 => {
                    let huge = [u64::MAX, u64::MAX / 4, 1 << 62, 1 << 40, 1 << 31][below(5)];
                    let end = changed.len().min(at + 8);
                    changed[at..end].copy_from_slice(&huge.to_le_bytes()[..end - at]);
                }
                2 => drop(changed.drain(at..changed.len().min(at + 1 + below(16)))),
                _ => changed.insert(at, u8::try_from(below(256)).unwrap()),
            }
        }
        is_read(&changed, &format!("round {round}"));
    }
}
