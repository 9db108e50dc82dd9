//! BERT of candle's plain tensor operations, so that gradients go through it.
//!
//! Devlin et al., "BERT" (arXiv 1810.04805): post-norm blocks over sums of word, position and type embeddings. candle's own
//! forward pass has a fused layer norm without a derivative. Rows of a batch lie one below the other, `[size * length, hidden_size]`.

use candle_core::{D, Tensor, Var};
use candle_transformers::models::bert::{Config, HiddenAct};

use super::weights::Weights;

/// What keeps padding out of a softmax: `exp` of it is 0.
const OUT: f64 = -1e9;

type Result<T> = candle_core::Result<T>;

/// Which rows of a batch are tokens, and which are padding.
pub(super) struct Mask {
    /// Texts.
    size: usize,
    /// Rows of each.
    length: usize,
    /// `[size, length, 1]`: 1 for a token.
    kept: Tensor,
    /// `[size, 1, 1, length]`: what is added to attention scores.
    bias: Tensor,
}

impl Mask {
    /// Of texts with so many tokens, each at least one.
    pub(super) fn new(num_tokens: &[usize]) -> Result<Self> {
        let (size, length) = (num_tokens.len(), num_tokens.iter().copied().max().unwrap_or(0));
        let kept = num_tokens
            .iter()
            .flat_map(|&num| (0..length).map(move |idx| if idx < num { 1.0_f32 } else { 0.0 }))
            .collect();
        let kept = Tensor::from_vec(kept, (size, length, 1), &candle_core::Device::Cpu)?;
        let bias = kept.affine(-OUT, OUT)?.reshape((size, 1, 1, length))?;
        Ok(Self { size, length, kept, bias })
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }
}

struct Linear {
    /// `[out, in]`.
    weight: Tensor,
    /// `[out]`.
    bias: Tensor,
}

impl Linear {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        rows.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl Norm {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let centred = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?;
        normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    attended_norm: Norm,
    inner: Linear,
    outer: Linear,
    outer_norm: Norm,
    num_heads: usize,
    activation: HiddenAct,
}

impl Layer {
    fn forward(&self, rows: &Tensor, mask: &Mask) -> Result<Tensor> {
        let attended = self.attended.forward(&self.attention(rows, mask)?)?;
        let rows = self.attended_norm.forward(&(attended + rows)?)?;
        let inner = self.inner.forward(&rows)?;
        let inner = match self.activation {
            HiddenAct::Gelu => inner.gelu_erf()?,
            HiddenAct::GeluApproximate => inner.gelu()?,
            HiddenAct::Relu => inner.relu()?,
        };
        self.outer_norm.forward(&(self.outer.forward(&inner)? + rows)?)
    }

    fn attention(&self, rows: &Tensor, mask: &Mask) -> Result<Tensor> {
        let width = rows.dim(1)?;
        let head_size = width / self.num_heads;
        let shape = (mask.size, mask.length, self.num_heads, head_size);
        let heads =
            |linear: &Linear| linear.forward(rows)?.reshape(shape)?.transpose(1, 2)?.contiguous();
        let scores = heads(&self.query)?.matmul(&heads(&self.key)?.t()?)?;
        let scores = (scores / (head_size as f64).sqrt())?.broadcast_add(&mask.bias)?;
        // A softmax does not change with what is taken off its scores, so neither does its derivative.
        let largest = scores.max_keepdim(D::Minus1)?.detach();
        let shares = scores.broadcast_sub(&largest)?.exp()?;
        let shares = shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?;
        let read = shares.matmul(&heads(&self.value)?)?;
        read.transpose(1, 2)?.contiguous()?.reshape((mask.size * mask.length, width))
    }
}

/// A BERT whose last layers are variables.
pub(super) struct Bert {
    word: Tensor,
    position: Tensor,
    /// `[hidden_size]`: every token is of the first type.
    token_type: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    num_frozen: usize,
    /// The variables, with the names that their tensors have in the file.
    pub(super) tuned: Vec<(String, Var)>,
}

impl Bert {
    /// Takes the weights, with the last `num_tuned` layers as variables.
    pub(super) fn new(weights: &Weights, config: &Config, num_tuned: usize) -> Result<Self> {
        let [word, position, token_type] = ["word", "position", "token_type"]
            .map(|kind| weights.get(&format!("embeddings.{kind}_embeddings.weight")));
        let epsilon = config.layer_norm_eps;
        let norm = Norm {
            weight: weights.get("embeddings.LayerNorm.weight")?,
            bias: weights.get("embeddings.LayerNorm.bias")?,
            epsilon,
        };
        let num_frozen = config.num_hidden_layers.saturating_sub(num_tuned);
        let mut loader = Loader { weights, config, tuned: Vec::new() };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| loader.layer(layer, layer >= num_frozen))
            .collect::<Result<_>>()?;
        let tuned = loader.tuned;
        let token_type = token_type?.get(0)?;
        Ok(Self { word: word?, position: position?, token_type, norm, layers, num_frozen, tuned })
    }

