//! The scheduler on its own: sequences whose rows are only counted, and a memory that says what each row is.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::outbox::Outbox;
use super::super::request::{Event, EventSink, GenerationRequest, SinkClosed};
use super::super::sequence::{Advance, Caching};
use super::*;
use crate::sampling::{Answer, SamplingParams};
use crate::steering::{Operator, Positions, Site, SlotLease, SteeringId, SteeringPlan};

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
    let config =
        EngineConfig { max_num_seqs, max_num_batched_tokens: BUDGET, ..EngineConfig::default() };
    Scheduler::new(BlockPool::new(NUM_BLOCKS, BLOCK_SIZE), &config)
}

/// A sequence of tokens that no other has.
fn sequence(id: u32, prompt_len: usize, max_new_tokens: usize) -> Sequence {
    let ask = Ask { prompt: vec![100 + id; prompt_len], max_new_tokens, steering: None };
    ask.sequence(id.into())
}

/// What is asked: the prompt's tokens, and the strength and positions of steering.
#[derive(Debug, Clone)]
struct Ask {
    prompt: Vec<u32>,
    max_new_tokens: usize,
    steering: Option<(f32, Positions)>,
}

/// A token and the bits of the strength it is steered with.
type Steered = (u32, Option<u32>);

impl Ask {
    fn sequence(&self, id: u64) -> Sequence {
        let (site, operator) = (Site::AttnOut, Operator::Add);
        let plan = |(strength, positions)| {
            let slot_by_layer = vec![1];
            let plan = SteeringPlan { site, operator, positions, strength, slot_by_layer };
            (plan, SlotLease::new(vec![1]))
        };
        let steering_id = self
            .steering
            .map(|(strength, _)| SteeringId::of(site, operator, strength, std::iter::empty()));
        let request = GenerationRequest {
            prompt_token_ids: self.prompt.clone(),
            sampling: SamplingParams::default(),
            max_new_tokens: self.max_new_tokens,
            stop_token_ids: Vec::new(),
            steering: self.steering.map(plan),
            gate: None,
        };
        let caching = Caching::new(BLOCK_SIZE, steering_id);
        Sequence::new(SeqId(id), request, Box::new(Reader), caching)
    }

    /// What the row at `position` depends on: every token up to it, and how each is steered.
    fn row(&self, position: usize) -> Vec<Steered> {
        let steered = |position| {
            let (strength, positions) = self.steering?;
            positions.covers(position, self.prompt.len()).then_some(strength.to_bits())
        };
        // Every new token is token 1.
        let token = |position| self.prompt.get(position).copied().unwrap_or(1);
        (0..=position).map(|position| (token(position), steered(position))).collect()
    }
}

/// Does what a step does, and returns the ids that took part with their rows.
fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize)> {
    step_with(scheduler, |_, _| {})
}

