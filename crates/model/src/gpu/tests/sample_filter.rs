//! The kernel that draws from what top-k, top-p and min-p keep, against the CPU's choice: the equal token, or none where more
//! tokens would be needed than it sorts.

use super::sample::{LAST_UNIT, Row, check, chosen, random_row, signed_zeros, unit};
use super::support::{Draw, kernel_ops};
use crate::gpu::args::{AskHeader, ChosenToken};
use crate::sampling::{Ask, Filter};

/// What the kernel leaves to the host.
const UNDECIDED: ChosenToken = ChosenToken { id: 0, is_finite: 1, is_decided: 0 };
/// Tokens that the kernel sorts at most.
const MOST: usize = 2048;
const ALL: Filter = Filter { top_k: 0, top_p: 1.0, min_p: 0.0 };

fn filtered(filter: Filter) -> Ask {
    Ask::Filtered { temperature: 1.0, unit: 0.5, filter }
}

/// One, two or three filters.
fn random_filter(draw: &mut Draw) -> Filter {
    let which = 1 + draw.below(7);
    let top_k = [1, 2, 40, 300, 5000][draw.below(5)];
    let top_p = [0.1, 0.5, 0.9, 0.95, 0.999][draw.below(5)];
    let min_p = [1e-6, 0.05, 0.3, 1.0][draw.below(4)];
    Filter {
        top_k: if which & 1 > 0 { top_k } else { ALL.top_k },
        top_p: if which & 2 > 0 { top_p } else { ALL.top_p },
        min_p: if which & 4 > 0 { min_p } else { ALL.min_p },
    }
}

/// A random row of which a token is drawn from what a random filter keeps.
pub(super) fn random_filtered_row(draw: &mut Draw, vocab_size: usize) -> Row {
    let (_, logits) = random_row(draw, vocab_size);
    let temperature = [0.05, 0.7, 1.0, 1.3, 2.0][draw.below(5)];
    (Ask::Filtered { temperature, unit: unit(draw), filter: random_filter(draw) }, logits)
}

/// All of a row that is short enough can be sorted, whatever it is.
#[test]
fn short_rows_are_decided_as_by_the_cpu() {
    let Some(mut device) = kernel_ops() else { return };
    for (vocab_size, rows) in [(1, 8), (63, 40), (128, 60), (1000, 40), (MOST, 16)] {
        let mut draw = Draw::new(vocab_size as u64);
        let rows: Vec<Row> = (0..rows)
            .map(|row| match row % 8 {
                0 => random_row(&mut draw, vocab_size),
                _ => random_filtered_row(&mut draw, vocab_size),
            })
            .collect();
        check(&mut *device, &rows);
    }
}

/// Logits as far apart as a model's: what is kept is found among the first.
#[test]
fn long_rows_are_decided_as_by_the_cpu() {
    let Some(mut device) = kernel_ops() else { return };
    for (vocab_size, rows) in [(4099, 40), (32_000, 4), (70_001, 2)] {
        let mut draw = Draw::new(vocab_size as u64);
        let rows: Vec<Row> = (0..rows)
            .map(|row| {
                let mut logits: Vec<f32> =
                    draw.floats(vocab_size).iter().map(|x| x.powi(3) * 20.0).collect();
                if row % 2 == 0 {
                    // Many equal ones, also where a filter cuts.
                    logits.iter_mut().for_each(|logit| *logit = (*logit * 8.0).round() / 8.0);
                }
                let temperature = [0.1, 0.7, 1.0][draw.below(3)];
                let filter = match random_filter(&mut draw) {
                    // Where it is alone it keeps more than is sorted.
                    Filter { top_k: 5000, .. } => Filter { top_k: 64, ..ALL },
                    Filter { min_p, .. } if min_p > 0.0 => Filter { min_p: 0.05, ..ALL },
                    other => other,
                };
                (Ask::Filtered { temperature, unit: unit(&mut draw), filter }, logits)
            })
            .collect();
        check(&mut *device, &rows);
    }
}

#[test]
fn rows_that_need_more_than_is_sorted_are_left_undecided() {
    let Some(mut device) = kernel_ops() else { return };
    let flat = vec![1.0; 2 * MOST];
    let every_other: Vec<f32> = (0..2 * MOST).map(|id| (id % 2) as f32).collect();
    let slope: Vec<f32> = (0..2 * MOST).map(|id| id as f32 * 1e-3).collect();
    let steep: Vec<f32> = slope.iter().map(|logit| logit * 10.0).collect();
    let undecided = [
        (Filter { top_k: 40, ..ALL }, flat.clone()),
        (Filter { top_p: 0.5, ..ALL }, flat.clone()),
        (Filter { min_p: 0.5, ..ALL }, flat),
        (Filter { top_k: MOST + 1, ..ALL }, steep.clone()),
        (Filter { top_k: MOST + 1, top_p: 0.5, ..ALL }, steep.clone()),
        (Filter { top_p: 0.9, ..ALL }, slope.clone()),
        (Filter { min_p: 0.1, ..ALL }, slope),
    ];
    let rows: Vec<Row> =
        undecided.into_iter().map(|(filter, logits)| (filtered(filter), logits)).collect();
    for ((ask, _), found) in rows.iter().zip(chosen(&mut *device, &rows)) {
        assert_eq!(found, UNDECIDED, "{ask:?}");
    }
    // One filter keeps few enough, whatever the others say.
    let decided = [
        (Filter { top_k: MOST, ..ALL }, every_other),
        (Filter { top_k: MOST + 1, min_p: 0.5, ..ALL }, steep.clone()),
        (Filter { top_k: 5 * MOST, top_p: 0.9, ..ALL }, steep.clone()),
        (Filter { top_p: 0.9, ..ALL }, steep.clone()),
        (Filter { top_p: 0.999_999_9, min_p: 0.01, ..ALL }, steep),
    ];
    let rows: Vec<Row> =
        decided.into_iter().map(|(filter, logits)| (filtered(filter), logits)).collect();
    check(&mut *device, &rows);
}

