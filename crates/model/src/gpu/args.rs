//! What each operation is told: the arguments of its kernel, field for field (`cuda/args.cuh` has the same structures in C).
//!
//! Every structure is plain bytes without padding. Shapes are in numbers, places in bytes. "Rows" are those of the packed
//! batch, filled up with padding rows to the size that the step runs at; a padding row has no cache row, no plan and no item,
//! and what is computed for it is never read.

use bytemuck::{Pod, Zeroable};

use super::memory::Address;
#[cfg(doc)]
use super::memory::Element;
use crate::sampling::{Ask, Filter};

/// Where an index may be missing: there is none.
pub(crate) const NONE: u32 = u32::MAX;
/// Positions of one decode item: attention over more is done in parts, merged in ascending order.
pub(crate) const DECODE_CHUNK: usize = 256;
/// Rows of one prefill item at most.
pub(crate) const PREFILL_ROWS: usize = 16;
/// `samples` keeps so many rows of each place: the hidden state at the hook, the other share of the sum (zeros at
/// `resid_post`), the residual stream that goes on, and the vector as it lies in the table.
pub(crate) const SAMPLE_ROWS: usize = 4;

/// Parts of a row of logits in which [`SampleArgs`] looks for its largest.
pub(crate) const SAMPLE_PARTS: usize = 32;
/// Weights whose sum [`SampleArgs`] makes on its own, as the CPU's draw does.
pub(crate) const SAMPLE_CHUNK: usize = 64;
/// Bins in which [`SampleArgs`] counts weights, to find the largest without sorting all.
pub(crate) const SAMPLE_BINS: usize = 4096;

/// What a step reads, all of it in one piece of memory that begins with this; addresses lie in the same piece unless said.
/// Kernels get its address, so that a captured graph holds no count and no place but that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct StepHeader {
    /// `u32[rows]`.
    pub(crate) token_ids: Address,
    /// `u32[rows]`: index of the row in its sequence.
    pub(crate) positions: Address,
    /// `u32[rows]`: the row of the cache that takes the row's key and value; [`NONE`] for padding.
    pub(crate) cache_rows: Address,
    /// `u32[rows]`: index of the row's sequence.
    pub(crate) seqs: Address,
    /// `u32[num_seqs][max_blocks]`: cache blocks in order of position.
    pub(crate) block_tables: Address,
    /// `u32[num_decode_items][2]`: row, and chunk of [`DECODE_CHUNK`] positions. Items of a row lie side by side, chunks ascending.
    pub(crate) decode_items: Address,
    /// `u32[rows + 1]`: the decode items of row r are `row_items[r]..row_items[r + 1]`; none for padding and prefill rows.
    pub(crate) row_items: Address,
    /// `u32[num_prefill_items][2]`: first row, and number of rows, at most [`PREFILL_ROWS`], all of one sequence.
    pub(crate) prefill_items: Address,
    /// `u32[logit_rows]`: rows whose logits are wanted; padding names row 0.
    pub(crate) logit_rows: Address,
    /// `u32[rows]`: index of the row's plan, or [`NONE`].
    pub(crate) row_plans: Address,
    /// [`PlanHeader`]`[num_plans]`.
    pub(crate) plans: Address,
    /// `u32[num_plans][num_layers]`: row of the table, 0 where the layer is left alone.
    pub(crate) plan_slots: Address,
    /// Elsewhere: `f32[2][num_layers][num_slots][hidden]`, sites in the order of [`PlanHeader::site`].
    pub(crate) table: Address,
    /// `u32[num_captures][2][num_layers]`: the first row in `captured` of what a capture reads at a site and layer, or [`NONE`].
    pub(crate) capture_starts: Address,
    /// `u32[num_captures][rows]`: which of the capture's rows a row is, or [`NONE`].
    pub(crate) capture_rows: Address,
    /// Elsewhere: `f32[..][hidden]`.
    pub(crate) captured: Address,
    /// `u32[2][num_layers]`: the row that the live probe looks at, or [`NONE`].
    pub(crate) sample_rows: Address,
    /// Elsewhere: `f32[2][num_layers][`[`SAMPLE_ROWS`]`][hidden]`.
    pub(crate) samples: Address,
    /// Elsewhere: `f32[rows]`: the largest `||delta|| / ||h||` over the layers in which the row was steered. `embed` sets it to 0.
    pub(crate) relative_norms: Address,
    pub(crate) max_blocks: u32,
    pub(crate) num_decode_items: u32,
    pub(crate) num_prefill_items: u32,
    pub(crate) num_layers: u32,
    pub(crate) num_slots: u32,
    pub(crate) num_captures: u32,
    /// 1 where captures read the value after steering, 0 where before it.
    pub(crate) captures_after: u32,
    pub(crate) padding: u32,
}

