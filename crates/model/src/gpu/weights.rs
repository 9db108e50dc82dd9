//! A model's weights as the device keeps them.

use candle_core::{DType, Tensor};

use super::memory::{Buffer, Element, MatrixForm};
use super::ops::DeviceOps;
use super::shard::Shard;
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

/// A rank's weights while they are loaded.
struct Loading<'a> {
    shard: Shard,
    ops: &'a mut dyn DeviceOps,
    embed_tokens: (Buffer, Element),
    layers: Vec<LayerWeights>,
}

impl DeviceWeights {
    /// Takes every tensor from `source`, each once, and gives each rank its part: all of them in the order of `ranks`.
    ///
    /// # Errors
    /// [`crate::Error::Weight`] when a tensor is missing or has another shape, [`crate::Error::Device`] when one does not divide,
    /// [`crate::Error::Tensor`] when a device has no room or cannot multiply a matrix of that form.
    pub(super) fn load(
        config: &LlamaConfig,
        source: &mut dyn WeightSource,
        ranks: &mut [Box<dyn DeviceOps>],
    ) -> Result<Vec<Self>> {
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        let shape = (vocab_size, hidden_size);
        let embedding = Part::load(source, "model.embed_tokens", shape, false)?;
        let num_ranks = ranks.len();
        let mut loading = Vec::with_capacity(num_ranks);
        for (rank, ops) in ranks.iter_mut().enumerate() {
            loading.push(Loading::begin(Shard { rank, num_ranks }, &mut **ops, &embedding)?);
        }
        let tied = config.tie_word_embeddings.then_some(embedding);
        for layer in 0..config.num_hidden_layers {
            let parts = LayerParts::load(config, source, layer)?;
            for rank in &mut loading {
                rank.layers.push(parts.place(rank.shard, rank.ops)?);
            }
        }
        let norm = source.vector("model.norm.weight", hidden_size)?;
        let head = match tied {
            Some(embedding) => embedding,
            None => Part::load(source, "lm_head", shape, false)?,
        };
        let angles = Rope::new(config).table(config.max_position_embeddings);
        loading.into_iter().map(|rank| rank.finish(&norm, head.clone(), &angles)).collect()
    }
}

impl<'a> Loading<'a> {
    fn begin(shard: Shard, ops: &'a mut dyn DeviceOps, embedding: &Part) -> Result<Self> {
        let embed_tokens = ops.embedding(embedding.weight.clone())?;
        Ok(Self { shard, ops, embed_tokens, layers: Vec::new() })
    }

    /// Takes what follows the layers.
    fn finish(self, norm: &Tensor, head: Part, angles: &[[f32; 2]]) -> Result<DeviceWeights> {
        let Self { ops, embed_tokens, layers, .. } = self;
        let norm = ops.vector(norm)?;
        let lm_head = head.product(ops)?;
        let buffer = ops.allocate(size_of_val(angles))?;
        ops.upload(buffer.address(), bytemuck::cast_slice(angles))?;
        Ok(DeviceWeights { embed_tokens, layers, norm, lm_head, angles: buffer })
    }
}

/// One block on the host, whole.
struct LayerParts {
    input_layernorm: Tensor,
    qkv: [Part; 3],
    o_proj: Part,
    post_attention_layernorm: Tensor,
    gate_up: [Part; 2],
    down_proj: Part,
}

