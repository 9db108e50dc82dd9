//! Places in a block where the residual stream is read and changed.
//!
//! A forward pass calls each site once a layer. What cannot be applied (a row outside the batch, a
//! slot that holds no vector for the layer) fails the pass before any arithmetic; nothing is
//! skipped in silence.

mod capture;
mod projection;
mod steer;

pub use capture::{Capture, When};
pub use projection::{ProjectionFinding, ProjectionProbe, ProjectionSample};
pub use steer::SteerRows;

use candle_core::Tensor;

use crate::config::LlamaConfig;
use crate::error::Result;
use crate::kernels::{self, Cpu};
use crate::steering::Site;
use projection::Before;

/// What is hooked into one forward pass.
#[derive(Debug)]
pub struct Hooks<'a> {
    /// Rows to be changed.
    pub steer: Option<SteerRows<'a>>,
    /// Rows to be copied out.
    pub capture: Option<&'a mut Capture>,
}

impl Hooks<'_> {
    /// No hook.
    #[must_use]
    pub fn none() -> Self {
        Self { steer: None, capture: None }
    }

    /// Checks that every hook can be applied to a batch of `total_tokens` rows.
    pub(crate) fn begin(&mut self, config: &LlamaConfig, total_tokens: usize) -> Result<()> {
        if let Some(steer) = &mut self.steer {
            steer.begin(config, total_tokens)?;
        }
        if let Some(capture) = &mut self.capture {
            capture.begin(config, total_tokens)?;
        }
        Ok(())
    }

    /// Runs the hooks of one site and layer on `h` and returns what goes on.
    ///
    /// # Shapes
    /// - `h`, returns: `[total_tokens, hidden_size]`, f32; nobody else may hold `h`'s storage, it is
    ///   changed in place
    pub(crate) fn at(&mut self, cpu: &Cpu, site: Site, layer: usize, h: Tensor) -> Result<Tensor> {
        let before = self.before((site, layer), &h, None)?;
        let h = self.change(cpu, site, layer, h)?;
        self.after(before.as_ref(), &h)?;
        Ok(h)
    }

    /// [`at`](Self::at) without the probe.
    fn change(&mut self, cpu: &Cpu, site: Site, layer: usize, h: Tensor) -> Result<Tensor> {
        if let Some(capture) = &mut self.capture {
            capture.read(site, layer, When::BeforeSteering, &h)?;
        }
        if let Some(steer) = &mut self.steer {
            steer.apply(cpu, site, layer, &h)?;
        }
        if let Some(capture) = &mut self.capture {
            capture.read(site, layer, When::AfterSteering, &h)?;
        }
        Ok(h)
    }

    /// Asks for what [`add`](Self::add) will read; changes nothing.
    pub(crate) fn prefetch(&mut self, site: Site, layer: usize) {
        if let Some(steer) = &mut self.steer {
            steer.prefetch(site, layer);
        }
    }

    /// `x + h` after the hooks of one site and layer: the residual sum.
    ///
    /// # Shapes
    /// - `x`, `h`, returns: `[total_tokens, hidden_size]`, f32; nobody else may hold `h`'s storage
    pub(crate) fn add(
        &mut self,
        cpu: &Cpu,
        (site, layer): (Site, usize),
        x: &Tensor,
        h: Tensor,
    ) -> Result<Tensor> {
        let before = self.before((site, layer), &h, Some(x))?;
        let is_read = self.capture.as_ref().is_some_and(|capture| capture.reads(site, layer));
        let sum = match &mut self.steer {
            // Nobody looks at the site itself.
            Some(steer) if !is_read => steer.add(cpu, (site, layer), x, &h)?,
            _ => kernels::add(x, &self.change(cpu, site, layer, h)?)?,
        };
        self.after(before.as_ref(), &sum)?;
        Ok(sum)
    }

    /// Reads the row that the probe chooses at a place, if there is a probe and a steered row; `x` is what is added
    /// to `h`.
    fn before(
        &mut self,
        place: (Site, usize),
        h: &Tensor,
        x: Option<&Tensor>,
    ) -> Result<Option<Before>> {
        self.steer.as_mut().map_or(Ok(None), |steer| steer.before(place, h, x))
    }

    /// Compares it with what goes on.
    fn after(&mut self, before: Option<&Before>, h: &Tensor) -> Result<()> {
        match (&mut self.steer, before) {
            (Some(steer), Some(before)) => steer.after(before, h),
            _ => Ok(()),
        }
    }
}