/// One plan of steering.
#[derive(Debug, Clone, Copy, PartialEq, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct PlanHeader {
    /// 0 `attn_out`, 1 `resid_post`.
    pub(crate) site: u32,
    /// 0 `add`, 1 `add_norm_restored`, 2 `project_out`.
    pub(crate) operator: u32,
    /// Not 0.
    pub(crate) strength: f32,
    pub(crate) padding: u32,
}

/// `x[row] = table[token_ids[row]]`, and `relative_norms[row] = 0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct EmbedArgs {
    /// [`StepHeader`].
    pub(crate) step: Address,
    /// `[vocab_size][hidden]`, in the element type of the operation.
    pub(crate) table: Address,
    /// `f32[rows][hidden]`.
    pub(crate) x: Address,
    pub(crate) rows: u32,
    pub(crate) hidden: u32,
}

/// Residual sum with steering and captures, then RMS norm (arXiv 1910.07467).
///
/// With h the incoming row and `steer` the plan's operator with its strength and vector (arXiv 2410.01174, Eq. 2), if the row
/// has a plan for this site with a slot in this layer:
/// - at `attn_out`: `x = x + steer(h)`
/// - at `resid_post`: `x = steer(x + h)`
///
/// then `normed = x / sqrt(mean(x^2) + eps) * weight`. Without `h` there is no sum, no hook, and x stays.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AddNormArgs {
    /// [`StepHeader`].
    pub(crate) step: Address,
    /// `f32[rows][hidden]`, or none.
    pub(crate) h: Address,
    /// `f32[rows][hidden]`: the residual stream, changed in place.
    pub(crate) x: Address,
    /// `f32[hidden]`.
    pub(crate) weight: Address,
    /// `[rows][hidden]`, in the element type of the operation.
    pub(crate) normed: Address,
    pub(crate) rows: u32,
    pub(crate) hidden: u32,
    /// As [`PlanHeader::site`].
    pub(crate) site: u32,
    pub(crate) layer: u32,
    pub(crate) eps: f32,
    pub(crate) padding: u32,
}

/// How rows divide into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct HeadCounts {
    pub(crate) num_heads: u32,
    /// Query heads `g * num_heads / num_kv_heads..` share head g.
    pub(crate) num_kv_heads: u32,
    pub(crate) head_dim: u32,
    /// Tokens a cache block.
    pub(crate) block_size: u32,
}

/// Rotates queries in place and keys on their way to the cache (arXiv 2104.09864, halves of a head against each other), and
/// writes keys and values to the cache, rounded to the element type of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RopeCacheArgs {
    /// [`StepHeader`].
    pub(crate) step: Address,
    /// `f32[rows][q_stride]`, of which `num_heads * head_dim` are a row's queries.
    pub(crate) q: Address,
    /// `f32[rows][kv_stride]`, of which `num_kv_heads * head_dim` are a row's keys.
    pub(crate) k: Address,
    /// As `k`: values.
    pub(crate) v: Address,
    /// `f32[max_positions][head_dim / 2][2]`: cosine and sine of a position's angles.
    pub(crate) angles: Address,
    /// `[num_blocks][num_kv_heads][block_size][head_dim]`.
    pub(crate) k_pool: Address,
    /// As `k_pool`.
    pub(crate) v_pool: Address,
    pub(crate) heads: HeadCounts,
    pub(crate) rows: u32,
    pub(crate) q_stride: u32,
    pub(crate) kv_stride: u32,
    pub(crate) padding: u32,
}

/// `softmax(q k^T / sqrt(head_dim)) v` over each row's own and earlier positions.
///
/// Decode items of a row with several chunks leave partial results, which the last of them puts together in ascending order of
/// chunks; the only one of a row, and prefill items, write `z` at once. All sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AttentionArgs {
    /// [`StepHeader`].
    pub(crate) step: Address,
    /// As [`RopeCacheArgs::q`], rotated.
    pub(crate) q: Address,
    /// As [`RopeCacheArgs::k_pool`].
    pub(crate) k_pool: Address,
    /// As [`RopeCacheArgs::k_pool`].
    pub(crate) v_pool: Address,
    /// `f32[num_decode_items][num_heads][head_dim + 2]`: largest score, sum of `exp(score - largest)`, and the sum of
    /// `exp(score - largest) * v`.
    pub(crate) partials: Address,
    /// `u32[rows][num_heads]`: items of the row that are done, counted at the first of the heads that are computed together. All
    /// zero before and after.
    pub(crate) arrivals: Address,
    /// `[rows][num_heads * head_dim]`, in the element type of the operation. Rows without an item are not written.
    pub(crate) z: Address,
    pub(crate) heads: HeadCounts,
    pub(crate) rows: u32,
    pub(crate) q_stride: u32,
    /// Decode items that the launch has room for; the header says how many there are.
    pub(crate) max_decode_items: u32,
    /// Prefill items of the launch, as the header says.
    pub(crate) num_prefill_items: u32,
    /// The element type of the operation: [`Element::code`].
    pub(crate) z_element: u32,
    pub(crate) padding: u32,
}

