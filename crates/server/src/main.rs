//! The binary `skeg`.

fn main() {}
