//! Wide products by cuBLAS: 16-bit or f32 numbers in, f32 out, f32 sums.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cublas::{CudaBlas, result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::failed;
use crate::error::Result;
use crate::gpu::args::MatmulArgs;
use crate::gpu::memory::Element;

/// What cuBLAS asks for on Hopper (its documentation of `cublasSetWorkspace`). Our own, so that no product takes memory.
const WORKSPACE: usize = 32 << 20;

/// cuBLAS on one stream.
pub(super) struct Products {
    blas: CudaBlas,
    _workspace: CudaSlice<u8>,
}

impl Products {
    #[expect(unsafe_code, reason = "cuBLAS is lent memory")]
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let blas =
            CudaBlas::new(stream.clone()).map_err(|error| failed("starting cuBLAS", &error))?;
        // SAFETY: cuBLAS reads nothing of its workspace that it did not write.
        let workspace: CudaSlice<u8> = unsafe { stream.alloc(WORKSPACE) }
            .map_err(|error| failed("taking memory for cuBLAS", &error))?;
        let place = workspace.device_ptr(stream).0 as *mut c_void;
        // SAFETY: the workspace lives as long as the handle: `self` drops the handle first, in the order of its fields.
        unsafe { sys::cublasSetWorkspace_v2(*blas.handle(), place, WORKSPACE) }
            .result()
            .map_err(|error| failed("lending cuBLAS memory", &error))?;
        Ok(Self { blas, _workspace: workspace })
    }

    /// `out = x @ weight^T`, without the bias.
    #[expect(unsafe_code, reason = "cuBLAS is handed addresses")]
    pub(super) fn matmul(&self, args: &MatmulArgs, element: Element) -> Result<()> {
        let dim = |value: u32| i32::try_from(value).map_err(candle_core::Error::wrap);
        let (rows, inner, outer) =
            (dim(args.rows)?, dim(args.in_features)?, dim(args.out_features)?);
        let out_stride = dim(args.out_stride)?;
        let of = match element {
            Element::F32 => sys::cudaDataType::CUDA_R_32F,
            Element::F16 => sys::cudaDataType::CUDA_R_16F,
            Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        let (one, zero) = (1f32, 0f32);
        // cuBLAS counts by columns: its matrices are our rows, so out^T = weight @ x^T.
        // SAFETY: the addresses are memory of this device with the shapes and the type that `args` say ([`MatmulArgs`]), and
        // live until the step's end; alpha and beta are read before the call returns.
        unsafe {
            result::gemm_ex(
                *self.blas.handle(),
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                outer,
                rows,
                inner,
                (&raw const one).cast(),
                args.weight.0 as *const c_void,
                of,
                inner,
                args.x.0 as *const c_void,
                of,
                inner,
                (&raw const zero).cast(),
                args.out.0 as *mut c_void,
                sys::cudaDataType::CUDA_R_32F,
                out_stride,
                // f32 sums; f32 inputs are not rounded to TF32 unless the math mode asks for it.
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|error| failed("a product by cuBLAS", &error))
    }
}
