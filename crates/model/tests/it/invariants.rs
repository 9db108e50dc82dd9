//! On the CPU a row's logits do not depend on its company, nor on the kernels' level and the number of threads:
//! bitwise, on every form of weight.

use std::num::NonZeroUsize;

use skeg_model::steering::{Site, SteeringTables};
use skeg_model::{Capture, CpuKernels, CpuOptions, Hooks, KvCacheDtype, SteerRows};

use crate::tiny::{
    Stretch, cache, cache_of, models, models_on, pack, run, run_fresh, tokens, values,
};

/// Three sequences of different lengths in blocks that are neither adjacent nor in order.
fn three() -> [Stretch; 3] {
    [
        Stretch::whole(tokens(1, 21), &[40, 3, 17, 9, 60, 1]),
        Stretch::whole(tokens(2, 1), &[5]),
        Stretch::whole(tokens(3, 10), &[2, 33, 7]),
    ]
}

#[test]
fn packed_equals_alone() {
    for (name, llama) in models() {
        let packed = run_fresh(&llama, &three());
        let alone: Vec<_> =
            three().into_iter().flat_map(|stretch| run_fresh(&llama, &[stretch])).collect();
        assert_eq!(packed, alone, "{name}");
        assert_ne!(packed[0], packed[1], "{name}: rows that cannot be told apart prove nothing");
    }
}

#[test]
fn every_level_and_every_number_of_threads_gives_the_same_bits() {
    let options = |kernels, num_threads| CpuOptions {
        kernels: Some(kernels),
        num_threads: NonZeroUsize::new(num_threads),
    };
    let logits = |cpu| {
        let models = models_on(cpu).into_iter();
        models.map(|(name, llama)| (name, run_fresh(&llama, &three()))).collect::<Vec<_>>()
    };
    let expected = logits(options(CpuKernels::Portable, 1));
    for kernels in CpuKernels::supported() {
        for num_threads in [1, 2, 5] {
            for (found, expected) in logits(options(kernels, num_threads)).iter().zip(&expected) {
                assert_eq!(found, expected, "{kernels} with {num_threads} threads");
            }
        }
    }
}

/// Keys and values are rounded when they are written, so whoever reads them reads the same.
#[test]
fn a_cache_of_16_bits_changes_little_and_keeps_the_invariants() {
    let f16 = KvCacheDtype::F16;
    for (name, llama) in models() {
        let run_f16 = |stretches: &[Stretch]| {
            run(&llama, &mut cache_of(&llama, f16), stretches, &mut Hooks::none())
        };
        let packed = run_f16(&three());
        let alone: Vec<_> = three().into_iter().flat_map(|stretch| run_f16(&[stretch])).collect();
        assert_eq!(packed, alone, "{name}");

        let mut chunks = cache_of(&llama, f16);
        let whole = &three()[0];
        for (first, row) in packed[..whole.token_ids.len()].iter().enumerate() {
            let token_ids = vec![whole.token_ids[first]];
            let step = Stretch { token_ids, first, ..whole.clone() };
            assert_eq!(run(&llama, &mut chunks, &[step], &mut Hooks::none())[0], *row, "{name}");
        }

        let logits = |dtype| {
            let mut cache = cache_of(&llama, dtype);
            values(&llama.forward(&pack(&three()), &mut cache, &mut Hooks::none()).unwrap())
        };
        let (rounded, exact) = (logits(f16), logits(KvCacheDtype::F32));
        let pairs = rounded.iter().flatten().zip(exact.iter().flatten());
        let (mut error, mut scale) = (0f32, 0f32);
        for (rounded, exact) in pairs {
            error = error.max((rounded - exact).abs());
            scale = scale.max(exact.abs());
        }
        // Where activations are rounded, to 8 bits of a block or to the weights' 16, a small change can move one by a whole step.
        let tolerance = match name.as_str() {
            _ if name.starts_with('q') => 5e-2,
            _ if name.starts_with("bf16, device") => 2e-2,
            _ => 2e-3,
        };
        assert!(error > 0.0 && error < tolerance * scale, "{name}: {error} of {scale}");
    }
}

#[test]
fn the_order_of_sequences_does_not_matter() {
    for (name, llama) in models() {
        let [a, b, c] = three();
        let (len_a, len_c) = (a.token_ids.len(), c.token_ids.len());
        let forward = run_fresh(&llama, &[a.clone(), b.clone(), c.clone()]);
        let backward = run_fresh(&llama, &[c, b, a]);
        assert_eq!(forward[..len_a], backward[len_c + 1..], "{name}");
        assert_eq!(forward[len_a + 1..], backward[..len_c], "{name}");
    }
}

