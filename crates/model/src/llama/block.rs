//! One pre-norm transformer block.

use candle_core::Tensor;

use super::linear::{Bias, Linear, Stacked};
use super::rope::RopeRows;
use super::weights::WeightSource;
use crate::batch::BatchLayout;
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::hooks::Hooks;
use crate::kernels::{self, AttentionHeads, Cpu};
use crate::kv_cache::LayerCache;
use crate::steering::Site;

/// What all blocks of one forward pass share.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) layout: &'a BatchLayout<'a>,
    pub(super) rope: RopeRows,
}

#[derive(Debug)]
pub(super) struct Block {
    layer: usize,
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl Block {
    pub(super) fn load(
        config: &LlamaConfig,
        source: &mut dyn WeightSource,
        layer: usize,
    ) -> Result<Self> {
        let name = format!("model.layers.{layer}");
        Ok(Self {
            layer,
            input_layernorm: RmsNorm::load(config, source, &format!("{name}.input_layernorm"))?,
            self_attn: Attention::load(config, source, &format!("{name}.self_attn"))?,
            post_attention_layernorm: RmsNorm::load(
                config,
                source,
                &format!("{name}.post_attention_layernorm"),
            )?,
            mlp: Mlp::load(config, source, &format!("{name}.mlp"))?,
        })
    }

    /// # Shapes
    /// - `x`, returns: `[total_tokens, hidden_size]`, f32
    pub(super) fn forward(
        &self,
        x: &Tensor,
        cache: &LayerCache,
        step: &Step<'_>,
        hooks: &mut Hooks<'_>,
    ) -> Result<Tensor> {
        hooks.prefetch(Site::AttnOut, self.layer);
        let attn_out =
            self.self_attn.forward(&self.input_layernorm.forward(step.cpu, x)?, cache, step)?;
        let x = hooks.add(step.cpu, (Site::AttnOut, self.layer), x, attn_out)?;
        let normed = self.post_attention_layernorm.forward(step.cpu, &x)?;
        let mlp_out = self.mlp.forward(step.cpu, &normed)?;
        let x = kernels::add(&x, &mlp_out)?;
        hooks.at(step.cpu, Site::ResidPost, self.layer, x)
    }
}

/// Root-mean-square norm.
#[derive(Debug)]
pub(super) struct RmsNorm {
    /// `[hidden_size]`, f32.
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub(super) fn load(
        config: &LlamaConfig,
        source: &mut dyn WeightSource,
        name: &str,
    ) -> Result<Self> {
        let weight = source.vector(&format!("{name}.weight"), config.hidden_size)?;
        Ok(Self { weight, eps: config.rms_norm_eps })
    }

    /// # Shapes
    /// - `x`, returns: `[total_tokens, hidden_size]`, f32
    pub(super) fn forward(&self, cpu: &Cpu, x: &Tensor) -> Result<Tensor> {
        kernels::rms_norm(cpu, x, &self.weight, self.eps)
    }
}

/// Grouped-query attention over the paged cache.
#[derive(Debug)]
struct Attention {
    /// q, k and v side by side.
    qkv_proj: Stacked,
    o_proj: Linear,
    heads: AttentionHeads,
}

impl Attention {
    fn load(config: &LlamaConfig, source: &mut dyn WeightSource, name: &str) -> Result<Self> {
        let bias = if config.attention_bias { Bias::Vector } else { Bias::None };
        let heads = AttentionHeads {
            num_heads: config.num_attention_heads,
            num_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        let hidden_size = config.hidden_size;
        let (q_width, kv_width) = (heads.q_width(), heads.kv_width());
        let mut linear = |proj: &str, shape: (usize, usize), bias: Bias| {
            Linear::load(source, &format!("{name}.{proj}"), shape, bias)
        };
        let q_proj = linear("q_proj", (q_width, hidden_size), bias)?;
        let k_proj = linear("k_proj", (kv_width, hidden_size), bias)?;
        let v_proj = linear("v_proj", (kv_width, hidden_size), bias)?;
        Ok(Self {
            qkv_proj: Stacked::new(vec![q_proj, k_proj, v_proj])?,
            o_proj: linear("o_proj", (hidden_size, q_width), Bias::None)?,
            heads,
        })
    }

    /// # Shapes
    /// - `x`, returns: `[total_tokens, hidden_size]`, f32
    fn forward(&self, x: &Tensor, cache: &LayerCache, step: &Step<'_>) -> Result<Tensor> {
        let qkv = self.qkv_proj.forward(step.cpu, x)?; // [total_tokens, (num_heads + 2 * num_kv_heads) * head_dim]
        let rope = (&step.rope.cos, &step.rope.sin);
        let pools = (&cache.k, &cache.v);
        let z = kernels::attention(step.cpu, &qkv, rope, pools, step.layout, self.heads)?; // [total_tokens, num_heads * head_dim]
        self.o_proj.forward(step.cpu, &z)
    }
}

/// SwiGLU feed-forward.
#[derive(Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn load(config: &LlamaConfig, source: &mut dyn WeightSource, name: &str) -> Result<Self> {
        let wide = (config.intermediate_size, config.hidden_size);
        let narrow = (config.hidden_size, config.intermediate_size);
        let mut linear = |proj: &str, shape: (usize, usize)| {
            Linear::load(source, &format!("{name}.{proj}"), shape, Bias::None)
        };
        Ok(Self {
            gate_proj: linear("gate_proj", wide)?,
            up_proj: linear("up_proj", wide)?,
            down_proj: linear("down_proj", narrow)?,
        })
    }

    /// # Shapes
    /// - `x`, returns: `[total_tokens, hidden_size]`, f32
    fn forward(&self, cpu: &Cpu, x: &Tensor) -> Result<Tensor> {
        let activated = Linear::swiglu(cpu, &self.gate_proj, &self.up_proj, x)?; // [total_tokens, intermediate_size]
        self.down_proj.forward(cpu, &activated)
    }
}
