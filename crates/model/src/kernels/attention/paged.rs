//! Attention as a candle operation: which rows, heads and chunks a task takes.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use half::f16;

use super::super::cpu::Cpu;
use super::super::element::Element;
use super::super::rows;
use super::AttentionHeads;
use super::kernel::{Context, Partial};
use crate::batch::BatchLayout;
use crate::error::Result;

/// Rows of one task where there are many.
const ROW_TILE: usize = 8;

/// [`super::attention`] with rotated queries and a written cache.
pub(super) fn attention(
    cpu: &Cpu,
    qkv: &Tensor,
    k_pool: &Tensor,
    v_pool: &Tensor,
    layout: &BatchLayout<'_>,
    heads: AttentionHeads,
) -> Result<Tensor> {
    Ok(qkv.apply_op3_no_bwd(k_pool, v_pool, &PagedAttention { cpu, layout, heads })?)
}

struct PagedAttention<'a> {
    cpu: &'a Cpu,
    layout: &'a BatchLayout<'a>,
    heads: AttentionHeads,
}

impl CustomOp3 for PagedAttention<'_> {
    fn name(&self) -> &'static str {
        "skeg-paged-attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        k_pool: &CpuStorage,
        k_layout: &Layout,
        v_pool: &CpuStorage,
        v_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let heads = self.heads;
        let (total_tokens, row_width) = qkv_layout.shape().dims2()?;
        let (_, kv_width) = k_layout.shape().dims2()?;
        if row_width != heads.q_width() + 2 * heads.kv_width()
            || kv_width != heads.kv_width()
            || total_tokens != self.layout.cache_rows.len()
        {
            candle_core::bail!(
                "attention of [{total_tokens}, {row_width}] over rows of {kv_width} with {heads:?}"
            );
        }
        let qkv = rows::slice::<f32>(qkv, qkv_layout)?;
        let out = match k_pool {
            CpuStorage::F16(_) => self.run(
                qkv,
                rows::slice::<f16>(k_pool, k_layout)?,
                rows::slice::<f16>(v_pool, v_layout)?,
            ),
            _ => self.run(
                qkv,
                rows::slice::<f32>(k_pool, k_layout)?,
                rows::slice::<f32>(v_pool, v_layout)?,
            ),
        };
        Ok((CpuStorage::F32(out), (total_tokens, heads.q_width()).into()))
    }
}

impl<'a> PagedAttention<'a> {
    /// `[total_tokens, num_heads * head_dim]`.
    fn run<T: Element>(&self, qkv: &[f32], k_pool: &[T], v_pool: &[T]) -> Vec<f32> {
        let heads = self.heads;
        let contexts = self.contexts(k_pool, v_pool);
        let total_tokens = contexts.len();
        let row_width = heads.q_width() + 2 * heads.kv_width();
        let rows = Rows { cpu: self.cpu, qkv, row_width, contexts };
        let mut out = vec![0f32; total_tokens * heads.q_width()];
        if total_tokens < 2 * self.cpu.num_threads() {
            rows.by_chunk(&mut out);
        } else {
            rows.by_row(&mut out);
        }
        out
    }

    /// What each row reads, of head 0.
    fn contexts<'p, T>(&self, k_pool: &'p [T], v_pool: &'p [T]) -> Vec<Context<'p, T>>
    where
        'a: 'p,
    {
        let (heads, block_size) = (self.heads, self.layout.block_size);
        let level = self.cpu.level();
        let rows =
            self.layout.seqs.iter().flat_map(|seq| seq.rows.clone().map(move |row| (seq, row)));
        rows.map(|(seq, row)| Context {
            level,
            k_pool,
            v_pool,
            block_table: seq.block_table,
            block_size,
            kv_len: seq.first_position + (row - seq.rows.start) + 1,
            kv_head: 0,
            heads,
        })
        .collect()
    }
}

/// The rows of a step.
struct Rows<'a, T> {
    cpu: &'a Cpu,
    qkv: &'a [f32],
    row_width: usize,
    /// One a row.
    contexts: Vec<Context<'a, T>>,
}

impl<'a, T: Element> Rows<'a, T> {
    /// What row `row` reads of head `kv_head`, and the queries of the head's group.
    fn get(&self, row: usize, kv_head: usize) -> (Context<'a, T>, &'a [f32]) {
        let context = Context { kv_head, ..self.contexts[row] };
        let width = context.heads.group() * context.heads.head_dim;
        let start = row * self.row_width + kv_head * width;
        (context, &self.qkv[start..start + width])
    }

    /// Many rows: a task takes some of them whole.
    fn by_row(&self, out: &mut [f32]) {
        let Some(heads) = self.contexts.first().map(|context| context.heads) else { return };
        let num_rows = self.contexts.len();
        let tile = ROW_TILE.min(num_rows.div_ceil(2 * self.cpu.num_threads())).max(1);
        let tiles = out.chunks_mut(tile * heads.q_width()).enumerate();
        self.cpu.for_each(tiles, |(idx, out)| {
            let (mut whole, mut next) = (Partial::default(), Partial::default());
            let group_width = heads.group() * heads.head_dim;
            for kv_head in 0..heads.num_kv_heads {
                for (offset, out) in out.chunks_exact_mut(heads.q_width()).enumerate() {
                    let (context, q) = self.get(idx * tile + offset, kv_head);
                    whole.compute(q, &context, 0);
                    for chunk in 1..context.num_chunks() {
                        next.compute(q, &context, chunk);
                        whole.merge(self.cpu.level(), &next);
                    }
                    let out = &mut out[kv_head * group_width..(kv_head + 1) * group_width];
                    whole.finish(heads.head_dim, out);
                }
            }
        });
    }

    /// Few rows: a task takes one chunk of one head of one row.
    fn by_chunk(&self, out: &mut [f32]) {
        let Some(heads) = self.contexts.first().map(|context| context.heads) else { return };
        let units: Vec<(usize, usize, usize)> = (0..self.contexts.len())
            .flat_map(|row| (0..heads.num_kv_heads).map(move |kv_head| (row, kv_head)))
            .flat_map(|(row, kv_head)| {
                (0..self.contexts[row].num_chunks()).map(move |chunk| (row, kv_head, chunk))
            })
            .collect();
        let mut partials = vec![Partial::default(); units.len()];
        self.cpu.for_each(partials.iter_mut().zip(&units), |(partial, &(row, kv_head, chunk))| {
            let (context, q) = self.get(row, kv_head);
            partial.compute(q, &context, chunk);
        });
        let group_width = heads.group() * heads.head_dim;
        // The chunks of one head of one row lie side by side, and so do the parts of the result.
        let groups = units.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
        let mut partials = partials.into_iter();
        for (group, out) in groups.zip(out.chunks_exact_mut(group_width)) {
            let Some(mut whole) = partials.next() else { return };
            for next in partials.by_ref().take(group.len() - 1) {
                whole.merge(self.cpu.level(), &next);
            }
            whole.finish(heads.head_dim, out);
        }
    }
}
