//! Products with a GGUF's blocks, by the kernels that candle takes from llama.cpp: rows are rounded to blocks of 8 bits first.
//!
//! They are started here and not through candle's tensors, so that their working memory is ours: candle's own grows and moves,
//! which a recorded step would not notice.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::cuda_backend::kernels::ffi;
use candle_core::quantized::{GgmlDType, QTensor};

use super::failed;
use crate::error::{Error, Result};
use crate::gpu::args::MatmulArgs;

/// Rows up to which the kernel for few rows is used.
const FEW_ROWS: u32 = 8;
/// Numbers that a row is filled up to.
const ROW_PADDING: usize = 512;
/// Bytes of 32 rounded numbers, for few rows (llama.cpp's `block_q8_1`).
const FEW_BLOCK: usize = 36;
/// Bytes of 128 rounded numbers, for many (its `block_q8_1_mmq`).
const MANY_BLOCK: usize = 144;
/// The many-rows kernel reads whole tiles of so many rows.
const TILE: usize = 128;
/// Rounded rows: 4096 of 32768 numbers. More rows are multiplied in parts.
const ROUNDED: usize = 4096 * (32768 / 128) * MANY_BLOCK;
/// Partial tiles of the many-rows kernel, one a multiprocessor.
const MAX_MULTIPROCESSORS: usize = 256;

type FewRows = unsafe extern "C" fn(
    *const c_void,
    *const c_void,
    *mut c_void,
    i32,
    i32,
    i32,
    i32,
    i32,
    *mut c_void,
);
type ManyRows = unsafe extern "C" fn(
    *mut c_void,
    *const c_void,
    *const c_void,
    *mut c_void,
    i64,
    i64,
    i64,
    i64,
    i64,
    i32,
    i32,
    i64,
    i32,
    *mut c_void,
);
type Round = unsafe extern "C" fn(
    *const c_void,
    *const i32,
    *mut c_void,
    i32,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    *mut c_void,
);

/// The kernels of one type of block.
struct Kernels {
    few: FewRows,
    many: ManyRows,
    /// The rounding whose sums the many-rows kernel wants.
    round: Round,
}

/// `None` for types that they do not know.
fn kernels(dtype: GgmlDType) -> Option<Kernels> {
    let (few, many, round): (FewRows, ManyRows, Round) = match dtype {
        GgmlDType::Q4_0 => (
            ffi::launch_mmvq_gguf_q4_0_f32_plain,
            ffi::launch_mmq_gguf_q4_0,
            ffi::launch_mmq_quantize_q8_1_DS4,
        ),
        GgmlDType::Q4_1 => (
            ffi::launch_mmvq_gguf_q4_1_f32_plain,
            ffi::launch_mmq_gguf_q4_1,
            ffi::launch_mmq_quantize_q8_1_DS4,
        ),
        GgmlDType::Q5_0 => (
            ffi::launch_mmvq_gguf_q5_0_f32_plain,
            ffi::launch_mmq_gguf_q5_0,
            ffi::launch_mmq_quantize_q8_1_D4,
        ),
        GgmlDType::Q5_1 => (
            ffi::launch_mmvq_gguf_q5_1_f32_plain,
            ffi::launch_mmq_gguf_q5_1,
            ffi::launch_mmq_quantize_q8_1_DS4,
        ),
        GgmlDType::Q8_0 => (
            ffi::launch_mmvq_gguf_q8_0_f32_plain,
            ffi::launch_mmq_gguf_q8_0,
            ffi::launch_mmq_quantize_q8_1_D4,
        ),
        GgmlDType::Q2K => (
            ffi::launch_mmvq_gguf_q2_k_f32_plain,
            ffi::launch_mmq_gguf_q2_k,
            ffi::launch_mmq_quantize_q8_1_D2S6,
        ),
        GgmlDType::Q3K => (
            ffi::launch_mmvq_gguf_q3_k_f32_plain,
            ffi::launch_mmq_gguf_q3_k,
            ffi::launch_mmq_quantize_q8_1_D4,
        ),
        GgmlDType::Q4K => (
            ffi::launch_mmvq_gguf_q4_k_f32_plain,
            ffi::launch_mmq_gguf_q4_k,
            ffi::launch_mmq_quantize_q8_1_DS4,
        ),
        GgmlDType::Q5K => (
            ffi::launch_mmvq_gguf_q5_k_f32_plain,
            ffi::launch_mmq_gguf_q5_k,
            ffi::launch_mmq_quantize_q8_1_DS4,
        ),
        GgmlDType::Q6K => (
            ffi::launch_mmvq_gguf_q6_k_f32_plain,
            ffi::launch_mmq_gguf_q6_k,
            ffi::launch_mmq_quantize_q8_1_D4,
        ),
        _ => return None,
    };
    Some(Kernels { few, many, round })
}

