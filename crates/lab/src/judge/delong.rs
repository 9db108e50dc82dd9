//! The area under the ROC curve with its 95 % interval, after `DeLong`.

use super::metrics::Estimate;
use crate::evaluate::Z95;

/// The AUC of scores: how often a positive scores above a negative, a tie counting half; `None` where one of the two is
/// missing. The interval is the normal one with the variance of `DeLong`, `DeLong` and Clarke-Pearson (1988), computed
/// from midranks (Sun and Xu 2014) and cut at 0 and 1; it is [0, 1] where a class has one member.
pub(crate) fn auc(scores: &[f64], positives: &[bool]) -> Option<Estimate> {
    let of = |wanted: bool| -> Vec<f64> {
        let pairs = scores.iter().zip(positives).filter(|&(_, &positive)| positive == wanted);
        // Adding 0 makes -0 the 0 that it equals.
        pairs.map(|(&score, _)| score + 0.0).collect()
    };
    let (pos, neg) = (of(true), of(false));
    if pos.is_empty() || neg.is_empty() {
        return None;
    }
    let (m, n) = (pos.len() as f64, neg.len() as f64);
    let all = midranks(&[pos.as_slice(), neg.as_slice()].concat());
    let (all_pos, all_neg) = all.split_at(pos.len());
    // Share of negatives below each positive, and of positives above each negative.
    let below: Vec<f64> =
        all_pos.iter().zip(midranks(&pos)).map(|(all, own)| (all - own) / n).collect();
    let above: Vec<f64> =
        all_neg.iter().zip(midranks(&neg)).map(|(all, own)| 1.0 - (all - own) / m).collect();
    let value = below.iter().sum::<f64>() / m;
    let (low, high) = match (variance(&below, value), variance(&above, value)) {
        (Some(of_pos), Some(of_neg)) => {
            let half_width = Z95 * (of_pos / m + of_neg / n).sqrt();
            ((value - half_width).max(0.0), (value + half_width).min(1.0))
        }
        (None, _) | (_, None) => (0.0, 1.0),
    };
    Some(Estimate { value, low, high })
}

/// Sample variance around a known mean.
fn variance(values: &[f64], mean: f64) -> Option<f64> {
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (values.len() > 1).then(|| squares / (values.len() - 1) as f64)
}

/// Ranks from 1; equal values share the mean of their ranks.
fn midranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]];
        let num_equal =
            order[start..].iter().take_while(|&&idx| values[idx].total_cmp(&value).is_eq()).count();
        let rank = start as f64 + (num_equal as f64 + 1.0) / 2.0;
        for &idx in &order[start..start + num_equal] {
            ranks[idx] = rank;
        }
        start += num_equal;
    }
    ranks
}
