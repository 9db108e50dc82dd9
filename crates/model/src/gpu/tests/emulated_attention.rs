//! The kernels of attention, emulated, against the host's operation.

use super::random_step::{RandomStep, SeqShape, StepShape, decode, heads, prefill};
use super::support::{
    Draw, ELEMENTS, bits, check_close, get, get_floats, index, kernel_ops, kernel_tolerance,
    poisoned, put, put_floats,
};
use crate::gpu::args::{AttentionArgs, HeadCounts};
use crate::gpu::host::HostOps;
use crate::gpu::memory::Element;
use crate::gpu::ops::DeviceOps;

/// Tuned kernels: groups of 1, 4, 7 and 12, which is two sets of heads.
const TUNED: [HeadCounts; 5] = [
    heads(3, 3, 64, 32),
    heads(8, 2, 64, 1),
    heads(12, 1, 64, 16),
    heads(4, 1, 128, 24),
    heads(7, 1, 128, 16),
];
/// Shapes without one: groups of 1, 2 and 10.
const OTHER: [HeadCounts; 4] =
    [heads(4, 2, 16, 16), heads(10, 1, 20, 1), heads(1, 1, 96, 32), heads(2, 1, 256, 16)];

/// One row and several items; contexts of one chunk or tile, its whole length, one more, and several.
const STEPS: [&[SeqShape]; 5] = [
    &[decode(0)],
    &[decode(255), prefill(5, 3), decode(256)],
    &[prefill(250, 40), decode(700), decode(5), prefill(0, 1)],
    &[prefill(0, 17), prefill(700, 5), SeqShape { decodes: true, ..prefill(510, 3) }],
    &[prefill(63, 2)],
];

/// Queries, and a cache in which everything that no row may read is NaN.
struct Case {
    step: RandomStep,
    heads: HeadCounts,
    q_stride: usize,
    q: Vec<f32>,
    pools: [Vec<f32>; 2],
}

/// What is there afterwards.
struct Found {
    /// `[rows][num_heads * head_dim]`.
    z: Vec<f32>,
    partials: Vec<f32>,
}

impl Case {
    fn new(draw: &mut Draw, seqs: &[SeqShape], heads: HeadCounts) -> Self {
        let block_size = heads.block_size as usize;
        let shape = StepShape { seqs, padding_rows: draw.below(3), block_size, hidden: 8 };
        let step = RandomStep::new(draw, shape);
        let [num_heads, kv_heads, dim] =
            [heads.num_heads, heads.num_kv_heads, heads.head_dim].map(|count| count as usize);
        // Rows lie at odd places.
        let q_stride = num_heads * dim + 3;
        let q = draw.floats(step.num_rows() * q_stride).iter().map(|value| value * 6.0).collect();
        let pools = [(); 2].map(|()| {
            let mut pool = vec![f32::NAN; step.num_blocks * kv_heads * block_size * dim];
            for (seq, blocks) in seqs.iter().zip(&step.block_tables) {
                for position in 0..seq.first_position + seq.len {
                    let block = blocks[position / block_size] as usize * kv_heads;
                    for head in block..block + kv_heads {
                        let place = (head * block_size + position % block_size) * dim;
                        pool[place..place + dim].copy_from_slice(&draw.floats(dim));
                    }
                }
            }
            pool
        });
        Self { step, heads, q_stride, q, pools }
    }

    fn z_width(&self) -> usize {
        (self.heads.num_heads * self.heads.head_dim) as usize
    }

    /// With room for `room` items more than there are.
    fn run(
        &self,
        device: &mut dyn DeviceOps,
        (cache, z): (Element, Element),
        room: usize,
    ) -> Found {
        let num_partials = self.step.decode_items.len() + room;
        let num_partials =
            num_partials * self.heads.num_heads as usize * (self.heads.head_dim as usize + 2);
        let num_arrivals = self.step.num_rows() * self.heads.num_heads as usize;
        let z_len = self.step.num_rows() * self.z_width();
        let args = AttentionArgs {
            step: self.step.put(device).header,
            q: put(device, &self.q),
            k_pool: put_floats(device, cache, &self.pools[0]),
            v_pool: put_floats(device, cache, &self.pools[1]),
            partials: poisoned(device, Element::F32, num_partials),
            arrivals: put(device, &vec![0u32; num_arrivals]),
            z: poisoned(device, z, z_len),
            heads: self.heads,
            rows: index(self.step.num_rows()),
            q_stride: index(self.q_stride),
            max_decode_items: index(self.step.decode_items.len() + room),
            num_prefill_items: index(self.step.prefill_items.len()),
            z_element: z.code(),
            padding: 0,
        };
        device.attention(&args, cache, z).unwrap();
        let arrivals: Vec<u32> = get(device, args.arrivals, num_arrivals);
        assert!(arrivals.iter().all(|&count| count == 0), "{arrivals:?}");
        Found {
            z: get_floats(device, z, args.z, z_len),
            partials: get(device, args.partials, num_partials),
        }
    }