#[test]
fn chunked_equals_whole() {
    for (name, llama) in models() {
        let [whole, neighbour, _] = three();
        let expected = run_fresh(&llama, std::slice::from_ref(&whole));
        for chunk_len in [1, 3, 4, 16] {
            let mut cache = cache(&llama);
            let mut chunked = Vec::new();
            for first in (0..whole.token_ids.len()).step_by(chunk_len) {
                let end = whole.token_ids.len().min(first + chunk_len);
                let token_ids = whole.token_ids[first..end].to_vec();
                let chunk = Stretch { token_ids, first, ..whole.clone() };
                let rows = run(&llama, &mut cache, &[neighbour.clone(), chunk], &mut Hooks::none());
                chunked.extend_from_slice(&rows[1..]);
            }
            assert_eq!(chunked, expected, "{name}, chunks of {chunk_len}");
        }
    }
}

#[test]
fn the_place_of_cache_blocks_does_not_matter() {
    for (name, llama) in models() {
        let scattered = three()[0].clone();
        let adjacent = Stretch { block_table: vec![0, 1, 2, 3, 4, 5], ..scattered.clone() };
        assert_eq!(run_fresh(&llama, &[scattered]), run_fresh(&llama, &[adjacent]), "{name}");
    }
}

#[test]
fn what_was_in_the_cache_does_not_matter() {
    for (name, llama) in models() {
        let mut used = cache(&llama);
        let other = Stretch { token_ids: tokens(9, 21), ..three()[0].clone() };
        run(&llama, &mut used, &[other], &mut Hooks::none());
        let after = run(&llama, &mut used, &[three()[0].clone()], &mut Hooks::none());
        assert_eq!(after, run_fresh(&llama, &[three()[0].clone()]), "{name}");
    }
}

#[test]
fn logit_rows_choose_without_changing() {
    for (name, llama) in models() {
        let all = run_fresh(&llama, &three());
        let mut batch = pack(&three());
        batch.logit_rows = vec![31, 0, 20];
        let chosen = llama.forward(&batch, &mut cache(&llama), &mut Hooks::none()).unwrap();
        let expected = [all[31].clone(), all[0].clone(), all[20].clone()];
        assert_eq!(crate::tiny::bits(&chosen), expected, "{name}");
        batch.logit_rows.clear();
        let none = llama.forward(&batch, &mut cache(&llama), &mut Hooks::none()).unwrap();
        assert_eq!(none.dims2().unwrap(), (0, 128));
    }
}

#[test]
fn hooks_that_do_nothing_change_nothing() {
    for (name, llama) in models() {
        let tables = SteeringTables::new(&llama, 4);
        let total_tokens = pack(&three()).total_tokens();
        let mut capture = Capture::new(Site::AttnOut, vec![0, 1], vec![0, 5]);
        let mut hooks = Hooks {
            steer: Some(SteerRows::new(&tables, vec![None; total_tokens])),
            capture: Some(&mut capture),
        };
        let hooked = run(&llama, &mut cache(&llama), &three(), &mut hooks);
        assert_eq!(hooked, run_fresh(&llama, &three()), "{name}");
    }
}

/// Reading stops after the last layer that is read, which changes nothing of what is read.
#[test]
fn activations_alone_are_those_of_a_whole_pass() {
    for (name, llama) in models() {
        let num_layers = llama.config().num_hidden_layers;
        let batch = pack(&three());
        for (site, layers) in [
            (Site::AttnOut, vec![0]),
            (Site::ResidPost, vec![num_layers - 1]),
            (Site::ResidPost, (0..num_layers - 1).collect()),
            (Site::AttnOut, Vec::new()),
        ] {
            let capture = || Capture::new(site, layers.clone(), vec![0, 5, 21]);
            let (mut whole, mut alone) = (capture(), capture());
            let mut hooks = Hooks { steer: None, capture: Some(&mut whole) };
            llama.forward(&batch, &mut cache(&llama), &mut hooks).unwrap();
            llama.capture(&batch, &mut cache(&llama), &mut alone).unwrap();
            let whole = whole.take();
            assert_eq!(whole.len(), layers.len());
            assert_eq!(bits_by_layer(&alone.take()), bits_by_layer(&whole), "{name} {layers:?}");
        }
        let mut beyond = Capture::new(Site::AttnOut, vec![num_layers], vec![0]);
        let error = llama.capture(&batch, &mut cache(&llama), &mut beyond).unwrap_err();
        assert!(error.to_string().contains(&format!("layer {num_layers}")), "{error}");
    }
}

fn bits_by_layer(captured: &[(usize, Vec<f32>)]) -> Vec<(usize, Vec<u32>)> {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    captured.iter().map(|(layer, values)| (*layer, bits(values))).collect()
}
