//! Where the rows of vectors lie: in tensors, or in the memory of a device.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Site;
use crate::error::Result;
use crate::gpu::{Address, Buffer, DeviceModel, Rows, site_index};

/// Both sites, in the order of a table.
const SITES: [Site; 2] = [Site::AttnOut, Site::ResidPost];
/// The axis of a table that slots lie along.
const SLOT_DIM: usize = 0;

/// What a table measures.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableShape {
    pub(super) num_slots: usize,
    pub(super) num_layers: usize,
    pub(super) hidden_size: usize,
}

impl TableShape {
    /// Bytes of the rows of all slots.
    pub(super) fn num_bytes(&self) -> usize {
        SITES.len() * self.num_layers * self.num_slots * self.hidden_size * size_of::<f32>()
    }
}

/// The rows of all slots; memory is taken when the first vector comes.
#[derive(Debug)]
pub(super) enum TableStore {
    /// One table `[num_slots, hidden_size]`, f32, a (site, layer), made when a vector first needs it: `[site][layer]`, flattened.
    Host { tables: Vec<Option<Tensor>>, device: Device, shape: TableShape },
    /// One piece of memory a rank, `f32[site][layer][num_slots][hidden_size]`, whose address never changes; every rank has all rows.
    Device { tables: Vec<Buffer>, model: Arc<DeviceModel>, shape: TableShape },
}

impl TableStore {
    pub(super) fn on_host(shape: TableShape, device: &Device) -> Self {
        let tables = vec![None; SITES.len() * shape.num_layers];
        Self::Host { tables, device: device.clone(), shape }
    }

    pub(super) fn on_device(shape: TableShape, model: Arc<DeviceModel>) -> Self {
        Self::Device { tables: Vec::new(), model, shape }
    }

    /// Writes a vector's rows, `[num_layers]`, into a slot, and zeros into all other rows of the slot, so that nothing of a former
    /// vector stays.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when there is no room.
    pub(super) fn fill(&mut self, slot: usize, site: Site, rows: &[Option<&[f32]>]) -> Result<()> {
        match self {
            Self::Host { tables, device, shape } => {
                fill_host(tables, device, *shape, (slot, site), rows)
            }
            Self::Device { tables, model, shape } => {
                if tables.is_empty() {
                    *tables = allocate(model, *shape)?;
                }
                fill_device(tables, model, *shape, (slot, site), rows)
            }
        }
    }

    /// Whether rows must travel.
    pub(super) fn is_far(&self) -> bool {
        matches!(self, Self::Device { .. })
    }

    /// Whether everything that was written is where a pass reads it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device cannot be asked.
    pub(super) fn has_arrived(&self) -> Result<bool> {
        match self {
            Self::Host { .. } => Ok(true),
            Self::Device { model, .. } => model.ranks().have_arrived(),
        }
    }

    /// The table of one site and layer, if it is a tensor and any vector made one.
    pub(super) fn tensor(&self, site: Site, layer: usize) -> Option<&Tensor> {
        match self {
            Self::Host { tables, shape, .. } => tables[place(*shape, site, layer)].as_ref(),
            Self::Device { .. } => None,
        }
    }

    /// Where the whole lies on a rank's device, if it does and there is any vector.
    pub(super) fn address(&self, rank: usize) -> Option<Address> {
        match self {
            Self::Host { .. } => None,
            Self::Device { tables, .. } => tables.get(rank).map(Buffer::address),
        }
    }
}

/// A (site, layer) among `[site][layer]`.
fn place(shape: TableShape, site: Site, layer: usize) -> usize {
    site_index(site) * shape.num_layers + layer
}

fn fill_host(
    tables: &mut [Option<Tensor>],
    device: &Device,
    shape: TableShape,
    (slot, site): (usize, Site),
    rows: &[Option<&[f32]>],
) -> Result<()> {
    let TableShape { num_slots, hidden_size, .. } = shape;
    for (layer, _) in rows.iter().enumerate().filter(|(_, row)| row.is_some()) {
        let table = &mut tables[place(shape, site, layer)];
        if table.is_none() {
            *table = Some(Tensor::zeros((num_slots, hidden_size), DType::F32, device)?);
        }
    }
    let zeros = Tensor::zeros((1, hidden_size), DType::F32, device)?;
    for table in tables.iter().flatten() {
        table.slice_set(&zeros, SLOT_DIM, slot)?;
    }
    for (layer, row) in rows.iter().enumerate() {
        if let (Some(row), Some(table)) = (row, &tables[place(shape, site, layer)]) {
            let values = Tensor::from_slice(row, (1, hidden_size), device)?;
            table.slice_set(&values, SLOT_DIM, slot)?;
        }
    }
    Ok(())
}

fn allocate(model: &DeviceModel, shape: TableShape) -> Result<Vec<Buffer>> {
    model.ranks().allocate_zeros(shape.num_bytes())
}

fn fill_device(
    tables: &[Buffer],
    model: &DeviceModel,
    shape: TableShape,
    (slot, site): (usize, Site),
    rows: &[Option<&[f32]>],
) -> Result<()> {
    let TableShape { num_slots, num_layers, hidden_size } = shape;
    // The slot's row of every table, in the order of tables.
    let mut values = vec![0f32; SITES.len() * num_layers * hidden_size];
    for (layer, row) in rows.iter().enumerate() {
        if let Some(row) = row {
            let start = place(shape, site, layer) * hidden_size;
            values[start..start + hidden_size].copy_from_slice(row);
        }
    }
    let row_bytes = hidden_size * size_of::<f32>();
    let rows_of = |table: &Buffer| {
        let first = table.address().add(slot * row_bytes);
        Rows { first, stride: num_slots * row_bytes, row_bytes }
    };
    let rows: Vec<Rows> = tables.iter().map(rows_of).collect();
    model.ranks().upload_beside(&rows, bytemuck::cast_slice(&values))
}
