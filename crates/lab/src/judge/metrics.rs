//! How far verdicts agree with labels, each figure with its 95 % interval.
//!
//! Shares have Wilson's interval, the AUC `DeLong`'s, F1 and kappa the percentiles of a seeded bootstrap. All take the
//! answers as independent; answers to the same prompt are less than that, so intervals of sets with
//! several answers a prompt are somewhat too narrow.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::Verdict;
use super::delong::auc;
use crate::error::{Error, Result};
use crate::evaluate::Share;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} [{:.2}, {:.2}]", self.value, self.low, self.high)
    }
}

/// Agreement of verdicts with labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Answers judged.
    pub total: usize,
    /// Answers that have the property by their label.
    pub num_positive: usize,
    /// Share judged as labelled.
    pub accuracy: Share,
    /// Share of the answers judged positive that are.
    pub precision: Share,
    /// Share of the positive answers that are judged so.
    pub recall: Share,
    /// Harmonic mean of precision and recall, `2 TP / (2 TP + FP + FN)`; `None` where that is 0 / 0.
    pub f1: Option<Estimate>,
    /// Cohen's kappa, agreement beyond chance: `(p_o - p_e) / (1 - p_e)`; `None` where chance agrees always.
    pub kappa: Option<Estimate>,
    /// How often a positive answer scores above a negative one, a tie counting half; `None` where there is only
    /// one kind.
    pub auc: Option<Estimate>,
}

/// Resamples behind an interval of F1 or kappa.
const NUM_RESAMPLES: usize = 2_000;
const SEED: u64 = 241_001_174;

/// Answers by verdict and label.
#[derive(Debug, Clone, Copy, Default)]
struct Confusion {
    true_pos: usize,
    false_pos: usize,
    false_neg: usize,
    true_neg: usize,
}

impl Figures {
    /// Compares verdicts with labels, in the same order.
    ///
    /// # Errors
    /// [`Error::Data`] when there are no answers, more of one than of the other, or a score that is not finite.
    pub fn new(verdicts: &[Verdict], positives: &[bool]) -> Result<Self> {
        if verdicts.is_empty() || verdicts.len() != positives.len() {
            return Err(Error::Data(format!(
                "{} verdicts for {} labels; expected as many, and at least one",
                verdicts.len(),
                positives.len()
            )));
        }
        let scores: Vec<f64> = verdicts.iter().map(|verdict| verdict.score).collect();
        if let Some(idx) = scores.iter().position(|score| !score.is_finite()) {
            return Err(Error::Data(format!("the score of answer {idx} is {}", scores[idx])));
        }
        let mut cells = Confusion::default();
        for (verdict, &positive) in verdicts.iter().zip(positives) {
            cells.add(verdict.positive, positive);
        }
        let Confusion { true_pos, false_pos, false_neg, true_neg } = cells;
        let [f1, kappa] = cells.with_intervals([Confusion::f1, Confusion::kappa]);
        Ok(Self {
            total: verdicts.len(),
            num_positive: true_pos + false_neg,
            accuracy: Share::new(true_pos + true_neg, verdicts.len()),
            precision: Share::new(true_pos, true_pos + false_pos),
            recall: Share::new(true_pos, true_pos + false_neg),
            f1,
            kappa,
            auc: auc(&scores, positives),
        })
    }
}

impl Confusion {
    fn add(&mut self, judged: bool, labelled: bool) {
        let cell = match (judged, labelled) {
            (true, true) => &mut self.true_pos,
            (true, false) => &mut self.false_pos,
            (false, true) => &mut self.false_neg,
            (false, false) => &mut self.true_neg,
        };
        *cell += 1;
    }

    fn total(&self) -> usize {
        self.true_pos + self.false_pos + self.false_neg + self.true_neg
    }

    fn f1(&self) -> Option<f64> {
        let twice = 2 * self.true_pos;
        let of = twice + self.false_pos + self.false_neg;
        (of > 0).then(|| twice as f64 / of as f64)
    }

    fn kappa(&self) -> Option<f64> {
        let total = self.total() as f64;
        let share = |count: usize| count as f64 / total;
        let observed = share(self.true_pos + self.true_neg);
        let (judged, labelled) =
            (share(self.true_pos + self.false_pos), share(self.true_pos + self.false_neg));
        let by_chance = judged * labelled + (1.0 - judged) * (1.0 - labelled);
        (by_chance < 1.0).then(|| (observed - by_chance) / (1.0 - by_chance))
    }

    /// As many answers drawn with replacement.
    fn resampled(&self, rng: &mut ChaCha8Rng) -> Self {
        let total = self.total() as u64;
        let ends = [
            self.true_pos as u64,
            (self.true_pos + self.false_pos) as u64,
            (self.true_pos + self.false_pos + self.false_neg) as u64,
        ];
        let mut drawn = Self::default();
        for _ in 0..total {
            // A multiply and a shift: unbiased to 2^-32 of the total, and the same on every platform.
            let place = (u64::from(rng.next_u32()) * total) >> 32;
            let cell = match ends.iter().position(|&end| place < end) {
                Some(0) => &mut drawn.true_pos,
                Some(1) => &mut drawn.false_pos,
                Some(_) => &mut drawn.false_neg,
                None => &mut drawn.true_neg,
            };
            *cell += 1;
        }
        drawn
    }

