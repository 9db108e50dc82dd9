//! The input is a GGUF file of steering vectors.
#![no_main]

#[path = "../readers/exchange.rs"]
mod exchange;
#[path = "../readers/heap.rs"]
mod heap;
#[path = "../readers/run.rs"]
mod run;

libfuzzer_sys::fuzz_target!(init: run::start(&exchange::READERS), |bytes: &[u8]| run::run(&exchange::READERS, bytes));
