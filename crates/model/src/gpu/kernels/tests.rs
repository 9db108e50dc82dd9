//! What an operation is done by, as the options say; without anything that runs it.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::*;
use crate::engine::EngineConfig;
use crate::testing::{RandomWeights, random_llama_into, tiny_config};

/// Notes what it is asked for.
#[derive(Default)]
struct Noted {
    kernels: Vec<&'static str>,
    num_library_products: usize,
    free_bytes: Option<u64>,
}

impl Launcher for Noted {
    fn allocate(&mut self, num_bytes: usize) -> Result<Buffer> {
        Ok(Buffer::new(Address(256), num_bytes, None))
    }

    fn free_bytes(&mut self) -> Result<Option<u64>> {
        Ok(self.free_bytes)
    }

    fn clear(&mut self, _buffer: &Buffer) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, _to: Address, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&mut self, _from: Address, _bytes: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn quantized_matrix(&mut self, blocks: &QTensor) -> Result<(Buffer, MatrixForm)> {
        Ok((Buffer::new(Address(256), 1, None), MatrixForm::Quantized(blocks.dtype())))
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<()> {
        self.kernels.push(launch.kernel);
        Ok(())
    }

    fn matmul(&mut self, _args: &MatmulArgs, _weight: MatrixForm) -> Result<()> {
        self.num_library_products += 1;
        Ok(())
    }

    fn all_reduce(&mut self, _args: &AllReduceArgs) -> Result<()> {
        Ok(())
    }
}

fn ops(options: GpuOptions) -> KernelOps<Noted> {
    KernelOps::new(Noted::default(), options)
}

fn invariant() -> GpuOptions {
    GpuOptions { batch_invariant: true, ..GpuOptions::default() }
}

fn product(rows: u32) -> MatmulArgs {
    MatmulArgs {
        x: Address(256),
        weight: Address(512),
        bias: Address::NONE,
        out: Address(768),
        rows,
        in_features: 64,
        out_features: 64,
        out_stride: 64,
    }
}

#[test]
fn batch_invariant_products_are_never_a_librarys() {
    for element in [Element::F32, Element::F16, Element::Bf16] {
        for rows in [1, SKINNY_ROWS, SKINNY_ROWS + 1, 2048] {
            let (args, form) = (product(rows), MatrixForm::Dense(element));
            let mut invariant = ops(invariant());
            invariant.matmul(&args, form).unwrap();
            let found = (invariant.launcher.kernels.len(), invariant.launcher.num_library_products);
            assert_eq!(found, (1, 0), "{element:?}, {rows} rows");
            let mut default = ops(GpuOptions::default());
            default.matmul(&args, form).unwrap();
            let is_wide = usize::from(rows > SKINNY_ROWS);
            assert_eq!(default.launcher.num_library_products, is_wide, "{element:?}, {rows} rows");
        }
    }
}

#[test]
fn batch_invariance_refuses_blocks_and_says_what_to_do() {
    let numbers = Tensor::zeros((32, 32), DType::F32, &Device::Cpu).unwrap();
    let blocks = Arc::new(QTensor::quantize(&numbers, GgmlDType::Q4_1).unwrap());
    let said = ops(invariant()).matrix(Weight::Quantized(blocks.clone())).unwrap_err().to_string();
    for part in ["batch invariance", "Q4_1", "`weights` to `f32`", "bf16"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(ops(invariant()).matrix(Weight::Dense(numbers)).is_ok());
    assert!(ops(GpuOptions::default()).matrix(Weight::Quantized(blocks)).is_ok());
}

#[test]
fn without_graphs_every_run_asks_for_its_operations_and_nothing_is_recorded() {
    for (cuda_graphs, recorded_runs) in [(true, 3), (false, 0)] {
        let mut ops = ops(GpuOptions { cuda_graphs, ..GpuOptions::default() });
        let mut recorded = Recorded::default();
        for _ in 0..3 {
            let pass =
                |ops: &mut dyn DeviceOps| ops.matmul(&product(1), MatrixForm::Dense(Element::F32));
            ops.run(&mut recorded, &pass).unwrap();
        }
        assert_eq!(ops.launcher.kernels.len(), 3);
        assert_eq!(recorded.num_runs, recorded_runs);
    }
}

#[test]
fn an_engines_cache_is_fitted_to_what_the_models_device_has_left() {
    let fitted = |free_bytes, batch_invariant| {
        let launcher = Noted { free_bytes, ..Noted::default() };
        let options = GpuOptions { batch_invariant, ..GpuOptions::default() };
        let ops = Box::new(KernelOps::new(launcher, options));
        let form = RandomWeights::Dense(DType::F32);
        let llama = random_llama_into(tiny_config(), 1, form, crate::gpu::Ranks::one(ops)).unwrap();
        let engine = EngineConfig { max_num_seqs: 3, ..EngineConfig::on_gpu() };
        engine.with_fitting_cache(&llama).map(|engine| engine.kv_cache_tokens)
    };
    assert_eq!(fitted(None, false).unwrap(), EngineConfig::default().kv_cache_tokens);
    assert_eq!(fitted(Some(1 << 30), false).unwrap(), 3 * tiny_config().max_position_embeddings);
    assert!(matches!(fitted(Some(1 << 20), false), Err(Error::Device { .. })));
    // Room for the steps, but not where each of a prompt's rows leaves partial results.
    assert_eq!(fitted(Some(11 << 20), false).unwrap(), 3 * tiny_config().max_position_embeddings);
    assert!(matches!(fitted(Some(11 << 20), true), Err(Error::Device { .. })));
}
