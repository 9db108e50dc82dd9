//! What a policy may add to activations, what must be measured, and what a card must say.

use serde_json::json;
use skeg_vector_store::{Operator, load_generation, write_generation};

use crate::forge::{Forged, check, forge};
use crate::support::{category, new_generation};

const ADVICE: &str = "lower the ceiling, look whether the vectors have the right scale, or raise `max_relative_norm` if this \
                      was measured to keep the text whole";

/// The mean norm of the activations in the second layer, layer 3.
fn set_activation(forged: &mut Forged, norm: f32) {
    forged.manifest["norms"]["malware_viruses"][1]["activation"] = json!(norm);
}

#[test]
fn steering_adds_no_more_than_a_multiple_of_the_activations() {
    // Rows have norm 2 and the ceiling is 1.
    check(
        |forged| set_activation(forged, 0.5),
        &format!(
            "policy.toml: field `categories.malware_viruses.strength.ceiling`: found 4.000 in layer 3 (ceiling 1 x norm 2 of \
             the vector / mean norm 0.5 of the activations), expected at most max_relative_norm = 2; {ADVICE}"
        ),
    );
    check(
        |forged| {
            set_activation(forged, 2.0);
            forged.replace_policy("max_combined_norm = 1.0", "max_combined_norm = 3.0");
        },
        &format!(
            "policy.toml: field `categories.malware_viruses.strength.ceiling`: found 3.000 in layer 3 (ceiling 1 x \
             max_combined_norm 3 x norm 2 of the vector / mean norm 2 of the activations), expected at most \
             max_relative_norm = 2; {ADVICE}"
        ),
    );
    check(
        |forged| forged.replace_policy("when_missing", "max_relative_norm = 0.125\nwhen_missing"),
        &format!(
            "policy.toml: field `categories.fraud_deception.strength.ceiling`: found 0.250 in layer 1 (ceiling 1 x norm 2 of \
             the vector / mean norm 8 of the activations), expected at most max_relative_norm = 0.125; {ADVICE}"
        ),
    );
}

#[test]
fn the_bound_is_the_policys_and_holds_for_what_is_added() {
    let loads = |edit: &dyn Fn(&mut Forged)| {
        let root = tempfile::tempdir().unwrap();
        let id = forge(root.path(), edit);
        load_generation(root.path(), &id, None).is_ok()
    };
    assert!(loads(&|forged| set_activation(forged, 1.0)), "twice as long is the default bound");
    assert!(!loads(&|forged| set_activation(forged, 0.99)));
    assert!(loads(&|forged| {
        set_activation(forged, 0.5);
        forged.replace_policy("when_missing", "max_relative_norm = 4.0\nwhen_missing");
    }));
    // Nothing is added where it is only logged.
    assert!(loads(&|forged| {
        set_activation(forged, 0.5);
        forged.replace_policy("\"steer\"", "\"log\"");
    }));
    // What is projected out is a part of the row.
    assert!(loads(&|forged| {
        set_activation(forged, 0.5);
        forged.manifest["operator"] = json!("project_out");
    }));
    // Sums are made by `add` alone.
    assert!(loads(&|forged| {
        set_activation(forged, 2.0);
        forged.replace_policy("max_combined_norm = 1.0", "max_combined_norm = 3.0");
        forged.manifest["operator"] = json!("add_norm_restored");
    }));
}

#[test]
fn a_policy_may_want_figures_of_what_it_steers() {
    let wanted = |forged: &mut Forged| {
        forged.replace_policy("when_missing", "require_measured = true\nwhen_missing");
    };
    let figure = |slug: &str| {
        json!({"metric": "unsafe_rate", "condition": "steered", "data": "catqa", "category": slug, "value": 0.1,
               "num_items": 10})
    };
    let text = |slug: &str| {
        format!(
            "policy.toml: field `require_measured`: found no figure of `{slug}` under `measured` in manifest.json, expected \
             measured figures of every category that steers; measure it (skeg calibrate), choose the action `log` until it is \
             measured, or leave the field out"
        )
    };
    // A figure of all categories together is none of each.
    check(wanted, &text("fraud_deception"));
    check(
        |forged| {
            wanted(forged);
            forged.manifest["measured"] = json!([figure("fraud_deception")]);
        },
        &text("malware_viruses"),
    );
    let root = tempfile::tempdir().unwrap();
    for edit in [
        (|forged, figure| {
            forged.manifest["measured"] =
                json!([figure("fraud_deception"), figure("malware_viruses")]);
        }) as fn(&mut Forged, &dyn Fn(&str) -> serde_json::Value),
        |forged, _| forged.replace_policy("\"steer\"", "\"log\""),
    ] {
        let id = forge(root.path(), |forged| {
            wanted(forged);
            edit(forged, &figure);
        });
        assert!(load_generation(root.path(), &id, None).unwrap().policy.require_measured);
    }
}

#[test]
fn a_blank_card_is_none() {
    for card in ["", " \n\t\n"] {
        check(
            |forged| {
                forged.files.insert("CARD.md".to_owned(), card.as_bytes().to_vec());
            },
            "CARD.md: found a blank card, expected what was measured, in words; write it, if only that nothing was",
        );
    }
}

#[test]
fn figures_of_the_manifest_are_finite() {
    // 1e300 is a number in JSON and infinite in the precision of a manifest.
    let again = "write the generation again with a program that fills it in";
    check(
        |forged| forged.manifest["measured"][0]["value"] = json!(1e300),
        &format!(
            "manifest.json: field `measured.refusal_rate (steered, held_out)`: found inf, expected a finite figure; {again}"
        ),
    );
    check(
        |forged| {
            forged.manifest["provenance"]["categories"]["fraud_deception"]["split_half_cosine"]
                [1] = json!(-1e300);
        },
        &format!(
            "manifest.json: field `provenance.categories.fraud_deception.split_half_cosine`: found -inf, expected finite \
             cosines; {again}"
        ),
    );
}

#[test]
fn what_is_out_of_bounds_is_not_written() {
    let root = tempfile::tempdir().unwrap();
    let mut new = new_generation(0);
    new.operator = Operator::Add;
    new.activation_norms.insert(category("fraud_deception"), vec![0.1, 16.0]);
    let error = write_generation(root.path(), &new).unwrap_err().to_string();
    assert!(error.contains("found 20.000 in layer 1"), "{error}");
    assert_eq!(root.path().join("generations").read_dir().unwrap().count(), 0);
}
