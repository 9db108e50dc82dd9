//! Kernels against their composites, and tiles against single rows.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::composite;
use super::cpu::every_cpu;
use super::elementwise::rope_in_place;
use super::*;
use crate::steering::Operator;

/// Values in -1..1 that differ from place to place.
pub(super) fn tensor(rows: usize, cols: usize, seed: f32) -> Tensor {
    let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * seed).sin()).collect();
    Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
}

/// The fastest kernels this processor runs.
pub(super) fn cpu() -> Cpu {
    Cpu::new(CpuOptions::default()).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "tests look at values")]
fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

pub(super) fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

/// Largest difference, against the largest value of `expected`.
pub(super) fn check_close(found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.shape(), expected.shape());
    let (found, expected) = (values(found), values(expected));
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    for (idx, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= tolerance * largest, "value {idx}: {found}, not {expected}");
    }
}

#[test]
fn dense_matmul_equals_its_composite() {
    for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 2e-3), (DType::BF16, 2e-2)] {
        for (num_rows, in_features, out_features) in [(1, 64, 5), (7, 40, 33), (9, 67, 70)] {
            let x = tensor(num_rows, in_features, 0.37);
            let weight = tensor(out_features, in_features, 0.73).to_dtype(dtype).unwrap();
            let expected = composite::matmul(&x, &weight).unwrap();
            let packed = PackedMatrix::pack_dense(&weight).unwrap();
            for cpu in every_cpu() {
                check_close(&matmul_packed(&cpu, &x, &packed).unwrap(), &expected, tolerance);
            }
        }
    }
}

#[test]
fn quantized_matmul_equals_the_product_with_dequantised_weights() {
    use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for dtype in [Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0] {
        let x = tensor(5, 512, 0.37);
        let weight = QTensor::quantize(&tensor(38, 512, 0.73), dtype).unwrap();
        let expected = composite::matmul(&x, &weight.dequantize(&Device::Cpu).unwrap()).unwrap();
        let found = matmul_quantized(&cpu(), &x, &weight).unwrap();
        // The rows of x are rounded to 8 bits.
        check_close(&found, &expected, 2e-2);
    }
}

#[test]
fn a_row_of_a_product_does_not_depend_on_its_company() {
    let dense = PackedMatrix::pack_dense(&tensor(45, 512, 0.73)).unwrap();
    let cpu = cpu();
    for dtype in [GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q6K] {
        // 48 x 512 is a shape for which candle's own product takes repacked tiles.
        let weight = Arc::new(QTensor::quantize(&tensor(48, 512, 0.73), dtype).unwrap());
        let x = tensor(19, 512, 0.37);
        let together = matmul_quantized(&cpu, &x, &weight).unwrap();
        let together_dense = matmul_packed(&cpu, &x, &dense).unwrap();
        for row in 0..19 {
            let alone = x.narrow(0, row, 1).unwrap();
            let quantized = matmul_quantized(&cpu, &alone, &weight).unwrap();
            assert_eq!(bits(&quantized), bits(&together.narrow(0, row, 1).unwrap()), "{dtype:?}");
            let alone = matmul_packed(&cpu, &alone, &dense).unwrap();
            assert_eq!(bits(&alone), bits(&together_dense.narrow(0, row, 1).unwrap()));
        }
    }
}

#[test]
fn rms_norm_equals_its_composite() {
    let (x, weight) = (tensor(5, 70, 0.37), tensor(1, 70, 0.9).flatten_all().unwrap());
    let expected = composite::rms_norm(&x, &weight, 1e-5).unwrap();
    for cpu in every_cpu() {
        check_close(&rms_norm(&cpu, &x, &weight, 1e-5).unwrap(), &expected, 1e-6);
    }
}

#[test]
fn rope_equals_its_composite_and_leaves_the_rest_of_a_row() {
    let (x, cos, sin) = (tensor(5, 48, 0.37), tensor(5, 8, 0.5), tensor(5, 8, 0.6));
    let rest = x.narrow(1, 32, 16).unwrap().contiguous().unwrap();
    let heads = x.narrow(1, 0, 32).unwrap().contiguous().unwrap();
    let expected = composite::rope(&heads, &cos, &sin).unwrap();
    rope_in_place(&cpu(), &x, &cos, &sin, 32).unwrap();
    check_close(&x.narrow(1, 0, 32).unwrap(), &expected, 1e-6);
    assert_eq!(bits(&x.narrow(1, 32, 16).unwrap()), bits(&rest));
}

