//! The pool on its own: blocks of one token, and sums that say what they are of.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::steering::Site;

/// The chain of keys of a sequence of these blocks of one token each.
fn keys(token_ids: &[u32]) -> Vec<BlockKey> {
    let mut parent = BlockKey::ROOT;
    let chain = token_ids.iter().map(|&token_id| {
        parent = parent.child([(token_id, None)].into_iter());
        parent
    });
    chain.collect()
}

/// Runs a sequence of blocks of one token to its end: holds what is found, computes the rest.
fn run(pool: &mut BlockPool, token_ids: &[u32]) -> usize {
    run_with(pool, token_ids, None)
}

/// [`run`], of a sequence that wants sums of one layer.
fn run_with(pool: &mut BlockPool, token_ids: &[u32], layer: Option<usize>) -> usize {
    let (table, num_found) = start_with(pool, token_ids, layer);
    pool.give_back(table);
    num_found
}

fn start(pool: &mut BlockPool, token_ids: &[u32]) -> (BlockTable, usize) {
    start_with(pool, token_ids, None)
}

fn start_with(
    pool: &mut BlockPool,
    token_ids: &[u32],
    layer: Option<usize>,
) -> (BlockTable, usize) {
    let keys = keys(token_ids);
    let sum = |depth| layer.map(|layer| sum(&token_ids[..=depth], layer));
    let hits = keys.iter().enumerate().map_while(|(depth, key)| {
        let sum = sum(depth);
        let hit = pool.find(key, sum.as_ref().map(|sum| &sum.tag))?;
        // What is found is of these tokens and this layer.
        assert_eq!(hit.sum, sum.map(|sum| sum.values));
        Some(hit)
    });
    let hits: Vec<Hit> = hits.collect();
    let mut table = pool.share(&hits);
    assert_eq!(pool.grow(&mut table, token_ids.len()), token_ids.len());
    for (depth, key) in keys.iter().enumerate().skip(hits.len()) {
        let figures = BlockFigures { max_relative_norm: None, sum: sum(depth) };
        pool.enter(&mut table, *key, figures);
    }
    (table, hits.len())
}

/// A sum whose values say what it is of.
fn sum(token_ids: &[u32], layer: usize) -> BlockSum {
    let of_tokens = token_ids.iter().fold(1_u16, |sum, &id| sum * 5 + u16::try_from(id).unwrap());
    let values = [f32::from(of_tokens), f32::from(u8::try_from(layer).unwrap())];
    let tag = SumTag { site: Site::ResidPost, layers: [layer].into(), first: 0 };
    BlockSum { tag, values: values.into() }
}

fn num_found(pool: &BlockPool, token_ids: &[u32]) -> usize {
    keys(token_ids).iter().filter(|key| pool.find(key, None).is_some()).count()
}

#[test]
fn what_was_used_longest_ago_goes_first_and_of_a_chain_its_end() {
    let mut pool = BlockPool::new(6, 1);
    run(&mut pool, &[1, 2, 3]);
    run(&mut pool, &[4, 5]);
    assert_eq!(run(&mut pool, &[1, 2]), 2); // its third block is now the least recent
    run(&mut pool, &[6, 7]); // one free block, one evicted
    assert_eq!((num_found(&pool, &[1, 2, 3]), num_found(&pool, &[4, 5])), (2, 2));
    run(&mut pool, &[8]);
    let found: Vec<bool> = keys(&[4, 5]).iter().map(|key| pool.find(key, None).is_some()).collect();
    assert_eq!(found, [true, false], "the deepest of the older chain");
    run(&mut pool, &[9]);
    assert_eq!((num_found(&pool, &[4, 5]), num_found(&pool, &[1, 2])), (0, 2));
    assert_eq!(pool.evictions(), 3);
}

#[test]
fn a_block_somebody_holds_is_not_evicted() {
    let mut pool = BlockPool::new(4, 1);
    run(&mut pool, &[1, 2]);
    let (first, _) = start(&mut pool, &[1, 2]);
    let (second, shared) = start(&mut pool, &[1, 2]);
    assert_eq!((shared, pool.num_available()), (2, 2));
    pool.give_back(first);
    assert_eq!(pool.num_available(), 2, "the second still holds them");
    let mut table = BlockTable::default();
    assert_eq!(pool.grow(&mut table, 3), 2, "nothing but the free ones");
    pool.give_back(second);
    assert_eq!(pool.grow(&mut table, 3), 3);
}

