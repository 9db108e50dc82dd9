//! The forward pass, operation by operation.

use super::arena::Places;
use super::args::{
    AddNormArgs, AllReduceArgs, AttentionArgs, EmbedArgs, GatherArgs, HeadCounts, MatmulArgs,
    RopeCacheArgs, SampleArgs, SwigluArgs,
};
use super::cache::DevicePools;
use super::hooks::plan_site;
use super::memory::{Address, Element, number};
use super::ops::DeviceOps;
use super::step::{ASKS_OFFSET, StepShape};
use super::weights::{DeviceWeights, LayerWeights, Product, Stack};
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::steering::Site;

/// Bytes of what products and sums leave.
const F32: usize = Element::F32.size();

/// One step over a model's weights. It asks for the same operations with the same arguments whenever the shape's rows and items
/// and all addresses are the same.
pub(super) struct Pass<'a> {
    pub(super) config: &'a LlamaConfig,
    pub(super) weights: &'a DeviceWeights,
    pub(super) pools: &'a DevicePools,
    pub(super) places: Places,
    pub(super) shape: StepShape,
}

/// A residual sum that is still to be made.
struct Sum {
    h: Address,
    site: Site,
    layer: usize,
}

impl Pass<'_> {
    /// Runs the first `num_blocks` blocks, and the head where logits are wanted.
    ///
    /// # Errors
    /// Whatever an operation fails with; the step's rows of the cache are then undefined.
    pub(super) fn run(&self, ops: &mut dyn DeviceOps, num_blocks: usize) -> Result<()> {
        let Places { step, x, h, .. } = self.places;
        let (rows, hidden) = (self.rows()?, number(self.config.hidden_size)?);
        let (table, element) = &self.weights.embed_tokens;
        ops.embed(&EmbedArgs { step, table: table.address(), x, rows, hidden }, *element)?;
        let mut sum = None;
        for (layer, weights) in self.weights.layers.iter().take(num_blocks).enumerate() {
            let input = weights.qkv_proj.input();
            self.add_norm(ops, sum, weights.input_layernorm.address(), input)?;
            self.attention(ops, weights, layer)?;
            let attn_out = Sum { h, site: Site::AttnOut, layer };
            let weight = weights.post_attention_layernorm.address();
            self.add_norm(ops, Some(attn_out), weight, weights.gate_up_proj.input())?;
            self.mlp(ops, weights)?;
            sum = Some(Sum { h, site: Site::ResidPost, layer });
        }
        let head = self.weights.lm_head.form.input();
        self.add_norm(ops, sum, self.weights.norm.address(), head)?;
        if num_blocks < self.weights.layers.len() { Ok(()) } else { self.head(ops) }
    }

    /// The residual sum with its hooks, then the norm that reads it.
    fn add_norm(
        &self,
        ops: &mut dyn DeviceOps,
        sum: Option<Sum>,
        weight: Address,
        input: Element,
    ) -> Result<()> {
        let Sum { h, site, layer } =
            sum.unwrap_or(Sum { h: Address::NONE, site: Site::AttnOut, layer: 0 });
        let args = AddNormArgs {
            step: self.places.step,
            h,
            x: self.places.x,
            weight,
            normed: self.places.normed,
            rows: self.rows()?,
            hidden: number(self.config.hidden_size)?,
            site: plan_site(site),
            layer: number(layer)?,
            eps: self.eps(),
            padding: 0,
        };
        ops.add_norm(&args, input)
    }

    /// From the normed rows to `h`, the attention block's output.
    fn attention(
        &self,
        ops: &mut dyn DeviceOps,
        weights: &LayerWeights,
        layer: usize,
    ) -> Result<()> {
        let Places { step, normed, qkv, z, partials, arrivals, h, .. } = self.places;
        let (k_pool, v_pool) = self.pools.layer(layer);
        let config = self.config;
        let heads = HeadCounts {
            num_heads: number(config.num_attention_heads)?,
            num_kv_heads: number(config.num_key_value_heads)?,
            head_dim: number(config.head_dim)?,
            block_size: number(self.pools.block_size())?,
        };
        let q_width = config.num_attention_heads * config.head_dim;
        let kv_width = config.num_key_value_heads * config.head_dim;
        let rows = self.rows()?;
        let [q, k, v] =
            self.stack(ops, &weights.qkv_proj, normed, qkv, [q_width, kv_width, kv_width])?;
        let rope = RopeCacheArgs {
            step,
            q: q.place,
            k: k.place,
            v: v.place,
            angles: self.weights.angles.address(),
            k_pool,
            v_pool,
            heads,
            rows,
            q_stride: q.stride,
            kv_stride: k.stride,
            padding: 0,
        };
        ops.rope_cache(&rope, self.pools.element())?;
        let attention = AttentionArgs {
            step,
            q: q.place,
            k_pool,
            v_pool,
            partials,
            arrivals,
            z,
            heads,
            rows,
            q_stride: q.stride,
            max_decode_items: number(self.shape.max_decode_items)?,
            num_prefill_items: number(self.shape.num_prefill_items)?,
            z_element: weights.o_proj.form.input().code(),
            padding: 0,
        };
        ops.attention(&attention, self.pools.element(), weights.o_proj.form.input())?;
        self.product(ops, &weights.o_proj, z, h)?;
        self.all_reduce(ops, h)
    }

    /// From the normed rows to `h`, the MLP's output.
    fn mlp(&self, ops: &mut dyn DeviceOps, weights: &LayerWeights) -> Result<()> {
        let Places { activated, h, .. } = self.places;
        if !self.gated(ops, weights)? {
            self.gate_and_up(ops, weights)?;
        }
        self.product(ops, &weights.down_proj, activated, h)?;
        self.all_reduce(ops, h)
    }

    /// From the normed rows to `activated` in one operation, where the two projections are one matrix and the device can do that.
    fn gated(&self, ops: &mut dyn DeviceOps, weights: &LayerWeights) -> Result<bool> {
        let [product] = &weights.gate_up_proj.products[..] else { return Ok(false) };
        let Places { normed, activated, .. } = self.places;
        let args = MatmulArgs {
            out_stride: number(self.config.intermediate_size)?,
            ..matmul(product, normed, activated, self.rows()?)?
        };
        ops.gated_matmul(&args, product.form, weights.down_proj.form.input())
    }

    /// From the normed rows to `activated`, by way of `gate_up`.
    fn gate_and_up(&self, ops: &mut dyn DeviceOps, weights: &LayerWeights) -> Result<()> {
        let Places { normed, gate_up, activated, .. } = self.places;
        let width = self.config.intermediate_size;
        let [gate, up] = self.stack(ops, &weights.gate_up_proj, normed, gate_up, [width, width])?;
        let args = SwigluArgs {
            gate: gate.place,
            up: up.place,
            activated,
            rows: self.rows()?,
            width: number(width)?,
            stride: gate.stride,
            padding: 0,
        };
        ops.swiglu(&args, weights.down_proj.form.input())
    }

    /// The logits of the rows that they are wanted of, and the tokens that they are asked for.
    fn head(&self, ops: &mut dyn DeviceOps) -> Result<()> {
        let logit_rows = number(self.shape.logit_rows)?;
        if logit_rows == 0 {
            return Ok(());
        }
        let head = &self.weights.lm_head;
        let Places { step, normed: from, head_rows: to, logits, .. } = self.places;
        let hidden = number(self.config.hidden_size)?;
        let gather = GatherArgs { step, from, to, logit_rows, hidden };
        ops.gather(&gather, head.form.input())?;
        ops.matmul(&matmul(head, to, logits, logit_rows)?, head.form)?;
        // A step that may be replayed asks for the same operations whatever its rows are asked.
        if !self.shape.chooses && !self.shape.is_decode {
            return Ok(());
        }
        let Places { largest, sums, counts, tokens, .. } = self.places;
        let sample = SampleArgs {
            asks: step.add(ASKS_OFFSET),
            logits,
            largest,
            sums,
            counts,
            tokens,
            rows: logit_rows,
            vocab_size: number(self.config.vocab_size)?,
        };
        ops.sample(&sample)
    }

    fn product(
        &self,
        ops: &mut dyn DeviceOps,
        product: &Product,
        x: Address,
        out: Address,
    ) -> Result<()> {
        ops.matmul(&matmul(product, x, out, self.rows()?)?, product.form)
    }

    /// The products of a stack, and where each of `widths` lies: side by side where it is one product, else one after the other.
    fn stack<const N: usize>(
        &self,
        ops: &mut dyn DeviceOps,
        stack: &Stack,
        x: Address,
        out: Address,
        widths: [usize; N],
    ) -> Result<[Columns; N]> {
        let mut next = out;
        for product in &stack.products {
            self.product(ops, product, x, next)?;
            next = next.add(self.shape.rows * product.out_features * F32);
        }
        let is_one = stack.products.len() == 1;
        let total = widths.iter().sum::<usize>();
        let rows = if is_one { 1 } else { self.shape.rows };
        let mut columns = [Columns { place: out, stride: 0 }; N];
        let mut before = 0;
        for (columns, width) in columns.iter_mut().zip(widths) {
            columns.place = out.add(before * rows * F32);
            columns.stride = number(if is_one { total } else { width })?;
            before += width;
        }
        Ok(columns)
    }

    /// Every rank's part, summed before anything is added to it.
    fn all_reduce(&self, ops: &mut dyn DeviceOps, values: Address) -> Result<()> {
        let num_values = (self.shape.rows * self.config.hidden_size) as u64;
        ops.all_reduce(&AllReduceArgs { values, num_values })
    }

    fn rows(&self) -> Result<u32> {
        number(self.shape.rows)
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounds once, as transformers does")]
    fn eps(&self) -> f32 {
        self.config.rms_norm_eps as f32
    }
}

/// Some columns of `f32` rows.
#[derive(Debug, Clone, Copy)]
struct Columns {
    place: Address,
    /// Numbers from row to row.
    stride: u32,
}

fn matmul(product: &Product, x: Address, out: Address, rows: u32) -> Result<MatmulArgs> {
    let out_features = number(product.out_features)?;
    Ok(MatmulArgs {
        x,
        weight: product.weight.address(),
        bias: product.bias.as_ref().map_or(Address::NONE, super::memory::Buffer::address),
        out,
        rows,
        in_features: number(product.in_features)?,
        out_features,
        out_stride: out_features,
    })
}
