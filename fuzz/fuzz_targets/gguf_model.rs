//! The input is a model in GGUF.
#![no_main]

#[path = "../readers/heap.rs"]
mod heap;
#[path = "../readers/model.rs"]
mod model;
#[path = "../readers/run.rs"]
mod run;

libfuzzer_sys::fuzz_target!(init: run::start(&model::READERS), |bytes: &[u8]| run::run(&model::READERS, bytes));
