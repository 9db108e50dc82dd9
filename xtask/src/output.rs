//! The one place that prints.

/// A result line, on standard output.
#[expect(clippy::print_stdout, reason = "the task's output")]
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// What is being done, on standard error.
#[expect(clippy::print_stderr, reason = "progress belongs beside the output, not in it")]
pub(crate) fn step(text: &str) {
    eprintln!("xtask: {text}");
}

/// Why a task failed, on standard error.
#[expect(clippy::print_stderr, reason = "the task's error")]
pub(crate) fn error(text: &str) {
    eprintln!("xtask: error: {text}");
}
