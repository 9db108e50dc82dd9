//! A step whose operations a device keeps and replays, or begins early, has the bits of one whose operations it starts one by one.

use candle_core::DType;

use super::support::{bits, kernel_ops_with};
use crate::batch::PackedBatch;
use crate::config::LlamaConfig;
use crate::gpu::GpuOptions;
use crate::gpu::ranks::Ranks;
use crate::hooks::{Hooks, SteerRows};
use crate::kv_cache::{KvCache, KvCacheDtype};
use crate::llama::Llama;
use crate::sampling::{Answer, Ask};
use crate::steering::{
    LayerVector, Operator, Positions, Site, SteeringPlan, SteeringTables, SteeringVector,
};
use crate::testing::{RandomWeights, random_llama_into, tiny_config};

/// Where the sequences go on, over a cache of zeros: the first soon has two chunks of attention.
const FIRST: [usize; 2] = [252, 120];
/// Enough that a step of either kind is run once, recorded once, and then replayed.
const NUM_STEPS: usize = 10;
const BLOCK_SIZE: usize = 16;

/// The next token of each sequence.
fn batch(step: usize) -> PackedBatch {
    let positions = FIRST.map(|first| first + step);
    let token = |position: usize| u32::try_from(position * 37 % 128).unwrap();
    PackedBatch {
        token_ids: positions.map(token).to_vec(),
        positions: positions.to_vec(),
        cu_seqlens: vec![0, 1, 2],
        block_tables: [0, 1].map(|seq| (0..17).map(|block| 2 * block + seq).collect()).to_vec(),
        logit_rows: vec![0, 1],
    }
}

/// Logits and relative norms of every step; every other one is steered.
fn run(options: GpuOptions, form: RandomWeights) -> Option<[Vec<u32>; 2]> {
    let ops = kernel_ops_with(options)?;
    let config =
        LlamaConfig { num_hidden_layers: 2, max_position_embeddings: 512, ..tiny_config() };
    let llama = random_llama_into(config, 7, form, Ranks::one(ops)).unwrap();
    let mut tables = SteeringTables::new(&llama, 2);
    let lease = tables.register(&[vector(&llama)]).unwrap();
    let plan = SteeringPlan {
        site: Site::AttnOut,
        operator: Operator::Add,
        positions: Positions::All,
        strength: 1.2,
        slot_by_layer: vec![lease.slots()[0]; llama.config().num_hidden_layers],
    };
    let mut cache = KvCache::new(&llama, 34, BLOCK_SIZE, KvCacheDtype::F16).unwrap();
    let (mut logits, mut norms) = (Vec::new(), Vec::new());
    for step in 0..NUM_STEPS {
        let batch = batch(step);
        let plans = vec![(step % 2 == 0).then_some(&plan); batch.total_tokens()];
        let mut hooks = Hooks { steer: Some(SteerRows::new(&tables, plans)), capture: None };
        let output =
            llama.step(&batch, &mut cache, &mut hooks, &[Ask::Logits; 2], &mut || ()).unwrap();
        norms.extend(hooks.steer.unwrap().measured().iter().flatten());
        for answer in output.answers() {
            let Answer::Logits(of_row) = answer else { panic!("logits were asked for") };
            logits.extend_from_slice(of_row);
        }
    }
    Some([bits(&logits), bits(&norms)])
}

fn vector(llama: &Llama) -> SteeringVector {
    let config = llama.config();
    let layer = |layer: usize| LayerVector {
        layer,
        values: (0..config.hidden_size).map(|i| ((i * 3 + layer) as f32 * 0.3).sin()).collect(),
    };
    SteeringVector {
        site: Site::AttnOut,
        layers: (0..config.num_hidden_layers).map(layer).collect(),
    }
}

#[test]
fn however_a_steps_kernels_are_started_its_bits_are_the_same() {
    for dtype in [DType::F32, DType::BF16] {
        let form = RandomWeights::Dense(dtype);
        let one_by_one = GpuOptions { cuda_graphs: false, ..GpuOptions::default() };
        let Some(expected) = run(one_by_one, form) else { return };
        assert!(!expected[1].is_empty());
        // Under the emulator they are all the same.
        let ways = [(true, true), (true, false), (false, true)];
        let num_ways = if cfg!(feature = "cuda") { ways.len() } else { 1 };
        for (cuda_graphs, programmatic_launches) in ways.into_iter().take(num_ways) {
            let options = GpuOptions { cuda_graphs, programmatic_launches, ..one_by_one };
            assert!(run(options, form).unwrap() == expected, "{dtype:?}, {options:?}");
        }
    }
}
