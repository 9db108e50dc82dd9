//! A model's weights as the device keeps them.

use candle_core::{DType, Tensor};

use super::memory::{Buffer, Element, MatrixForm};
use super::ops::DeviceOps;
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::llama::{Rope, Weight, WeightSource};

/// The axis that a matrix's output features lie along.
const OUT_DIM: usize = 0;

/// `x @ weight^T + bias`.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) weight: Buffer,
    pub(super) form: MatrixForm,
    /// f32.
    pub(super) bias: Option<Buffer>,
    pub(super) out_features: usize,
    pub(super) in_features: usize,
}

/// Products of the same rows, their outputs side by side: a single one where their weights could be put together.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) products: Vec<Product>,
}

/// One block.
#[derive(Debug)]
pub(super) struct LayerWeights {
    /// `f32[hidden_size]`.
    pub(super) input_layernorm: Buffer,
    /// Of queries, keys and values.
    pub(super) qkv_proj: Stack,
    pub(super) o_proj: Product,
    /// `f32[hidden_size]`.
    pub(super) post_attention_layernorm: Buffer,
    /// Of gate and up.
    pub(super) gate_up_proj: Stack,
    pub(super) down_proj: Product,
}

/// All of them.
#[derive(Debug)]
pub(super) struct DeviceWeights {
    pub(super) embed_tokens: (Buffer, Element),
    pub(super) layers: Vec<LayerWeights>,
    /// `f32[hidden_size]`.
    pub(super) norm: Buffer,
    pub(super) lm_head: Product,
    /// `f32[max_position_embeddings][head_dim / 2][2]`.
    pub(super) angles: Buffer,
}

impl DeviceWeights {
    /// Takes every tensor from `source`, each once.
    ///
    /// # Errors
    /// [`crate::Error::Weight`] when a tensor is missing or has another shape, [`crate::Error::Tensor`] when the device has no
    /// room or cannot multiply a matrix of that form.
    pub(super) fn load(
        config: &LlamaConfig,
        source: &mut dyn WeightSource,
        ops: &mut dyn DeviceOps,
    ) -> Result<Self> {
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        let embedding = source
            .matrix("model.embed_tokens.weight", vocab_size, hidden_size)?
            .without_single_number_blocks()?;
        let embed_tokens = ops.embedding(embedding.clone())?;
        let tied = config.tie_word_embeddings.then_some(embedding);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| LayerWeights::load(config, source, ops, layer))
            .collect::<Result<_>>()?;
        let norm = ops.vector(&source.vector("model.norm.weight", hidden_size)?)?;
        let head = match tied {
            Some(embedding) => Part { weight: embedding, bias: None, out_features: vocab_size },
            None => Part::load(source, "lm_head", (vocab_size, hidden_size), false)?,
        };
        let angles = Rope::new(config).table(config.max_position_embeddings);
        let buffer = ops.allocate(size_of_val(angles.as_slice()))?;
        ops.upload(buffer.address(), bytemuck::cast_slice(&angles))?;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head: head.product(hidden_size, ops)?,
            angles: buffer,
        })
    }
}

impl LayerWeights {
    fn load(
        config: &LlamaConfig,
        source: &mut dyn WeightSource,
        ops: &mut dyn DeviceOps,
        layer: usize,
    ) -> Result<Self> {
        let name = format!("model.layers.{layer}");
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let q_width = config.num_attention_heads * config.head_dim;
        let kv_width = config.num_key_value_heads * config.head_dim;
        let mut part = |proj: &str, shape: (usize, usize), has_bias: bool| {
            Part::load(source, &format!("{name}.{proj}"), shape, has_bias)
        };
        let qkv = vec![
            part("self_attn.q_proj", (q_width, hidden), config.attention_bias)?,
            part("self_attn.k_proj", (kv_width, hidden), config.attention_bias)?,
            part("self_attn.v_proj", (kv_width, hidden), config.attention_bias)?,
        ];
        let qkv_proj = Stack::new(qkv, hidden, ops)?;
        let o_proj = part("self_attn.o_proj", (hidden, q_width), false)?.product(q_width, ops)?;
        let gate_up = vec![
            part("mlp.gate_proj", (inner, hidden), false)?,
            part("mlp.up_proj", (inner, hidden), false)?,
        ];
        let gate_up_proj = Stack::new(gate_up, hidden, ops)?;
        let down_proj = part("mlp.down_proj", (hidden, inner), false)?.product(inner, ops)?;
        let mut norm =
            |norm: &str| ops.vector(&source.vector(&format!("{name}.{norm}.weight"), hidden)?);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            qkv_proj,
            o_proj,
            gate_up_proj,
            down_proj,
        })
    }
}

