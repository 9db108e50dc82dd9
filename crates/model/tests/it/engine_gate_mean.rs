//! Gates that read the mean of a prompt's rows, of which the prefix cache has some: it keeps their sums, or they are computed.

use std::sync::Arc;

use skeg_model::engine::{Engine, EngineConfig, GateDecision, GenerationRequest, LlamaEngine};
use skeg_model::steering::Site;

use crate::engine_company::{Ask, engine, vectors};
use crate::engine_gate::STEERING;
use crate::engine_gate::{Script, configs, gated, rows_by_hand, steer};
use crate::engine_gate_company::saw_its_prompt;
use crate::engine_support::{alone, answer, request, run_to_end, submit};
use crate::tiny::tokens;

const BLOCK_SIZE: usize = 4;

fn config() -> EngineConfig {
    EngineConfig { block_size: BLOCK_SIZE, ..EngineConfig::default() }
}

/// A gate that finds nothing, and reads the mean of the rows from this one on.
fn script(from: usize) -> Script {
    Script { mean_from: Some(from), ..Script::new(GateDecision::Unsteered) }
}

/// Prompt tokens that were found when a prompt was answered by itself, as without a gate and after its gate saw it.
fn found(engine: &mut LlamaEngine, config: &EngineConfig, prompt: &[u32], gate: Script) -> usize {
    let plain = Ask { request: request(prompt.to_vec(), 6), steering: None };
    let gate = Arc::new(gate);
    let before = engine.stats().read();
    let answer = alone(engine, gated(plain.request.clone(), &gate));
    let after = engine.stats().read();
    assert_eq!(answer, plain.alone());
    assert!(saw_its_prompt(&gate, prompt, config.block_size), "{gate:?}");
    let found = after.prefix_cache_hit_tokens - before.prefix_cache_hit_tokens;
    let computed = after.computed_rows - before.computed_rows;
    assert_eq!(found + computed, prompt.len() + 5, "what was not found is computed");
    found
}

#[test]
fn a_mean_is_that_of_all_rows_whatever_the_chunks_and_what_was_found() {
    let prompt = tokens(1, 23);
    for config in configs() {
        for from in [0, 1, 3, 4, 6, 19, 20, 22] {
            let mut engine = engine(&config);
            let findable = if config.enable_prefix_caching { 22 / config.block_size } else { 0 };
            for expected in [0, findable * config.block_size] {
                let found = found(&mut engine, &config, &prompt, script(from));
                assert_eq!(found, expected, "from {from} in {config:?}");
            }
        }
    }
    // A block may be cut where a chunk ends, so this one does not hang on the sizes above.
    for budget in 1..=23 {
        let config = EngineConfig { max_num_batched_tokens: budget, max_num_seqs: 1, ..config() };
        let mut engine = engine(&config);
        assert_eq!(found(&mut engine, &config, &prompt, script(2)), 0);
        assert_eq!(found(&mut engine, &config, &prompt, script(2)), 20);
    }
}

#[test]
fn the_mean_is_the_mean() {
    let prompt = tokens(3, 40);
    let mut engine = engine(&config());
    let gate = Arc::new(script(5));
    alone(&mut engine, gated(request(prompt.clone(), 1), &gate));
    let rows = rows_by_hand(&prompt, (Site::ResidPost, &gate.layers));
    let means = gate.means.lock().unwrap();
    assert_eq!(means[0].len(), rows[0].len());
    for (idx, mean) in means[0].iter().enumerate() {
        let expected = rows[5..].iter().map(|row| f64::from(row[idx])).sum::<f64>() / 35.0;
        assert!((f64::from(*mean) - expected).abs() < 1e-5, "{idx}: {mean} for {expected}");
    }
}

#[test]
fn blocks_without_sums_are_computed_once_more_and_then_found() {
    let prompt = tokens(1, 23);
    let config = config();
    let last_row = || Script::new(GateDecision::Unsteered);
    let mut engine = engine(&config);
    assert_eq!(found(&mut engine, &config, &prompt, last_row()), 0);
    assert_eq!(found(&mut engine, &config, &prompt, last_row()), 20);
    // The rows before row 9 do not count, so blocks 0 and 1 need no sum.
    assert_eq!(found(&mut engine, &config, &prompt, script(9)), 8);
    assert_eq!(found(&mut engine, &config, &prompt, script(9)), 20);
    assert_eq!(found(&mut engine, &config, &prompt, last_row()), 20);
    // Blocks wholly behind the first row that counts have the sums of any other first row.
    assert_eq!(found(&mut engine, &config, &prompt, script(11)), 8);
    assert_eq!(found(&mut engine, &config, &prompt, script(12)), 20);
    assert_eq!(found(&mut engine, &config, &prompt, script(0)), 0);
}

