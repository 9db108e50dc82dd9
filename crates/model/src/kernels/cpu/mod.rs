//! The processor: which instructions the kernels use, and the threads they share.

mod dispatch;
mod level;
mod team;

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

pub(super) use dispatch::per_cpu_level;
pub use level::CpuKernels;
pub(super) use level::CpuLevel;
use team::Team;

use crate::error::{Error, Result};

/// How the CPU is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuOptions {
    /// Kernels to use; `None`: the fastest this processor runs.
    pub kernels: Option<CpuKernels>,
    /// Threads of a forward pass; `None`: as many as the process may use at once (cores, affinity, and on Linux
    /// the control group's quota).
    pub num_threads: Option<NonZeroUsize>,
}

/// What the kernels run on.
///
/// A division of work changes who computes an element and when, never how: no sum crosses a task.
#[derive(Debug)]
pub(crate) struct Cpu {
    level: CpuLevel,
    team: Team,
}

impl Cpu {
    /// Checks the level and starts the threads.
    ///
    /// # Errors
    /// [`Error::Device`] when the processor cannot run the kernels asked for, or no thread starts.
    pub(crate) fn new(options: CpuOptions) -> Result<Self> {
        let num_threads = match options.num_threads {
            Some(num_threads) => num_threads.get(),
            None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let team = Team::new(num_threads).map_err(|error| Error::Device {
            device: format!("cpu with {num_threads} threads"),
            reason: error.to_string(),
        })?;
        Ok(Self { level: CpuLevel::new(options.kernels)?, team })
    }

    /// Kernels in use.
    pub(crate) fn kernels(&self) -> CpuKernels {
        self.level.kernels()
    }

    /// Threads that share the work.
    pub(crate) fn num_threads(&self) -> usize {
        self.team.num_threads()
    }

    pub(super) fn level(&self) -> CpuLevel {
        self.level
    }

    /// Runs `task` for every item, on all threads that are free; a single item runs on the caller's.
    pub(super) fn for_each<I>(&self, mut items: I, task: impl Fn(I::Item) + Sync)
    where
        I: ExactSizeIterator + Send,
    {
        if items.len() <= 1 {
            return items.for_each(task);
        }
        let items = Mutex::new(&mut items);
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        self.team.share(&|| {
            while let Some(item) = next() {
                task(item);
            }
        });
    }
}

/// One of each level this processor runs, the fastest first, with two threads.
#[cfg(test)]
pub(super) fn every_cpu() -> impl Iterator<Item = Cpu> {
    CpuKernels::supported().map(|kernels| {
        let options = CpuOptions { kernels: Some(kernels), num_threads: NonZeroUsize::new(2) };
        Cpu::new(options).unwrap()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_taken_once() {
        let cpu =
            Cpu::new(CpuOptions { num_threads: NonZeroUsize::new(3), kernels: None }).unwrap();
        assert_eq!(cpu.num_threads(), 3);
        for len in [0, 1, 2, 50] {
            let mut items = vec![0; len];
            cpu.for_each(items.iter_mut().enumerate(), |(idx, item)| *item += idx + 1);
            assert_eq!(items, (1..=len).collect::<Vec<_>>());
        }
    }
}