/// Bytes of a matrix with what the kernels may read beyond its last row: the one for many rows up to 512 numbers, the one for few
/// rows a whole row where their number is odd, since it takes two at a time.
///
/// # Errors
/// [`Error::Device`] for types of block that they do not know.
pub(super) fn padded_bytes(blocks: &QTensor) -> Result<usize> {
    let dtype = blocks.dtype();
    if kernels(dtype).is_none() {
        let reason = format!(
            "no kernel multiplies blocks of {dtype:?}; use a file with Q4, Q5, Q8_0 or K blocks, or run this one on the CPU"
        );
        return Err(Error::Device { device: "cuda".to_owned(), reason });
    }
    let (_, in_features) = blocks.shape().dims2()?;
    let beyond = in_features.max(ROW_PADDING).div_ceil(dtype.block_size()) * dtype.type_size();
    Ok(blocks.storage_size_in_bytes() + beyond)
}

/// Their working memory, and what they ask of the device.
pub(super) struct QuantizedProducts {
    rounded: CudaSlice<u8>,
    partial_tiles: CudaSlice<u8>,
    /// 100 times the major number, and 10 times the minor.
    capability: i32,
    multiprocessors: i32,
    shared_memory: i64,
    warp_size: i32,
}

impl QuantizedProducts {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        let attribute = |attribute| {
            context
                .attribute(attribute)
                .map_err(|error| failed("asking the device what it is", &error))
        };
        let tile_bytes = TILE * TILE * size_of::<f32>();
        Ok(Self {
            rounded: memory(stream, ROUNDED + TILE * MANY_BLOCK)?,
            partial_tiles: memory(stream, MAX_MULTIPROCESSORS * tile_bytes)?,
            capability: 100
                * attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
                + 10 * attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            multiprocessors: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )?,
            shared_memory: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?
            .into(),
            warp_size: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
        })
    }

    /// `out = x @ weight^T`, without the bias.
    ///
    /// # Errors
    /// [`Error::Device`] when rows are wider than their working memory.
    pub(super) fn matmul(
        &self,
        stream: &Arc<CudaStream>,
        args: &MatmulArgs,
        dtype: GgmlDType,
    ) -> Result<()> {
        let kernels = kernels(dtype)
            .ok_or_else(|| failed("a product", &format!("{dtype:?} has no kernel")))?;
        // What failed before is not this product's.
        cudaGetLastError();
        if args.rows <= FEW_ROWS {
            return self.few(stream, args, kernels.few);
        }
        // That kernel writes rows side by side, whatever stride it is told.
        debug_assert_eq!(args.out_stride, args.out_features);
        let row_bytes = padded_width(args).div_ceil(TILE) * MANY_BLOCK;
        let most = u32::try_from(ROUNDED / row_bytes).map_err(candle_core::Error::wrap)?;
        if most == 0 {
            return Err(failed("a product", &format!("rows of {} are too wide", args.in_features)));
        }
        for first in (0..args.rows).step_by(most as usize) {
            let x = args.x.add(first as usize * args.in_features as usize * size_of::<f32>());
            let out = args.out.add(first as usize * args.out_stride as usize * size_of::<f32>());
            let part = MatmulArgs { x, out, rows: most.min(args.rows - first), ..*args };
            self.many(stream, &part, dtype, &kernels)?;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "candle's kernels are C functions")]
    fn few(&self, stream: &Arc<CudaStream>, args: &MatmulArgs, product: FewRows) -> Result<()> {
        let padded = padded_width(args);
        let stream_of = stream.cu_stream().cast::<c_void>();
        let rounded = self.rounded.device_ptr(stream).0 as *mut c_void;
        let (rows, width) = (int(args.rows)?, int(args.in_features)?);
        let padded_int = i32::try_from(padded).map_err(candle_core::Error::wrap)?;
        let blocks_a_row = i32::try_from(padded / 32).map_err(candle_core::Error::wrap)?;
        debug_assert!(padded / 32 * FEW_BLOCK * args.rows as usize <= ROUNDED);
        let (outs, stride) = (int(args.out_features)?, int(args.out_stride)?);
        // SAFETY: the addresses are memory of this device with the shapes that `args` say; `rounded` holds 8 rows of any width
        // that a model has; all is done on the stream, one after the other.
        unsafe {
            ffi::launch_mmvq_gguf_quantize_q8_1_f32(
                args.x.0 as *const c_void,
                rounded,
                width,
                padded_int,
                rows,
                stream_of,
            );
            product(
                args.weight.0 as *const c_void,
                rounded.cast_const(),
                args.out.0 as *mut c_void,
                width,
                outs,
                blocks_a_row,
                stride,
                rows,
                stream_of,
            );
        }
        all_started()
    }

    #[expect(unsafe_code, reason = "candle's kernels are C functions")]
    fn many(
        &self,
        stream: &Arc<CudaStream>,
        args: &MatmulArgs,
        dtype: GgmlDType,
        kernels: &Kernels,
    ) -> Result<()> {
        let stream_of = stream.cu_stream().cast::<c_void>();
        let rounded = self.rounded.device_ptr(stream).0 as *mut c_void;
        let padded = i64::try_from(padded_width(args)).map_err(candle_core::Error::wrap)?;
        let (rows, width) = (i64::from(args.rows), i64::from(args.in_features));
        let block = i64::try_from(dtype.block_size()).map_err(candle_core::Error::wrap)?;
        // SAFETY: as in `few`; `rounded` has room for these rows and a tile, `partial_tiles` for a tile a multiprocessor.
        unsafe {
            (kernels.round)(
                args.x.0 as *const c_void,
                std::ptr::null(),
                rounded,
                0, // f32
                width,
                width,
                0,
                0,
                padded,
                rows,
                1,
                1,
                stream_of,
            );
            (kernels.many)(
                self.partial_tiles.device_ptr(stream).0 as *mut c_void,
                args.weight.0 as *const c_void,
                rounded.cast_const(),
                args.out.0 as *mut c_void,
                width,
                i64::from(args.out_features),
                rows,
                width / block,
                i64::from(args.out_stride),
                self.capability,
                self.multiprocessors,
                self.shared_memory,
                self.warp_size,
                stream_of,
            );
        }
        all_started()
    }
}