    /// What the frozen layers make of token ids, `[size * length]` with padding: `[size * length, hidden_size]`.
    pub(super) fn frozen(&self, token_ids: &Tensor, mask: &Mask) -> Result<Tensor> {
        let width = self.word.dim(1)?;
        let words = self.word.index_select(token_ids, 0)?.broadcast_add(&self.token_type)?;
        let positions = self.position.narrow(0, 0, mask.length)?;
        let words = words.reshape((mask.size, mask.length, width))?.broadcast_add(&positions)?;
        let rows = self.norm.forward(&words.reshape((mask.size * mask.length, width))?)?;
        self.layers[..self.num_frozen]
            .iter()
            .try_fold(rows, |rows, layer| layer.forward(&rows, mask))
    }

    /// What the tuned layers make of that: the mean over a text's tokens, of length 1, `[size, hidden_size]`.
    pub(super) fn pooled(&self, rows: &Tensor, mask: &Mask) -> Result<Tensor> {
        let tuned = self.layers[self.num_frozen..].iter();
        let rows =
            tuned.into_iter().try_fold(rows.clone(), |rows, layer| layer.forward(&rows, mask))?;
        let width = rows.dim(1)?;
        let rows = rows.reshape((mask.size, mask.length, width))?;
        // Unit length takes the number of tokens out, so the sum serves for the mean.
        let sums = rows.broadcast_mul(&mask.kept)?.sum(1)?;
        sums.broadcast_div(&sums.sqr()?.sum_keepdim(1)?.sqrt()?)
    }
}

/// Makes layers of weights.
struct Loader<'a> {
    weights: &'a Weights,
    config: &'a Config,
    tuned: Vec<(String, Var)>,
}

impl Loader<'_> {
    fn layer(&mut self, layer: usize, is_tuned: bool) -> Result<Layer> {
        let place = |part: &str| format!("encoder.layer.{layer}.{part}");
        Ok(Layer {
            query: self.linear(&place("attention.self.query"), is_tuned)?,
            key: self.linear(&place("attention.self.key"), is_tuned)?,
            value: self.linear(&place("attention.self.value"), is_tuned)?,
            attended: self.linear(&place("attention.output.dense"), is_tuned)?,
            attended_norm: self.norm(&place("attention.output.LayerNorm"), is_tuned)?,
            inner: self.linear(&place("intermediate.dense"), is_tuned)?,
            outer: self.linear(&place("output.dense"), is_tuned)?,
            outer_norm: self.norm(&place("output.LayerNorm"), is_tuned)?,
            num_heads: self.config.num_attention_heads,
            activation: self.config.hidden_act,
        })
    }

    fn linear(&mut self, place: &str, is_tuned: bool) -> Result<Linear> {
        let [weight, bias] = self.pair(place, is_tuned)?;
        Ok(Linear { weight, bias })
    }

    fn norm(&mut self, place: &str, is_tuned: bool) -> Result<Norm> {
        let [weight, bias] = self.pair(place, is_tuned)?;
        Ok(Norm { weight, bias, epsilon: self.config.layer_norm_eps })
    }

    /// Weight and bias of a place.
    fn pair(&mut self, place: &str, is_tuned: bool) -> Result<[Tensor; 2]> {
        let weight = self.tensor(format!("{place}.weight"), is_tuned)?;
        Ok([weight, self.tensor(format!("{place}.bias"), is_tuned)?])
    }

    fn tensor(&mut self, name: String, is_tuned: bool) -> Result<Tensor> {
        let tensor = self.weights.get(&name)?;
        if !is_tuned {
            return Ok(tensor);
        }
        let var = Var::from_tensor(&tensor)?;
        let tensor = var.as_tensor().clone();
        self.tuned.push((name, var));
        Ok(tensor)
    }
}
