//! The head over pooled texts, and the loss that it is trained by.

use candle_core::{D, Device, Tensor, Var};

use crate::numbers::to_f32;
use crate::probe::Corpus;
use crate::probe::member::Planes;

/// Harm and the categories as planes over a pooled text.
pub(super) struct Head {
    /// `[1 + num_categories, width]`.
    pub(super) weights: Var,
    /// `[1 + num_categories]`.
    pub(super) biases: Var,
}

impl Head {
    /// Planes as variables.
    pub(super) fn new(planes: &Planes) -> candle_core::Result<Self> {
        let num_planes = planes.biases.len();
        let width = planes.weights.len() / num_planes.max(1);
        let weights = Tensor::from_slice(&planes.weights, (num_planes, width), &Device::Cpu)?;
        let biases = Tensor::from_slice(&planes.biases, num_planes, &Device::Cpu)?;
        Ok(Self { weights: Var::from_tensor(&weights)?, biases: Var::from_tensor(&biases)? })
    }

    /// Logits `[size, 1 + num_categories]` of pooled texts `[size, width]`.
    pub(super) fn logits(&self, pooled: &Tensor) -> candle_core::Result<Tensor> {
        pooled.matmul(&self.weights.t()?)?.broadcast_add(&self.biases)
    }

    /// The planes that the variables are now.
    #[expect(clippy::disallowed_methods, reason = "the head is part of the result; CPU only")]
    pub(super) fn planes(&self) -> candle_core::Result<Planes> {
        let weights = self.weights.flatten_all()?.to_vec1()?;
        Ok(Planes::new(weights, self.biases.to_vec1()?))
    }
}

/// What a loss compares logits with, a row a prompt.
pub(super) struct Labels {
    /// 1 of a harmful prompt, -1 of a harmless one.
    signs: Vec<f32>,
    /// Under these harmful and harmless prompts count the same; 1 on average.
    weights: Vec<f32>,
    categories: Vec<Option<usize>>,
    num_categories: usize,
}

impl Labels {
    /// Of all prompts of a corpus.
    pub(super) fn new(corpus: &Corpus) -> Self {
        let num = |wanted: bool| corpus.prompts.iter().filter(|one| one.harmful == wanted).count();
        let weight = |harmful: bool| {
            to_f32(corpus.prompts.len() as f64 / (2.0 * num(harmful).max(1) as f64))
        };
        let [harmless, harmful] = [false, true].map(weight);
        let each = |[no, yes]: [f32; 2]| {
            corpus.prompts.iter().map(move |one| if one.harmful { yes } else { no }).collect()
        };
        Self {
            signs: each([-1.0, 1.0]),
            weights: each([harmless, harmful]),
            categories: corpus.prompts.iter().map(|one| one.category_idx).collect(),
            num_categories: corpus.categories.len(),
        }
    }

    /// The loss of some prompts: the weighted mean of `ln(1 + exp(-y z))` over all of them, and the mean cross-entropy of the category over
    /// those that have one. A scalar.
    pub(super) fn loss(&self, logits: &Tensor, idxs: &[usize]) -> candle_core::Result<Tensor> {
        let pick = |values: &[f32]| {
            let picked: Vec<f32> = idxs.iter().map(|&idx| values[idx]).collect();
            Tensor::from_vec(picked, idxs.len(), &Device::Cpu)
        };
        let margins = (logits.narrow(1, 0, 1)?.squeeze(1)? * pick(&self.signs)?)?;
        // ln(1 + exp(-m)) without overflow.
        let harm = (margins.neg()?.relu()? + (margins.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let harm = (harm * pick(&self.weights)?)?.mean_all()?;
        let of_category: Vec<usize> = idxs.iter().filter_map(|&idx| self.categories[idx]).collect();
        if of_category.is_empty() {
            return Ok(harm);
        }
        // 1 / n at each prompt's own category, so that a sum of products is the mean.
        let share = to_f32(1.0 / of_category.len() as f64);
        let mut own = vec![0.0_f32; idxs.len() * self.num_categories];
        for (row, &idx) in idxs.iter().enumerate() {
            if let Some(category) = self.categories[idx] {
                own[row * self.num_categories + category] = share;
            }
        }
        let own = Tensor::from_vec(own, (idxs.len(), self.num_categories), &Device::Cpu)?;
        let logits = logits.narrow(1, 1, self.num_categories)?.contiguous()?;
        let log_shares = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        harm - (log_shares * own)?.sum_all()?
    }
}
