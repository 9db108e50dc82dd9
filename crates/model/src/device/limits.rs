//! What a device can do at most, measured: how fast memory is copied, and how fast matrices are multiplied.
//!
//! A forward pass is bound by one of the two. Both are measured in the process that measures the pass, by the library that the
//! pass would use: a limit from a data sheet is of another clock, and often of another unit.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

/// Equal runs of one piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedRuns {
    /// What was done, for a table.
    pub what: String,
    /// Bytes or floating-point operations of one run.
    pub amount: f64,
    /// What each run took, to the end of the device's work.
    pub seconds: Vec<f64>,
}

/// How much is done in one run. A run is long against what starts it and waits for it.
#[derive(Debug, Clone, Copy)]
struct Size {
    copied_bytes: usize,
    copies: usize,
    matrix_dim: usize,
    matrix_dtype: DType,
    products: usize,
}

impl Size {
    fn of(device: &Device) -> Self {
        if device.is_cpu() {
            let (copied_bytes, matrix_dtype) = (64 << 20, DType::F32);
            Self { copied_bytes, copies: 2, matrix_dim: 512, matrix_dtype, products: 2 }
        } else {
            let (copied_bytes, matrix_dtype) = (1 << 30, DType::BF16);
            Self { copied_bytes, copies: 100, matrix_dim: 8192, matrix_dtype, products: 20 }
        }
    }
}

/// Copies within the device's memory, `runs` times after one to warm up. Bytes read and bytes written both count.
///
/// Into new memory and into memory that is there are both tried, and the faster counts: the driver's copy is the former on a
/// GPU, and on a CPU the latter finds its pages.
///
/// # Errors
/// [`crate::Error::Tensor`] when the device has no room or a copy fails.
pub fn time_copies(device: &Device, runs: usize) -> Result<TimedRuns> {
    const WORD_BYTES: usize = 8;
    const ROW_DIM: usize = 0;
    let Size { copied_bytes, copies, .. } = Size::of(device);
    let from = Tensor::ones(copied_bytes / WORD_BYTES, DType::F64, device)?; // [copied_words]
    let to = from.zeros_like()?; // [copied_words]
    let to_new = time(device, runs, || {
        for _ in 0..copies {
            drop(from.copy()?);
        }
        Ok(())
    })?;
    let to_old =
        time(device, runs, || (0..copies).try_for_each(|_| Ok(to.slice_set(&from, ROW_DIM, 0)?)))?;
    let least = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let seconds = if least(&to_new) < least(&to_old) { to_new } else { to_old };
    let megabytes = copied_bytes >> 20;
    Ok(TimedRuns {
        what: format!("{copies} copies of {megabytes} MiB within the device's memory"),
        amount: (2 * copies * copied_bytes) as f64,
        seconds,
    })
}

/// Products of two square matrices of random numbers (zeros are faster, since they take less power), the second one transposed
/// as weights are; `runs` times after one to warm up.
///
/// # Errors
/// [`crate::Error::Tensor`] when the device has no room or a product fails.
pub fn time_products(device: &Device, runs: usize) -> Result<TimedRuns> {
    let Size { matrix_dim, matrix_dtype, products, .. } = Size::of(device);
    let matrix =
        || Tensor::randn(0_f32, 1_f32, (matrix_dim, matrix_dim), device)?.to_dtype(matrix_dtype);
    let (x, weight) = (matrix()?, matrix()?); // [matrix_dim, matrix_dim]
    let weight = weight.t()?;
    let seconds = time(device, runs, || {
        for _ in 0..products {
            drop(x.matmul(&weight)?); // [matrix_dim, matrix_dim]
        }
        Ok(())
    })?;
    let dtype = matrix_dtype.as_str();
    Ok(TimedRuns {
        what: format!("{products} products of {dtype} matrices {matrix_dim}x{matrix_dim}"),
        amount: 2.0 * (matrix_dim as f64).powi(3) * products as f64,
        seconds,
    })
}

/// What each of `runs` runs took, after one that does not count.
fn time(device: &Device, runs: usize, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut timed = || {
        device.synchronize()?;
        let started = Instant::now();
        run()?;
        device.synchronize()?;
        Ok(started.elapsed().as_secs_f64())
    };
    timed()?;
    (0..runs).map(|_| timed()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_this_processor_are_measured_as_often_as_asked() {
        // 2 runs of 2 copies of 64 MiB, read and written; 2 products of 2 * 512^3 operations.
        let copies = time_copies(&Device::Cpu, 2).unwrap();
        let products = time_products(&Device::Cpu, 3).unwrap();
        assert_eq!((copies.amount.to_bits(), copies.seconds.len()), (268_435_456_f64.to_bits(), 2));
        let operations = 536_870_912_f64;
        assert_eq!((products.amount.to_bits(), products.seconds.len()), (operations.to_bits(), 3));
        for seconds in copies.seconds.iter().chain(&products.seconds) {
            assert!(*seconds > 0.0);
        }
    }
}
