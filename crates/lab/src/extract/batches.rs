//! Batches of inputs through the model, their rows into the statistics.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use skeg_model::{Capture, KvCache, KvCacheDtype, Llama, PackedBatch};

use super::encode::EncodedInput;
use super::run::RunOptions;
use super::spec::ExtractSpec;
use super::statistics::{RowMean, Statistics};
use crate::error::{Error, Result};

/// Tokens a cache block; any size gives the same numbers.
const BLOCK_SIZE: usize = 32;

/// What stays the same from batch to batch.
pub(super) struct Run<'a> {
    llama: &'a Llama,
    spec: &'a ExtractSpec,
    inputs: &'a [EncodedInput],
    max_batch_tokens: usize,
    cache: KvCache,
    /// Inputs that stand in the run more than once, with their means when they were computed: harmless texts serve every
    /// category.
    repeated: HashMap<Content<'a>, Option<Vec<RowMean>>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        llama: &'a Llama,
        spec: &'a ExtractSpec,
        inputs: &'a [EncodedInput],
        options: &RunOptions,
    ) -> Result<Self> {
        let longest = inputs.iter().map(|input| input.token_ids.len()).max().unwrap_or(1);
        let max_batch_tokens = options.max_batch_tokens.max(longest);
        // Every input ends in a block of its own, so up to one block an input is not full.
        let num_blocks = max_batch_tokens.div_ceil(BLOCK_SIZE) + max_batch_tokens.min(inputs.len());
        let cache = KvCache::new(llama, num_blocks, BLOCK_SIZE, KvCacheDtype::F32)?;
        let mut seen = HashSet::new();
        let repeated = inputs.iter().map(content).filter(|one| !seen.insert(one.clone()));
        let repeated = repeated.map(|one| (one, None)).collect();
        Ok(Self { llama, spec, inputs, max_batch_tokens, cache, repeated })
    }

    /// Adds the next inputs, as many new ones as fit a pass, and returns how many they were. Inputs of the same tokens that follow
    /// each other and differ in their rows are computed once.
    pub(super) fn add_batch(&mut self, statistics: &mut dyn Statistics) -> Result<usize> {
        let rest = &self.inputs[statistics.num_done()..];
        let mut num_tokens = 0;
        let mut asked = HashSet::new();
        let mut last: Option<&EncodedInput> = None;
        let num_fitting = rest
            .iter()
            .take_while(|input| {
                let is_known = matches!(self.repeated.get(&content(input)), Some(Some(_)));
                if !is_known && asked.insert(content(input)) {
                    if last.is_none_or(|last| last.token_ids != input.token_ids) {
                        num_tokens += input.token_ids.len();
                    }
                    last = Some(input);
                }
                num_tokens <= self.max_batch_tokens
            })
            .count();
        let inputs = &rest[..num_fitting];
        let mut asked = HashSet::new();
        let new: Vec<&EncodedInput> = inputs
            .iter()
            .filter(|input| {
                !matches!(self.repeated.get(&content(input)), Some(Some(_)))
                    && asked.insert(content(input))
            })
            .collect();
        let mut means = self.means(&new)?.into_iter();
        for input in inputs {
            let means = match self.repeated.get_mut(&content(input)) {
                None => means.next().unwrap_or_default(),
                Some(kept) => kept.get_or_insert_with(|| means.next().unwrap_or_default()).clone(),
            };
            statistics.add(input, &means);
        }
        Ok(num_fitting)
    }

    /// The means of some inputs in one pass, one a layer each.
    fn means(&mut self, inputs: &[&EncodedInput]) -> Result<Vec<Vec<RowMean>>> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let (batch, rows) = pack(inputs)?;
        let mut capture = Capture::new(self.spec.site, self.spec.layers.clone(), rows);
        self.llama.capture(&batch, &mut self.cache, &mut capture)?;
        // (layer, [rows of all inputs, hidden_size])
        let captured = capture.take();
        let hidden_size = self.llama.config().hidden_size;
        let mut start = 0;
        let means = inputs.iter().map(|input| {
            let end = start + input.rows.len() * hidden_size;
            let rows = start..end;
            start = end;
            let layers = captured.iter();
            layers.map(|(_, values)| RowMean::of(&values[rows.clone()], hidden_size)).collect()
        });
        Ok(means.collect())
    }
}

/// What decides an input's activations: its tokens, and the rows that count.
type Content<'a> = (&'a [u32], Range<usize>);

fn content(input: &EncodedInput) -> Content<'_> {
    (&input.token_ids, input.rows.clone())
}

/// Puts inputs side by side into one batch, those of the same tokens that follow each other once; beside it the rows to capture,
/// input by input.
fn pack(inputs: &[&EncodedInput]) -> Result<(PackedBatch, Vec<usize>)> {
    let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    let mut rows = Vec::new();
    let mut next_block: u32 = 0;
    let mut last: Option<(&EncodedInput, usize)> = None;
    for input in inputs {
        let same = last.filter(|(last, _)| last.token_ids == input.token_ids);
        let first_row = same.map_or(batch.total_tokens(), |(_, first_row)| first_row);
        rows.extend(input.rows.clone().map(|row| first_row + row));
        last = Some((input, first_row));
        if same.is_some() {
            continue;
        }
        batch.token_ids.extend(&input.token_ids);
        batch.positions.extend(0..input.token_ids.len());
        batch.cu_seqlens.push(batch.total_tokens());
        let num_blocks = u32::try_from(input.token_ids.len().div_ceil(BLOCK_SIZE))
            .map_err(|error| Error::Spec(format!("an input's length: {error}")))?;
        batch.block_tables.push((next_block..next_block + num_blocks).collect());
        next_block += num_blocks;
    }
    Ok((batch, rows))
}
