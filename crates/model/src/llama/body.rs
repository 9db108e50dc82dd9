//! The blocks as candle tensors: the forward pass on the CPU.

use candle_core::{Device, Tensor};

use super::block::{Block, RmsNorm, Step};
use super::linear::{Bias, Embedding, Linear};
use super::rope::Rope;
use super::weights::WeightSource;
use crate::batch::{BatchLayout, PackedBatch};
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::hooks::Hooks;
use crate::kernels::Cpu;
use crate::kv_cache::LayerCache;

/// Weights and arithmetic of all blocks.
#[derive(Debug)]
pub(super) struct TensorBody {
    embed_tokens: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    lm_head: Linear,
    rope: Rope,
}

impl TensorBody {
    /// Takes every tensor from `source`, each once, in the order of the forward pass.
    pub(super) fn load(config: &LlamaConfig, source: &mut dyn WeightSource) -> Result<Self> {
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        let embedding =
            source.matrix("model.embed_tokens.weight", vocab_size, hidden_size)?.into_kept()?;
        let blocks = (0..config.num_hidden_layers)
            .map(|layer| Block::load(config, source, layer))
            .collect::<Result<_>>()?;
        let norm = RmsNorm::load(config, source, "model.norm")?;
        let lm_head = if config.tie_word_embeddings {
            Linear::new(embedding.clone())
        } else {
            Linear::load(source, "lm_head", (vocab_size, hidden_size), Bias::None)?
        };
        Ok(Self {
            embed_tokens: Embedding::new(embedding),
            blocks,
            norm,
            lm_head,
            rope: Rope::new(config),
        })
    }

    /// The first blocks over the rows of a checked batch: `[total_tokens, hidden_size]`, one block a layer of `cache`.
    pub(super) fn run(
        &self,
        cpu: &Cpu,
        (batch, layout): (&PackedBatch, &BatchLayout<'_>),
        cache: &[LayerCache],
        hooks: &mut Hooks<'_>,
    ) -> Result<Tensor> {
        let rope = self.rope.rows(&batch.positions, &Device::Cpu)?;
        let step = Step { cpu, layout, rope };
        let token_ids = Tensor::new(batch.token_ids.as_slice(), &Device::Cpu)?; // [total_tokens]
        let mut x = self.embed_tokens.forward(&token_ids)?; // [total_tokens, hidden_size]
        for (block, cache) in self.blocks.iter().zip(cache) {
            x = block.forward(&x, cache, &step, hooks)?; // [total_tokens, hidden_size]
        }
        Ok(x)
    }

    /// The logits of some rows of what all blocks left, `[num_logit_rows, vocab_size]`.
    pub(super) fn logits(&self, cpu: &Cpu, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
        const ROW_DIM: usize = 0;
        let rows = rows
            .iter()
            .map(|&row| u32::try_from(row))
            .collect::<Result<Vec<u32>, _>>()
            .map_err(candle_core::Error::wrap)?;
        let rows = Tensor::new(rows.as_slice(), &Device::Cpu)?; // [num_logit_rows]
        let x = x.index_select(&rows, ROW_DIM)?; // [num_logit_rows, hidden_size]
        self.lm_head.forward(cpu, &self.norm.forward(cpu, &x)?) // [num_logit_rows, vocab_size]
    }
}
