//! The resident tables that steering gathers from, and who owns which slot.

use candle_core::Tensor;

use super::fingerprint::{RowId, SteeringId};
use super::table_store::{TableShape, TableStore};
use super::{Registering, Site, SlotLease, SteeringPlan, SteeringVector};
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::gpu::Address;
use crate::llama::Llama;

/// A row for each slot, site and layer, where the model runs.
///
/// Slot 0 means "not steered": it holds nothing and is never read.
#[derive(Debug)]
pub struct SteeringTables {
    store: TableStore,
    /// `[num_slots]`: what each slot holds.
    slots: Vec<Slot>,
    /// The clones that keep slots taken until nobody else has one.
    leases: Vec<SlotLease>,
    hidden_size: usize,
    num_hidden_layers: usize,
}

/// What one slot holds.
#[derive(Debug, Clone)]
enum Slot {
    Free,
    /// For a vector that is not written yet.
    Reserved,
    /// A vector: `[num_hidden_layers]`, what the row of each layer is, where it has one.
    Taken {
        site: Site,
        rows: Vec<Option<RowId>>,
    },
}

impl SteeringTables {
    /// Empty tables for `num_slots` slots, slot 0 included; no memory is taken yet. With 0 or 1,
    /// nothing can be registered.
    #[must_use]
    pub fn new(llama: &Llama, num_slots: usize) -> Self {
        let config = llama.config();
        let (num_layers, hidden_size) = (config.num_hidden_layers, config.hidden_size);
        let shape = TableShape { num_slots, num_layers, hidden_size };
        let store = match llama.device_model() {
            Some(model) => TableStore::on_device(shape, model.clone()),
            None => TableStore::on_host(shape, llama.device()),
        };
        Self {
            store,
            slots: vec![Slot::Free; num_slots],
            leases: Vec::new(),
            hidden_size,
            num_hidden_layers: num_layers,
        }
    }

    /// Bytes that tables of so many slots take of a device, slot 0 included.
    pub(crate) fn num_bytes_on_device(config: &LlamaConfig, num_slots: usize) -> usize {
        let (num_layers, hidden_size) = (config.num_hidden_layers, config.hidden_size);
        TableShape { num_slots, num_layers, hidden_size }.num_bytes()
    }

    /// Puts each vector into a slot of its own, after freeing the slots nobody holds any more.
    ///
    /// # Errors
    /// [`Error::Steering`] when a vector has no layer, a layer twice or outside the model, a row of
    /// another width or with a value that is not finite, or when there are fewer free slots than
    /// vectors. Nothing is registered then.
    pub fn register(&mut self, vectors: &[SteeringVector]) -> Result<SlotLease> {
        let mut registering = self.begin(vectors.to_vec())?;
        while !self.go_on(&mut registering)? {}
        Ok(registering.lease().clone())
    }

