//! Packed products against the portable tile, the unpacked weights and single rows.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::super::cpu::Cpu;
use super::super::cpu::every_cpu;
use super::super::tests::{bits, check_close, cpu, tensor};
use super::super::{composite, swiglu};
use super::activations::QuantizedRows;
use super::layout::PackedBlock;
use super::tile::{MAX_ROWS, TileOut};
use super::*;

const FORMS: [GgmlDType; 3] = [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q8_0];

fn weight(out_features: usize, in_features: usize, dtype: GgmlDType) -> Arc<QTensor> {
    Arc::new(QTensor::quantize(&tensor(out_features, in_features, 0.73), dtype).unwrap())
}

#[test]
fn packing_changes_no_weight() {
    for dtype in FORMS {
        let weight = weight(38, 96, dtype);
        let packed = PackedMatrix::pack(&weight).unwrap();
        let mut rows = Vec::new();
        for column in 0..38 {
            packed.column(column, &mut rows);
        }
        let rows = Tensor::from_vec(rows, (38, 96), &Device::Cpu).unwrap();
        check_close(&rows, &weight.dequantize(&Device::Cpu).unwrap(), 1e-6);
    }
}

/// Rows that 8 bits hold exactly: whole 127ths, with a 1 in each block.
fn exact_rows(num_rows: usize, in_features: usize) -> Tensor {
    let value = |i: usize| match i % BLOCK {
        0 => 1.0,
        _ => ((i as f32 * 0.37).sin() * 127.0).round() / 127.0,
    };
    let values: Vec<f32> = (0..num_rows * in_features).map(value).collect();
    Tensor::from_vec(values, (num_rows, in_features), &Device::Cpu).unwrap()
}

#[test]
fn a_product_is_that_of_the_dequantised_weights() {
    for dtype in FORMS {
        for (num_rows, out_features) in [(1, 38), (2, 16), (3, 64), (4, 5), (141, 38)] {
            let x = exact_rows(num_rows, 160);
            let weight = weight(out_features, 160, dtype);
            let expected =
                composite::matmul(&x, &weight.dequantize(&Device::Cpu).unwrap()).unwrap();
            let found = matmul(&cpu(), &x, &PackedMatrix::pack(&weight).unwrap()).unwrap();
            check_close(&found, &expected, 1e-5);
        }
    }
}

#[test]
fn a_gated_product_is_the_two_products_put_together() {
    for dtype in FORMS {
        let x = tensor(7, 64, 0.37);
        let gate = PackedMatrix::pack(&weight(38, 64, dtype)).unwrap();
        let up = QTensor::quantize(&tensor(38, 64, 0.41), dtype).unwrap();
        let up = PackedMatrix::pack(&up).unwrap();
        let apart =
            swiglu(&cpu(), &matmul(&cpu(), &x, &gate).unwrap(), &matmul(&cpu(), &x, &up).unwrap())
                .unwrap();
        assert_eq!(bits(&swiglu_matmul(&cpu(), &x, &gate, &up).unwrap()), bits(&apart));
    }
}

#[test]
fn stacked_matrices_give_their_products_side_by_side() {
    let x = tensor(3, 64, 0.37);
    let (a, b) = (weight(32, 64, GgmlDType::Q4_1), weight(10, 64, GgmlDType::Q4_1));
    let (a, b) = (PackedMatrix::pack(&a).unwrap(), PackedMatrix::pack(&b).unwrap());
    let stacked = matmul(&cpu(), &x, &PackedMatrix::stack(&[&a, &b]).unwrap()).unwrap();
    let apart = Tensor::cat(&[matmul(&cpu(), &x, &a).unwrap(), matmul(&cpu(), &x, &b).unwrap()], 1)
        .unwrap();
    assert_eq!(bits(&stacked), bits(&apart));
    assert!(PackedMatrix::stack(&[&b, &a]).is_none(), "10 columns leave a panel open");
    let other = PackedMatrix::pack(&weight(16, 64, GgmlDType::Q8_0)).unwrap();
    assert!(PackedMatrix::stack(&[&a, &other]).is_none(), "two forms");
}

/// Rows that reach both ends of 8 bits, and weights at the ends of their ranges.
#[test]
fn every_level_gives_the_portable_bits() {
    fn check<B: TileBlock>(cpu: &Cpu, portable: &Cpu, panel: &[B]) {
        let values: Vec<f32> = (0..MAX_ROWS * 320)
            .map(|i: usize| if i.is_multiple_of(3) { 1.0 } else { (i as f32 * 0.37).sin() })
            .collect();
        for num_rows in 0..=MAX_ROWS {
            let run = |cpu: &Cpu, start: f32| {
                let mut out = [[start; PANEL]; MAX_ROWS];
                let x = &values[..num_rows * 320];
                B::with_rows(cpu, x, 320, |x| B::tile(cpu.level(), x, panel, &mut out));
                out.as_flattened()[..num_rows * PANEL]
                    .iter()
                    .map(|v| v.to_bits())
                    .collect::<Vec<_>>()
            };
            assert_eq!(run(cpu, 1.0), run(portable, 2.0), "{}: {num_rows} rows", cpu.kernels());
        }
    }
    let mut cpus: Vec<Cpu> = every_cpu().collect();
    let portable = cpus.pop().unwrap();
    let dense = |dtype| PackedMatrix::pack_dense(&tensor(16, 320, 0.73).to_dtype(dtype).unwrap());
    let quantized = FORMS.map(|dtype| PackedMatrix::pack(&weight(16, 320, dtype)).unwrap());
    let floats = [DType::F32, DType::F16, DType::BF16].map(|dtype| dense(dtype).unwrap());
    for cpu in &cpus {
        for packed in quantized.iter().chain(&floats) {
            with_blocks!(&packed.panels, blocks => check(cpu, &portable, blocks));
        }
    }
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let x = [1.0; 64]; // quantised to 127 each
    let step = 1.0 / 127.0;
    for cpu in every_cpu() {
        let rows = QuantizedRows::new(&cpu, &x, 64);
        let mut block = Q4Block { q: [[0xff; 64]; 4], ..Q4Block::ZERO };
        block.d = [f16::ONE; PANEL];
        let mut out: TileOut = [[0.0; PANEL]; MAX_ROWS];
        Q4Block::tile(cpu.level(), &[rows.row(0)], &[block, block], &mut out);
        assert!((out[0][3] - 2.0 * 32.0 * 15.0 * 127.0 * step).abs() < 1e-2, "{}", out[0][3]);
        let block = Q8Block { d: [f16::ONE; PANEL], q: [[-128; 64]; 8] };
        Q8Block::tile(cpu.level(), &[rows.row(0)], &[block, block], &mut out);
        assert!((out[0][3] + 2.0 * 32.0 * 128.0 * 127.0 * step).abs() < 1e-1, "{}", out[0][3]);
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let cpu = cpu();
    for dtype in FORMS {
        let weight = PackedMatrix::pack(&weight(48, 512, dtype)).unwrap();
        let x = tensor(135, 512, 0.37);
        let together = matmul(&cpu, &x, &weight).unwrap();
        for row in 0..135 {
            let alone = matmul(&cpu, &x.narrow(0, row, 1).unwrap(), &weight).unwrap();
            assert_eq!(bits(&alone), bits(&together.narrow(0, row, 1).unwrap()), "{dtype:?}");
        }
    }
}
