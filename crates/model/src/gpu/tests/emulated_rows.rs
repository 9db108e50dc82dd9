//! The kernels of rows and of the rotary embedding, emulated, against the host's operations.

use super::random_step::{RandomStep, SeqShape, StepShape, VOCAB_SIZE};
use super::support::{
    Draw, ELEMENTS, bits, get, get_floats, index, kernel_ops, poisoned, put, put_floats,
};
use super::support::{check_close, kernel_tolerance};
use crate::gpu::args::{EmbedArgs, GatherArgs, HeadCounts, RopeCacheArgs, SwigluArgs};
use crate::gpu::host::HostOps;
use crate::gpu::memory::Element;
use crate::gpu::ops::DeviceOps;

fn step(draw: &mut Draw, rows: usize, hidden: usize) -> RandomStep {
    let seqs = [SeqShape { first_position: 0, len: rows, decodes: false }];
    RandomStep::new(draw, StepShape { seqs: &seqs, padding_rows: 2, block_size: 16, hidden })
}

/// Calls `run` on the emulator and on the host, and hands both results to `compare`.
fn on_both<T>(run: impl Fn(&mut dyn DeviceOps) -> T, compare: impl Fn(&T, &T)) {
    if let Some(mut emulated) = kernel_ops() {
        compare(&run(&mut *emulated), &run(&mut HostOps::default()));
    }
}

#[test]
fn embedding_kernels_copy_rows_of_the_table() {
    on_both(
        |device| {
            let mut draw = Draw::new(1);
            let mut found = Vec::new();
            for (rows, hidden) in [(1, 64), (2, 130), (7, 1027), (33, 2052)] {
                for element in ELEMENTS {
                    let step = step(&mut draw, rows, hidden);
                    let rows = step.num_rows();
                    let table = draw.floats(VOCAB_SIZE * hidden);
                    let on_device = step.put(device);
                    let args = EmbedArgs {
                        step: on_device.header,
                        table: put_floats(device, element, &table),
                        x: poisoned(device, Element::F32, rows * hidden),
                        rows: index(rows),
                        hidden: index(hidden),
                    };
                    device.embed(&args, element).unwrap();
                    found.push(bits(&get::<f32>(device, args.x, rows * hidden)));
                    found.push(bits(&get::<f32>(device, on_device.relative_norms, rows)));
                }
            }
            found
        },
        |emulated, host| assert!(emulated == host),
    );
}

#[test]
fn gather_kernels_copy_the_rows_that_are_wanted() {
    on_both(
        |device| {
            let mut draw = Draw::new(2);
            let mut found = Vec::new();
            for (rows, hidden) in [(1, 64), (2, 130), (7, 1027), (33, 4104), (130, 96)] {
                for element in ELEMENTS {
                    let step = step(&mut draw, rows, hidden);
                    let values = draw.floats(step.num_rows() * hidden);
                    let len = step.logit_rows.len();
                    let args = GatherArgs {
                        step: step.put(device).header,
                        from: put_floats(device, element, &values),
                        to: poisoned(device, element, len * hidden),
                        logit_rows: index(len),
                        hidden: index(hidden),
                    };
                    device.gather(&args, element).unwrap();
                    found.push(bits(&get_floats(device, element, args.to, len * hidden)));
                }
            }
            found
        },
        |emulated, host| assert!(emulated == host),
    );
}

#[test]
fn swiglu_kernels_equal_the_host() {
    on_both(
        |device| {
            let mut draw = Draw::new(3);
            let mut found = Vec::new();
            // Vectors; gate and up side by side that cannot be read in fours; an odd width; several blocks a row.
            for (rows, width, stride, apart) in
                [(1, 64, 128, 64), (7, 130, 260, 130), (33, 33, 67, 34), (2, 2500, 5000, 2500)]
            {
                for element in ELEMENTS {
                    // Far enough out that the exponential overflows.
                    let values =
                        draw.floats(rows * stride).iter().map(|x| x * 95.0).collect::<Vec<_>>();
                    let gate = put(device, &values);
                    let args = SwigluArgs {
                        gate,
                        up: gate.add(4 * apart),
                        activated: poisoned(device, element, rows * width),
                        rows: index(rows),
                        width: index(width),
                        stride: index(stride),
                        padding: 0,
                    };
                    device.swiglu(&args, element).unwrap();
                    found
                        .push((element, get_floats(device, element, args.activated, rows * width)));
                }
            }
            found
        },
        |emulated, host| compare(emulated, host),
    );
}

#[test]
fn rope_kernels_rotate_and_write_the_cache() {
    const fn heads(num_heads: u32, num_kv_heads: u32, head_dim: u32) -> HeadCounts {
        HeadCounts { num_heads, num_kv_heads, head_dim, block_size: 16 }
    }
    on_both(
        |device| {
            let mut draw = Draw::new(4);
            let mut found = Vec::new();
            // Fours; halves of 3; several blocks a row; a stride that is no multiple of 4.
            for (rows, heads, gap) in [
                (1, heads(4, 2, 16), 0),
                (2, heads(6, 2, 6), 0),
                (7, heads(32, 8, 128), 0),
                (33, heads(3, 3, 64), 1),
                (130, heads(2, 1, 8), 4),
            ] {
                for cache in ELEMENTS {
                    let rope = Rope { rows, heads, gap };
                    found.extend(rope.run(&mut draw, device, cache));
                }
            }
            found
        },
        |emulated, host| compare(emulated, host),
    );
}

struct Rope {
    rows: usize,
    heads: HeadCounts,
    /// Numbers between the rows.
    gap: usize,
}

impl Rope {
    /// The rows and both pools afterwards.
    fn run(
        &self,
        draw: &mut Draw,
        device: &mut dyn DeviceOps,
        cache: Element,
    ) -> [(Element, Vec<f32>); 3] {
        let step = step(draw, self.rows, 8);
        let HeadCounts { num_heads, num_kv_heads, head_dim, block_size } = self.heads;
        let [q_width, kv_width] = [num_heads, num_kv_heads].map(|n| (n * head_dim) as usize);
        let stride = q_width + 2 * kv_width + self.gap;
        let len = step.num_rows() * stride;
        let q = put(device, &draw.floats(len));
        let pool_len = step.num_blocks * block_size as usize * kv_width;
        let angles = draw.floats((self.rows + 1) * head_dim as usize);
        let args = RopeCacheArgs {
            step: step.put(device).header,
            q,
            k: q.add(4 * q_width),
            v: q.add(4 * (q_width + kv_width)),
            angles: put(device, &angles),
            k_pool: poisoned(device, cache, pool_len),
            v_pool: poisoned(device, cache, pool_len),
            heads: self.heads,
            rows: index(step.num_rows()),
            q_stride: index(stride),
            kv_stride: index(stride),
            padding: 0,
        };
        device.rope_cache(&args, cache).unwrap();
        [
            (Element::F32, get(device, args.q, len)),
            (cache, get_floats(device, cache, args.k_pool, pool_len)),
            (cache, get_floats(device, cache, args.v_pool, pool_len)),
        ]
    }
}

fn compare(emulated: &[(Element, Vec<f32>)], host: &[(Element, Vec<f32>)]) {
    for (idx, ((element, emulated), (_, host))) in emulated.iter().zip(host).enumerate() {
        let what = format!("result {idx}, {element:?}");
        check_close(emulated, host, kernel_tolerance(*element), &what);
    }
}
