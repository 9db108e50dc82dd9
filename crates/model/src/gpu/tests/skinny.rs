//! The kernels for products of few rows against sums in f64, and against themselves with other company.

use super::support::{
    Draw, ELEMENTS, HALVES, bits, check_close, get, index, kernel_ops, kernel_ops_with, poisoned,
    put, put_floats, rounded,
};
use crate::gpu::GpuOptions;
use crate::gpu::args::MatmulArgs;
use crate::gpu::memory::{Address, Element, MatrixForm};
use crate::gpu::ops::DeviceOps;

/// Columns of `out` behind a row's features.
const GAP: usize = 3;

/// A product on the host, its factors rounded to a type.
#[derive(Clone)]
struct Product {
    element: Element,
    in_features: usize,
    out_features: usize,
    /// `[rows][in_features]`.
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Product {
    fn new(element: Element, [rows, in_features, out_features]: [usize; 3]) -> Self {
        let mut draw = Draw::new(7);
        Self {
            element,
            in_features,
            out_features,
            x: rounded(element, &draw.floats(rows * in_features)),
            weight: rounded(element, &draw.floats(out_features * in_features)),
            bias: Some(draw.floats(out_features)),
        }
    }

    fn num_rows(&self) -> usize {
        self.x.len() / self.in_features
    }

    /// `[rows][out_features]`, each sum rounded once.
    #[expect(clippy::cast_possible_truncation, reason = "the one rounding")]
    fn expected(&self) -> Vec<f32> {
        let rows = self.x.chunks_exact(self.in_features);
        let of_row = |x: &[f32]| -> Vec<f32> {
            let weights = self.weight.chunks_exact(self.in_features).enumerate();
            let sum = |(feature, weight): (usize, &[f32])| {
                let products = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[feature]));
                (products.sum::<f64>() + bias) as f32
            };
            weights.map(sum).collect()
        };
        rows.flat_map(of_row).collect()
    }

    /// On the device. Checks that nothing but the features is written.
    fn run(&self, device: &mut dyn DeviceOps) -> Vec<f32> {
        let out_stride = self.out_features + GAP;
        let len = self.num_rows() * out_stride;
        let args = MatmulArgs {
            x: put_floats(device, self.element, &self.x),
            weight: put_floats(device, self.element, &self.weight),
            bias: self.bias.as_ref().map_or(Address::NONE, |bias| put(device, bias)),
            out: poisoned(device, Element::F32, len),
            rows: index(self.num_rows()),
            in_features: index(self.in_features),
            out_features: index(self.out_features),
            out_stride: index(out_stride),
        };
        device.matmul(&args, MatrixForm::Dense(self.element)).unwrap();
        let out: Vec<f32> = get(device, args.out, len);
        let rows = out.chunks_exact(out_stride);
        rows.flat_map(|row| {
            let (features, gap) = row.split_at(self.out_features);
            assert!(gap.iter().all(|value| value.to_bits() == u32::MAX), "{gap:?}");
            features.to_vec()
        })
        .collect()
    }

    fn check(&self, device: &mut dyn DeviceOps) {
        let what = format!(
            "{:?}, {} rows, {} to {} features",
            self.element,
            self.num_rows(),
            self.in_features,
            self.out_features
        );
        check_close(&self.run(device), &self.expected(), 1e-5, &what);
    }
}

#[test]
fn products_of_few_rows_are_their_sums() {
    for element in ELEMENTS {
        for rows in [1, 7, 8, 9, 17, 25, 32] {
            let Some(mut device) = kernel_ops() else { return };
            // Fewer windows than warps, a tail within one, and more windows; tiles that are full and that are not.
            for (in_features, out_features) in [(64, 16), (96, 40), (200, 100), (1000, 40)] {
                Product::new(element, [rows, in_features, out_features]).check(&mut *device);
            }
        }
    }
}

#[test]
fn products_of_a_models_width_are_their_sums() {
    let Some(mut device) = kernel_ops() else { return };
    for element in ELEMENTS {
        for rows in [1, 32] {
            Product::new(element, [rows, 4096, 16]).check(&mut *device);
        }
    }
}

#[test]
fn an_odd_number_of_features_is_no_matter() {
    let Some(mut device) = kernel_ops() else { return };
    for element in ELEMENTS {
        for in_features in [1, 31, 97] {
            Product::new(element, [3, in_features, 9]).check(&mut *device);
        }
    }
}

/// A library's product, which the emulator's stands for, leaves the bias to a kernel.
#[test]
fn a_product_of_many_rows_gets_its_bias() {
    let Some(mut device) = kernel_ops() else { return };
    for (rows, out_features) in [(33, 40), (40, 300)] {
        Product::new(Element::Bf16, [rows, 64, out_features]).check(&mut *device);
    }
}

#[test]
fn a_product_without_a_bias_adds_none() {
    let Some(mut device) = kernel_ops() else { return };
    for element in ELEMENTS {
        let product = Product { bias: None, ..Product::new(element, [5, 64, 40]) };
        product.check(&mut *device);
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    // A library's product of many rows need not have the bits of ours.
    let options = GpuOptions { batch_invariant: true, ..GpuOptions::default() };
    let Some(mut device) = kernel_ops_with(options) else { return };
    for element in ELEMENTS {
        let (in_features, out_features) = (1000, 72);
        let all = Product::new(element, [70, in_features, out_features]);
        let expected = all.run(&mut *device);
        for (first, rows) in [(0, 1), (31, 1), (69, 1), (3, 8), (5, 13), (40, 24), (17, 32)] {
            let x = all.x[first * in_features..][..rows * in_features].to_vec();
            let some = Product { x, ..all.clone() };
            let expected = &expected[first * out_features..][..rows * out_features];
            assert_eq!(bits(&some.run(&mut *device)), bits(expected), "{element:?}, {rows} rows");
        }
    }
}

/// Where there are many features, tiles are wider.
#[test]
fn many_features_have_the_same_bits_as_few() {
    let Some(mut device) = kernel_ops() else { return };
    for element in HALVES {
        for (rows, out_features) in [(3, 8500), (8, 16_900), (16, 16_900), (20, 6200), (32, 6200)] {
            let all = Product::new(element, [rows, 40, out_features]);
            let found = all.run(&mut *device);
            let num_few = 100;
            let few = Product {
                out_features: num_few,
                weight: all.weight[..num_few * all.in_features].to_vec(),
                bias: all.bias.as_ref().map(|bias| bias[..num_few].to_vec()),
                ..all.clone()
            };
            let of_all: Vec<f32> =
                found.chunks_exact(out_features).flat_map(|row| row[..num_few].to_vec()).collect();
            assert_eq!(bits(&of_all), bits(&few.run(&mut *device)), "{element:?}, {rows} rows");
            check_close(&found, &all.expected(), 1e-5, "many features");
        }
    }
}

#[test]
fn what_is_no_number_stays_in_its_row() {
    let Some(mut device) = kernel_ops() else { return };
    for element in ELEMENTS {
        let (in_features, out_features) = (200, 40);
        let sound = Product::new(element, [12, in_features, out_features]);
        let mut broken = sound.clone();
        broken.x[4 * in_features + 199] = f32::NAN;
        let (sound, found) = (sound.run(&mut *device), broken.run(&mut *device));
        for (row, (sound, found)) in
            sound.chunks_exact(out_features).zip(found.chunks_exact(out_features)).enumerate()
        {
            match row {
                4 => assert!(found.iter().all(|value| value.is_nan()), "{found:?}"),
                _ => assert_eq!(bits(found), bits(sound), "{element:?}, row {row}"),
            }
        }
    }
}
