//! The input is the probe of a generation: for the store, which checks it, and for the lab, which makes it a classifier.
#![no_main]

#[path = "../readers/heap.rs"]
mod heap;
#[path = "../readers/probe.rs"]
mod probe;
#[path = "../readers/run.rs"]
mod run;
#[path = "../readers/store.rs"]
mod store;
#[path = "../../crates/vector-store/tests/it/support.rs"]
#[expect(dead_code, reason = "it is the tests' own")]
mod support;

libfuzzer_sys::fuzz_target!(init: run::start(&probe::READERS), |bytes: &[u8]| {
    run::run(&store::READERS, bytes);
    run::run(&probe::READERS, bytes);
});
