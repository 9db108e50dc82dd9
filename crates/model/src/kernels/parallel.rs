//! Work divided among the processor's cores.
//!
//! A division changes who computes an element and when, never how: no sum crosses a task.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

/// Threads that share the work.
pub(super) fn num_threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `task` for every item, on all threads; a single item runs on the caller's.
pub(super) fn for_each<I>(items: I, task: impl Fn(I::Item) + Sync)
where
    I: ExactSizeIterator,
    I::Item: Send,
{
    if items.len() <= 1 {
        items.for_each(task);
        return;
    }
    let items: Vec<I::Item> = items.collect();
    items.into_par_iter().with_max_len(1).for_each(&task);
}