    /// Takes a slot for each vector, after freeing the slots nobody holds any more; no row is written yet.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn begin(&mut self, vectors: Vec<SteeringVector>) -> Result<Registering> {
        for (idx, vector) in vectors.iter().enumerate() {
            self.check_vector(vector)
                .map_err(|reason| Error::Steering(format!("vector {idx}: {reason}")))?;
        }
        self.free_unheld();
        let free: Vec<usize> = self.free_slots().take(vectors.len()).collect();
        if free.len() < vectors.len() {
            return Err(Error::Steering(format!(
                "{} vectors need a slot each and {} of {} are free; give the engine more \
                 steering slots, or wait until requests of an earlier generation end",
                vectors.len(),
                free.len(),
                self.slots.len().saturating_sub(1)
            )));
        }
        let slots = free.iter().map(|&slot| slot_id(slot)).collect::<Result<Vec<u32>>>()?;
        for &slot in &free {
            self.slots[slot] = Slot::Reserved;
        }
        let lease = SlotLease::new(slots);
        self.leases.push(lease.clone());
        Ok(Registering::new(vectors, lease))
    }

    /// Writes the next vector's rows beside whatever runs, or all where that takes no time; true when all are where a pass reads them. What waits for the device
    /// does not wait here: it is asked again.
    ///
    /// # Errors
    /// [`Error::Tensor`] or [`Error::Device`] when the rows cannot be written.
    pub fn go_on(&mut self, registering: &mut Registering) -> Result<bool> {
        while let Some((slot, vector)) = registering.next() {
            self.fill(slot as usize, vector)?;
            if self.store.is_far() {
                break;
            }
        }
        Ok(registering.is_written() && self.store.has_arrived()?)
    }

    /// Slots that a registration could use.
    #[must_use]
    pub fn num_free_slots(&self) -> usize {
        let unheld: usize =
            self.leases.iter().filter(|lease| lease.is_last()).map(|l| l.slots().len()).sum();
        self.free_slots().count() + unheld
    }

    /// Checks that a plan fits: one slot a layer, each of `lease` or 0, filled for that site and
    /// layer, and a finite strength.
    ///
    /// # Errors
    /// [`Error::Steering`] naming the layer and slot that do not fit.
    pub fn check_plan(&self, plan: &SteeringPlan, lease: &SlotLease) -> Result<()> {
        self.check_plan_rows(plan)?;
        for (layer, &slot) in plan.slot_by_layer.iter().enumerate() {
            if slot != 0 && !lease.slots().contains(&slot) {
                return Err(Error::Steering(format!(
                    "layer {layer} uses slot {slot}, which is not among the lease's {:?}",
                    lease.slots()
                )));
            }
        }
        Ok(())
    }

    /// [`Self::check_plan`] without the lease: what a forward pass can see.
    pub(crate) fn check_plan_rows(&self, plan: &SteeringPlan) -> Result<()> {
        if plan.slot_by_layer.len() != self.num_hidden_layers {
            return Err(Error::Steering(format!(
                "a plan for {} layers on a model with {}",
                plan.slot_by_layer.len(),
                self.num_hidden_layers
            )));
        }
        if !plan.strength.is_finite() {
            return Err(Error::Steering(format!("strength {} is not finite", plan.strength)));
        }
        for (layer, &slot) in plan.slot_by_layer.iter().enumerate().filter(|(_, slot)| **slot != 0)
        {
            let fits = match self.slots.get(slot as usize) {
                Some(Slot::Taken { site, rows }) => *site == plan.site && rows[layer].is_some(),
                Some(Slot::Free | Slot::Reserved) | None => false,
            };
            if !fits {
                return Err(Error::Steering(format!(
                    "slot {slot} holds no {:?} vector for layer {layer}",
                    plan.site
                )));
            }
        }
        Ok(())
    }

    /// What a plan that fits ([`Self::check_plan`]) does to the rows it covers; `None` where it does
    /// nothing. Slots do not matter, what lies in them does: it is the same for the same vector in another
    /// generation, and another for another vector in the same slot.
    pub(crate) fn steering_id(&self, plan: &SteeringPlan) -> Option<SteeringId> {
        let row_of = |(layer, &slot): (usize, &u32)| match self.slots.get(slot as usize)? {
            Slot::Taken { rows, .. } => Some((layer, rows[layer]?)),
            Slot::Free | Slot::Reserved => None,
        };
        let rows = plan.slot_by_layer.iter().enumerate().filter_map(row_of);
        plan.acts().then(|| SteeringId::of(plan.site, plan.operator, plan.strength, rows))
    }

    /// The table of one site and layer, `[num_slots, hidden_size]`, if it is a tensor and any vector made one.
    pub(crate) fn table(&self, site: Site, layer: usize) -> Option<&Tensor> {
        self.store.tensor(site, layer)
    }

    /// Where the table lies on a rank's device, if it does and any vector was registered.
    pub(crate) fn on_device(&self, rank: usize) -> Option<Address> {
        self.store.address(rank)
    }

    /// Whether `values`, `[hidden_size]`, are those that were registered for a slot, site and layer.
    pub(crate) fn is_registered(
        &self,
        (site, layer): (Site, usize),
        slot: usize,
        values: &[f32],
    ) -> bool {
        match self.slots.get(slot) {
            Some(Slot::Taken { site: of, rows }) => {
                *of == site && rows[layer] == Some(RowId::of(values))
            }
            Some(Slot::Free | Slot::Reserved) | None => false,
        }
    }

    /// Slots, 0 included.
    pub(crate) fn num_slots(&self) -> usize {
        self.slots.len()
    }

    /// Width of the rows.
    pub(crate) fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn free_slots(&self) -> impl Iterator<Item = usize> + '_ {
        (1..self.slots.len()).filter(|&slot| matches!(self.slots[slot], Slot::Free))
    }

    /// Frees the slots of leases that only these tables hold.
    fn free_unheld(&mut self) {
        for lease in self.leases.extract_if(.., |lease| lease.is_last()) {
            for &slot in lease.slots() {
                self.slots[slot as usize] = Slot::Free;
            }
        }
    }

    fn check_vector(&self, vector: &SteeringVector) -> Result<(), String> {
        if vector.layers.is_empty() {
            return Err("it has no layer".to_owned());
        }
        let mut seen = vec![false; self.num_hidden_layers];
        for row in &vector.layers {
            let Some(seen) = seen.get_mut(row.layer) else {
                return Err(format!(
                    "layer {} of a model with {} layers",
                    row.layer, self.num_hidden_layers
                ));
            };
            if std::mem::replace(seen, true) {
                return Err(format!("layer {} is there twice", row.layer));
            }
            if row.values.len() != self.hidden_size {
                return Err(format!(
                    "layer {}: {} values where the model's hidden size is {}",
                    row.layer,
                    row.values.len(),
                    self.hidden_size
                ));
            }
            if let Some(idx) = row.values.iter().position(|value| !value.is_finite()) {
                return Err(format!(
                    "layer {}: value {idx} is {}; all must be finite",
                    row.layer, row.values[idx]
                ));
            }
        }
        Ok(())
    }

    /// Writes a vector's rows into `slot`; nothing of a former vector stays.
    fn fill(&mut self, slot: usize, vector: &SteeringVector) -> Result<()> {
        let mut values = vec![None; self.num_hidden_layers];
        for row in &vector.layers {
            values[row.layer] = Some(row.values.as_slice());
        }
        self.store.fill(slot, vector.site, &values)?;
        let rows = values.iter().map(|row| row.map(RowId::of)).collect();
        self.slots[slot] = Slot::Taken { site: vector.site, rows };
        Ok(())
    }
}