    /// Runs it on both and compares; what has no item stays NaN.
    fn check(&self, device: &mut dyn DeviceOps, (cache, z): (Element, Element), what: &str) {
        let kernel = self.run(device, (cache, z), 2);
        let host = self.run(&mut HostOps::default(), (cache, z), 2);
        let what = format!("{:?}, cache {cache:?}, z {z:?}, {what}", self.heads);
        for items in self.step.row_items.windows(2).filter(|items| items[1] - items[0] > 1) {
            let item_len = self.heads.num_heads as usize * (self.heads.head_dim as usize + 2);
            let of_row = items[0] as usize * item_len..items[1] as usize * item_len;
            let [found, expected] =
                [&kernel.partials, &host.partials].map(|all| &all[of_row.clone()]);
            check_close(found, expected, kernel_tolerance(Element::F32), &what);
        }
        // Prefill rounds queries and weights to the cache's type.
        let (width, of_cache) = (self.z_width(), kernel_tolerance(cache).max(kernel_tolerance(z)));
        for (row, (found, expected)) in kernel.z.chunks(width).zip(host.z.chunks(width)).enumerate()
        {
            let decodes = self.step.row_items[row] < self.step.row_items[row + 1];
            let tolerance = if decodes { kernel_tolerance(z) } else { of_cache };
            check_close(found, expected, tolerance, &format!("row {row}, {what}"));
        }
    }
}

/// Every step; each element follows each in turn as the result's type.
fn check_all(shapes: &[HeadCounts], caches: &[Element], seed: u64) {
    let mut draw = Draw::new(seed);
    for heads in shapes {
        let Some(mut device) = kernel_ops() else { return };
        for (idx, seqs) in STEPS.into_iter().enumerate() {
            for cache in caches {
                let case = Case::new(&mut draw, seqs, *heads);
                let z = ELEMENTS[(idx + draw.below(2)) % 3];
                case.check(&mut *device, (*cache, z), &format!("{seqs:?}"));
            }
        }
    }
}

#[test]
fn tuned_attention_over_16_bits_equals_the_hosts() {
    check_all(&TUNED, &[Element::F16, Element::Bf16], 1);
}

#[test]
fn tuned_attention_over_f32_equals_the_hosts() {
    check_all(&TUNED[1..4], &[Element::F32], 2);
}

#[test]
fn attention_of_other_shapes_equals_the_hosts() {
    check_all(&OTHER, &[Element::F16], 3);
}

/// More works than blocks: each kernel's blocks go on to a second one.
#[test]
fn blocks_walk_over_more_works_than_there_are_blocks() {
    let mut draw = Draw::new(4);
    for (heads, rows, cache) in [
        (heads(6, 6, 64, 16), 120, Element::F16),
        (heads(40, 8, 64, 16), 60, Element::Bf16),
        (heads(12, 12, 16, 16), 100, Element::F32),
    ] {
        let Some(mut device) = kernel_ops() else { return };
        let seqs: Vec<SeqShape> = (0..rows).map(|_| decode(draw.below(24))).collect();
        let case = Case::new(&mut draw, &seqs, heads);
        case.check(&mut *device, (cache, Element::Bf16), "many rows");
    }
}

/// Scores of some hundreds, of which f32 holds no exponential.
#[test]
fn large_scores_do_not_overflow() {
    let seqs = [decode(600), prefill(300, 2)];
    for heads in [TUNED[1], OTHER[0]] {
        let Some(mut device) = kernel_ops() else { return };
        let mut case = Case::new(&mut Draw::new(6), &seqs, heads);
        for value in &mut case.q {
            *value *= 100.0;
        }
        let elements = (Element::F32, Element::F32);
        let found = case.run(&mut *device, elements, 0).z;
        let expected = case.run(&mut HostOps::default(), elements, 0).z;
        // A score's rounding is that of a weight.
        check_close(&found, &expected, 1e-3, &format!("{heads:?}"));
        // Queries rounded to 16 bits may choose another position.
        let found = case.run(&mut *device, (Element::F16, Element::F32), 0).z;
        let filled = found.iter().zip(&expected).filter(|(_, expected)| !expected.is_nan());
        assert!(filled.into_iter().all(|(found, _)| found.abs() <= 1.0), "{heads:?}");
    }
}

/// The bits of a decoded row are the same alone, in company, and with any room for items.
#[test]
fn a_row_does_not_depend_on_its_company() {
    let elements = (Element::F16, Element::F32);
    let seqs = [prefill(0, 3), decode(256), decode(600), decode(3)];
    for heads in [TUNED[1], TUNED[4], OTHER[0]] {
        let Some(mut device) = kernel_ops() else { return };
        let case = Case::new(&mut Draw::new(5), &seqs, heads);
        let together = case.run(&mut *device, elements, 0);
        for row in 3..6 {
            let mut alone =
                Case { step: case.step.clone(), q: Vec::new(), pools: case.pools.clone(), ..case };
            alone.step.row_plans.truncate(1);
            alone.step.positions = vec![case.step.positions[row]];
            alone.step.seqs = vec![0];
            alone.step.block_tables = vec![case.step.block_tables[row - 2].clone()];
            let chunks = case.step.row_items[row + 1] - case.step.row_items[row];
            alone.step.decode_items = (0..chunks).map(|chunk| [0, chunk]).collect();
            alone.step.row_items = vec![0, chunks];
            alone.step.prefill_items.clear();
            alone.q = case.q[row * case.q_stride..][..case.q_stride].to_vec();
            let found = alone.run(&mut *device, elements, 70);
            let expected = &together.z[row * case.z_width()..][..case.z_width()];
            assert!(expected.iter().all(|value| value.is_finite()), "row {row}, {heads:?}");
            assert_eq!(bits(&found.z), bits(expected), "row {row}, {heads:?}");
        }
    }
}
