//! The emulator itself: it finds what it is for, and its matrix units and conversions are those of the PTX ISA.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::support::{Draw, bits, get, put, rounded};
use crate::error::Result;
use crate::gpu::emulated::{EmulatedOps, Emulator};
use crate::gpu::kernels::Launcher;
use crate::gpu::launch::Launch;
use crate::gpu::memory::{Address, Element};

/// `CheckArgs` of `cuda/emulator/planted.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CheckArgs {
    from: Address,
    to: Address,
    count: u32,
    padding: u32,
}

/// Runs a kernel of `cuda/emulator/planted.cu`.
fn check(
    ops: &mut EmulatedOps,
    kernel: &'static str,
    (blocks, block): (u32, u32),
    (from, to, count): (Address, Address, usize),
) -> Result<()> {
    let args = CheckArgs { from, to, count: u32::try_from(count).unwrap(), padding: 0 };
    ops.launcher().launch(&Launch {
        module: "planted",
        kernel,
        grid: [blocks, 1, 1],
        block,
        shared_bytes: 512,
        args: bytemuck::bytes_of(&args),
    })
}

/// Runs a planted kernel on 64 numbers and room for 128.
fn planted(kernel: &'static str, block: u32) -> Option<Result<Vec<u32>>> {
    let mut ops = Emulator::ops()?;
    let from = put(&mut ops, &[0x11_u32; 128]);
    let to = put(&mut ops, &[u32::MAX; 128]);
    let done = check(&mut ops, kernel, (2, block), (from, to, 128));
    Some(done.map(|()| get(&mut ops, to, 128)))
}

#[track_caller]
fn check_found(kernel: &'static str, block: u32, expected: &str) {
    if let Some(found) = planted(kernel, block) {
        let error = found.unwrap_err().to_string();
        assert!(error.contains(kernel) && error.contains(expected), "{error}");
    }
}

#[test]
fn a_missing_barrier_is_found() {
    check_found("planted_no_barrier", 64, "the order of threads decides");
    if let Some(found) = planted("planted_barrier", 64) {
        let expected: Vec<u32> = (33..=64).chain(1..=32).collect();
        assert_eq!(found.unwrap()[..64], expected);
    }
}

#[test]
fn a_copy_that_nobody_waits_for_is_found() {
    check_found("planted_no_wait", 32, "the order of threads decides");
    if let Some(found) = planted("planted_wait", 32) {
        assert_eq!(found.unwrap(), [0x11; 128]);
    }
}

#[test]
fn other_faults_are_found() {
    check_found("planted_lanes", 32, "some lanes of a warp wait for others");
    check_found("planted_unaligned", 32, "a vector load at a place");
    check_found("planted_overrun", 32, "a write behind a buffer");
    check_found("planted_no_wait_for_earlier", 32, "without having waited for earlier kernels");
    check_found("planted_unknown", 32, "no kernel");
    check_found("planted_barrier", 32, "threads 32, expected 64");
}

/// What an earlier kernel of the same step writes is read behind the wait, and nothing is written before it.
#[test]
fn what_begins_early_waits_for_what_it_needs() {
    let Some(mut ops) = Emulator::ops() else { return };
    let to = put(&mut ops, &[5_u32; 128]);
    let mut launch = |kernel| check(&mut ops, kernel, (1, 32), (to, to, 128));
    launch("planted_late_read").unwrap();
    launch("planted_late_read").unwrap();
    let error = launch("planted_early_read").unwrap_err().to_string();
    assert!(error.contains("planted_early_read"), "{error}");

    // The host has seen the number: no kernel is under way.
    let Some(mut ops) = Emulator::ops() else { return };
    let to = put(&mut ops, &[5_u32; 128]);
    check(&mut ops, "planted_late_read", (1, 32), (to, to, 128)).unwrap();
    assert_eq!(get::<u32>(&mut ops, to, 1), [6]);
    check(&mut ops, "planted_early_read", (1, 32), (to, to, 128)).unwrap();
    assert_eq!(get::<u32>(&mut ops, to, 1), [7]);
    check_found("planted_early_write", 32, "before the wait for earlier kernels");
}

/// The second block sees nothing of the first.
#[test]
fn shared_memory_is_poisoned_before_each_block() {
    if let Some(found) = planted("planted_stale", 32) {
        assert_eq!(found.unwrap()[..64], [u32::MAX; 64]);
    }
}

