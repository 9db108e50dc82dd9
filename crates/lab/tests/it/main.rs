//! Integration tests of skeg-lab on a tiny random Llama and, where data is given, on public data.

mod extraction;
mod judge;
mod quick;
