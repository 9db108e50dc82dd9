//! What every fuzz target does with its input.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::path::Path;
use std::sync::Mutex;

use crate::heap::Reader;

/// Where the last panic was, for the one that is not caught.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Before the first input. With `SKEG_FUZZ_SEEDS`, a folder, the seeds are written there.
///
/// The library's hook ends the process at every panic, also at one that the code under test catches, as the model's loader
/// does around candle's reader. So it is replaced, and what nobody catches ends the process in [`run`].
pub(crate) fn start(readers: &[Reader]) {
    set_hook(Box::new(|info| *LAST_PANIC.lock().unwrap() = info.to_string()));
    if let Ok(folder) = std::env::var("SKEG_FUZZ_SEEDS") {
        std::fs::create_dir_all(&folder).unwrap();
        for (idx, seed) in (reader(readers).seeds)().iter().enumerate() {
            std::fs::write(Path::new(&folder).join(format!("seed-{idx}")), seed).unwrap();
        }
    }
}

/// Reads one input.
pub(crate) fn run(readers: &[Reader], bytes: &[u8]) {
    let read = reader(readers).read;
    if catch_unwind(AssertUnwindSafe(|| read(bytes))).is_err() {
        eprintln!("{}", LAST_PANIC.lock().unwrap());
        std::process::abort();
    }
}

fn reader(readers: &[Reader]) -> &Reader {
    let name = env!("CARGO_BIN_NAME");
    readers.iter().find(|reader| reader.name == name).unwrap()
}
