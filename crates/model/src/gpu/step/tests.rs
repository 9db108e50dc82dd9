//! A batch on its way to the bytes that a device reads.

use candle_core::DType;
use proptest::prelude::*;

use super::*;
use crate::hooks::{Capture, Hooks};
use crate::kv_cache::{KvCache, KvCacheDtype};
use crate::steering::Site;
use crate::testing::{RandomWeights, random_llama, tiny_config};

const BLOCK_SIZE: usize = 4;
const NUM_BLOCKS: usize = 512;

/// Sequences of `(first position, rows)` in blocks of their own.
fn batch(seqs: &[(usize, usize)], asks_all: bool) -> PackedBatch {
    let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    let mut next_block = 0;
    for &(first, len) in seqs {
        batch.token_ids.extend((0..len).map(|i| u32::try_from(i % 128).unwrap()));
        batch.positions.extend(first..first + len);
        batch.cu_seqlens.push(batch.token_ids.len());
        let num_blocks = u32::try_from((first + len).div_ceil(BLOCK_SIZE)).unwrap();
        batch.block_tables.push((next_block..next_block + num_blocks).collect());
        next_block += num_blocks;
        if asks_all {
            batch.logit_rows.push(batch.token_ids.len() - 1);
        }
    }
    batch
}

fn input(batch: &PackedBatch, hooks: &mut Hooks<'_>) -> StepInput {
    input_with(batch, hooks, true)
}

fn input_with(batch: &PackedBatch, hooks: &mut Hooks<'_>, prefills: bool) -> StepInput {
    let config = tiny_config();
    let llama = random_llama(config.clone(), 1, RandomWeights::Dense(DType::F32)).unwrap();
    let cache = KvCache::new(&llama, NUM_BLOCKS, BLOCK_SIZE, KvCacheDtype::F32).unwrap();
    let layout = batch.layout(&config, &cache).unwrap();
    let size = (batch.total_tokens(), config.num_hidden_layers);
    let hooks = HookInput::new(hooks, &config, size).unwrap();
    let asks = vec![Ask::Logits; batch.logit_rows.len()];
    StepInput::new((batch, &layout), &asks, hooks, prefills).unwrap()
}

/// The array of `len` indices that lies at `place` of a step that was encoded for `base`.
fn array(bytes: &[u8], base: Address, place: Address, len: usize) -> Vec<u32> {
    let start = usize::try_from(place.0 - base.0).unwrap();
    let (numbers, rest) = bytes[start..start + len * size_of::<u32>()].as_chunks();
    assert!(rest.is_empty());
    numbers.iter().map(|bytes| u32::from_ne_bytes(*bytes)).collect()
}

fn header(bytes: &[u8]) -> StepHeader {
    bytemuck::pod_read_unaligned(&bytes[..size_of::<StepHeader>()])
}

