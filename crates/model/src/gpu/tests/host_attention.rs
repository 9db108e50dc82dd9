//! Rotary embedding, cache and attention on the host, against f64 and against the CPU's kernel.

use candle_core::{DType, Device, Tensor};

use super::random_step::{RandomStep, SeqShape, StepShape, decode, heads, prefill};
use super::support::{
    Draw, ELEMENTS, bits, check_close, get, get_floats, index, poisoned, put, put_floats, rounded,
    to_f32, tolerance, values,
};
use crate::batch::{BatchLayout, SeqSpan};
use crate::gpu::args::{AttentionArgs, DECODE_CHUNK, HeadCounts, NONE, RopeCacheArgs};
use crate::gpu::host::HostOps;
use crate::gpu::memory::{Address, Element};
use crate::gpu::ops::DeviceOps;
use crate::kernels::{self, AttentionHeads, Cpu, CpuOptions};

/// Rows of the table of angles.
const MAX_POSITIONS: usize = 700;

const HEADS: [HeadCounts; 3] = [heads(4, 2, 16, 16), heads(6, 2, 20, 24), heads(3, 3, 64, 32)];

/// Few and many rows; contexts of one chunk, of its whole length, of one more, and of three.
const STEPS: [&[SeqShape]; 5] = [
    &[decode(0)],
    &[decode(255), decode(256)],
    &[decode(600), prefill(3, 5), decode(17)],
    &[prefill(250, 30), decode(511), prefill(0, 1), SeqShape { decodes: true, ..prefill(254, 3) }],
    &[prefill(0, 17), prefill(512, 16)],
];

/// A layer's queries, keys and values on the host, and where they are on a device.
struct Case {
    step: RandomStep,
    heads: HeadCounts,
    /// `[rows][q_width + 2 * kv_width]`.
    qkv: Vec<f32>,
    angles: Vec<f32>,
}

