//! What tests of any device's operations share: random numbers, arrays on a device, and how close is close enough.

use bytemuck::Pod;
use candle_core::Tensor;
use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::gpu::GpuOptions;
use crate::gpu::emulated::Emulator;
use crate::gpu::memory::{Address, Element};
use crate::gpu::ops::DeviceOps;

/// Every type of number.
pub(super) const ELEMENTS: [Element; 3] = [Element::F32, Element::F16, Element::Bf16];

/// The types of which products go to the matrix units.
pub(super) const HALVES: [Element; 2] = [Element::F16, Element::Bf16];

/// How far results of a type may be off, against the largest of what was expected: some roundings of f32 sums, or one
/// rounding to the type (half a unit in the last place is 2^-11 and 2^-8) beside them.
pub(super) fn tolerance(element: Element) -> f32 {
    match element {
        Element::F32 => 1e-5,
        Element::F16 => 6e-4,
        Element::Bf16 => 5e-3,
    }
}

/// A device whose operations are the kernels: a GPU where this build has CUDA and there is one, else the emulator; `None` where
/// there is neither, with a line that says so.
pub(super) fn kernel_ops() -> Option<Box<dyn DeviceOps>> {
    kernel_ops_with(GpuOptions::default())
}

/// [`kernel_ops`], used in a way of one's own.
pub(super) fn kernel_ops_with(options: GpuOptions) -> Option<Box<dyn DeviceOps>> {
    #[cfg(feature = "cuda")]
    if let Ok(opened) = crate::DeviceChoice::Cuda(0).open() {
        let ranks = crate::gpu::open(&[opened.device], options).expect("a GPU that was opened");
        return ranks.and_then(|mut ranks| ranks.ops.pop());
    }
    Some(Box::new(Emulator::ops_with(options)?))
}

/// How far a kernel's results may be from the host's, against the largest of those: both are rounded to the type, perhaps to
/// different sides of the exact result.
pub(super) fn kernel_tolerance(element: Element) -> f32 {
    match element {
        Element::F32 => 1e-5,
        Element::F16 => 2e-3,
        Element::Bf16 => 2e-2,
    }
}

/// Seeded chance, the same on every platform.
pub(super) struct Draw(ChaCha8Rng);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u64() % end as u64).unwrap()
    }

    /// [`Self::below`] as an index of a kernel.
    pub(super) fn index(&mut self, end: usize) -> u32 {
        u32::try_from(self.below(end)).unwrap()
    }

    /// Numbers in -1..1.
    pub(super) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.index(1 << 24) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// `0..len` in any order.
    pub(super) fn shuffled(&mut self, len: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..u32::try_from(len).unwrap()).collect();
        for last in (1..len).rev() {
            let other = self.below(last + 1);
            all.swap(last, other);
        }
        all
    }
}

/// A number as kernels take it.
pub(super) fn index(value: usize) -> u32 {
    u32::try_from(value).unwrap()
}

#[expect(clippy::cast_possible_truncation, reason = "rounds once")]
pub(super) fn to_f32(value: f64) -> f32 {
    value as f32
}

/// The numbers of a tensor, row by row.
#[expect(clippy::disallowed_methods, reason = "tests look at values")]
pub(super) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

/// An array on the device.
pub(super) fn put<T: Pod>(device: &mut dyn DeviceOps, values: &[T]) -> Address {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = device.allocate(bytes.len()).unwrap();
    device.upload(buffer.address(), bytes).unwrap();
    // Kept for as long as the process: a test that gives memory back holds buffers itself.
    Box::leak(Box::new(buffer)).address()
}

/// What lies there.
pub(super) fn get<T: Pod>(device: &mut dyn DeviceOps, from: Address, len: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); len];
    device.download(from, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

/// Room for so many numbers of a type, all of them NaN.
pub(super) fn poisoned(device: &mut dyn DeviceOps, element: Element, len: usize) -> Address {
    put(device, &vec![0xFF_u8; len * element.size()])
}

/// Numbers on the device, rounded to a type.
pub(super) fn put_floats(device: &mut dyn DeviceOps, element: Element, values: &[f32]) -> Address {
    match element {
        Element::F32 => put(device, values),
        _ => put(device, &half_bits(element, values)),
    }
}

/// Numbers of a type that lie there.
pub(super) fn get_floats(
    device: &mut dyn DeviceOps,
    element: Element,
    from: Address,
    len: usize,
) -> Vec<f32> {
    match element {
        Element::F32 => get(device, from, len),
        Element::F16 => get::<u16>(device, from, len)
            .into_iter()
            .map(|bits| f16::from_bits(bits).to_f32())
            .collect(),
        Element::Bf16 => get::<u16>(device, from, len)
            .into_iter()
            .map(|bits| bf16::from_bits(bits).to_f32())
            .collect(),
    }
}

/// The nearest numbers of a type.
pub(super) fn rounded(element: Element, values: &[f32]) -> Vec<f32> {
    let round = |value: &f32| match element {
        Element::F32 => *value,
        Element::F16 => f16::from_f32(*value).to_f32(),
        Element::Bf16 => bf16::from_f32(*value).to_f32(),
    };
    values.iter().map(round).collect()
}

fn half_bits(element: Element, values: &[f32]) -> Vec<u16> {
    let bits = |value: &f32| match element {
        Element::Bf16 => bf16::from_f32(*value).to_bits(),
        _ => f16::from_f32(*value).to_bits(),
    };
    values.iter().map(bits).collect()
}

/// NaN of any bits is one.
pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |value: &f32| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
    values.iter().map(bits).collect()
}

/// Whether values are those expected, NaN where NaN is expected and nowhere else.
#[track_caller]
pub(super) fn check_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let finite = expected.iter().filter(|value| !value.is_nan());
    let largest = finite.fold(0f32, |largest, value| largest.max(value.abs()));
    for (idx, (found, expected)) in found.iter().zip(expected).enumerate() {
        let is_close = (found - expected).abs() <= tolerance * largest;
        assert!(
            is_close || found.is_nan() && expected.is_nan(),
            "{what}: value {idx} is {found}, not {expected}"
        );
    }
}
