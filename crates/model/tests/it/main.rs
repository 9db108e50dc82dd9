//! Integration tests of skeg-model, one binary.

mod golden_text;
mod support;