#[expect(unsafe_code, reason = "a function of the CUDA runtime, which candle's kernels link")]
unsafe extern "C" {
    /// How the thread's last start of a kernel through the runtime went, and forgets it; 0 where it began.
    safe fn cudaGetLastError() -> i32;
}

/// Whether candle's kernels began: they return nothing.
fn all_started() -> Result<()> {
    match cudaGetLastError() {
        0 => Ok(()),
        code => Err(failed(
            "starting a kernel for quantised products",
            &format!("the CUDA runtime says {code} (`cudaError_t` names it)"),
        )),
    }
}

/// Numbers of a rounded row.
fn padded_width(args: &MatmulArgs) -> usize {
    (args.in_features as usize).next_multiple_of(ROW_PADDING)
}

fn int(value: u32) -> Result<i32> {
    Ok(i32::try_from(value).map_err(candle_core::Error::wrap)?)
}

#[expect(unsafe_code, reason = "memory of the driver is not initialised")]
fn memory(stream: &Arc<CudaStream>, num_bytes: usize) -> Result<CudaSlice<u8>> {
    // SAFETY: bytes of any value are bytes, and the kernels read what they wrote before.
    unsafe { stream.alloc(num_bytes) }
        .map_err(|error| failed("taking working memory for quantised products", &error))
}