/// `activated = silu(gate) * up` (arXiv 2002.05202).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SwigluArgs {
    /// `f32[rows][stride]`, of which `width` are read.
    pub(crate) gate: Address,
    /// As `gate`.
    pub(crate) up: Address,
    /// `[rows][width]`, in the element type of the operation.
    pub(crate) activated: Address,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) stride: u32,
    pub(crate) padding: u32,
}

/// `to[i] = from[logit_rows[i]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct GatherArgs {
    /// [`StepHeader`].
    pub(crate) step: Address,
    /// `[..][hidden]`, in the element type of the operation.
    pub(crate) from: Address,
    /// `[logit_rows][hidden]`, in the same type.
    pub(crate) to: Address,
    pub(crate) logit_rows: u32,
    pub(crate) hidden: u32,
}

/// `out = x @ weight^T + bias`; sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MatmulArgs {
    /// `[rows][in_features]`, of the type that the weight's form is multiplied with.
    pub(crate) x: Address,
    /// `[out_features][in_features]`.
    pub(crate) weight: Address,
    /// `f32[out_features]`, or none.
    pub(crate) bias: Address,
    /// `f32[rows][out_stride]`, of which `out_features` are written.
    pub(crate) out: Address,
    pub(crate) rows: u32,
    pub(crate) in_features: u32,
    pub(crate) out_features: u32,
    pub(crate) out_stride: u32,
}

/// Adds the ranks' parts of a tensor-parallel product: afterwards every rank has the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AllReduceArgs {
    /// `f32[num_values]`, changed in place.
    pub(crate) values: Address,
    pub(crate) num_values: u64,
}

/// [`crate::sampling::Ask`] of one row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AskHeader {
    /// 0 the row itself, 1 the most likely token, 2 a token drawn from all, 3 one drawn from what the filter keeps.
    pub(crate) kind: u32,
    /// Of a draw: above 0.
    pub(crate) temperature: f32,
    /// Of a draw: uniform in 0..1.
    pub(crate) unit: f64,
    /// This and the next two: [`Filter`]. A number that does not fit keeps all, as the largest that does.
    pub(crate) top_k: u32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) padding: u32,
}

impl From<Ask> for AskHeader {
    fn from(ask: Ask) -> Self {
        match ask {
            Ask::Logits => Self::default(),
            Ask::Greedy => Self { kind: 1, ..Self::default() },
            Ask::Draw { temperature, unit } => {
                Self { kind: 2, temperature, unit, ..Self::default() }
            }
            Ask::Filtered { temperature, unit, filter: Filter { top_k, top_p, min_p } } => {
                let top_k = u32::try_from(top_k).unwrap_or(u32::MAX);
                Self { kind: 3, temperature, unit, top_k, top_p, min_p, padding: 0 }
            }
        }
    }
}

impl From<AskHeader> for Ask {
    fn from(header: AskHeader) -> Self {
        let AskHeader { kind, temperature, unit, top_k, top_p, min_p, .. } = header;
        match kind {
            0 => Self::Logits,
            1 => Self::Greedy,
            2 => Self::Draw { temperature, unit },
            _ => {
                let filter = Filter { top_k: top_k as usize, top_p, min_p };
                Self::Filtered { temperature, unit, filter }
            }
        }
    }
}

/// The largest logit of a part of a row: scratch.
#[derive(Debug, Clone, Copy, PartialEq, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LargestLogit {
    pub(crate) logit: f32,
    pub(crate) token_id: u32,
    pub(crate) is_finite: u32,
}

/// [`crate::sampling::Answer::Token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ChosenToken {
    /// 0 where not all logits are finite.
    pub(crate) id: u32,
    /// 1 where all logits are finite, otherwise 0.
    pub(crate) is_finite: u32,
    /// 0 where the device cannot tell what the filter keeps, otherwise 1: the host decides then.
    pub(crate) is_decided: u32,
}

/// `tokens[row] = decide(asks[row], logits[row])` ([`crate::sampling::decide`]): equal logits give the equal token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SampleArgs {
    /// [`AskHeader`]`[rows]`.
    pub(crate) asks: Address,
    /// `f32[rows][vocab_size]`.
    pub(crate) logits: Address,
    /// [`LargestLogit`]`[rows][`[`SAMPLE_PARTS`]`]`: scratch.
    pub(crate) largest: Address,
    /// `f64[rows][vocab_size / `[`SAMPLE_CHUNK`]`, rounded up]`: scratch.
    pub(crate) sums: Address,
    /// `u32[rows][`[`SAMPLE_BINS`]`]`: scratch.
    pub(crate) counts: Address,
    /// [`ChosenToken`]`[rows]`. Rows whose logits are asked for are not written.
    pub(crate) tokens: Address,
    pub(crate) rows: u32,
    /// At least 1.
    pub(crate) vocab_size: u32,
}
