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
/// otherwise; steering of earlier layers is in the value either way. Several parts can be read in one
/// pass, each with its own site, layers and rows.
#[derive(Debug)]
pub struct Capture {
    parts: Vec<Part>,
    when: When,
}

/// Some rows at some layers of one site.
#[derive(Debug)]
struct Part {
    site: Site,
    layers: Vec<usize>,
    rows: Vec<usize>,
    captured: Vec<(usize, Vec<f32>)>,
}

impl Part {
    fn new(site: Site, layers: Vec<usize>, rows: Vec<usize>) -> Self {
        Self { site, layers, rows, captured: Vec::new() }
    }

    fn reads(&self, site: Site, layer: usize) -> bool {
        self.site == site && self.layers.contains(&layer)
    }
}

impl Capture {
    /// Asks for `rows` (of the packed batch, in the order wanted) at `site` of each of `layers`.
    #[must_use]
    pub fn new(site: Site, layers: Vec<usize>, rows: Vec<usize>) -> Self {
        Self { parts: vec![Part::new(site, layers, rows)], when: When::default() }
    }

    /// Asks for more in the same pass.
    #[must_use]
    pub fn and(mut self, site: Site, layers: Vec<usize>, rows: Vec<usize>) -> Self {
        self.parts.push(Part::new(site, layers, rows));
        self
    }

    /// Reads the value after steering at the same site and layer.
    #[must_use]
    pub fn after_steering(self) -> Self {
        Self { when: When::AfterSteering, ..self }
    }

    /// What the last forward pass left of the first part, emptying it: (layer, `[rows, hidden_size]` row-major) for
    /// each layer asked for, in ascending order of layers. Empty before the first pass.
    pub fn take(&mut self) -> Vec<(usize, Vec<f32>)> {
        self.parts.first_mut().map(|part| std::mem::take(&mut part.captured)).unwrap_or_default()
    }

    /// What the last forward pass left of every part, in the order asked, as [`Self::take`] gives the first.
    pub fn take_all(&mut self) -> Vec<Vec<(usize, Vec<f32>)>> {
        self.parts.iter_mut().map(|part| std::mem::take(&mut part.captured)).collect()
    }

    /// What is asked for, part by part: site, layers and rows.
    pub(crate) fn asked(&self) -> impl Iterator<Item = (Site, &[usize], &[usize])> {
        self.parts.iter().map(|part| (part.site, part.layers.as_slice(), part.rows.as_slice()))
    }

    /// Whether values are read after steering.
    pub(crate) fn reads_after(&self) -> bool {
        self.when == When::AfterSteering
    }

    /// Takes what a device captured of each part, as [`Self::take`] gives it.
    pub(crate) fn put(&mut self, captured: Vec<Vec<(usize, Vec<f32>)>>) {
        for (part, captured) in self.parts.iter_mut().zip(captured) {
            part.captured = captured;
        }
    }

    /// The last layer that is asked for.
    pub(crate) fn last_layer(&self) -> Option<usize> {
        self.parts.iter().flat_map(|part| &part.layers).copied().max()
    }

    /// Whether anything is read there.
    pub(super) fn reads(&self, site: Site, layer: usize) -> bool {
        self.parts.iter().any(|part| part.reads(site, layer))
    }

    /// Starts a pass: drops what is left of the one before.
    pub(crate) fn begin(&mut self, config: &LlamaConfig, total_tokens: usize) -> Result<()> {
        for part in &mut self.parts {
            if let Some(row) = part.rows.iter().find(|&&row| row >= total_tokens) {
                return Err(Error::Steering(format!(
                    "capture of row {row} of {total_tokens} rows"
                )));
            }
            let num_layers = config.num_hidden_layers;
            if let Some(layer) = part.layers.iter().find(|&&layer| layer >= num_layers) {
                return Err(Error::Steering(format!(
                    "capture in layer {layer} of a model with {num_layers} layers"
                )));
            }
            part.captured.clear();
        }
        Ok(())
    }

    /// Copies the rows out if this is the place.
    ///
    /// # Shapes
    /// - `h`: `[total_tokens, hidden_size]`, f32
    pub(crate) fn read(&mut self, site: Site, layer: usize, when: When, h: &Tensor) -> Result<()> {
        if when != self.when {
            return Ok(());
        }
        let (_, hidden_size) = h.dims2()?;
        for part in self.parts.iter_mut().filter(|part| part.reads(site, layer)) {
            let mut values = Vec::with_capacity(part.rows.len() * hidden_size);
            // One copy for rows that lie side by side.
            for rows in part.rows.chunk_by(|row, next| row + 1 == *next) {
                let rows = h.narrow(0, rows[0], rows.len())?.flatten_all()?;
                #[expect(
                    clippy::disallowed_methods,
                    reason = "handing rows to the host is the purpose"
                )]
                values.extend(rows.to_vec1::<f32>()?);
            }
            part.captured.push((layer, values));
        }
        Ok(())
    }
}
