//! Sums over ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::memory::bad;
use crate::error::{Error, Result};
use crate::gpu::ranks::Link;

/// Where the ranks meet. A sum is made in the order of ranks, whichever comes first: it is bitwise the same every time.
#[derive(Debug)]
pub(in crate::gpu) struct HostGroup {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// By rank, of those who have come.
    parts: Vec<Option<Vec<f32>>>,
    /// The last sum. The next one needs every rank, so each has taken this one before.
    sum: Arc<[f32]>,
    /// Sums made.
    num_sums: u64,
    is_severed: bool,
}

impl HostGroup {
    pub(in crate::gpu) fn new(num_ranks: usize) -> Self {
        let state = State {
            parts: vec![None; num_ranks],
            sum: Arc::default(),
            num_sums: 0,
            is_severed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until every rank has brought its part, and returns their sum.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the group is severed, or parts differ in length, which severs it.
    pub(in crate::gpu) fn sum(&self, rank: usize, part: Vec<f32>) -> Result<Arc<[f32]>> {
        let mut state = self.lock();
        if state.is_severed {
            return Err(severed());
        }
        state.parts[rank] = Some(part);
        if state.parts.iter().all(Option::is_some) {
            let sum = sum_in_order(state.parts.iter_mut().filter_map(Option::take));
            match &sum {
                Ok(sum) => {
                    state.sum = sum.clone();
                    state.num_sums += 1;
                }
                Err(_) => state.is_severed = true,
            }
            self.changed.notify_all();
            return sum;
        }
        let before = state.num_sums;
        let waits = |state: &mut State| state.num_sums == before && !state.is_severed;
        let state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        if state.num_sums == before { Err(severed()) } else { Ok(state.sum.clone()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link for HostGroup {
    fn sever(&self) {
        self.lock().is_severed = true;
        self.changed.notify_all();
    }
}

fn sum_in_order(mut parts: impl Iterator<Item = Vec<f32>>) -> Result<Arc<[f32]>> {
    let mut sum = parts.next().unwrap_or_default();
    for part in parts {
        if part.len() != sum.len() {
            return Err(bad(format!("ranks sum {} and {} numbers", sum.len(), part.len())));
        }
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    }
    Ok(sum.into())
}

fn severed() -> Error {
    bad("another rank has failed")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// What each of three ranks gets of sums, one after the other.
    fn sums(parts: [Vec<Vec<f32>>; 3]) -> Vec<Vec<Result<Vec<f32>, String>>> {
        let group = HostGroup::new(3);
        let on_rank = |rank: usize, parts: Vec<Vec<f32>>| {
            let sum = |part| group.sum(rank, part).map(|sum| sum.to_vec());
            parts.into_iter().map(|part| sum(part).map_err(|error| error.to_string())).collect()
        };
        let on_rank = &on_rank;
        thread::scope(|scope| {
            let ranks: Vec<_> = parts
                .into_iter()
                .enumerate()
                .map(|(rank, parts)| scope.spawn(move || on_rank(rank, parts)))
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_are_in_the_order_of_ranks_whoever_comes_first() {
        // Were rank 1's part added last, the first sum would be 1 and not 0.
        let parts = [vec![1e8, 1.0], vec![1.0, 2.0], vec![-1e8, 4.0]];
        let expected = (1e8f32 + 1.0) + -1e8;
        for _ in 0..50 {
            for found in sums(parts.clone().map(|part| vec![part.clone(), vec![part[1]]])) {
                assert_eq!(found, [Ok(vec![expected, 7.0]), Ok(vec![7.0])]);
            }
        }
    }

    #[test]
    fn parts_of_several_lengths_are_an_error_for_all() {
        for found in sums([vec![vec![1.0]], vec![vec![1.0]], vec![vec![1.0, 2.0]]]) {
            found[0].as_ref().unwrap_err();
        }
    }
}
