//! The kernels that choose tokens against the CPU's choice: the equal token, not a close one.

use super::sample_filter::random_filtered_row;
use super::support::{Draw, get, index, kernel_ops, put};
use crate::gpu::args::{
    AskHeader, ChosenToken, SAMPLE_BINS, SAMPLE_CHUNK, SAMPLE_PARTS, SampleArgs,
};
use crate::gpu::host::HostOps;
use crate::gpu::ops::DeviceOps;
use crate::kernels;
use crate::sampling::{Answer, Ask, decide};

/// What rows that ask for their logits leave.
const UNTOUCHED: ChosenToken =
    ChosenToken { id: u32::MAX, is_finite: u32::MAX, is_decided: u32::MAX };
/// The largest number below 1 that a generator gives.
pub(super) const LAST_UNIT: f64 = 1.0 - f64::EPSILON / 2.0;

pub(super) type Row = (Ask, Vec<f32>);

/// Rows of one length on the device.
fn put_rows(device: &mut dyn DeviceOps, rows: &[Row]) -> SampleArgs {
    let vocab_size = rows[0].1.len();
    let asks: Vec<AskHeader> = rows.iter().map(|(ask, _)| (*ask).into()).collect();
    let logits: Vec<f32> = rows.iter().flat_map(|(_, logits)| logits.clone()).collect();
    let scratch = |numbers: usize| vec![u32::MAX; rows.len() * numbers];
    SampleArgs {
        asks: put(device, &asks),
        logits: put(device, &logits),
        largest: put(device, &scratch(SAMPLE_PARTS * 3)),
        sums: put(device, &scratch(vocab_size.div_ceil(SAMPLE_CHUNK) * 2)),
        counts: put(device, &scratch(SAMPLE_BINS)),
        tokens: put(device, &scratch(3)),
        rows: index(rows.len()),
        vocab_size: index(vocab_size),
    }
}

/// What a device chooses for rows of one length.
pub(super) fn chosen(device: &mut dyn DeviceOps, rows: &[Row]) -> Vec<ChosenToken> {
    let args = put_rows(device, rows);
    device.sample(&args).unwrap();
    get(device, args.tokens, rows.len())
}

/// What the CPU chooses.
fn expected(rows: &[Row]) -> Vec<ChosenToken> {
    let of_row = |(ask, logits): &Row| match decide(*ask, logits) {
        Answer::Logits(_) => UNTOUCHED,
        Answer::Token { id, is_finite } => {
            ChosenToken { id, is_finite: is_finite.into(), is_decided: 1 }
        }
    };
    rows.iter().map(of_row).collect()
}

#[track_caller]
pub(super) fn check(device: &mut dyn DeviceOps, rows: &[Row]) {
    let (found, expected) = (chosen(device, rows), expected(rows));
    for ((found, expected), (ask, logits)) in found.iter().zip(&expected).zip(rows) {
        assert_eq!(found, expected, "{ask:?} of {} logits", logits.len());
    }
}

pub(super) fn unit(draw: &mut Draw) -> f64 {
    draw.below(1 << 53) as f64 / (1_u64 << 53) as f64
}

/// Logits that spread by chance between almost equal and far apart; some rows have few values, so that many are equal.
pub(super) fn random_row(draw: &mut Draw, vocab_size: usize) -> Row {
    let spread = [0.01, 1.0, 10.0, 60.0][draw.below(4)];
    let mut logits: Vec<f32> = draw.floats(vocab_size).iter().map(|x| x * spread).collect();
    if draw.below(4) == 0 {
        logits.iter_mut().for_each(|logit| *logit = (*logit / spread * 3.0).round());
    }
    let temperature = [0.05, 0.7, 1.0, 1.3, 2.0][draw.below(5)];
    let ask = match draw.below(8) {
        0 => Ask::Logits,
        1 => Ask::Greedy,
        _ => Ask::Draw { temperature, unit: unit(draw) },
    };
    (ask, logits)
}

#[test]
fn tokens_are_those_of_the_cpu() {
    let Some(mut device) = kernel_ops() else { return };
    for (vocab_size, rows) in [(1, 4), (63, 8), (128, 60), (1000, 40), (4099, 16), (32_000, 2)] {
        let mut draw = Draw::new(vocab_size as u64);
        let rows: Vec<Row> = (0..rows).map(|_| random_row(&mut draw, vocab_size)).collect();
        check(&mut *device, &rows);
    }
}

