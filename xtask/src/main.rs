//! One entry for developers.

fn main() {}