impl LayerParts {
    fn load(config: &LlamaConfig, source: &mut dyn WeightSource, layer: usize) -> Result<Self> {
        let name = format!("model.layers.{layer}");
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let q_width = config.num_attention_heads * config.head_dim;
        let kv_width = config.num_key_value_heads * config.head_dim;
        let mut part = |proj: &str, shape: (usize, usize), has_bias: bool| {
            Part::load(source, &format!("{name}.{proj}"), shape, has_bias)
        };
        let qkv = [
            part("self_attn.q_proj", (q_width, hidden), config.attention_bias)?,
            part("self_attn.k_proj", (kv_width, hidden), config.attention_bias)?,
            part("self_attn.v_proj", (kv_width, hidden), config.attention_bias)?,
        ];
        let o_proj = part("self_attn.o_proj", (hidden, q_width), false)?;
        let gate_up = [
            part("mlp.gate_proj", (inner, hidden), false)?,
            part("mlp.up_proj", (inner, hidden), false)?,
        ];
        let down_proj = part("mlp.down_proj", (hidden, inner), false)?;
        let mut norm = |norm: &str| source.vector(&format!("{name}.{norm}.weight"), hidden);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            qkv,
            o_proj,
            gate_up,
            down_proj,
        })
    }

    /// Gives a rank what is its own.
    fn place(&self, shard: Shard, ops: &mut dyn DeviceOps) -> Result<LayerWeights> {
        let rows = |parts: &[Part]| -> Result<Vec<Part>> {
            parts.iter().map(|part| part.rows(shard)).collect()
        };
        let qkv_proj = Stack::new(rows(&self.qkv)?, ops)?;
        let o_proj = self.o_proj.columns(shard)?.product(ops)?;
        let gate_up_proj = Stack::new(rows(&self.gate_up)?, ops)?;
        let down_proj = self.down_proj.columns(shard)?.product(ops)?;
        Ok(LayerWeights {
            input_layernorm: ops.vector(&self.input_layernorm)?,
            post_attention_layernorm: ops.vector(&self.post_attention_layernorm)?,
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
    fn new(parts: Vec<Part>, ops: &mut dyn DeviceOps) -> Result<Self> {
        let dense: Option<Vec<&Tensor>> = parts.iter().map(Part::dense).collect();
        let parts = match dense {
            Some(dense) if dense.iter().all(|weight| weight.dtype() == dense[0].dtype()) => {
                vec![Part::stacked(&dense, &parts)?]
            }
            _ => parts.into_iter().map(Part::for_f32_rows).collect::<Result<_>>()?,
        };
        let products = parts.into_iter().map(|part| part.product(ops));
        Ok(Self { products: products.collect::<Result<_>>()? })
    }

    /// The type of the rows that all of it is multiplied with.
    pub(super) fn input(&self) -> Element {
        self.products[0].form.input()
    }
}

/// A matrix of a checkpoint, before the device takes it.
#[derive(Clone)]
struct Part {
    weight: Weight,
    bias: Option<Tensor>,
    out_features: usize,
    in_features: usize,
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
            in_features,
        })
    }

    /// A rank's outputs.
    fn rows(&self, shard: Shard) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| shard.values(bias));
        Ok(Self {
            weight: shard.rows(&self.weight)?,
            bias: bias.transpose()?,
            out_features: self.out_features / shard.num_ranks,
            in_features: self.in_features,
        })
    }

    /// A rank's inputs. Only of what has no bias: each rank would add it.
    fn columns(&self, shard: Shard) -> Result<Self> {
        Ok(Self {
            weight: shard.columns(&self.weight)?,
            bias: None,
            out_features: self.out_features,
            in_features: self.in_features / shard.num_ranks,
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
            in_features: parts[0].in_features,
        })
    }

    fn for_f32_rows(self) -> Result<Self> {
        let weight = match self.weight {
            Weight::Dense(weight) => Weight::Dense(weight.to_dtype(DType::F32)?),
            blocks @ Weight::Quantized(_) => blocks,
        };
        Ok(Self { weight, ..self })
    }

    fn product(self, ops: &mut dyn DeviceOps) -> Result<Product> {
        let Self { weight, bias, out_features, in_features } = self;
        let (weight, form) = ops.matrix(weight)?;
        let bias = bias.map(|bias| ops.vector(&bias)).transpose()?;
        Ok(Product { weight, form, bias, out_features, in_features })
    }
}
