//! Variants of the method, on the extractions of [`crate::extraction`].

use std::path::Path;

use skeg_lab::extract::{
    Estimator, ExtractSpec, Extraction, Pairing, PruneCriterion, Pruning, TokenMode, Variant,
    extract_encoded, extract_variants_encoded,
};
use skeg_lab::{Error, Progress};
use skeg_model::steering::Site;

use crate::extraction::{StopAfter, bits, identity, inputs, llama, options, spec};

const TOKENS: TokenMode = TokenMode::Response;

fn pruned(keep: f32) -> Variant {
    let pruning = Some(Pruning { criterion: PruneCriterion::Norm, keep });
    Variant { pruning, ..Variant::default() }
}

fn run(
    variant: Variant,
    checkpoint: Option<&Path>,
    progress: &mut dyn Progress,
) -> Result<Extraction, Error> {
    let spec = ExtractSpec { variant, ..spec(Site::AttnOut, TOKENS) };
    let options = options(1, checkpoint);
    extract_encoded(&llama(), &identity(), &spec, &inputs(TOKENS), (&options, progress))
}

fn extracted(variant: Variant) -> Extraction {
    run(variant, None, &mut StopAfter::default()).unwrap()
}

#[test]
fn variants_that_leave_nothing_out_give_eq_1() {
    let plain = extracted(Variant::default());
    let everything = [
        pruned(1.0),
        Variant { pairing: Pairing::Matched, ..pruned(1.0) },
        Variant { mask_massive: Some(1e9), ..Variant::default() },
        Variant { top_k: Some(64), ..Variant::default() },
    ];
    for variant in everything {
        let found = extracted(variant);
        for (plain, found) in plain.categories.values().zip(found.categories.values()) {
            assert_eq!((plain.num_safe, plain.num_unsafe), (found.num_safe, found.num_unsafe));
            for (plain, found) in plain.layers.iter().zip(&found.layers) {
                for (plain, found) in plain.vector.iter().zip(&found.vector) {
                    assert!((plain - found).abs() < 1e-5, "{variant}: {plain} {found}");
                }
                assert!((plain.activation_norm - found.activation_norm).abs() < 1e-9);
                let cosines = (plain.split_half_cosine.unwrap(), found.split_half_cosine.unwrap());
                assert!((cosines.0 - cosines.1).abs() < 1e-5, "{variant}: {cosines:?}");
            }
        }
    }
}

#[test]
fn variants_that_leave_something_out_differ_and_say_so() {
    let plain = bits(&extracted(Variant::default()));
    let half = extracted(pruned(0.5));
    assert!(
        half.categories.values().flat_map(|one| &one.layers).all(|layer| layer.num_kept == Some(2))
    );
    assert_ne!(bits(&half), plain);
    let first = Variant { estimator: Estimator::PrincipalComponent, ..Variant::default() };
    assert_ne!(bits(&extracted(first)), plain);
    for variant in [
        Variant { top_k: Some(3), ..Variant::default() },
        Variant { top_k: Some(3), ..pruned(0.5) },
    ] {
        for layer in extracted(variant).categories.values().flat_map(|one| &one.layers) {
            assert_eq!(layer.vector.iter().filter(|value| **value != 0.0).count(), 3);
        }
    }
}

#[test]
fn an_interrupted_extraction_goes_on_and_gives_the_same_bytes() {
    for variant in [Variant::default(), pruned(0.5)] {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("vectors.part");
        let uninterrupted = run(variant, Some(&part), &mut StopAfter::default()).unwrap();
        assert!(!part.exists(), "a complete run leaves no state file");

        let mut stop = StopAfter { num_left: Some(7), ..StopAfter::default() };
        let error = run(variant, Some(&part), &mut stop).unwrap_err();
        assert!(matches!(error, Error::Interrupted { done: 7, total: 20 }), "{error}");
        assert!(part.exists());

        let mut progress = StopAfter::default();
        let resumed = run(variant, Some(&part), &mut progress).unwrap();
        assert_eq!(progress.notes, ["going on after 7 inputs"]);
        assert_eq!(resumed, uninterrupted);
        assert_eq!(bits(&resumed), bits(&uninterrupted));
        assert!(!part.exists());
    }
}

