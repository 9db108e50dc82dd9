//! The host's memory, and how it keeps weights.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::support::{Draw, ELEMENTS, bits, get, get_floats, rounded};
use crate::gpu::host::HostOps;
use crate::gpu::memory::{Address, Element, MatrixForm};
use crate::gpu::ops::DeviceOps;
use crate::llama::Weight;

#[test]
fn fresh_memory_is_nan_until_it_is_cleared() {
    let mut device = HostOps::default();
    for num_bytes in [4, 12, 1000] {
        let buffer = device.allocate(num_bytes).unwrap();
        assert!(buffer.address().is_some());
        assert_eq!(buffer.address().0 % 256, 0);
        for element in ELEMENTS {
            let len = num_bytes / element.size();
            let fresh = get_floats(&mut device, element, buffer.address(), len);
            assert!(fresh.iter().all(|value| value.is_nan()), "{element:?}");
        }
        device.clear(&buffer).unwrap();
        assert_eq!(get::<u8>(&mut device, buffer.address(), num_bytes), vec![0; num_bytes]);
    }
}

#[test]
fn what_was_not_allocated_is_an_error() {
    let mut device = HostOps::default();
    let mut byte = [0];
    assert!(device.download(Address(256), &mut byte).is_err(), "nothing is there");
    let first = device.allocate(300).unwrap().address();
    let second = device.allocate(8).unwrap().address();
    device.upload(first, &[7; 300]).unwrap();
    device.download(first.add(299), &mut byte).unwrap();
    assert_eq!(byte, [7]);
    for (place, what) in [
        (Address::NONE, "no place"),
        (Address(255), "before all"),
        (first.add(300), "between two pieces"),
        (second.add(8), "behind all"),
        (Address(u64::MAX), "beyond every address"),
    ] {
        assert!(device.upload(place, &[0]).is_err(), "{what}");
        assert!(device.download(place, &mut byte).is_err(), "{what}");
    }
    let over_the_end = device.upload(second, &[0; 9]).unwrap_err().to_string();
    assert!(over_the_end.contains("do not lie in one piece"), "{over_the_end}");
    assert!(device.allocate(usize::MAX).is_err());
}

#[test]
fn a_dense_matrix_is_kept_to_the_bit() {
    let mut device = HostOps::default();
    let values = Draw::new(1).floats(5 * 7);
    for element in ELEMENTS {
        let dtype = [DType::F32, DType::F16, DType::BF16]
            .into_iter()
            .find(|dtype| Element::of(*dtype) == Some(element))
            .unwrap();
        let tensor = Tensor::from_vec(values.clone(), (5, 7), &Device::Cpu).unwrap();
        let tensor = tensor.to_dtype(dtype).unwrap();
        let expected = bits(&rounded(element, &values));
        let (buffer, form) = device.matrix(Weight::Dense(tensor.clone())).unwrap();
        assert_eq!(form, MatrixForm::Dense(element));
        assert_eq!(buffer.num_bytes(), 35 * element.size());
        assert_eq!(bits(&get_floats(&mut device, element, buffer.address(), 35)), expected);
        let (buffer, kept) = device.embedding(Weight::Dense(tensor)).unwrap();
        assert_eq!(kept, element);
        assert_eq!(bits(&get_floats(&mut device, element, buffer.address(), 35)), expected);
    }
    let vector = Tensor::from_vec(values.clone(), 35, &Device::Cpu).unwrap();
    let address = device.vector(&vector).unwrap().address();
    assert_eq!(bits(&get(&mut device, address, 35)), bits(&values));
    let integers = Tensor::zeros((5, 7), DType::U32, &Device::Cpu).unwrap();
    assert!(device.matrix(Weight::Dense(integers)).is_err());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "tests look at values")]
fn blocks_are_kept_as_what_they_stand_for_and_packed_ones_are_refused() {
    let mut device = HostOps::default();
    let values = Tensor::from_vec(Draw::new(2).floats(3 * 256), (3, 256), &Device::Cpu).unwrap();
    for dtype in [GgmlDType::Q4_1, GgmlDType::Q6K, GgmlDType::Q8_0] {
        let blocks = Arc::new(QTensor::quantize(&values, dtype).unwrap());
        let expected = blocks.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        let expected = bits(&expected.to_vec1::<f32>().unwrap());
        let (buffer, form) = device.matrix(Weight::Quantized(Arc::clone(&blocks))).unwrap();
        assert_eq!(form, MatrixForm::Dense(Element::F32));
        assert_eq!(bits(&get(&mut device, buffer.address(), 3 * 256)), expected);
        let (buffer, element) = device.embedding(Weight::Quantized(blocks)).unwrap();
        assert_eq!(element, Element::F32);
        assert_eq!(bits(&get(&mut device, buffer.address(), 3 * 256)), expected);
    }
}
