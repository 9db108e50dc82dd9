//! Embedding, SwiGLU, gather and products on the host.

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};

use super::random_step::{RandomStep, SeqShape, StepShape, VOCAB_SIZE};
use super::support::{
    Draw, ELEMENTS, bits, check_close, get, get_floats, index, poisoned, put, put_floats, rounded,
    to_f32, tolerance, values,
};
use crate::gpu::args::{AllReduceArgs, EmbedArgs, GatherArgs, MatmulArgs, SwigluArgs};
use crate::gpu::host::HostOps;
use crate::gpu::memory::{Address, Element, MatrixForm};
use crate::gpu::ops::DeviceOps;
use crate::kernels::{self, Cpu, CpuOptions};

const ROWS: [usize; 4] = [1, 2, 7, 33];
const WIDTHS: [usize; 3] = [64, 96, 130];

fn step(draw: &mut Draw, rows: usize, hidden: usize) -> RandomStep {
    let seqs = [SeqShape { first_position: 0, len: rows, decodes: false }];
    RandomStep::new(draw, StepShape { seqs: &seqs, padding_rows: 2, block_size: 16, hidden })
}

fn each_shape(mut check: impl FnMut(&mut Draw, Element, usize, usize)) {
    for (seed, element) in (0..).zip(ELEMENTS) {
        for rows in ROWS {
            for width in WIDTHS {
                check(&mut Draw::new(seed), element, rows, width);
            }
        }
    }
}

#[test]
fn embedding_takes_rows_of_the_table_and_forgets_earlier_norms() {
    each_shape(|draw, element, rows, hidden| {
        let mut device = HostOps::default();
        let step = step(draw, rows, hidden);
        let rows = step.num_rows();
        let table = draw.floats(VOCAB_SIZE * hidden);
        let on_device = step.put(&mut device);
        let args = EmbedArgs {
            step: on_device.header,
            table: put_floats(&mut device, element, &table),
            x: poisoned(&mut device, Element::F32, rows * hidden),
            rows: index(rows),
            hidden: index(hidden),
        };
        device.embed(&args, element).unwrap();
        let table = rounded(element, &table);
        let expected: Vec<f32> = step
            .token_ids
            .iter()
            .flat_map(|id| table[*id as usize * hidden..][..hidden].to_vec())
            .collect();
        assert_eq!(bits(&get(&mut device, args.x, rows * hidden)), bits(&expected));
        let norms: Vec<f32> = get(&mut device, on_device.relative_norms, rows);
        assert_eq!(bits(&norms), vec![0; rows]);
    });
}

#[test]
fn swiglu_equals_the_cpus() {
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    each_shape(|draw, element, rows, width| {
        let mut device = HostOps::default();
        // Gate and up side by side, as one product leaves them, and two numbers more.
        let stride = 2 * width + 2;
        let both: Vec<f32> = draw.floats(rows * stride).iter().map(|value| value * 20.0).collect();
        let gate = put(&mut device, &both);
        let args = SwigluArgs {
            gate,
            up: gate.add(4 * width),
            activated: poisoned(&mut device, element, rows * width),
            rows: index(rows),
            width: index(width),
            stride: index(stride),
            padding: 0,
        };
        device.swiglu(&args, element).unwrap();
        let part = |first: usize| {
            let tensor = Tensor::from_vec(both.clone(), (rows, stride), &Device::Cpu).unwrap();
            tensor.narrow(1, first, width).unwrap().contiguous().unwrap()
        };
        let expected = values(&kernels::swiglu(&cpu, &part(0), &part(width)).unwrap());
        let found = get_floats(&mut device, element, args.activated, rows * width);
        check_close(&found, &expected, tolerance(element), "swiglu");
    });
}

#[test]
fn gathered_rows_keep_their_bits() {
    each_shape(|draw, element, rows, hidden| {
        let mut device = HostOps::default();
        let step = step(draw, rows, hidden);
        let from = draw.floats(step.num_rows() * hidden);
        let len = step.logit_rows.len();
        let args = GatherArgs {
            step: step.put(&mut device).header,
            from: put_floats(&mut device, element, &from),
            to: poisoned(&mut device, element, len * hidden),
            logit_rows: index(len),
            hidden: index(hidden),
        };
        device.gather(&args, element).unwrap();
        let from = rounded(element, &from);
        let wanted = step.logit_rows.iter();
        let expected: Vec<f32> =
            wanted.flat_map(|row| from[*row as usize * hidden..][..hidden].to_vec()).collect();
        let found = get_floats(&mut device, element, args.to, len * hidden);
        assert_eq!(bits(&found), bits(&expected));
    });
}

#[test]
fn a_product_is_the_sum_of_rounded_numbers_and_leaves_the_rest_of_a_row() {
    each_shape(|draw, element, rows, in_features| {
        for with_bias in [false, true] {
            let mut device = HostOps::default();
            let (out_features, out_stride) = (37, 40);
            let x = rounded(element, &draw.floats(rows * in_features));
            let weight = rounded(element, &draw.floats(out_features * in_features));
            let bias = draw.floats(out_features);
            let args = MatmulArgs {
                x: put_floats(&mut device, element, &x),
                weight: put_floats(&mut device, element, &weight),
                bias: if with_bias { put(&mut device, &bias) } else { Address::NONE },
                out: poisoned(&mut device, Element::F32, rows * out_stride),
                rows: index(rows),
                in_features: index(in_features),
                out_features: index(out_features),
                out_stride: index(out_stride),
            };
            device.matmul(&args, MatrixForm::Dense(element)).unwrap();
            let expected: Vec<f32> = (0..rows * out_stride)
                .map(|place| (place / out_stride, place % out_stride))
                .map(|(row, column)| {
                    if column >= out_features {
                        return f32::NAN;
                    }
                    let x = &x[row * in_features..][..in_features];
                    let weight = &weight[column * in_features..][..in_features];
                    let bias = if with_bias { bias[column] } else { 0.0 };
                    to_f32(dot(x, weight) + f64::from(bias))
                })
                .collect();
            let found: Vec<f32> = get(&mut device, args.out, rows * out_stride);
            // Sums are f32, whatever the inputs.
            check_close(&found, &expected, tolerance(Element::F32), "product");
        }
    });
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut device = HostOps::default();
    let x = put(&mut device, &[1f32; 8]);
    let args = MatmulArgs {
        x,
        weight: x,
        bias: Address::NONE,
        out: poisoned(&mut device, Element::F32, 4),
        rows: 2,
        in_features: 4,
        out_features: 2,
        out_stride: 2,
    };
    let f32s = MatrixForm::Dense(Element::F32);
    device.matmul(&args, f32s).unwrap();
    assert!(device.matmul(&args, MatrixForm::Quantized(GgmlDType::Q8_0)).is_err());
    for wrong in [
        MatmulArgs { rows: 3, ..args },
        MatmulArgs { in_features: 0, ..args },
        MatmulArgs { out_stride: 1, ..args },
        MatmulArgs { weight: Address::NONE, ..args },
    ] {
        assert!(device.matmul(&wrong, f32s).is_err(), "{wrong:?}");
    }
}

#[test]
fn one_rank_has_the_sum_already() {
    let mut device = HostOps::default();
    let values = put(&mut device, &[1f32, 2.0]);
    device.all_reduce(&AllReduceArgs { values, num_values: 2 }).unwrap();
    assert_eq!(bits(&get(&mut device, values, 2)), bits(&[1.0, 2.0]));
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
