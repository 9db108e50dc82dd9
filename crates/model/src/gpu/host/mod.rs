//! [`HostOps`]: every operation in plain Rust, row by row, as [`super::args`] defines it.
//!
//! What the kernels are held against, and what the pass runs over where there is no GPU. It rounds where they round: the
//! residual stream, sums and queries are f32, what a product, the cache or a gather takes is rounded to its type.
//!
//! Architecture invariant: a row's result is set by the row, the weights and its own sequence's cache. Memory that was not
//! allocated is an error, never a panic.

mod add_norm;
mod attention;
mod group;
mod matmul;
mod memory;
mod rope_cache;

use std::sync::Arc;

use candle_core::Tensor;
use half::{bf16, f16};

pub(super) use self::group::HostGroup;
use self::memory::{Memory, bad};
use super::args::{
    AddNormArgs, AllReduceArgs, AskHeader, AttentionArgs, ChosenToken, EmbedArgs, GatherArgs,
    HeadCounts, MatmulArgs, RopeCacheArgs, SampleArgs, StepHeader, SwigluArgs,
};
use super::memory::{Address, Buffer, Element, MatrixForm};
use super::ops::DeviceOps;
use super::ranks::Ranks;
use super::recorded::Recorded;
use crate::error::Result;
use crate::llama::Weight;
use crate::sampling::{Answer, decide};

/// A device that is the host itself; it starts with no memory.
#[derive(Debug, Default)]
pub(crate) struct HostOps {
    memory: Memory,
    /// Whom it sums with, and which of them it is; `None` where it is alone.
    rank: Option<(Arc<HostGroup>, usize)>,
}

impl HostOps {
    /// Ranks that are threads of this process.
    pub(crate) fn ranks(num_ranks: usize) -> Ranks {
        let group = Arc::new(HostGroup::new(num_ranks));
        let of_rank = |rank| -> Box<dyn DeviceOps> {
            Box::new(Self { memory: Memory::default(), rank: Some((group.clone(), rank)) })
        };
        Ranks::linked((0..num_ranks).map(of_rank).collect(), group.clone())
    }

    /// Puts bytes into memory of their own.
    fn keep(&mut self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.allocate(bytes.len())?;
        self.upload(buffer.address(), bytes)?;
        Ok(buffer)
    }

    /// Keeps a matrix as single numbers: dense ones to the bit, blocks as the f32 that they stand for.
    fn keep_numbers(&mut self, weight: Weight) -> Result<(Buffer, Element)> {
        let numbers = match weight {
            Weight::Dense(tensor) => tensor,
            Weight::Quantized(blocks) => blocks.dequantize(&blocks.device())?,
        };
        let element = Element::of(numbers.dtype()).ok_or_else(|| {
            bad(format!("a matrix of {:?}; expected f32, f16 or bf16", numbers.dtype()))
        })?;
        let buffer = self.keep(&number_bytes(&numbers, element)?)?;
        Ok((buffer, element))
    }
}

/// The bytes of a tensor's numbers, row by row.
#[expect(clippy::disallowed_methods, reason = "memory is filled once, when a model is loaded")]
pub(super) fn number_bytes(tensor: &Tensor, element: Element) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    Ok(match element {
        Element::F32 => bytemuck::cast_slice(&flat.to_vec1::<f32>()?).to_vec(),
        Element::F16 => {
            flat.to_vec1::<f16>()?.iter().flat_map(|value| value.to_bits().to_ne_bytes()).collect()
        }
        Element::Bf16 => {
            flat.to_vec1::<bf16>()?.iter().flat_map(|value| value.to_bits().to_ne_bytes()).collect()
        }
    })
}

impl DeviceOps for HostOps {
    /// Fresh memory is NaN.
    fn allocate(&mut self, num_bytes: usize) -> Result<Buffer> {
        // No owner: memory lives as long as the device.
        Ok(Buffer::new(self.memory.allocate(num_bytes)?, num_bytes, None))
    }

