//! Reading activations out of a forward pass.

use candle_core::Tensor;

use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::steering::Site;

/// On which side of a steering hook at the same site a capture reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// The value the block made, whatever is added to it there.
    #[default]
    BeforeSteering,
    /// The value that goes on.
    AfterSteering,
}

/// Copies chosen rows of chosen layers out of a forward pass, as f32.
///
/// Reads before steering at the same site and layer unless [`Capture::after_steering`] asks
/// otherwise; steering of earlier layers is in the value either way.
#[derive(Debug)]
pub struct Capture {
    site: Site,
    layers: Vec<usize>,
    rows: Vec<usize>,
    when: When,
    captured: Vec<(usize, Vec<f32>)>,
}

impl Capture {
    /// Asks for `rows` (of the packed batch, in the order wanted) at `site` of each of `layers`.
    #[must_use]
    pub fn new(site: Site, layers: Vec<usize>, rows: Vec<usize>) -> Self {
        Self { site, layers, rows, when: When::default(), captured: Vec::new() }
    }

    /// Reads the value after steering at the same site and layer.
    #[must_use]
    pub fn after_steering(self) -> Self {
        Self { when: When::AfterSteering, ..self }
    }

    /// What the last forward pass left, emptying it: (layer, `[rows, hidden_size]` row-major) for
    /// each layer asked for, in ascending order of layers. Empty before the first pass.
    pub fn take(&mut self) -> Vec<(usize, Vec<f32>)> {
        std::mem::take(&mut self.captured)
    }

    /// The last layer that is asked for.
    pub(crate) fn last_layer(&self) -> Option<usize> {
        self.layers.iter().copied().max()
    }

    /// Starts a pass: drops what is left of the one before.
    pub(crate) fn begin(&mut self, config: &LlamaConfig, total_tokens: usize) -> Result<()> {
        if let Some(row) = self.rows.iter().find(|&&row| row >= total_tokens) {
            return Err(Error::Steering(format!("capture of row {row} of {total_tokens} rows")));
        }
        if let Some(layer) = self.layers.iter().find(|&&layer| layer >= config.num_hidden_layers) {
            return Err(Error::Steering(format!(
                "capture in layer {layer} of a model with {} layers",
                config.num_hidden_layers
            )));
        }
        self.captured.clear();
        Ok(())
    }

    /// Copies the rows out if this is the place.
    ///
    /// # Shapes
    /// - `h`: `[total_tokens, hidden_size]`, f32
    pub(crate) fn read(&mut self, site: Site, layer: usize, when: When, h: &Tensor) -> Result<()> {
        if site != self.site || when != self.when || !self.layers.contains(&layer) {
            return Ok(());
        }
        let (_, hidden_size) = h.dims2()?;
        let mut values = Vec::with_capacity(self.rows.len() * hidden_size);
        for &row in &self.rows {
            #[expect(
                clippy::disallowed_methods,
                reason = "handing rows to the host is the purpose"
            )]
            values.extend(h.get(row)?.to_vec1::<f32>()?); // [hidden_size]
        }
        self.captured.push((layer, values));
        Ok(())
    }
}