    /// Figures with the 2.5 % and 97.5 % percentiles over resamples that have the figure.
    fn with_intervals<const N: usize>(
        &self,
        figures: [fn(&Self) -> Option<f64>; N],
    ) -> [Option<Estimate>; N] {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let resamples: Vec<Self> = (0..NUM_RESAMPLES).map(|_| self.resampled(&mut rng)).collect();
        figures.map(|figure| {
            let value = figure(self)?;
            let mut values: Vec<f64> = resamples.iter().filter_map(figure).collect();
            values.sort_by(f64::total_cmp);
            let at = |per_mille: usize| {
                let last = values.len().saturating_sub(1);
                values.get((last * per_mille + 500) / 1000).copied().unwrap_or(value)
            };
            Some(Estimate { value, low: at(25), high: at(975) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(scores: &[f64], positives: &[bool], threshold: f64) -> Figures {
        let verdict = |&score: &f64| Verdict { score, positive: score >= threshold };
        Figures::new(&scores.iter().map(verdict).collect::<Vec<_>>(), positives).unwrap()
    }

    fn close(estimate: Option<Estimate>, [value, low, high]: [f64; 3], of_ends: f64) {
        let estimate = estimate.unwrap();
        assert!((estimate.value - value).abs() < 1e-9, "{estimate:?}");
        assert!((estimate.low - low).abs() < of_ends, "{estimate:?}");
        assert!((estimate.high - high).abs() < of_ends, "{estimate:?}");
    }

    /// 200 scores with many ties.
    fn many() -> (Vec<f64>, Vec<bool>) {
        (0..200_i32)
            .map(f64::from)
            .map(|i| {
                let score = (i * 0.7).sin() + 0.6 * (i * 1.9).cos();
                ((score * 10.0).round() / 10.0, (i * 0.7).sin() + (i * 2.3).cos() > 0.2)
            })
            .unzip()
    }

    /// scikit-learn 1.9.1: `accuracy_score` and its like, `cohen_kappa_score`, `roc_auc_score`; `DeLong`'s variance written out
    /// in numpy over all pairs (`psi.mean(1).var(ddof=1) / m + psi.mean(0).var(ddof=1) / n`).
    #[test]
    fn figures_are_those_of_scikit_learn() {
        let scores = [0.9, 0.8, 0.5, 0.5, 0.3, 0.7, 0.5, 0.2, 0.2, 0.1, 0.1, 0.05];
        let positives: Vec<bool> = (0..12).map(|idx| idx < 5).collect();
        let few = figures(&scores, &positives, 0.5);
        assert_eq!((few.total, few.num_positive), (12, 5));
        for (share, expected) in
            [(few.accuracy, 0.75), (few.precision, 0.666_666_667), (few.recall, 0.8)]
        {
            assert!((share.share - expected).abs() < 1e-9, "{share:?}");
        }
        // The upper end, 1.0767, is cut at 1.
        close(few.auc, [0.857_142_857_142_857, 0.637_565_472_023_964, 1.0], 1e-9);
        assert!((few.f1.unwrap().value - 0.727_272_727_272_727).abs() < 1e-9);
        assert!((few.kappa.unwrap().value - 0.5).abs() < 1e-9);

        let (scores, positives) = many();
        let many = figures(&scores, &positives, 0.3);
        assert_eq!(
            (many.accuracy.count, many.precision.count, many.precision.total),
            (154, 60, 81)
        );
        assert_eq!((many.recall.count, many.num_positive), (60, 85));
        close(
            many.auc,
            [0.787_826_086_956_522, 0.720_747_306_238_949, 0.854_904_867_674_095],
            1e-9,
        );
        // Ends by 3,001 resamples of numpy's own generator: equal but for the draw.
        close(many.f1, [0.722_891_566_265_06, 0.639, 0.794], 0.01);
        close(many.kappa, [0.526_505_404_014_411, 0.402, 0.642], 0.01);
    }

    #[test]
    fn the_same_verdicts_give_the_same_intervals() {
        let (scores, positives) = many();
        assert_eq!(figures(&scores, &positives, 0.3), figures(&scores, &positives, 0.3));
    }

    #[test]
    fn a_set_with_one_kind_has_no_auc_and_a_constant_judge_one_of_a_half() {
        let only = figures(&[0.9, 0.2], &[true, true], 0.5);
        assert_eq!((only.auc, only.recall.count), (None, 1));
        assert_eq!(figures(&[0.9, 0.8], &[true, true], 0.5).kappa, None);
        let constant = figures(&[0.7; 4], &[true, false, true, false], 0.5);
        close(constant.auc, [0.5, 0.5, 0.5], 1e-9);
        let single = figures(&[0.9, 0.2, 0.1], &[true, false, false], 0.5);
        close(single.auc, [1.0, 0.0, 1.0], 1e-9);
    }

    #[test]
    fn scores_that_are_no_numbers_are_refused() {
        let verdicts = [Verdict { score: f64::NAN, positive: true }];
        let error = Figures::new(&verdicts, &[true]).unwrap_err().to_string();
        assert!(error.contains("the score of answer 0 is NaN"), "{error}");
    }
}
