//! Products that end with SwiGLU against the two operations that they stand for: bit for bit, since both round once.

use super::support::{
    Draw, bits, get_floats, index, kernel_ops, kernel_ops_with, poisoned, put_floats,
};
use crate::gpu::GpuOptions;
use crate::gpu::args::{MatmulArgs, SwigluArgs};
use crate::gpu::memory::{Address, Element, MatrixForm};
use crate::gpu::ops::DeviceOps;

const HALVES: [Element; 2] = [Element::F16, Element::Bf16];

/// Rows, `in_features`, and features of gates.
type Shape = [usize; 3];

/// What both ways leave of random numbers, `None` where the device does not do it at once.
fn both(
    device: &mut dyn DeviceOps,
    element: Element,
    [rows, in_features, width]: Shape,
) -> Option<[Vec<f32>; 2]> {
    let mut draw = Draw::new(11);
    let stacked = 2 * width;
    let args = MatmulArgs {
        x: put_floats(device, element, &draw.floats(rows * in_features)),
        weight: put_floats(device, element, &draw.floats(stacked * in_features)),
        bias: Address::NONE,
        out: poisoned(device, element, rows * width),
        rows: index(rows),
        in_features: index(in_features),
        out_features: index(stacked),
        out_stride: index(width),
    };
    let form = MatrixForm::Dense(element);
    let is_done = device.gated_matmul(&args, form, element).unwrap();
    let at_once = get_floats(device, element, args.out, rows * width);
    if !is_done {
        assert!(at_once.iter().all(|value| value.is_nan()), "something was done");
        return None;
    }
    let gate = poisoned(device, Element::F32, rows * stacked);
    device.matmul(&MatmulArgs { out: gate, out_stride: index(stacked), ..args }, form).unwrap();
    let swiglu = SwigluArgs {
        gate,
        up: gate.add(width * size_of::<f32>()),
        activated: poisoned(device, element, rows * width),
        rows: index(rows),
        width: index(width),
        stride: index(stacked),
        padding: 0,
    };
    device.swiglu(&swiglu, element).unwrap();
    Some([at_once, get_floats(device, element, swiglu.activated, rows * width)])
}

fn check(device: &mut dyn DeviceOps, element: Element, shape: Shape) {
    let [found, expected] = both(device, element, shape).expect("the kernel takes it");
    assert!(expected.iter().all(|value| value.is_finite()), "{element:?}, {shape:?}");
    assert_eq!(bits(&found), bits(&expected), "{element:?}, {shape:?}");
}

#[test]
fn a_gated_product_is_the_product_and_then_swiglu() {
    let Some(mut device) = kernel_ops() else { return };
    for element in HALVES {
        for rows in [1, 7, 9, 17, 25, 32] {
            // Tiles that are full, that are not, and an odd width.
            for (in_features, width) in [(64, 8), (96, 20), (1000, 37)] {
                check(&mut *device, element, [rows, in_features, width]);
            }
        }
    }
}

/// Where there are many features, tiles are wider.
#[test]
fn many_gates_are_no_matter() {
    let Some(mut device) = kernel_ops() else { return };
    for (rows, width) in [(3, 4250), (8, 8450), (16, 8450), (20, 3100), (32, 3100)] {
        check(&mut *device, Element::Bf16, [rows, 40, width]);
    }
}

/// Also when the same rows are fewer: each way has the bits of a row alone.
#[test]
fn many_rows_are_taken_where_their_bits_must_not_depend_on_each_other() {
    let Some(mut device) = kernel_ops() else { return };
    assert_eq!(both(&mut *device, Element::Bf16, [40, 64, 20]), None, "a library is faster");
    let options = GpuOptions { batch_invariant: true, ..GpuOptions::default() };
    let Some(mut device) = kernel_ops_with(options) else { return };
    check(&mut *device, Element::Bf16, [40, 64, 20]);
}

#[test]
fn what_no_kernel_does_at_once_is_left_alone() {
    let Some(mut device) = kernel_ops() else { return };
    assert_eq!(both(&mut *device, Element::F32, [3, 64, 20]), None);
    assert_eq!(both(&mut *device, Element::F16, [3, 63, 20]), None);
}
