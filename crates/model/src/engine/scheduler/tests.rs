//! The scheduler on its own: sequences whose rows are only counted.

use proptest::prelude::*;

use super::super::request::{Event, EventSink, GenerationRequest, SinkClosed};
use super::super::sequence::Advance;
use super::*;
use crate::sampling::SamplingParams;

const NUM_BLOCKS: u32 = 12;
const BLOCK_SIZE: usize = 4;
const BUDGET: usize = 6;

/// A reader that is there until the test says otherwise.
struct Reader;

impl EventSink for Reader {
    fn try_send(&mut self, _: Event) -> Result<(), SinkClosed> {
        Ok(())
    }

    fn is_closed(&self) -> bool {
        false
    }
}

fn scheduler(max_num_seqs: usize) -> Scheduler {
    Scheduler::new(BlockPool::new(NUM_BLOCKS, BLOCK_SIZE), max_num_seqs, BUDGET)
}

fn sequence(id: u64, prompt_len: usize, max_new_tokens: usize) -> Sequence {
    let request = GenerationRequest {
        prompt_token_ids: vec![0; prompt_len],
        sampling: SamplingParams::default(),
        max_new_tokens,
        stop_token_ids: Vec::new(),
        steering: None,
    };
    Sequence::new(SeqId(id), request, Box::new(Reader))
}

/// Does what a step does, and returns the ids that took part with their rows.
fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize)> {
    let shares = scheduler.schedule();
    let rows: usize = shares.iter().map(|share| share.num_rows).sum();
    assert!(rows <= BUDGET, "{rows} rows in a step");
    let mut took_part = Vec::new();
    let mut ended = Vec::new();
    for share in shares {
        let sequence = scheduler.sequence_mut(share);
        took_part.push((sequence.id.0, share.num_rows));
        let yields = sequence.num_pending() == share.num_rows;
        scheduler.computed(share, None);
        if yields && scheduler.sequence_mut(share).advance(&[0.0, 1.0]) == Ok(Advance::Ended) {
            ended.push(share.running_idx);
        }
    }
    scheduler.end(ended);
    took_part
}

fn steps(scheduler: &mut Scheduler, num_steps: usize) -> Vec<Vec<(u64, usize)>> {
    (0..num_steps).map(|_| step(scheduler)).collect()
}

fn running_ids(scheduler: &Scheduler) -> Vec<u64> {
    scheduler.running().iter().map(|running| running.sequence.id.0).collect()
}

fn waiting_ids(scheduler: &Scheduler) -> Vec<u64> {
    scheduler.waiting.iter().map(|sequence| sequence.id.0).collect()
}

#[test]
fn decoding_sequences_go_before_a_long_prompt() {
    let mut scheduler = scheduler(4);
    scheduler.push(sequence(1, 2, 8));
    assert_eq!(step(&mut scheduler), [(1, 2)]);
    scheduler.push(sequence(2, 10, 1));
    assert_eq!(steps(&mut scheduler, 2), [[(1, 1), (2, BUDGET - 1)]; 2]);
}

#[test]
fn a_sequence_is_let_in_with_blocks_for_its_next_chunk_and_one_for_each_that_runs() {
    // With 10 blocks taken there is one for the other's chunk and one that stays free; with 11 there is not.
    for (prompt_len, let_in) in [(40, true), (41, false)] {
        let mut scheduler = scheduler(4);
        scheduler.push(sequence(1, prompt_len, 4));
        steps(&mut scheduler, 6);
        scheduler.push(sequence(2, 12, 1));
        let took_part = step(&mut scheduler);
        assert_eq!(took_part.iter().any(|(id, _)| *id == 2), let_in, "{took_part:?}");
    }
}

#[test]
fn nobody_overtakes_a_sequence_that_waits_for_blocks() {
    let mut scheduler = scheduler(4);
    scheduler.push(sequence(1, 37, 4)); // 10 of 12 blocks to its end
    steps(&mut scheduler, 7);
    scheduler.push(sequence(2, 20, 12)); // 2 blocks for its first 5 rows, beside the 1 that stays free
    scheduler.push(sequence(3, 1, 1)); // would fit
    assert_eq!(steps(&mut scheduler, 3), [[(1, 1)]; 3]);
    assert_eq!(step(&mut scheduler), [(2, BUDGET)]);
}

#[test]
fn the_youngest_gives_its_blocks_to_an_older_one_and_waits_in_front() {
    let mut scheduler = scheduler(3);
    for id in 1..=4 {
        scheduler.push(sequence(id, 6, 30)); // 9 blocks in the end
    }
    while scheduler.stats().preemptions == 0 {
        assert!(scheduler.num_unfinished() == 4, "three sequences of 9 blocks do not fit 12");
        step(&mut scheduler);
    }
    assert_eq!((running_ids(&scheduler), waiting_ids(&scheduler)), (vec![1, 2], vec![3, 4]));
}

#[test]
fn the_youngest_sits_out_rather_than_lose_its_work() {
    let mut scheduler = scheduler(2);
    scheduler.push(sequence(1, 34, 6)); // 10 blocks to its end
    steps(&mut scheduler, 5);
    scheduler.push(sequence(2, 8, 8)); // 2 blocks for its prompt
    assert_eq!(steps(&mut scheduler, 3), [[(1, 4), (2, 2)], [(1, 1), (2, 5)], [(1, 1), (2, 1)]]);
    assert_eq!(steps(&mut scheduler, 3), [[(1, 1)]; 3], "the last block is the first's");
    assert_eq!(step(&mut scheduler), [(2, 1)]);
    assert_eq!(scheduler.stats().preemptions, 0);
}

/// (prompt tokens, new tokens) that fit the cache of 48 tokens alone.
fn any_sizes() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((1_usize..30, 1_usize..18), 1..12)
}

proptest! {
    #[test]
    fn every_sequence_ends_in_turn_and_blocks_are_conserved(
        sizes in any_sizes(),
        max_num_seqs in 1_usize..6,
        cancelled in 0_u64..12,
    ) {
        let mut scheduler = scheduler(max_num_seqs);
        // The oldest advances in every step, so nobody waits longer than all work before it takes.
        let bound: usize = sizes.iter().map(|(prompt, new)| prompt + new).sum();
        for (id, (prompt_len, max_new_tokens)) in (0..).zip(sizes) {
            scheduler.push(sequence(id, prompt_len, max_new_tokens));
        }
        let mut first_seen = Vec::new();
        for round in 0..=bound {
            if round == 2 {
                scheduler.drop_id(SeqId(cancelled));
            }
            let oldest = running_ids(&scheduler).first().copied();
            let took_part = step(&mut scheduler);
            if let Some(oldest) = oldest {
                prop_assert!(took_part.iter().any(|(id, _)| *id == oldest), "{} waits", oldest);
            }
            let stats = scheduler.stats();
            prop_assert!(stats.num_running <= max_num_seqs);
            let held: usize =
                scheduler.running().iter().map(|r| r.block_table.blocks().len()).sum();
            prop_assert_eq!(held, stats.num_held_blocks);
            let in_order = [running_ids(&scheduler), waiting_ids(&scheduler)].concat();
            prop_assert!(in_order.is_sorted(), "{:?}", in_order);
            for (id, _) in took_part {
                if !first_seen.contains(&id) {
                    first_seen.push(id);
                }
            }
        }
        prop_assert_eq!(scheduler.num_unfinished(), 0);
        prop_assert_eq!(scheduler.stats().num_held_blocks, 0);
        first_seen.retain(|&id| id != cancelled);
        prop_assert!(first_seen.is_sorted(), "served out of turn: {:?}", first_seen);
    }
}