    fn clear(&mut self, buffer: &Buffer) -> Result<()> {
        self.memory.bytes_mut(buffer.address(), buffer.num_bytes())?.fill(0);
        Ok(())
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.memory.bytes_mut(to, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(self.memory.bytes(from, bytes.len())?);
        Ok(())
    }

    fn run(
        &mut self,
        _recorded: &mut Recorded,
        pass: &dyn Fn(&mut dyn DeviceOps) -> Result<()>,
    ) -> Result<()> {
        pass(self)
    }

    fn matrix(&mut self, weight: Weight) -> Result<(Buffer, MatrixForm)> {
        let (buffer, element) = self.keep_numbers(weight)?;
        Ok((buffer, MatrixForm::Dense(element)))
    }

    fn vector(&mut self, values: &Tensor) -> Result<Buffer> {
        self.keep(&number_bytes(values, Element::F32)?)
    }

    fn embedding(&mut self, weight: Weight) -> Result<(Buffer, Element)> {
        self.keep_numbers(weight)
    }

    fn embed(&mut self, args: &EmbedArgs, table: Element) -> Result<()> {
        let memory = &mut self.memory;
        let step: StepHeader = memory.at(args.step, 0)?;
        let hidden = args.hidden as usize;
        for row in 0..args.rows as usize {
            let token_id: u32 = memory.at(step.token_ids, row)?;
            let x = memory.read_floats(table, args.table, token_id as usize * hidden, hidden)?;
            memory.write(args.x, row * hidden, &x)?;
            memory.write(step.relative_norms, row, &[0f32])?;
        }
        Ok(())
    }

    fn add_norm(&mut self, args: &AddNormArgs, normed: Element) -> Result<()> {
        add_norm::add_norm(&mut self.memory, args, normed)
    }

    fn rope_cache(&mut self, args: &RopeCacheArgs, cache: Element) -> Result<()> {
        rope_cache::rope_cache(&mut self.memory, args, cache)
    }

    fn attention(&mut self, args: &AttentionArgs, cache: Element, z: Element) -> Result<()> {
        attention::attention(&mut self.memory, args, cache, z)
    }

    fn swiglu(&mut self, args: &SwigluArgs, activated: Element) -> Result<()> {
        let (width, stride) = (args.width as usize, args.stride as usize);
        for row in 0..args.rows as usize {
            let gate: Vec<f32> = self.memory.read(args.gate, row * stride, width)?;
            let up: Vec<f32> = self.memory.read(args.up, row * stride, width)?;
            let product: Vec<f32> =
                gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            self.memory.write_floats(activated, args.activated, row * width, &product)?;
        }
        Ok(())
    }

    fn gather(&mut self, args: &GatherArgs, element: Element) -> Result<()> {
        let memory = &mut self.memory;
        let step: StepHeader = memory.at(args.step, 0)?;
        let row_bytes = args.hidden as usize * element.size();
        for row in 0..args.logit_rows as usize {
            let from: u32 = memory.at(step.logit_rows, row)?;
            let values: Vec<u8> = memory.read(args.from, from as usize * row_bytes, row_bytes)?;
            memory.write(args.to, row * row_bytes, &values)?;
        }
        Ok(())
    }

    fn matmul(&mut self, args: &MatmulArgs, weight: MatrixForm) -> Result<()> {
        matmul::matmul(&mut self.memory, args, weight)
    }

    fn sample(&mut self, args: &SampleArgs) -> Result<()> {
        let memory = &mut self.memory;
        let vocab_size = args.vocab_size as usize;
        for row in 0..args.rows as usize {
            let ask: AskHeader = memory.at(args.asks, row)?;
            let logits: Vec<f32> = memory.read(args.logits, row * vocab_size, vocab_size)?;
            if let Answer::Token { id, is_finite } = decide(ask.into(), &logits) {
                let token = ChosenToken { id, is_finite: is_finite.into(), is_decided: 1 };
                memory.write(args.tokens, row, &[token])?;
            }
        }
        Ok(())
    }

    fn all_reduce(&mut self, args: &AllReduceArgs) -> Result<()> {
        let Some((group, rank)) = &self.rank else { return Ok(()) };
        let num_values = usize::try_from(args.num_values).map_err(candle_core::Error::wrap)?;
        let part = self.memory.read(args.values, 0, num_values)?;
        let sum = group.sum(*rank, part)?;
        self.memory.write(args.values, 0, &sum)
    }
}

/// [`HeadCounts`] as sizes.
#[derive(Debug, Clone, Copy)]
struct Heads {
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    block_size: usize,
}

impl Heads {
    fn new(counts: HeadCounts) -> Result<Self> {
        let HeadCounts { num_heads, num_kv_heads, head_dim, block_size } = counts;
        let fits = num_kv_heads > 0
            && num_heads.is_multiple_of(num_kv_heads)
            && head_dim.is_multiple_of(2)
            && block_size > 0;
        if !fits {
            return Err(bad(format!(
                "{counts:?}; expected key heads that divide the query heads, halves of a head, and blocks"
            )));
        }
        Ok(Self {
            num_heads: num_heads as usize,
            num_kv_heads: num_kv_heads as usize,
            head_dim: head_dim as usize,
            block_size: block_size as usize,
        })
    }

    /// Width of a row's queries.
    fn q_width(self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of a row's keys, and of its values.
    fn kv_width(self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// The key head of a query head.
    fn kv_head(self, head: usize) -> usize {
        head * self.num_kv_heads / self.num_heads
    }

    /// The number in a pool at which a head of a cache row begins.
    fn in_pool(self, cache_row: usize, kv_head: usize) -> usize {
        let (block, token) = (cache_row / self.block_size, cache_row % self.block_size);
        ((block * self.num_kv_heads + kv_head) * self.block_size + token) * self.head_dim
    }
}

/// Sum of `a[i] * b[i]`, in 16 partial sums.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    for (a, b) in a.chunks(lanes.len()).zip(b.chunks(lanes.len())) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}