proptest! {
    #[test]
    fn every_row_is_attended_once_and_every_position_of_it(
        seqs in prop::collection::vec((0_usize..200, 1_usize..50), 1..6),
    ) {
        let batch = batch(&seqs, true);
        let input = input(&batch, &mut Hooks::none());
        let shape = input.shape();
        let base = Address(4096);
        let bytes = input.encode(shape.num_bytes, base, OutsidePlaces::default());
        prop_assert_eq!(bytes.len(), shape.num_bytes);
        let header = header(&bytes);
        let pairs = |place, len: u32| -> Vec<[u32; 2]> {
            array(&bytes, base, place, 2 * len as usize).chunks(2).map(|pair| [pair[0], pair[1]]).collect()
        };
        let decode_items = pairs(header.decode_items, header.num_decode_items);
        let prefill_items = pairs(header.prefill_items, header.num_prefill_items);
        let row_items = array(&bytes, base, header.row_items, shape.rows + 1);
        let seq_of_row = array(&bytes, base, header.seqs, shape.rows);
        for row in 0..batch.total_tokens() {
            let items = &decode_items[row_items[row] as usize..row_items[row + 1] as usize];
            let prefills = prefill_items.iter().filter(|[first, len]| {
                (*first..first + len).contains(&u32::try_from(row).unwrap())
            });
            if items.is_empty() {
                prop_assert_eq!(prefills.count(), 1, "row {}", row);
            } else {
                prop_assert_eq!(prefills.count(), 0, "row {}", row);
                let covered = items.len() * DECODE_CHUNK;
                prop_assert!((covered - DECODE_CHUNK..covered).contains(&batch.positions[row]));
                for (chunk, item) in items.iter().enumerate() {
                    prop_assert_eq!(*item, [u32::try_from(row).unwrap(), u32::try_from(chunk).unwrap()]);
                }
            }
        }
        for [first, len] in prefill_items {
            prop_assert!(len as usize <= PREFILL_ROWS && len > 0);
            let rows = first as usize..(first + len) as usize;
            prop_assert!(seq_of_row[rows].iter().all(|seq| *seq == seq_of_row[first as usize]));
        }
        prop_assert!(decode_items.len() <= shape.max_decode_items);
    }

    #[test]
    fn no_step_is_larger_than_the_largest_within_its_bounds(
        seqs in prop::collection::vec((0_usize..200, 1_usize..50), 1..9),
        attends_alone in any::<bool>(),
        asks_all in any::<bool>(),
    ) {
        // The ends of prompts are excepted: here each prompt has as many rows as are attended together.
        let of = |&(first, len): &(usize, usize)| match len {
            _ if attends_alone => (first, len),
            2..PREFILL_ROWS => (first, PREFILL_ROWS),
            _ => (first, len),
        };
        let seqs: Vec<(usize, usize)> = seqs.iter().map(of).collect();
        let shape = input_with(&batch(&seqs, asks_all), &mut Hooks::none(), !attends_alone).shape();
        let bounds = StepBounds {
            rows: seqs.iter().map(|(_, len)| len).sum(),
            seqs: seqs.len(),
            seq_len: seqs.iter().map(|(first, len)| first + len).max().unwrap(),
            block_size: BLOCK_SIZE,
            attends_alone,
        };
        let largest = StepShape::largest(&bounds);
        prop_assert!(shape.rows <= largest.rows && shape.logit_rows <= largest.logit_rows);
        prop_assert!(shape.max_decode_items <= largest.max_decode_items);
        prop_assert!(shape.num_prefill_items <= largest.num_prefill_items);
        prop_assert!(shape.num_bytes <= largest.num_bytes, "{} bytes", shape.num_bytes);
    }

    #[test]
    fn padding_rows_have_no_place_no_item_and_no_hook(num_seqs in 1_usize..150) {
        let seqs: Vec<(usize, usize)> = (0..num_seqs).map(|seq| (seq % 9, 1)).collect();
        let batch = batch(&seqs, true);
        let mut capture = Capture::new(Site::ResidPost, vec![1, 2], vec![0, num_seqs - 1]);
        let mut hooks = Hooks { steer: None, capture: Some(&mut capture) };
        let input = input(&batch, &mut hooks);
        let shape = input.shape();
        // More are not filled up, and not kept: there would be a graph for every number of them.
        prop_assert_eq!(shape.is_decode, num_seqs <= 128);
        prop_assert!(shape.rows >= num_seqs);
        prop_assert_eq!(shape.rows == num_seqs, num_seqs > 128 || DECODE_ROWS.contains(&num_seqs));
        let base = Address(512);
        let bytes = input.encode(shape.num_bytes, base, OutsidePlaces::default());
        let header = header(&bytes);
        let is_none = |place| {
            array(&bytes, base, place, shape.rows)[num_seqs..].iter().all(|value| *value == NONE)
        };
        prop_assert!(is_none(header.cache_rows) && is_none(header.row_plans) && is_none(header.capture_rows));
        let row_items = array(&bytes, base, header.row_items, shape.rows + 1);
        prop_assert!(row_items[num_seqs..].iter().all(|end| *end == header.num_decode_items));
        let logit_rows = array(&bytes, base, header.logit_rows, shape.logit_rows);
        prop_assert!(logit_rows.iter().all(|row| (*row as usize) < num_seqs));
        prop_assert_eq!(array(&bytes, base, header.token_ids, shape.rows).len(), shape.rows);
    }
}

#[test]
fn a_step_that_does_not_ask_every_row_is_no_step_of_single_tokens() {
    let seqs = [(3, 1), (8, 1), (0, 1)];
    let all = input(&batch(&seqs, true), &mut Hooks::none()).shape();
    assert_eq!((all.rows, all.is_decode), (4, true));
    let none = input(&batch(&seqs, false), &mut Hooks::none()).shape();
    assert_eq!((none.rows, none.is_decode), (3, false));
    let chunk = input(&batch(&[(3, 1), (8, 2)], true), &mut Hooks::none()).shape();
    assert_eq!((chunk.rows, chunk.is_decode), (3, false));
}

#[test]
fn a_row_that_is_captured_twice_is_read_once_and_handed_out_twice() {
    let mut capture = Capture::new(Site::AttnOut, vec![2, 0], vec![5, 1, 5]);
    let config = tiny_config();
    let mut hooks = Hooks { steer: None, capture: Some(&mut capture) };
    let asked = HookInput::new(&mut hooks, &config, (7, 3)).unwrap();
    assert_eq!(asked.captured_rows, 4, "two rows of two layers");
    // Row r of layer l holds 10 l + r throughout.
    let of = |layer: u8, row: u8| vec![f32::from(10 * layer + row); 64];
    let captured = [of(0, 1), of(0, 5), of(2, 1), of(2, 5)].concat();
    asked.hand_back(&mut hooks, 64, (&[], &captured, &[]));
    drop(hooks);
    let found = capture.take();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], (0, [of(0, 5), of(0, 1), of(0, 5)].concat()));
    assert_eq!(found[1], (2, [of(2, 5), of(2, 1), of(2, 5)].concat()));
}
