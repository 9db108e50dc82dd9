//! What the prefix cache keeps over a swap: rows that nothing steers, and rows that the same vectors steered.

use serde_json::json;

use super::kinds::{Kind, References};
use super::rig::{NUM_CATEGORIES, Setup};

#[tokio::test]
async fn unsteered_rows_survive_a_swap_and_steered_ones_serve_their_own_vectors_alone() {
    let none = Kind::new(Some("none"), json!({}));
    let steered = Kind::new(
        Some("malware_viruses"),
        json!({"steering": {"positions": "all", "strength": 1.0}}),
    );
    let kinds = [none, steered];
    let references = References::of(&kinds).await;
    let num_slots = 2 * NUM_CATEGORIES;
    let setup = Setup { num_slots, prefix_caching: true, ..Setup::default() };
    let rig = setup.start();
    // Generations 0 and 6 steer at the same site and layers. The prompt has 19 tokens: two blocks of 8 can be found again.
    for (generation, expected_found) in [(0, [0, 0]), (6, [16, 0]), (1, [16, 0]), (0, [16, 16])] {
        rig.publish(&rig.good[generation]).unwrap();
        for (idx, expected) in expected_found.into_iter().enumerate() {
            rig.settle();
            let before = rig.engine.stats().prefix_cache_hit_tokens;
            let answer = rig.ask(&kinds[idx]).await;
            let named = references.check(idx, &kinds[idx], &answer);
            assert_eq!(named, rig.good[generation]);
            rig.settle();
            let found = rig.engine.stats().prefix_cache_hit_tokens - before;
            assert_eq!(found, expected, "kind {idx} under generation {generation}");
        }
    }
}
