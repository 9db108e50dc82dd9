//! The devices that one model runs on, and work that all of them do at once.
//!
//! Ranks meet in their sums alone. One that fails never comes to the next sum, and the others would wait for it there for ever; so it
//! severs what links them, which ends every sum. The ranks' streams of work then no longer match, so that no later step is made.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::memory::Buffer;
use super::ops::{DeviceOps, Rows};
use crate::error::{Error, Result};

/// What the ranks' sums are made over.
pub(crate) trait Link: Send + Sync {
    /// Ends every sum that is waited for, and every later one, with an error. May be called by any rank, and more than once.
    fn sever(&self);
}

/// The devices, rank by rank.
pub(crate) struct Ranks {
    pub(super) ops: Vec<Box<dyn DeviceOps>>,
    /// `None` where there is one.
    link: Option<Arc<dyn Link>>,
    /// Why no step can be made any more.
    failed: Option<String>,
}

impl Ranks {
    /// A single one.
    pub(crate) fn one(ops: Box<dyn DeviceOps>) -> Self {
        Self { ops: vec![ops], link: None, failed: None }
    }

    /// Several, with what their sums are made over.
    pub(crate) fn linked(ops: Vec<Box<dyn DeviceOps>>, link: Arc<dyn Link>) -> Self {
        Self { ops, link: Some(link), failed: None }
    }

    /// Whether steps can be made.
    ///
    /// # Errors
    /// [`Error::Device`] with the reason, once a rank has failed amid the others.
    pub(super) fn check(&self) -> Result<()> {
        match &self.failed {
            Some(reason) => Err(self.lost(reason)),
            None => Ok(()),
        }
    }

    /// As [`DeviceOps::allocate`], zeros on every rank.
    pub(crate) fn allocate_zeros(&mut self, num_bytes: usize) -> Result<Vec<Buffer>> {
        let of_rank = |ops: &mut Box<dyn DeviceOps>| {
            let buffer = ops.allocate(num_bytes)?;
            ops.clear(&buffer)?;
            Ok(buffer)
        };
        self.ops.iter_mut().map(of_rank).collect()
    }

    /// As [`DeviceOps::upload_beside`], the same bytes to every rank.
    pub(crate) fn upload_beside(&mut self, to: &[Rows], bytes: &[u8]) -> Result<()> {
        self.ops.iter_mut().zip(to).try_for_each(|(ops, to)| ops.upload_beside(to, bytes))
    }

    /// As [`DeviceOps::has_arrived`], on every rank.
    pub(crate) fn have_arrived(&mut self) -> Result<bool> {
        for ops in &mut self.ops {
            if !ops.has_arrived()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does `ask` and then `wait` on every rank with its job, the others on threads of their own, which are started for it and have
    /// ended when this returns: tens of microseconds beside a step's milliseconds. The first rank, or a single one, works on the
    /// caller's thread, and there `meanwhile` is called in between, once, unless its `ask` failed.
    ///
    /// # Errors
    /// That of a single rank. Of several, [`Error::Device`] with the error of the rank that failed first; then they have failed for good.
    pub(super) fn together<J: Send>(
        &mut self,
        jobs: Vec<J>,
        ask: impl Fn(&mut dyn DeviceOps, &mut J) -> Result<()> + Sync,
        meanwhile: &mut dyn FnMut(),
        wait: impl Fn(&mut dyn DeviceOps, J) -> Result<()> + Sync,
    ) -> Result<()> {
        let num_ranks = self.ops.len();
        let mut ranks = self.ops.iter_mut().zip(jobs);
        let Some((first, first_job)) = ranks.next() else { return Ok(()) };
        let work = |ops: &mut dyn DeviceOps, mut job: J, meanwhile: &mut dyn FnMut()| {
            ask(ops, &mut job)?;
            meanwhile();
            wait(ops, job)
        };
        let Some(link) = self.link.as_deref() else {
            return work(&mut **first, first_job, meanwhile);
        };
        // Stays if a rank panics.
        self.failed = Some("a rank panicked".to_owned());
        let failure: Mutex<Option<String>> = Mutex::new(None);
        let note = |rank: usize, error: &dyn fmt::Display| {
            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| format!("rank {rank} of {num_ranks}: {error}"));
        };
        let on_rank =
            |rank: usize, ops: &mut dyn DeviceOps, job: J, meanwhile: &mut dyn FnMut()| {
                let mut unless_done = Severing(Some(link));
                match work(ops, job, meanwhile) {
                    Ok(()) => unless_done.0 = None,
                    // Noted before the others can fail for it.
                    Err(error) => note(rank, &error),
                }
            };
        thread::scope(|scope| {
            for (rank, (ops, job)) in (1..).zip(ranks) {
                let name = thread::Builder::new().name(format!("rank-{rank}"));
                let on_rank = &on_rank;
                let started =
                    name.spawn_scoped(scope, move || on_rank(rank, &mut **ops, job, &mut || ()));
                if let Err(error) = started {
                    note(rank, &format_args!("its thread does not start: {error}"));
                    link.sever();
                }
            }
            on_rank(0, &mut **first, first_job, meanwhile);
        });
        self.failed = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.check()
    }

    fn lost(&self, reason: &str) -> Error {
        Error::Device {
            device: format!("{} ranks", self.ops.len()),
            reason: format!(
                "{reason}; the sums over the ranks ended with it, so no step can be made any more: load the model again"
            ),
        }
    }
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranks")
            .field("num_ranks", &self.ops.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Severs when it is dropped, also where a rank panics.
struct Severing<'a>(Option<&'a dyn Link>);

impl Drop for Severing<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.0 {
            link.sever();
        }
    }
}