#[test]
fn of_two_that_compute_the_same_one_block_stays() {
    let mut pool = BlockPool::new(4, 1);
    let mut tables = [BlockTable::default(), BlockTable::default()];
    for table in &mut tables {
        pool.grow(table, 2);
    }
    assert_eq!(pool.num_available(), 0);
    for key in keys(&[1, 2]) {
        for table in &mut tables {
            pool.enter(table, key, BlockFigures::default());
        }
    }
    assert_eq!(tables[0].blocks(), tables[1].blocks());
    assert_eq!(pool.num_available(), 2);
    let [first, second] = tables;
    pool.give_back(first);
    pool.give_back(second);
    assert_eq!((pool.num_available(), pool.num_idle()), (4, 2));
}

#[test]
fn who_wants_sums_finds_what_has_them_and_leaves_them_with_blocks_that_others_hold() {
    let mut pool = BlockPool::new(8, 1);
    let (held, _) = start(&mut pool, &[1, 2, 3]);
    assert_eq!(run_with(&mut pool, &[1, 2], Some(7)), 0, "the blocks are there, and no sum");
    assert_eq!((pool.num_available(), pool.num_idle()), (5, 0), "they stay the first one's");
    assert_eq!(run_with(&mut pool, &[1, 2, 3], Some(7)), 2);
    assert_eq!(run_with(&mut pool, &[1, 2, 3], Some(7)), 3);
    assert_eq!(run(&mut pool, &[1, 2, 3]), 3, "who wants none does not mind them");
    pool.give_back(held);
    assert_eq!((pool.num_available(), pool.num_idle()), (8, 3));
}

#[test]
fn a_block_keeps_the_sums_of_two_that_read_it_and_of_more_the_newest() {
    let mut pool = BlockPool::new(8, 1);
    for (layer, found) in [(1, 0), (2, 0), (1, 1), (2, 1), (3, 0), (3, 1), (2, 1), (1, 0)] {
        assert_eq!(run_with(&mut pool, &[9], Some(layer)), found, "{layer}");
    }
    for layer in [1, 2, 3] {
        let key = keys(&[9])[0];
        let sum = sum(&[9], layer);
        let else_where = SumTag { site: Site::AttnOut, ..sum.tag.clone() };
        let later = SumTag { first: 1, ..sum.tag.clone() };
        assert!([else_where, later].iter().all(|tag| pool.find(&key, Some(tag)).is_none()));
    }
}

/// A sequence of blocks of few tokens, so that chains meet, the layer whose sums it wants, and whether it stays.
fn any_visits() -> impl Strategy<Value = Vec<(Vec<u32>, Option<usize>, bool)>> {
    let layer = prop::option::of(0_usize..4);
    prop::collection::vec((prop::collection::vec(0_u32..3, 1..5), layer, any::<bool>()), 1..30)
}

proptest! {
    #[test]
    fn what_is_found_can_be_reached_from_the_root_and_no_block_is_lost(visits in any_visits()) {
        let mut pool = BlockPool::new(8, 1);
        let mut staying = VecDeque::new();
        for (token_ids, layer, stays) in &visits {
            while pool.num_available() < token_ids.len() {
                pool.give_back(staying.pop_front().unwrap());
            }
            let (table, _) = start_with(&mut pool, token_ids, *layer);
            if *stays {
                staying.push_back(table);
            } else {
                pool.give_back(table);
            }
            let held: BTreeSet<u32> =
                staying.iter().flat_map(|table| table.blocks()).copied().collect();
            prop_assert_eq!(held.len() + pool.num_available(), 8);
            for (token_ids, ..) in &visits {
                let found: Vec<bool> =
                    keys(token_ids).iter().map(|key| pool.find(key, None).is_some()).collect();
                prop_assert!(found.is_sorted_by(|a, b| a >= b), "{:?}: {:?}", token_ids, found);
            }
        }
    }
}

#[test]
fn what_was_forgotten_is_not_found_and_all_blocks_come_back() {
    let mut pool = BlockPool::new(6, 1);
    run(&mut pool, &[1, 2]);
    let (held, _) = start(&mut pool, &[3, 4]);
    pool.forget();
    assert_eq!((pool.num_available(), pool.num_idle()), (4, 0));
    assert_eq!(run(&mut pool, &[1, 2]), 0);
    assert_eq!(run(&mut pool, &[3, 4]), 0);
    assert_eq!(run(&mut pool, &[3, 4]), 2);
    pool.give_back(held);
    assert_eq!((pool.num_available(), pool.num_idle()), (6, 4));
}