#[test]
fn of_equal_logits_the_lowest_id_is_greedy() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(1);
    let rows: Vec<Row> = (0..12)
        .map(|_| {
            let mut logits = draw.floats(1000);
            for _ in 0..5 {
                logits[draw.below(1000)] = 3.0;
            }
            (Ask::Greedy, logits)
        })
        .chain([(Ask::Greedy, vec![0.0; 1000]), (Ask::Greedy, signed_zeros(1000))])
        .collect();
    check(&mut *device, &rows);
}

/// Zeros of both signs are equal.
pub(super) fn signed_zeros(len: usize) -> Vec<f32> {
    (0..len).map(|id| if id % 3 == 0 { -0.0 } else { 0.0 }).collect()
}

#[test]
fn what_is_not_finite_is_noticed_wherever_it_stands() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(2);
    let mut rows = Vec::new();
    for ask in [Ask::Greedy, Ask::Draw { temperature: 1.0, unit: 0.5 }] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 31, 32, 500, 999] {
                let mut logits = draw.floats(1000);
                logits[place] = bad;
                rows.push((ask, logits));
            }
            rows.push((ask, vec![bad; 1000]));
        }
        rows.push((ask, draw.floats(1000)));
    }
    check(&mut *device, &rows);
    assert_eq!(chosen(&mut *device, &rows)[0], ChosenToken { id: 0, is_finite: 0, is_decided: 1 });
}

#[test]
fn draws_at_the_ends_are_those_of_the_cpu() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(3);
    let mut rows = Vec::new();
    // The last three have an inverse that is 0 or infinite in f32, or nearly.
    for temperature in [0.02, 1.0, f32::MAX, f32::MIN_POSITIVE, 1e-42] {
        for unit in [0.0, f64::MIN_POSITIVE, LAST_UNIT] {
            let ask = Ask::Draw { temperature, unit };
            rows.push((ask, draw.floats(700)));
            rows.push((ask, draw.floats(700).iter().map(|x| x * 500.0).collect()));
            rows.push((ask, vec![-2.5; 700]));
            rows.push((ask, signed_zeros(700)));
            // All weight on one token, with next to none behind it.
            let place = draw.below(700);
            let peak =
                |high, low| (0..700).map(|id| if id == place { high } else { low }).collect();
            rows.push((ask, peak(0.0, -200.0)));
            rows.push((ask, peak(f32::MAX, f32::MIN)));
        }
    }
    check(&mut *device, &rows);
}

/// Of 1024 equal weights each takes a share of 0..1 that begins at a number without rounding: the first that is its own.
#[test]
fn a_token_is_drawn_where_its_share_begins() {
    let Some(mut device) = kernel_ops() else { return };
    let ids = [0, 1, 63, 64, 65, 511, 512, 576, 959, 960, 1023];
    let row =
        |id: &u32| (Ask::Draw { temperature: 1.0, unit: f64::from(*id) / 1024.0 }, vec![1.0; 1024]);
    let rows: Vec<Row> = ids.iter().map(row).collect();
    let found: Vec<u32> = chosen(&mut *device, &rows).iter().map(|token| token.id).collect();
    assert_eq!(found, ids);
}

/// A token seldom shows the last bit of a weight; the sums do.
#[test]
fn sums_of_weights_have_the_cpus_bits() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(5);
    for spread in [1.0, 10.0, 100.0] {
        let mut logits: Vec<f32> = draw.floats(1000).iter().map(|x| x * spread).collect();
        // Small weights among their like, or the large ones would hide their bits.
        logits.sort_by(f32::total_cmp);
        let rows = [(Ask::Draw { temperature: 0.7, unit: 0.5 }, logits)];
        let args = put_rows(&mut *device, &rows);
        device.sample(&args).unwrap();
        let logits = &rows[0].1;
        let weights = kernels::weights(logits, kernels::largest(logits).0, 0.7);
        let sum =
            |chunk: &[f32]| chunk.iter().map(|weight| f64::from(*weight)).sum::<f64>().to_bits();
        let expected: Vec<u64> = weights.chunks(SAMPLE_CHUNK).map(sum).collect();
        assert_eq!(get::<u64>(&mut *device, args.sums, expected.len()), expected);
    }
}

#[test]
fn the_host_decides_as_the_cpu_does() {
    let mut draw = Draw::new(4);
    let mut rows: Vec<Row> = (0..50).map(|_| random_row(&mut draw, 100)).collect();
    rows.push((Ask::Greedy, vec![f32::NAN; 100]));
    rows.extend((0..50).map(|_| random_filtered_row(&mut draw, 100)));
    check(&mut HostOps::default(), &rows);
}
