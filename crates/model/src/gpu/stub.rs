//! A device that computes nothing, for tests of what happens around its work: it tells of everything that is asked of it, and each
//! number that is copied from it is 1.

use candle_core::Tensor;

use super::args::{
    AddNormArgs, AllReduceArgs, AttentionArgs, EmbedArgs, GatherArgs, MatmulArgs, RopeCacheArgs,
    SampleArgs, SwigluArgs,
};
use super::memory::{Address, Buffer, Element, MatrixForm};
use super::ops::{DeviceOps, Read};
use super::recorded::Recorded;
use crate::error::Result;
use crate::llama::Weight;

/// What is asked of a device in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A copy of the step's input.
    Input,
    /// An operation of the pass.
    Operation,
    /// A copy of results, which waits for them.
    Results,
}

/// The device; what `told` returns of something that is asked, it returns.
pub(crate) struct StubOps<F> {
    told: F,
    num_allocated: u64,
}

impl<F> StubOps<F> {
    pub(crate) fn new(told: F) -> Self {
        Self { told, num_allocated: 0 }
    }
}

impl<F: FnMut(Asked) -> Result<()> + Send> DeviceOps for StubOps<F> {
    /// Addresses of which no two allocations share one.
    fn allocate(&mut self, num_bytes: usize) -> Result<Buffer> {
        self.num_allocated += 1;
        Ok(Buffer::new(Address(self.num_allocated << 40), num_bytes, None))
    }

    fn clear(&mut self, _: &Buffer) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, _: Address, _: &[u8]) -> Result<()> {
        (self.told)(Asked::Input)
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.download_all(&mut [(from, bytes)])
    }

    fn download_all(&mut self, reads: &mut [Read<'_>]) -> Result<()> {
        for (_, bytes) in reads {
            bytes.chunks_exact_mut(4).for_each(|number| number.copy_from_slice(&[1, 0, 0, 0]));
        }
        (self.told)(Asked::Results)
    }

    fn run(
        &mut self,
        _: &mut Recorded,
        pass: &dyn Fn(&mut dyn DeviceOps) -> Result<()>,
    ) -> Result<()> {
        pass(self)
    }

    fn matrix(&mut self, _: Weight) -> Result<(Buffer, MatrixForm)> {
        Ok((self.allocate(0)?, MatrixForm::Dense(Element::F32)))
    }

    fn vector(&mut self, _: &Tensor) -> Result<Buffer> {
        self.allocate(0)
    }

    fn embedding(&mut self, _: Weight) -> Result<(Buffer, Element)> {
        Ok((self.allocate(0)?, Element::F32))
    }

    fn embed(&mut self, _: &EmbedArgs, _: Element) -> Result<()> {
        (self.told)(Asked::Operation)
    }

    fn add_norm(&mut self, _: &AddNormArgs, _: Element) -> Result<()> {
        (self.told)(Asked::Operation)
    }

    fn rope_cache(&mut self, _: &RopeCacheArgs, _: Element) -> Result<()> {
        (self.told)(Asked::Operation)
    }

    fn attention(&mut self, _: &AttentionArgs, _: Element, _: Element) -> Result<()> {
        (self.told)(Asked::Operation)
    }

    fn swiglu(&mut self, _: &SwigluArgs, _: Element) -> Result<()> {
        (self.told)(Asked::Operation)
    }

    fn gather(&mut self, _: &GatherArgs, _: Element) -> Result<()> {
        (self.told)(Asked::Operation)
    }

    fn matmul(&mut self, _: &MatmulArgs, _: MatrixForm) -> Result<()> {
        (self.told)(Asked::Operation)
    }

    fn sample(&mut self, _: &SampleArgs) -> Result<()> {
        (self.told)(Asked::Operation)
    }

    fn all_reduce(&mut self, _: &AllReduceArgs) -> Result<()> {
        Ok(())
    }
}