/// [`step`], with something done to the shares before they count as computed.
fn step_with(
    scheduler: &mut Scheduler,
    mut compute: impl FnMut(&Running, Share),
) -> Vec<(u64, usize)> {
    let shares = scheduler.schedule();
    let rows: usize = shares.iter().map(|share| share.num_rows).sum();
    assert!(rows <= BUDGET, "{rows} rows in a step");
    let mut took_part = Vec::new();
    let mut ended = Vec::new();
    for share in &shares {
        compute(&scheduler.running()[share.running_idx], *share);
    }
    for share in shares {
        let sequence = scheduler.sequence_mut(share);
        took_part.push((sequence.id.0, share.num_rows));
        let yields = sequence.num_pending() == share.num_rows;
        scheduler.computed(share, None);
        let row = Answer::Logits(&[0.0, 1.0]);
        let mut outbox = Outbox::default();
        let sequence = scheduler.sequence_mut(share);
        if yields && sequence.advance(row, &mut outbox) == Ok(Advance::Ended) {
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
fn blocks_that_a_sequence_would_find_do_not_count_as_room_for_its_other_rows() {
    let mut scheduler = scheduler(4);
    let prompt_of =
        |prompt_len| Ask { prompt: vec![7; prompt_len], max_new_tokens: 1, steering: None };
    scheduler.push(prompt_of(21).sequence(1));
    steps(&mut scheduler, 4);
    scheduler.push(sequence(2, 23, 10));
    steps(&mut scheduler, 4);
    let stats = scheduler.stats();
    assert_eq!((stats.num_held_blocks, stats.num_idle_blocks), (6, 5));
    // It would find all 5 and need 2 beside them, with 1 that stays free.
    scheduler.push(prompt_of(28).sequence(3));
    assert_eq!(step(&mut scheduler), [(2, 1)]);
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
    for enable_prefix_caching in [true, false] {
        let mut scheduler = scheduler(2);
        scheduler.enable_prefix_caching = enable_prefix_caching;
        for id in 1..=3 {
            scheduler.push(sequence(id, 6, 30)); // 9 blocks in the end
        }
        while scheduler.stats().preemptions == 0 {
            assert_eq!(scheduler.num_unfinished(), 3, "two sequences of 9 blocks do not fit 12");
            step(&mut scheduler);
        }
        // Nor does it come back in the same step, though its first chunk would fit again.
        assert_eq!((running_ids(&scheduler), waiting_ids(&scheduler)), (vec![1], vec![2, 3]));
    }
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

/// Asks that begin alike more often than not, and fit the cache of 48 tokens alone.
fn any_asks() -> impl Strategy<Value = Vec<Ask>> {
    let positions =
        prop_oneof![Just(Positions::All), Just(Positions::Prompt), Just(Positions::Generation)];
    let steering = prop::option::of((prop_oneof![Just(0.5_f32), Just(2.0)], positions));
    let ask = (1_usize..30, 0_usize..30, 2_u32..4, 1_usize..18, steering).prop_map(
        |(prompt_len, common, other, max_new_tokens, steering)| {
            let token = |position| if position < common { 1 } else { other };
            let prompt = (0..prompt_len).map(token).collect();
            Ask { prompt, max_new_tokens, steering }
        },
    );
    prop::collection::vec(ask, 1..12)
}

/// What each row of the cache was computed from.
struct Memory<'a> {
    asks: &'a [Ask],
    rows: Vec<Vec<Steered>>,
}

impl Memory<'_> {
    fn ask(&self, running: &Running) -> &Ask {
        &self.asks[usize::try_from(running.sequence.id.0).unwrap()]
    }

    fn place(running: &Running, position: usize) -> usize {
        let block = running.block_table.blocks()[position / BLOCK_SIZE] as usize;
        block * BLOCK_SIZE + position % BLOCK_SIZE
    }

    fn write(&mut self, running: &Running, share: Share) {
        let first = running.sequence.num_computed();
        for position in first..first + share.num_rows {
            self.rows[Self::place(running, position)] = self.ask(running).row(position);
        }
    }

    /// Whether every row a running sequence counts on is what it would have computed itself.
    fn holds_for(&self, running: &Running) -> bool {
        (0..running.sequence.num_computed()).all(|position| {
            self.rows[Self::place(running, position)] == self.ask(running).row(position)
        })
    }
}

proptest! {
    #[test]
    fn every_sequence_ends_in_turn_on_its_own_rows_and_blocks_are_conserved(
        asks in any_asks(),
        max_num_seqs in 1_usize..6,
        cancelled in 0_u64..12,
        enable_prefix_caching in any::<bool>(),
    ) {
        let mut scheduler = scheduler(max_num_seqs);
        scheduler.enable_prefix_caching = enable_prefix_caching;
        let num_rows = NUM_BLOCKS as usize * BLOCK_SIZE;
        let mut memory = Memory { asks: &asks, rows: vec![Vec::new(); num_rows] };
        // The oldest advances in every step, so nobody waits longer than all work before it takes.
        let bound: usize = asks.iter().map(|ask| ask.prompt.len() + ask.max_new_tokens).sum();
        for (id, ask) in (0..).zip(&asks) {
            scheduler.push(ask.sequence(id));
        }
        let mut first_seen = Vec::new();
        for round in 0..=bound {
            if round == 2 {
                scheduler.drop_id(SeqId(cancelled));
            }
            let oldest = running_ids(&scheduler).first().copied();
            let took_part =
                step_with(&mut scheduler, |running, share| memory.write(running, share));
            if let Some(oldest) = oldest {
                prop_assert!(took_part.iter().any(|(id, _)| *id == oldest), "{} waits", oldest);
            }
            let stats = scheduler.stats();
            prop_assert!(stats.num_running <= max_num_seqs);
            let tables = scheduler.running().iter().map(|running| running.block_table.blocks());
            let held: BTreeSet<u32> = tables.flatten().copied().collect();
            prop_assert_eq!(held.len(), stats.num_held_blocks, "free + held + idle is not all");
            let in_order = [running_ids(&scheduler), waiting_ids(&scheduler)].concat();
            prop_assert!(in_order.is_sorted(), "{:?}", in_order);
            prop_assert!(scheduler.running().iter().all(|running| memory.holds_for(running)));
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
