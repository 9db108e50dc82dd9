//! What a probe says of a conversation.

use serde::Serialize;
use skeg_vector_store::Category;

use crate::logistic::{sigmoid, softmax};
use crate::numbers::to_f32;

/// How harmful a conversation is found, and of which category it would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Probability that it is harmful, calibrated on sets that the members were not trained on.
    pub harm: f32,
    /// Probability of each category, given that it is harmful: descending, sums to 1.
    pub categories: Vec<(Category, f32)>,
}

impl Verdict {
    /// A verdict of these shares, which it puts in order; a tie goes to the category that was given first.
    pub(in crate::probe) fn new(harm: f64, shares: impl Iterator<Item = (Category, f64)>) -> Self {
        let mut categories: Vec<(Category, f32)> =
            shares.map(|(category, share)| (category, to_f32(share))).collect();
        categories.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Self { harm: to_f32(harm), categories }
    }

    /// The category that is likeliest if the conversation is harmful; `None` of a probe without categories.
    #[must_use]
    pub fn first(&self) -> Option<&Category> {
        self.categories.first().map(|(category, _)| category)
    }
}

/// What one member makes of a conversation, before members are put together.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Logit of harm.
    pub harm: f64,
    /// One logit a category, in the probe's order.
    pub categories: Vec<f64>,
}

/// How the members' scores become one verdict: `P(harm) = sigmoid(sum_m harm_m z_m + bias)`, and of the categories
/// `softmax(sum_m categories_m logits_m)` (stacking; Wolpert 1992, with a logistic level-1 model, and Platt's calibration in one).
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// Weight of each member's harm logit.
    pub harm: Vec<f64>,
    /// Added to their sum.
    pub bias: f64,
    /// Weight of each member's category logits.
    pub categories: Vec<f64>,
}

impl Stack {
    /// One member as it is.
    #[must_use]
    pub fn alone() -> Self {
        Self { harm: vec![1.0], bias: 0.0, categories: vec![1.0] }
    }

    /// The logit of harm of all members' scores.
    #[must_use]
    pub fn harm_logit(&self, scores: &[Scores]) -> f64 {
        let weighted = self.harm.iter().zip(scores).map(|(weight, scores)| weight * scores.harm);
        weighted.sum::<f64>() + self.bias
    }

    /// The verdict of all members' scores, one a member, for these categories.
    #[must_use]
    pub fn verdict(&self, scores: &[Scores], categories: &[Category]) -> Verdict {
        let logits: Vec<f64> = (0..categories.len())
            .map(|idx| {
                let members = self.categories.iter().zip(scores);
                members.map(|(weight, scores)| weight * scores.categories[idx]).sum()
            })
            .collect();
        let shares = categories.iter().cloned().zip(softmax(&logits));
        Verdict::new(sigmoid(self.harm_logit(scores)), shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn categories() -> Vec<Category> {
        ["a", "b", "c"].map(|slug| Category::parse(slug).unwrap()).to_vec()
    }

    #[test]
    fn members_are_weighed_and_categories_come_in_order() {
        let stack = Stack { harm: vec![2.0, 0.5], bias: -1.0, categories: vec![1.0, 0.0] };
        let scores = [
            Scores { harm: 1.0, categories: vec![0.0, 2.0, 1.0] },
            Scores { harm: -2.0, categories: vec![9.0, 0.0, 0.0] },
        ];
        assert!((stack.harm_logit(&scores) - 0.0).abs() < 1e-12);
        let verdict = stack.verdict(&scores, &categories());
        assert!((verdict.harm - 0.5).abs() < 1e-6);
        let order: Vec<&str> = verdict.categories.iter().map(|(c, _)| c.as_str()).collect();
        assert_eq!(order, ["b", "c", "a"]);
        let sum: f32 = verdict.categories.iter().map(|(_, share)| share).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(verdict.first().map(Category::as_str), Some("b"));
    }

    #[test]
    fn equal_shares_keep_the_probes_order() {
        let scores = [Scores { harm: 0.0, categories: vec![1.0; 3] }];
        let verdict = Stack::alone().verdict(&scores, &categories());
        let order: Vec<&str> = verdict.categories.iter().map(|(c, _)| c.as_str()).collect();
        assert_eq!(order, ["a", "b", "c"]);
    }
}
