//! Products that end with SwiGLU against the two operations that they stand for: bit for bit, since both round once.

use super::support::{
    Draw, HALVES, bits, get_floats, index, kernel_ops, kernel_ops_with, poisoned, put_floats,
};
use crate::gpu::GpuOptions;
use crate::gpu::args::{MatmulArgs, SwigluArgs};
use crate::gpu::memory::{Address, Element, MatrixForm};
use crate::gpu::ops::DeviceOps;

/// Rows, `in_features`, and features of gates.
type Shape = [usize; 3];

/// Columns of what SwiGLU leaves, behind a row's features.
const GAP: usize = 3;

/// Random numbers, and what is asked of them.
struct Gated {
    element: Element,
    in_features: usize,
    width: usize,
    /// `[rows][in_features]`.
    x: Vec<f32>,
    /// `[2 * width][in_features]`.
    weight: Vec<f32>,
}

impl Gated {
    fn new(element: Element, [rows, in_features, width]: Shape) -> Self {
        let mut draw = Draw::new(11);
        let x = draw.floats(rows * in_features);
        Self { element, in_features, width, x, weight: draw.floats(2 * width * in_features) }
    }

    fn num_rows(&self) -> usize {
        self.x.len() / self.in_features
    }

    /// A product with both halves, of which nothing is where it goes.
    fn args(&self, device: &mut dyn DeviceOps) -> MatmulArgs {
        MatmulArgs {
            x: put_floats(device, self.element, &self.x),
            weight: put_floats(device, self.element, &self.weight),
            bias: Address::NONE,
            out: Address::NONE,
            rows: index(self.num_rows()),
            in_features: index(self.in_features),
            out_features: index(2 * self.width),
            out_stride: index(2 * self.width),
        }
    }

    /// In one operation, `None` where the device has none. Checks that nothing but the features is written, and nothing at all
    /// where there is none.
    fn at_once(&self, device: &mut dyn DeviceOps) -> Option<Vec<f32>> {
        let out_stride = self.width + GAP;
        let len = self.num_rows() * out_stride;
        let out = poisoned(device, self.element, len);
        let args = MatmulArgs { out, out_stride: index(out_stride), ..self.args(device) };
        let is_done =
            device.gated_matmul(&args, MatrixForm::Dense(self.element), self.element).unwrap();
        let found = get_floats(device, self.element, out, len);
        let rows = found.chunks_exact(out_stride).map(|row| row.split_at(self.width));
        for (features, gap) in rows.clone() {
            assert!(gap.iter().all(|value| value.is_nan()), "{gap:?}");
            assert!(is_done || features.iter().all(|value| value.is_nan()), "something was done");
        }
        is_done.then(|| rows.flat_map(|(features, _)| features.to_vec()).collect())
    }

    /// By the two operations.
    fn one_by_one(&self, device: &mut dyn DeviceOps) -> Vec<f32> {
        let (rows, width) = (self.num_rows(), self.width);
        let gate = poisoned(device, Element::F32, rows * 2 * width);
        let args = MatmulArgs { out: gate, ..self.args(device) };
        device.matmul(&args, MatrixForm::Dense(self.element)).unwrap();
        let swiglu = SwigluArgs {
            gate,
            up: gate.add(width * size_of::<f32>()),
            activated: poisoned(device, self.element, rows * width),
            rows: index(rows),
            width: index(width),
            stride: args.out_stride,
            padding: 0,
        };
        device.swiglu(&swiglu, self.element).unwrap();
        get_floats(device, self.element, swiglu.activated, rows * width)
    }
}

fn check(device: &mut dyn DeviceOps, element: Element, shape: Shape) {
    let product = Gated::new(element, shape);
    let found = product.at_once(device).expect("the kernel takes it");
    let expected = product.one_by_one(device);
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

#[test]
fn many_rows_are_taken_where_their_bits_must_not_depend_on_each_other() {
    let Some(mut device) = kernel_ops() else { return };
    let many = [40, 64, 20];
    let found = Gated::new(Element::Bf16, many).at_once(&mut *device);
    assert_eq!(found, None, "a library is faster");
    let Some(mut device) = batch_invariant() else { return };
    check(&mut *device, Element::Bf16, many);
}

#[test]
fn a_gated_row_has_the_same_bits_in_any_company() {
    let Some(mut device) = batch_invariant() else { return };
    for element in HALVES {
        let (in_features, width) = (1000, 36);
        let all = Gated::new(element, [70, in_features, width]);
        let expected = all.at_once(&mut *device).expect("the kernel takes many rows");
        for (first, rows) in [(0, 1), (31, 1), (69, 1), (3, 8), (5, 13), (40, 24), (17, 32)] {
            let x = all.x[first * in_features..][..rows * in_features].to_vec();
            let some = Gated { x, weight: all.weight.clone(), ..all };
            let found = some.at_once(&mut *device).expect("the kernel takes few rows");
            let expected = &expected[first * width..][..rows * width];
            assert_eq!(bits(&found), bits(expected), "{element:?}, {rows} rows");
        }
    }
}

fn batch_invariant() -> Option<Box<dyn DeviceOps>> {
    kernel_ops_with(GpuOptions { batch_invariant: true, ..GpuOptions::default() })
}

#[test]
fn what_no_kernel_does_at_once_is_left_alone() {
    let Some(mut device) = kernel_ops() else { return };
    assert_eq!(Gated::new(Element::F32, [3, 64, 20]).at_once(&mut *device), None);
    assert_eq!(Gated::new(Element::F16, [3, 63, 20]).at_once(&mut *device), None);
}