fn slot_id(slot: usize) -> Result<u32> {
    u32::try_from(slot).map_err(|_| Error::Steering(format!("slot {slot} does not fit 32 bits")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::LayerVector;
    use crate::testing::{RandomWeights, random_llama, tiny_config};

    #[test]
    fn a_slot_taken_again_keeps_no_row_of_its_former_vector() {
        let form = RandomWeights::Dense(candle_core::DType::F32);
        let llama = random_llama(tiny_config(), 1, form).unwrap();
        let mut tables = SteeringTables::new(&llama, 2);
        let vector = |layers: &[usize]| SteeringVector {
            site: Site::AttnOut,
            layers: layers
                .iter()
                .map(|&layer| LayerVector { layer, values: vec![1.5; 64] })
                .collect(),
        };
        drop(tables.register(&[vector(&[0, 1])]).unwrap());
        tables.register(&[vector(&[1])]).unwrap();
        let sum = |layer: usize| {
            let table = tables.table(Site::AttnOut, layer).unwrap();
            #[expect(clippy::disallowed_methods, reason = "a test looks at values")]
            table.sum_all().unwrap().to_scalar::<f32>().unwrap()
        };
        assert_eq!((sum(0).to_bits(), sum(1).to_bits()), (0, 96f32.to_bits()));
    }
}