impl Case {
    fn new(draw: &mut Draw, seqs: &[SeqShape], heads: HeadCounts) -> Self {
        let block_size = heads.block_size as usize;
        let shape = StepShape { seqs, padding_rows: draw.below(3), block_size, hidden: 8 };
        let step = RandomStep::new(draw, shape);
        let width = ((heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim) as usize;
        let qkv = draw.floats(step.num_rows() * width).iter().map(|value| value * 3.0).collect();
        let angles = draw
            .floats(MAX_POSITIONS * heads.head_dim as usize / 2)
            .iter()
            .flat_map(|angle| [(angle * 3.0).cos(), (angle * 3.0).sin()])
            .collect();
        Self { step, heads, qkv, angles }
    }

    fn q_width(&self) -> usize {
        (self.heads.num_heads * self.heads.head_dim) as usize
    }

    fn kv_width(&self) -> usize {
        (self.heads.num_kv_heads * self.heads.head_dim) as usize
    }

    fn stride(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }

    fn head_dim(&self) -> usize {
        self.heads.head_dim as usize
    }

    fn pool_len(&self) -> usize {
        self.step.num_blocks * self.heads.block_size as usize * self.kv_width()
    }

    /// The number of a pool at which a head of a cache row begins.
    fn in_pool(&self, cache_row: usize, kv_head: usize) -> usize {
        let (block_size, kv_heads) =
            (self.heads.block_size as usize, self.heads.num_kv_heads as usize);
        let in_block = kv_head * block_size + cache_row % block_size;
        (cache_row / block_size * kv_heads * block_size + in_block) * self.head_dim()
    }

    fn rope(&self, device: &mut HostOps, pools: [Address; 2]) -> RopeCacheArgs {
        let q = put(device, &self.qkv);
        RopeCacheArgs {
            step: self.step.put(device).header,
            q,
            k: q.add(4 * self.q_width()),
            v: q.add(4 * (self.q_width() + self.kv_width())),
            angles: put(device, &self.angles),
            k_pool: pools[0],
            v_pool: pools[1],
            heads: self.heads,
            rows: index(self.step.num_rows()),
            q_stride: index(self.stride()),
            kv_stride: index(self.stride()),
            padding: 0,
        }
    }

    /// With room for one item more than there are.
    fn attention(&self, device: &mut HostOps, rope: &RopeCacheArgs, z: Element) -> AttentionArgs {
        let max_items = self.step.decode_items.len() + 1;
        let partials = max_items * self.heads.num_heads as usize * (self.head_dim() + 2);
        AttentionArgs {
            step: rope.step,
            q: rope.q,
            k_pool: rope.k_pool,
            v_pool: rope.v_pool,
            partials: poisoned(device, Element::F32, partials),
            arrivals: Address::NONE,
            z: poisoned(device, z, self.step.num_rows() * self.q_width()),
            heads: self.heads,
            rows: rope.rows,
            q_stride: rope.q_stride,
            max_decode_items: index(max_items),
            num_prefill_items: index(self.step.prefill_items.len()),
            z_element: z.code(),
            padding: 0,
        }
    }

    /// A row's heads from `first` on, rotated in f64.
    fn rotated(&self, row: usize, first: usize, width: usize) -> Vec<f32> {
        let (dim, half) = (self.head_dim(), self.head_dim() / 2);
        let angles = &self.angles[self.step.positions[row] as usize * dim..][..dim];
        let x = &self.qkv[row * self.stride() + first..][..width];
        let rotate = |idx: usize| {
            let (head, pair) = (idx / dim * dim, idx % half);
            let [a, b] = [head + pair, head + pair + half].map(|idx| f64::from(x[idx]));
            let [cos, sin] = [2 * pair, 2 * pair + 1].map(|idx| f64::from(angles[idx]));
            to_f32(if idx % dim < half { a * cos - b * sin } else { b * cos + a * sin })
        };
        (0..width).map(rotate).collect()
    }
}

fn each_case(seed: u64, mut check: impl FnMut(&mut Draw, &Case, Element, &str)) {
    let mut draw = Draw::new(seed);
    for heads in HEADS {
        for seqs in STEPS {
            for element in ELEMENTS {
                let case = Case::new(&mut draw, seqs, heads);
                check(&mut draw, &case, element, &format!("{heads:?}, {element:?}, {seqs:?}"));
            }
        }
    }
}

#[test]
fn queries_are_rotated_in_place_and_keys_on_their_way_to_the_cache() {
    each_case(1, |_, case, cache, what| {
        let mut device = HostOps::default();
        let pools = [(); 2].map(|()| poisoned(&mut device, cache, case.pool_len()));
        let args = case.rope(&mut device, pools);
        device.rope_cache(&args, cache).unwrap();
        let (q_width, kv_width) = (case.q_width(), case.kv_width());
        let mut qkv = case.qkv.clone();
        let mut expected = [(); 2].map(|()| vec![f32::NAN; case.pool_len()]);
        for (row, cache_row) in case.step.cache_rows.iter().enumerate() {
            if *cache_row == NONE {
                continue;
            }
            let start = row * case.stride();
            qkv[start..start + q_width].copy_from_slice(&case.rotated(row, 0, q_width));
            let k = case.rotated(row, q_width, kv_width);
            let v = case.qkv[start + q_width + kv_width..][..kv_width].to_vec();
            for (pool, values) in expected.iter_mut().zip([k, v]) {
                for (kv_head, values) in values.chunks(case.head_dim()).enumerate() {
                    let place = case.in_pool(*cache_row as usize, kv_head);
                    pool[place..place + values.len()].copy_from_slice(values);
                }
            }
        }
        let found: Vec<f32> = get(&mut device, args.q, qkv.len());
        check_close(&found, &qkv, tolerance(Element::F32), what);
        // Keys and values in the packed rows are not changed.
        for (found, given) in found.chunks(case.stride()).zip(case.qkv.chunks(case.stride())) {
            assert_eq!(bits(&found[q_width..]), bits(&given[q_width..]), "{what}");
        }
        for (pool, expected) in pools.into_iter().zip(&expected) {
            let found = get_floats(&mut device, cache, pool, case.pool_len());
            check_close(&found, expected, tolerance(cache), what);
        }
        let values = get_floats(&mut device, cache, args.v_pool, case.pool_len());
        assert_eq!(bits(&values), bits(&rounded(cache, &expected[1])), "values: {what}");
    });
}

/// One head of a row in f64: largest score, sum of weights and weighted sum of values over some positions.
fn attend(
    case: &Case,
    pools: &[Vec<f32>; 2],
    row: usize,
    head: usize,
    positions: std::ops::Range<usize>,
) -> (f64, f64, Vec<f64>) {
    let (dim, block_size) = (case.head_dim(), case.heads.block_size as usize);
    let kv_head = head / (case.heads.num_heads / case.heads.num_kv_heads) as usize;
    let q = &case.qkv[row * case.stride() + head * dim..][..dim];
    let blocks = &case.step.block_tables[case.step.seqs[row] as usize];
    let places: Vec<usize> = positions
        .map(|at| blocks[at / block_size] as usize * block_size + at % block_size)
        .map(|cache_row| case.in_pool(cache_row, kv_head))
        .collect();
    let score = |place: &usize| {
        let products =
            q.iter().zip(&pools[0][*place..]).map(|(q, k)| f64::from(*q) * f64::from(*k));
        products.sum::<f64>() / (dim as f64).sqrt()
    };
    let scores: Vec<f64> = places.iter().map(score).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let weighted = (0..dim)
        .map(|idx| {
            let values = weights.iter().zip(&places);
            values.map(|(weight, place)| weight * f64::from(pools[1][place + idx])).sum()
        })
        .collect();
    (largest, weights.iter().sum(), weighted)
}

#[test]
fn attention_is_a_softmax_over_own_and_earlier_positions() {
    each_case(2, |draw, case, cache, what| {
        let mut device = HostOps::default();
        let z = ELEMENTS[draw.below(3)];
        // Positions that nobody may read are there too.
        let pools = [(); 2].map(|()| rounded(cache, &draw.floats(case.pool_len())));
        let addresses = [0, 1].map(|pool| put_floats(&mut device, cache, &pools[pool]));
        let rope = case.rope(&mut device, addresses);
        let args = case.attention(&mut device, &rope, z);
        device.attention(&args, cache, z).unwrap();
        let (num_heads, dim) = (case.heads.num_heads as usize, case.head_dim());
        let expected: Vec<f32> = (0..case.step.num_rows() * num_heads)
            .map(|idx| (idx / num_heads, idx % num_heads))
            .flat_map(|(row, head)| {
                if case.step.cache_rows[row] == NONE {
                    return vec![f32::NAN; dim];
                }
                let positions = 0..case.step.positions[row] as usize + 1;
                let (_, sum, weighted) = attend(case, &pools, row, head, positions);
                weighted.into_iter().map(|value| to_f32(value / sum)).collect()
            })
            .collect();
        let found = get_floats(&mut device, z, args.z, expected.len());
        check_close(&found, &expected, tolerance(z), what);

        let items = case.step.decode_items.iter();
        let mut partials: Vec<f32> = items
            .flat_map(|item| (0..num_heads).map(move |head| (item.map(|v| v as usize), head)))
            .flat_map(|([row, chunk], head)| {
                let end = case.step.positions[row] as usize + 1;
                let chunk = chunk * DECODE_CHUNK..end.min((chunk + 1) * DECODE_CHUNK);
                let (largest, sum, weighted) = attend(case, &pools, row, head, chunk);
                [vec![largest, sum], weighted].concat().into_iter().map(to_f32)
            })
            .collect();
        // The item that there is room for and that is not there.
        partials.resize(partials.len() + num_heads * (dim + 2), f32::NAN);
        let found: Vec<f32> = get(&mut device, args.partials, partials.len());
        check_close(&found, &partials, tolerance(Element::F32), what);
    });
}

/// From rows of a product to heads of a result, step after step over the same cache.
#[test]
fn rope_cache_and_attention_equal_the_cpus() {
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    for heads in HEADS {
        let mut draw = Draw::new(3);
        let mut device = HostOps::default();
        // Prompts first, then a chunk of one and a new token of the other, of which the blocks are the same.
        let whole = Case::new(&mut draw, &[prefill(0, 40), prefill(0, 30)], heads);
        let mut cases = vec![whole];
        for seqs in [[decode(40), prefill(30, 5)], [decode(41), decode(35)]] {
            let mut case = Case::new(&mut draw, &seqs, heads);
            case.step.num_blocks = cases[0].step.num_blocks;
            case.step.block_tables = cases[0].step.block_tables.clone();
            case.angles = cases[0].angles.clone();
            cases.push(case);
        }
        let table_len = 64usize.div_ceil(heads.block_size as usize);
        let num_blocks = 2 * table_len;
        let all = draw.shuffled(num_blocks);
        for case in &mut cases {
            case.step.num_blocks = num_blocks;
            case.step.block_tables = all.chunks(table_len).map(<[u32]>::to_vec).collect();
            place_rows(case);
        }
        let pools = [(); 2].map(|()| poisoned(&mut device, Element::F32, cases[0].pool_len()));
        let cpu_pools = [(); 2].map(|()| {
            let shape = (num_blocks * heads.block_size as usize, cases[0].kv_width());
            Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
        });
        for case in &cases {
            let rope = case.rope(&mut device, pools);
            device.rope_cache(&rope, Element::F32).unwrap();
            let args = case.attention(&mut device, &rope, Element::F32);
            device.attention(&args, Element::F32, Element::F32).unwrap();
            let expected = on_the_cpu(&cpu, case, &cpu_pools);
            let found: Vec<f32> = get(&mut device, args.z, expected.len());
            check_close(&found, &expected, 2.0 * tolerance(Element::F32), &format!("{heads:?}"));
        }
    }
}

/// Puts rows where the block tables say.
fn place_rows(case: &mut Case) {
    let block_size = case.heads.block_size as usize;
    let step = &mut case.step;
    for (row, cache_row) in step.cache_rows.iter_mut().enumerate() {
        if *cache_row != NONE {
            let position = step.positions[row] as usize;
            let block = step.block_tables[step.seqs[row] as usize][position / block_size];
            *cache_row = block * case.heads.block_size + index(position % block_size);
        }
    }
}

/// The same by the CPU's kernel, without padding rows.
fn on_the_cpu(cpu: &Cpu, case: &Case, pools: &[Tensor; 2]) -> Vec<f32> {
    let step = &case.step;
    let rows = step.cache_rows.iter().filter(|row| **row != NONE).count();
    let half = case.head_dim() / 2;
    let angles = |which: usize| {
        let values: Vec<f32> = step.positions[..rows]
            .iter()
            .flat_map(|position| (0..half).map(move |pair| *position as usize * half + pair))
            .map(|pair| case.angles[2 * pair + which])
            .collect();
        Tensor::from_vec(values, (rows, half), &Device::Cpu).unwrap()
    };
    let block_size = case.heads.block_size as usize;
    let mut seqs: Vec<SeqSpan<'_>> = Vec::new();
    for (seq, block_table) in step.block_tables.iter().enumerate() {
        let of_seq = |row: &usize| step.seqs[*row] as usize == seq;
        let first = (0..rows).find(of_seq).unwrap();
        seqs.push(SeqSpan {
            rows: first..first + (0..rows).filter(of_seq).count(),
            first_position: step.positions[first] as usize,
            block_table,
        });
    }
    let cache_rows = step.cache_rows[..rows].iter().map(|row| *row as usize).collect();
    let layout = BatchLayout { cache_rows, seqs, block_size };
    let qkv = case.qkv[..rows * case.stride()].to_vec();
    let qkv = Tensor::from_vec(qkv, (rows, case.stride()), &Device::Cpu).unwrap();
    let heads = AttentionHeads {
        num_heads: case.heads.num_heads as usize,
        num_kv_heads: case.heads.num_kv_heads as usize,
        head_dim: case.head_dim(),
    };
    let rope = (&angles(0), &angles(1));
    let z = kernels::attention(cpu, &qkv, rope, (&pools[0], &pools[1]), &layout, heads).unwrap();
    values(&z)
}

#[test]
fn a_step_that_does_not_fit_is_an_error() {
    let run = |change: fn(&mut Case, &mut AttentionArgs)| {
        let mut case =
            Case::new(&mut Draw::new(4), &[decode(600), prefill(3, 5), prefill(0, 2)], HEADS[0]);
        change(&mut case, &mut bytemuck::Zeroable::zeroed());
        let mut device = HostOps::default();
        let pools = [(); 2].map(|()| put(&mut device, &vec![0f32; case.pool_len()]));
        let rope = case.rope(&mut device, pools);
        let mut args = case.attention(&mut device, &rope, Element::F32);
        change(&mut case, &mut args);
        device.attention(&args, Element::F32, Element::F32)
    };
    run(|_, _| ()).unwrap();
    let changes: [fn(&mut Case, &mut AttentionArgs); 8] = [
        |case, _| case.step.decode_items.swap(0, 1),
        |case, _| case.step.row_items[1] = 2,
        |case, _| case.step.prefill_items[0][1] = 7,
        // One block further than the tables reach: there the next table begins.
        |case, _| case.step.positions[0] = 620,
        |case, _| case.step.block_tables[0][0] = 100_000,
        |_, args| args.max_decode_items = 2,
        |_, args| args.num_prefill_items = 1,
        |_, args| args.heads.num_kv_heads = 3,
    ];
    for (idx, change) in changes.into_iter().enumerate() {
        assert!(run(change).is_err(), "change {idx}");
    }
}