#[test]
fn two_that_read_different_layers_find_each_their_own_sums() {
    let prompt = tokens(1, 23);
    let config = config();
    let mut engine = engine(&config);
    let other = || Script { layers: vec![1], ..script(0) };
    let elsewhere = || Script { site: Site::AttnOut, ..script(0) };
    for expected in [0, 20, 20] {
        for gate in [script(0), other()] {
            assert_eq!(found(&mut engine, &config, &prompt, gate), expected);
        }
    }
    for expected in [0, 20] {
        assert_eq!(found(&mut engine, &config, &prompt, elsewhere()), expected);
    }
}

#[test]
fn the_next_turn_of_a_conversation_finds_its_history() {
    for config in
        [config(), EngineConfig { max_num_batched_tokens: 5, max_num_seqs: 4, ..config() }]
    {
        let mut engine = engine(&config);
        let mut prompt = tokens(1, 22);
        for turn in 0..3 {
            // 22 tokens and 9 more a turn: an answer of 6, of which the last token's row is not computed, and a question.
            let known = if turn == 0 { 0 } else { prompt.len() - 4 };
            let found = found(&mut engine, &config, &prompt, script(3));
            assert_eq!(found, known / BLOCK_SIZE * BLOCK_SIZE, "turn {turn}");
            let plain = Ask { request: request(prompt.clone(), 6), steering: None };
            prompt.extend(plain.alone().token_ids());
            prompt.extend(tokens(turn + 5, 3));
        }
    }
}

#[test]
fn the_mean_of_a_sequence_that_is_then_steered_is_unsteered_and_so_is_what_it_leaves() {
    let prompt = tokens(2, 24);
    let config = config();
    let mut engine = engine(&config);
    let steered = Ask { request: request(prompt.clone(), 6), steering: Some(STEERING) };
    for findable in [0, 20] {
        let lease = engine.register_vectors(&vectors()).unwrap();
        let gate = Arc::new(Script { about_prompt: steer(&steered, &lease), ..script(3) });
        let before = engine.stats().read().prefix_cache_hit_tokens;
        assert_eq!(alone(&mut engine, gated(steered.request.clone(), &gate)), steered.alone());
        assert!(saw_its_prompt(&gate, &prompt, BLOCK_SIZE));
        assert_eq!(engine.stats().read().prefix_cache_hit_tokens - before, findable);
    }
    assert_eq!(found(&mut engine, &config, &prompt, script(3)), 20);
}

#[test]
fn pushed_out_before_or_after_its_verdict_a_sequence_is_asked_once_about_all_rows() {
    // 16 blocks of 4: while the first decodes, the second loses what it has, within its prompt or its answer.
    for (prompt_len, before_verdict) in [(38, true), (16, false)] {
        for enable_prefix_caching in [true, false] {
            let config = EngineConfig {
                kv_cache_tokens: 64,
                max_num_batched_tokens: 4,
                max_num_seqs: 2,
                enable_prefix_caching,
                ..config()
            };
            let mut engine = engine(&config);
            let (_, first) = submit(&mut engine, request(tokens(1, 12), 50));
            while engine.stats().read().computed_rows < 12 + 14 {
                engine.step().unwrap();
            }
            let request = request(tokens(2, prompt_len), if before_verdict { 3 } else { 24 });
            let plain = Ask { request, steering: None };
            let gate = Arc::new(script(6));
            let (_, second) = submit(&mut engine, gated(plain.request.clone(), &gate));
            while engine.stats().read().preemptions == 0 {
                engine.step().unwrap();
            }
            assert_eq!(gate.seen().is_empty(), before_verdict, "the test is about something else");
            run_to_end(&mut engine);
            assert_eq!(answer(&first).tokens.len(), 50);
            assert_eq!(answer(&second), plain.alone());
            assert!(saw_its_prompt(&gate, &plain.request.prompt_token_ids, BLOCK_SIZE));
        }
    }
}

#[test]
fn many_at_once_have_each_their_own_mean() {
    for config in configs() {
        let mut engine = engine(&config);
        for _ in 0..2 {
            let running: Vec<_> = (0..6_u32)
                .map(|idx| {
                    // Every second one begins like the one before it, and every third has no gate.
                    let prompt = [tokens(idx / 2, 13), tokens(idx, 9)].concat();
                    let plain = Ask { request: request(prompt, 6), steering: None };
                    let gate = (idx % 3 < 2).then(|| Arc::new(script(2)));
                    let request = plain.request.clone();
                    let request = match &gate {
                        Some(gate) => gated(request, gate),
                        None => GenerationRequest { gate: None, ..request },
                    };
                    (plain, gate, submit(&mut engine, request).1)
                })
                .collect();
            run_to_end(&mut engine);
            for (plain, gate, reader) in &running {
                assert_eq!(answer(reader), plain.alone());
                let prompt = &plain.request.prompt_token_ids;
                assert!(gate.as_ref().is_none_or(|gate| saw_its_prompt(
                    gate,
                    prompt,
                    config.block_size
                )));
            }
        }
    }
}