#[test]
fn swiglu_equals_its_composite() {
    let gate = (tensor(5, 70, 0.37) * 30.0).unwrap();
    let up = tensor(5, 70, 0.9);
    let expected = composite::swiglu(&gate, &up).unwrap();
    for cpu in every_cpu() {
        check_close(&swiglu(&cpu, &gate, &up).unwrap(), &expected, 1e-6);
    }
}

#[test]
fn the_residual_sum_equals_candles() {
    let (x, y) = (tensor(5, 70, 0.37), tensor(5, 70, 0.9));
    assert_eq!(bits(&add(&x, &y).unwrap()), bits(&(&x + &y).unwrap()));
    assert!(add(&x, &tensor(4, 70, 0.9)).is_err());
}

#[test]
fn steering_equals_its_composite() {
    let table = tensor(4, 70, 0.9);
    let steered = |row, slot, strength, operator| SteerRow { row, slot, strength, operator };
    let rows = [
        steered(0, 2, 1.5, Operator::Add),
        steered(2, 1, -0.7, Operator::AddNormRestored),
        steered(3, 3, 1.0, Operator::ProjectOut),
        steered(5, 2, 0.5, Operator::Add),
        steered(6, 1, 2.0, Operator::ProjectOut),
    ];
    let (found, expected) = (tensor(8, 70, 0.37), tensor(8, 70, 0.37));
    let norms = steer(&cpu(), &found, &table, &rows).unwrap();
    composite::steer(&expected, &table, &rows).unwrap();
    check_close(&found, &expected, 1e-5);
    assert_eq!(norms.len(), rows.len());
    for row in [1, 4, 7] {
        let before = tensor(8, 70, 0.37).get(row).unwrap();
        assert_eq!(bits(&found.get(row).unwrap()), bits(&before), "row {row} is not steered");
    }
}

#[test]
fn steering_within_the_sum_equals_steering_and_then_the_sum() {
    let (cpu, x, table) = (cpu(), tensor(8, 70, 0.61), tensor(4, 70, 0.9));
    let operators = [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut];
    let steered =
        |(idx, operator)| SteerRow { row: 2 * idx, slot: idx + 1, strength: 0.7, operator };
    let rows: Vec<SteerRow> = operators.into_iter().enumerate().map(steered).collect();
    let apart = tensor(8, 70, 0.37);
    let expected_norms = steer(&cpu, &apart, &table, &rows).unwrap();
    let expected = add(&x, &apart).unwrap();
    let h = tensor(8, 70, 0.37);
    let (found, norms) = add_steered(&cpu, &x, &h, &table, &rows).unwrap();
    assert_eq!(bits(&found), bits(&expected));
    assert_eq!(norms, expected_norms);
    assert_eq!(bits(&h), bits(&tensor(8, 70, 0.37)), "h is not changed");
    assert!(add_steered(&cpu, &tensor(7, 70, 0.6), &h, &table, &rows).is_err());
}

#[test]
fn a_zero_vector_cannot_be_projected_out_and_changes_nothing() {
    let (h, table) = (tensor(1, 70, 0.37), tensor(2, 70, 0.0));
    let row = SteerRow { row: 0, slot: 1, strength: 1.0, operator: Operator::ProjectOut };
    steer(&cpu(), &h, &table, &[row]).unwrap();
    assert_eq!(bits(&h), bits(&tensor(1, 70, 0.37)));
}

/// What a test of one level shows, it shows of all.
#[test]
fn every_level_gives_the_portable_bits() {
    let run = |cpu: &Cpu| {
        let (x, weight) = (tensor(19, 70, 0.37), tensor(1, 70, 0.9).flatten_all().unwrap());
        let rotated = tensor(5, 48, 0.37);
        rope_in_place(cpu, &rotated, &tensor(5, 8, 0.5), &tensor(5, 8, 0.6), 32).unwrap();
        let steered = tensor(3, 70, 0.37);
        let operators = [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut];
        let rows: Vec<SteerRow> = operators
            .into_iter()
            .enumerate()
            .map(|(row, operator)| SteerRow { row, slot: 1, strength: 0.7, operator })
            .collect();
        steer(cpu, &steered, &tensor(2, 70, 0.9), &rows).unwrap();
        let normed = rms_norm(cpu, &x, &weight, 1e-5).unwrap();
        let gated = swiglu(cpu, &x, &tensor(19, 70, 0.8)).unwrap();
        [rotated, steered, normed, gated].map(|tensor| bits(&tensor))
    };
    let mut cpus: Vec<Cpu> = every_cpu().collect();
    let portable = run(&cpus.pop().unwrap());
    for cpu in cpus {
        assert_eq!(run(&cpu), portable, "{}", cpu.kernels());
    }
}