#[test]
fn numbers_of_16_bits_are_rounded_to_the_nearest_even() {
    let Some(mut ops) = Emulator::ops() else { return };
    let mut draw = Draw::new(1);
    // Any bits, and all numbers half way between two of the upper 16 bits.
    let mut values: Vec<f32> = (0..40_000).map(|_| f32::from_bits(draw.index(1 << 32))).collect();
    values.extend((0..=u16::MAX).map(|upper| f32::from_bits(u32::from(upper) << 16 | 0x8000)));
    // And between two of binary16.
    values.extend(
        (0..0x7BFF)
            .map(|bits| (f16::from_bits(bits).to_f32() + f16::from_bits(bits + 1).to_f32()) / 2.0),
    );
    values.extend([65504.0, 65519.9, 65520.0, -65520.0, 5.96e-8, 2.9e-8, f32::INFINITY, -0.0]);
    let from = put(&mut ops, &values);
    let count = values.len();
    let shape = (u32::try_from(count.div_ceil(256)).unwrap(), 256);
    for (element, to_kernel, from_kernel) in [
        (Element::F16, "check_to_f16", "check_from_f16"),
        (Element::Bf16, "check_to_bf16", "check_from_bf16"),
    ] {
        let to = put(&mut ops, &vec![u16::MAX; count]);
        check(&mut ops, to_kernel, shape, (from, to, count)).unwrap();
        let back = put(&mut ops, &vec![u32::MAX; count]);
        check(&mut ops, from_kernel, shape, (to, back, count)).unwrap();
        let back: Vec<f32> = get(&mut ops, back, count);
        assert!(bits(&back) == bits(&rounded(element, &values)), "{element:?}");
    }
}

#[test]
fn every_number_of_16_bits_is_read() {
    let Some(mut ops) = Emulator::ops() else { return };
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let from = put(&mut ops, &all);
    let read = |ops: &mut EmulatedOps, kernel| {
        let to = put(ops, &vec![u32::MAX; all.len()]);
        check(ops, kernel, (256, 256), (from, to, all.len())).unwrap();
        bits(&get::<f32>(ops, to, all.len()))
    };
    let expected = |of: fn(u16) -> f32| bits(&all.iter().map(|x| of(*x)).collect::<Vec<f32>>());
    let of_f16 = expected(|x| f16::from_bits(x).to_f32());
    assert!(read(&mut ops, "check_from_f16") == of_f16);
    let of_bf16 = expected(|x| bf16::from_bits(x).to_f32());
    assert!(read(&mut ops, "check_from_bf16") == of_bf16);
}

/// `a` against the first and the second half of an identity gives its columns; whole numbers are exact in any type.
#[test]
fn matrix_fragments_lie_as_the_ptx_isa_says() {
    let Some(mut ops) = Emulator::ops() else { return };
    let a: Vec<f32> = (0..=u8::MAX).map(f32::from).collect();
    let product = |ops: &mut EmulatedOps, kernel, b: &[f32]| {
        let from = put(ops, &[a.as_slice(), b].concat());
        let to = put(ops, &[f32::NAN; 128]);
        check(ops, kernel, (1, 32), (from, to, 0)).unwrap();
        get::<f32>(ops, to, 128)
    };
    for kernel in ["check_mma_f16", "check_mma_bf16"] {
        for half in [0, 8] {
            let mut b = vec![0.0; 128];
            (0..8).for_each(|column| b[(column + half) * 8 + column] = 1.0);
            let expected: Vec<f32> =
                (0..16).flat_map(|row| a[16 * row + half..][..8].to_vec()).collect();
            assert_eq!(product(&mut ops, kernel, &b), expected, "{kernel}");
        }
        let b: Vec<f32> = (0..128_u8).map(|value| f32::from(value % 7) - 3.0).collect();
        let sum = |row: usize, column: usize| -> f32 {
            (0..16).map(|k| a[16 * row + k] * b[8 * k + column]).sum()
        };
        let expected: Vec<f32> = (0..128).map(|idx| sum(idx / 8, idx % 8)).collect();
        assert_eq!(product(&mut ops, kernel, &b), expected, "{kernel}");
    }
}

#[test]
fn matrices_are_loaded_as_the_ptx_isa_says() {
    let Some(mut ops) = Emulator::ops() else { return };
    // Matrix m, row r, column c holds 64 m + 8 r + c.
    let from = put(&mut ops, &(0..256).collect::<Vec<u16>>());
    for (kernel, transposed) in [("check_ldmatrix", false), ("check_ldmatrix_trans", true)] {
        let to = put(&mut ops, &[u16::MAX; 256]);
        check(&mut ops, kernel, (1, 32), (from, to, 0)).unwrap();
        let found: Vec<u16> = get(&mut ops, to, 256);
        for (idx, found) in (0_u16..).zip(found) {
            let (lane, matrix, half) = (idx / 8, idx % 8 / 2, idx % 2);
            let (row, column) = (lane / 4, 2 * (lane % 4) + half);
            let (row, column) = if transposed { (column, row) } else { (row, column) };
            assert_eq!(found, 64 * matrix + 8 * row + column, "{kernel}, lane {lane}");
        }
    }
}
