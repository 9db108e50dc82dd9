//! The input is the signatures of a generation.
#![no_main]

#[path = "../readers/heap.rs"]
mod heap;
#[path = "../readers/run.rs"]
mod run;
#[path = "../readers/store.rs"]
mod store;
#[path = "../../crates/vector-store/tests/it/support.rs"]
#[expect(dead_code, reason = "it is the tests' own")]
mod support;

libfuzzer_sys::fuzz_target!(init: run::start(&store::READERS), |bytes: &[u8]| run::run(&store::READERS, bytes));