#[test]
fn a_state_file_of_another_variant_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("vectors.part");
    let mut stop = StopAfter { num_left: Some(7), ..StopAfter::default() };
    run(pruned(0.5), Some(&part), &mut stop).unwrap_err();
    let mut progress = StopAfter::default();
    let found = run(pruned(0.75), Some(&part), &mut progress).unwrap();
    assert!(progress.notes[0].contains("another spec"), "{:?}", progress.notes);
    assert_eq!(bits(&found), bits(&extracted(pruned(0.75))));
}

/// Of either kind: made from sums, and from single differences.
fn both_kinds() -> [Variant; 5] {
    [
        Variant::default(),
        pruned(0.5),
        Variant { estimator: Estimator::PrincipalComponent, ..Variant::default() },
        Variant { mask_massive: Some(2.0), ..Variant::default() },
        Variant { top_k: Some(3), ..Variant::default() },
    ]
}

fn run_several(
    variants: &[Variant],
    checkpoint: Option<&Path>,
    progress: &mut dyn Progress,
) -> Result<Vec<Extraction>, Error> {
    let (spec, options) = (spec(Site::AttnOut, TOKENS), options(1, checkpoint));
    let run = (&spec, variants);
    extract_variants_encoded(&llama(), &identity(), run, &inputs(TOKENS), (&options, progress))
}

#[test]
fn variants_of_one_pass_are_those_of_runs_of_their_own_bit_for_bit() {
    let all = both_kinds();
    for variants in [&all[..], &all[1..4], &[all[0], all[4]], &all[2..3]] {
        let mut progress = StopAfter::default();
        let found = run_several(variants, None, &mut progress).unwrap();
        assert_eq!(progress.num_done, 20, "one pass over the inputs");
        assert_eq!(found.len(), variants.len());
        for (found, variant) in found.iter().zip(variants) {
            let alone = extracted(*variant);
            assert_eq!(*found, alone, "{variant}");
            assert_eq!(bits(found), bits(&alone), "{variant}");
        }
    }
}

#[test]
fn an_interrupted_pass_for_several_variants_goes_on_and_gives_the_same_bytes() {
    let all = both_kinds();
    for variants in [&all[..], &all[1..4], &[all[0], all[4]]] {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("vectors.part");
        let uninterrupted = run_several(variants, None, &mut StopAfter::default()).unwrap();
        let mut stop = StopAfter { num_left: Some(7), ..StopAfter::default() };
        run_several(variants, Some(&part), &mut stop).unwrap_err();

        let mut progress = StopAfter::default();
        let resumed = run_several(variants, Some(&part), &mut progress).unwrap();
        assert_eq!(progress.notes, ["going on after 7 inputs"]);
        assert_eq!(resumed, uninterrupted);
        assert!(resumed.iter().zip(&uninterrupted).all(|(one, other)| bits(one) == bits(other)));

        run_several(
            variants,
            Some(&part),
            &mut StopAfter { num_left: Some(7), ..StopAfter::default() },
        )
        .unwrap_err();
        let mut progress = StopAfter::default();
        run_several(&variants[1..], Some(&part), &mut progress).unwrap();
        assert!(progress.notes[0].contains("another spec"), "{:?}", progress.notes);
    }
}

#[test]
fn variants_that_do_not_go_together_are_refused() {
    let matched = Variant { pairing: Pairing::Matched, ..pruned(0.5) };
    for (variants, expected) in [
        (&[][..], "no variant was asked for"),
        (
            &[Variant::default(), matched],
            "`difference_of_means, matched pairs, pruned to 0.5 by norm`",
        ),
        (&[Variant::default(), pruned(0.0)], "a share of 0"),
    ] {
        let error = run_several(variants, None, &mut StopAfter::default()).unwrap_err();
        assert!(matches!(error, Error::Spec(_)) && error.to_string().contains(expected), "{error}");
    }
}
