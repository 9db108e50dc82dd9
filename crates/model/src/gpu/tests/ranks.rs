//! Ranks that fail: nobody waits for them, and what is left is whole or refuses to work.

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::DType;

use crate::error::{Error, Result};
use crate::gpu::args::AllReduceArgs;
use crate::gpu::host::HostOps;
use crate::gpu::memory::{Address, Buffer};
use crate::gpu::ops::DeviceOps;
use crate::gpu::ranks::Ranks;
use crate::testing::{RandomWeights, random_llama_on_ranks, tiny_config};
use crate::{Hooks, KvCache, KvCacheDtype, Llama, PackedBatch};

fn model() -> Llama {
    random_llama_on_ranks(tiny_config(), 7, RandomWeights::Dense(DType::F32), 2).unwrap()
}

fn cache(llama: &Llama) -> KvCache {
    KvCache::new(llama, 8, 4, KvCacheDtype::F32).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test looks at values")]
fn logits(llama: &Llama, cache: &mut KvCache, len: u32) -> Result<Vec<Vec<f32>>> {
    let batch = PackedBatch {
        token_ids: (0..len).collect(),
        positions: (0..len as usize).collect(),
        cu_seqlens: vec![0, len as usize],
        block_tables: vec![vec![0, 1, 2]],
        logit_rows: vec![len as usize - 1],
    };
    Ok(llama.forward(&batch, cache, &mut Hooks::none())?.to_vec2()?)
}

/// No sum is under way when steps are laid out, so that one that finds no room, say, does no harm.
#[test]
fn a_rank_that_fails_before_the_step_fails_that_step_alone() {
    let llama = model();
    let mut of_user = cache(&llama);
    let expected = logits(&llama, &mut of_user, 9).unwrap();
    for rank in [0, 1] {
        let empty: Box<dyn DeviceOps> = Box::new(HostOps::default());
        let swap = |ops| {
            let model = llama.device_model().unwrap();
            std::mem::replace(&mut model.ranks().ops[rank], ops)
        };
        let ops = swap(empty);
        let error = logits(&llama, &mut of_user, 9).unwrap_err().to_string();
        assert!(error.contains("in one piece of memory"), "{error}");
        swap(ops);
        assert_eq!(logits(&llama, &mut of_user, 9).unwrap(), expected, "after rank {rank}");
    }
}

#[test]
fn a_rank_that_fails_amid_a_step_ends_it_on_all_ranks_and_every_later_one() {
    for rank in [0, 1] {
        let llama = model();
        let mut of_user = cache(&llama);
        logits(&llama, &mut of_user, 9).unwrap();
        // From now on the rank's cache lies nowhere, which shows when keys are written.
        let pools = &mut of_user.on_device().unwrap().ranks[rank].pools.pools;
        *pools = Buffer::new(Address(1 << 40), 0, None);
        for mut of_user in [of_user, cache(&llama)] {
            let error = logits(&llama, &mut of_user, 9).unwrap_err();
            assert!(matches!(error, Error::Device { .. }), "{error:?}");
            let error = error.to_string();
            for part in ["`2 ranks`", &format!("rank {rank} of 2"), "in one piece of memory"] {
                assert!(error.contains(part), "{part}: {error}");
            }
            assert!(error.ends_with("load the model again"), "{error}");
        }
    }
}

/// Ranks with the same two numbers each, and a sum over all but those that do something else first.
fn sum_unless(ranks: &mut Ranks, first: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let buffers: Vec<Buffer> = ranks.allocate_zeros(8).unwrap();
    let jobs = buffers.iter().map(Buffer::address).enumerate().collect();
    let sum = |ops: &mut dyn DeviceOps, (rank, values): &mut (usize, Address)| {
        first(*rank)?;
        ops.all_reduce(&AllReduceArgs { values: *values, num_values: 2 })
    };
    ranks.together(jobs, sum, &mut || (), |_, _| Ok(()))
}

#[test]
fn whichever_rank_fails_its_error_is_the_one_that_is_told() {
    for failing in 0..3 {
        let mut ranks = HostOps::ranks(3);
        sum_unless(&mut ranks, |_| Ok(())).unwrap();
        ranks.check().unwrap();
        let fails = |rank| match rank == failing {
            true => Err(Error::Request("no more".to_owned())),
            false => Ok(()),
        };
        let error = sum_unless(&mut ranks, fails).unwrap_err().to_string();
        assert!(error.contains(&format!("rank {failing} of 3: request: no more")), "{error}");
        ranks.check().unwrap_err();
    }
}

#[test]
fn a_rank_that_panics_lets_the_others_go() {
    for panicking in 0..2 {
        let mut ranks = HostOps::ranks(2);
        let panics = |rank| {
            assert_ne!(rank, panicking, "as the test wants it");
            Ok(())
        };
        let ended = catch_unwind(AssertUnwindSafe(|| sum_unless(&mut ranks, panics)));
        ended.unwrap_err();
        let error = ranks.check().unwrap_err().to_string();
        assert!(error.contains("a rank panicked"), "{error}");
    }
}