impl Stack {
    /// Puts dense matrices of one type into one. Quantised ones stay apart, since their blocks may be of several types; a dense
    /// one beside them becomes f32, which is what they are multiplied with.
    fn new(parts: Vec<Part>, in_features: usize, ops: &mut dyn DeviceOps) -> Result<Self> {
        let dense: Option<Vec<&Tensor>> = parts.iter().map(Part::dense).collect();
        let parts = match dense {
            Some(dense) if dense.iter().all(|weight| weight.dtype() == dense[0].dtype()) => {
                vec![Part::stacked(&dense, &parts)?]
            }
            _ => parts.into_iter().map(Part::for_f32_rows).collect::<Result<_>>()?,
        };
        let products = parts.into_iter().map(|part| part.product(in_features, ops));
        Ok(Self { products: products.collect::<Result<_>>()? })
    }

    /// The type of the rows that all of it is multiplied with.
    pub(super) fn input(&self) -> Element {
        self.products[0].form.input()
    }
}

/// A matrix of a checkpoint, before the device takes it.
struct Part {
    weight: Weight,
    bias: Option<Tensor>,
    out_features: usize,
}

impl Part {
    fn load(
        source: &mut dyn WeightSource,
        name: &str,
        (out_features, in_features): (usize, usize),
        has_bias: bool,
    ) -> Result<Self> {
        let weight = source.matrix(&format!("{name}.weight"), out_features, in_features)?;
        let bias = has_bias.then(|| source.vector(&format!("{name}.bias"), out_features));
        Ok(Self {
            weight: weight.without_single_number_blocks()?,
            bias: bias.transpose()?,
            out_features,
        })
    }

    fn dense(&self) -> Option<&Tensor> {
        match &self.weight {
            Weight::Dense(weight) => Some(weight),
            Weight::Quantized(_) => None,
        }
    }

    /// One for all of `parts`, whose weights are `dense`.
    fn stacked(dense: &[&Tensor], parts: &[Self]) -> Result<Self> {
        let biases: Option<Vec<&Tensor>> = parts.iter().map(|part| part.bias.as_ref()).collect();
        Ok(Self {
            weight: Weight::Dense(Tensor::cat(dense, OUT_DIM)?),
            // All or none: a block's projections are biased alike.
            bias: biases.map(|biases| Tensor::cat(&biases, OUT_DIM)).transpose()?,
            out_features: parts.iter().map(|part| part.out_features).sum(),
        })
    }

    fn for_f32_rows(self) -> Result<Self> {
        let weight = match self.weight {
            Weight::Dense(weight) => Weight::Dense(weight.to_dtype(DType::F32)?),
            blocks @ Weight::Quantized(_) => blocks,
        };
        Ok(Self { weight, ..self })
    }

    fn product(self, in_features: usize, ops: &mut dyn DeviceOps) -> Result<Product> {
        let (weight, form) = ops.matrix(self.weight)?;
        let bias = self.bias.map(|bias| ops.vector(&bias)).transpose()?;
        Ok(Product { weight, form, bias, out_features: self.out_features, in_features })
    }
}
