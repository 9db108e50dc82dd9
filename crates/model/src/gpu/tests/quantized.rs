//! Products with a GGUF's blocks, of every type that the kernels know, against products with the numbers that the blocks hold.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::support::{
    Draw, check_close, get, index, kernel_ops, poisoned, put, put_floats, values,
};
use crate::gpu::args::MatmulArgs;
use crate::gpu::memory::{Element, MatrixForm};
use crate::llama::Weight;

const TYPES: [GgmlDType; 10] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];
/// Two of the largest blocks.
const IN_FEATURES: usize = 512;
/// No multiple of a tile.
const OUT_FEATURES: usize = 40;

/// Rows of each of a GPU's two kernels, up to where they meet; many are slow under the emulator.
const ROWS: [usize; 4] = [1, 8, 9, if cfg!(feature = "cuda") { 128 } else { 20 }];

/// `[rows][OUT_FEATURES]`, each sum rounded once.
#[expect(clippy::cast_possible_truncation, reason = "the one rounding")]
fn expected(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let of_row = |x: &[f32]| -> Vec<f32> {
        let features = weight.chunks_exact(IN_FEATURES).zip(bias);
        let sum = |(weight, bias): (&[f32], &f32)| {
            let products = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w));
            (products.sum::<f64>() + f64::from(*bias)) as f32
        };
        features.map(sum).collect()
    };
    x.chunks_exact(IN_FEATURES).flat_map(of_row).collect()
}

#[test]
fn products_with_blocks_are_near_those_with_the_numbers_they_hold() {
    let Some(mut device) = kernel_ops() else { return };
    let mut draw = Draw::new(3);
    for dtype in TYPES {
        let numbers = draw.floats(OUT_FEATURES * IN_FEATURES);
        let numbers = Tensor::from_vec(numbers, (OUT_FEATURES, IN_FEATURES), &Device::Cpu).unwrap();
        let blocks = QTensor::quantize(&numbers, dtype).unwrap();
        let weight = values(&blocks.dequantize(&Device::Cpu).unwrap());
        let (buffer, form) = device.matrix(Weight::Quantized(Arc::new(blocks))).unwrap();
        // Rows are rounded to blocks of 8 bits first.
        let tolerance = if matches!(form, MatrixForm::Quantized(_)) { 3e-2 } else { 1e-5 };
        let bias = draw.floats(OUT_FEATURES);
        for rows in ROWS {
            let x = draw.floats(rows * IN_FEATURES);
            let args = MatmulArgs {
                x: put_floats(&mut *device, Element::F32, &x),
                weight: buffer.address(),
                bias: put(&mut *device, &bias),
                out: poisoned(&mut *device, Element::F32, rows * OUT_FEATURES),
                rows: index(rows),
                in_features: index(IN_FEATURES),
                out_features: index(OUT_FEATURES),
                out_stride: index(OUT_FEATURES),
            };
            device.matmul(&args, form).unwrap();
            let found: Vec<f32> = get(&mut *device, args.out, rows * OUT_FEATURES);
            let what = format!("{dtype:?}, {rows} rows");
            check_close(&found, &expected(&x, &weight, &bias), tolerance, &what);
        }
    }
}
