//! The paged key and value memory of a device, and the memory that its steps work in.

use std::fmt;
use std::sync::Arc;

use super::arena::Arena;
use super::memory::{Address, Buffer, Element};
use super::model::DeviceModel;
use super::recorded::Recordings;
use crate::error::Result;
use crate::kv_cache::KvCacheDtype;

/// Keys and values of every layer, `[num_layers][2]` pools of `[num_blocks][num_kv_heads][block_size][head_dim]`.
#[derive(Debug)]
pub(super) struct DevicePools {
    pub(super) pools: Buffer,
    /// Bytes a pool.
    pool: usize,
    element: Element,
    block_size: usize,
}

impl DevicePools {
    /// Where a layer's keys and values lie.
    pub(super) fn layer(&self, layer: usize) -> (Address, Address) {
        let keys = self.pools.address().add(2 * layer * self.pool);
        (keys, keys.add(self.pool))
    }

    pub(super) fn element(&self) -> Element {
        self.element
    }

    /// Tokens a block.
    pub(super) fn block_size(&self) -> usize {
        self.block_size
    }
}

/// One user's cache and working memory: whoever has it makes the steps.
pub(crate) struct DeviceCache {
    /// One a rank.
    pub(super) ranks: Vec<RankCache>,
    /// The last to go: what was recorded names the model's memory and what links its ranks.
    pub(super) model: Arc<DeviceModel>,
}

/// A rank's part of it, in the order in which it is let go of: recordings name the memory.
#[derive(Debug)]
pub(super) struct RankCache {
    pub(super) recordings: Recordings,
    pub(super) arena: Arena,
    /// Of the rank's key and value heads.
    pub(super) pools: DevicePools,
}

impl DeviceCache {
    /// Pools filled with zeros.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when the device has no room.
    pub(crate) fn new(
        model: Arc<DeviceModel>,
        (num_blocks, block_size): (usize, usize),
        dtype: KvCacheDtype,
    ) -> Result<Self> {
        let element = match dtype {
            KvCacheDtype::F32 => Element::F32,
            KvCacheDtype::F16 => Element::F16,
        };
        let config = model.rank_config();
        let width = config.num_key_value_heads * config.head_dim;
        let pool = (num_blocks * block_size * width * element.size()).next_multiple_of(256);
        let num_bytes = 2 * config.num_hidden_layers * pool;
        let pools = model.ranks().allocate_zeros(num_bytes)?;
        let of_rank = |pools| {
            let pools = DevicePools { pools, pool, element, block_size };
            RankCache { pools, arena: Arena::default(), recordings: Recordings::default() }
        };
        Ok(Self { ranks: pools.into_iter().map(of_rank).collect(), model })
    }

    /// Whether it was made for this model.
    pub(crate) fn is_of(&self, model: &Arc<DeviceModel>) -> bool {
        Arc::ptr_eq(&self.model, model)
    }
}

impl fmt::Debug for DeviceCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceCache").field("ranks", &self.ranks).finish_non_exhaustive()
    }
}