#[test]
fn draws_at_the_ends_are_those_of_the_cpu() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(3);
    let mut rows = Vec::new();
    for temperature in [0.02, 1.0, 100.0, f32::MAX, f32::MIN_POSITIVE] {
        for unit in [0.0, f64::MIN_POSITIVE, LAST_UNIT] {
            let mut ask = || Ask::Filtered { temperature, unit, filter: random_filter(&mut draw) };
            rows.push((ask(), vec![-2.5; 700]));
            rows.push((ask(), signed_zeros(700)));
            let peak = |high, low| (0..700).map(|id| if id == 99 { high } else { low }).collect();
            rows.push((ask(), peak(0.0, -200.0)));
            rows.push((ask(), peak(f32::MAX, f32::MIN)));
            let ask = ask();
            rows.push((ask, draw.floats(700)));
            rows.push((ask, draw.floats(700).iter().map(|x| x * 500.0).collect()));
        }
    }
    check(&mut *device, &rows);
    // The inverse is infinite, and the largest logit's weight no number.
    let ask = Ask::Filtered { temperature: 1e-42, unit: 0.5, filter: Filter { top_k: 3, ..ALL } };
    assert_eq!(chosen(&mut *device, &[(ask, draw.floats(700))]), [UNDECIDED]);
}

#[test]
fn what_is_not_finite_is_noticed() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(2);
    let mut rows = Vec::new();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 500, 999] {
            let mut logits = draw.floats(1000);
            logits[place] = bad;
            rows.push((filtered(random_filter(&mut draw)), logits));
        }
        rows.push((filtered(random_filter(&mut draw)), vec![bad; 1000]));
    }
    check(&mut *device, &rows);
}

/// Of 1024 equal weights the first n are a share without rounding, and the lowest ids are kept.
#[test]
fn a_filter_cuts_where_its_share_is_reached() {
    let Some(mut device) = kernel_ops() else { return };
    let kept = [1_u16, 2, 63, 64, 65, 512, 960, 1023];
    let filters = |kept: &u16| {
        let top_p = f32::from(*kept) / 1024.0;
        [Filter { top_p, ..ALL }, Filter { top_k: usize::from(*kept), ..ALL }]
    };
    let row =
        |filter| (Ask::Filtered { temperature: 1.0, unit: LAST_UNIT, filter }, vec![1.0; 1024]);
    let rows: Vec<Row> = kept.iter().flat_map(filters).map(row).collect();
    let last: Vec<u32> = chosen(&mut *device, &rows).iter().map(|token| token.id + 1).collect();
    let expected: Vec<u32> = kept.iter().flat_map(|&kept| [u32::from(kept); 2]).collect();
    assert_eq!(last, expected);
    check(&mut *device, &rows);
}

/// Beside two of weight 1 each of the others is lost in a sum, but not 64 of them together: half of all is more than one of the
/// two where the sum is made in chunks.
#[test]
fn a_share_is_of_the_sum_in_chunks() {
    let Some(mut device) = kernel_ops() else { return };
    let logits: Vec<f32> = (0..MOST).map(|id| if id < 2 { 0.0 } else { -37.0 }).collect();
    let ask = |top_k| {
        let filter = Filter { top_k, top_p: 0.5, ..ALL };
        Ask::Filtered { temperature: 1.0, unit: LAST_UNIT, filter }
    };
    let rows: Vec<Row> = [0, 2000, 2].map(|top_k| (ask(top_k), logits.clone())).into();
    check(&mut *device, &rows);
    let ids: Vec<u32> = chosen(&mut *device, &rows).iter().map(|token| token.id).collect();
    assert_eq!(ids, [1, 1, 0]);
}

#[test]
fn an_ask_comes_back_from_its_header() {
    let mut draw = Draw::new(6);
    for _ in 0..20 {
        let (ask, _) = random_filtered_row(&mut draw, 1);
        assert_eq!(Ask::from(AskHeader::from(ask)), ask);
    }
    let huge = filtered(Filter { top_k: usize::MAX, ..ALL });
    assert_eq!(AskHeader::from(huge).top_k, u32::MAX);
}
