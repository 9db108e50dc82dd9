//! What a manifest, a policy and a binding must hold to, each with the text that says so.

use serde_json::json;
use skeg_vector_store::{ModelBinding, load_generation};

use crate::forge::{check, check_for, forge};
use crate::support::model;

const MAKE_AGAIN: &str = "write the generation again with a program that fills it in";

#[test]
fn another_format_version_is_refused_before_anything_else() {
    let text = |found: &str| {
        format!(
            "manifest.json: field `format_version`: found {found}, expected 1; \
             use a program that reads this version, or write the generation again with this one"
        )
    };
    check(
        |forged| {
            forged.manifest = json!({"format_version": 2, "something_else": true});
            forged.fix_digests = false;
        },
        &text("2"),
    );
    check(|forged| forged.manifest["format_version"] = json!("1"), &text("\"1\""));
}

#[test]
fn an_unknown_field_of_the_manifest_is_refused_wherever_it_stands() {
    for pointer in ["", "/safe_windows/fraud_deception", "/provenance", "/measured/0"] {
        let root = tempfile::tempdir().unwrap();
        let id = forge(root.path(), |forged| {
            forged.manifest.pointer_mut(pointer).unwrap()["colour"] = json!(1);
        });
        let error = load_generation(root.path(), &id, None).unwrap_err().to_string();
        assert!(error.contains("manifest.json: unknown field `colour`"), "{error}");
    }
}

#[test]
fn unknown_words_for_site_operator_and_orientation_are_refused() {
    for (field, known) in [
        ("site", "`attn_out` or `resid_post`"),
        ("operator", "one of `add`, `add_norm_restored`, `project_out`"),
        ("orientation", "`safe_minus_unsafe` or `reversed`"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let id = forge(root.path(), |forged| forged.manifest[field] = json!("sideways"));
        let error = load_generation(root.path(), &id, None).unwrap_err().to_string();
        let expected = format!("manifest.json: unknown variant `sideways`, expected {known}");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn layers_are_below_the_models_ascending_and_each_once() {
    for (layers, found) in [(json!([]), "[]"), (json!([3, 1]), "[3, 1]"), (json!([1, 1]), "[1, 1]")]
    {
        check(
            |forged| forged.manifest["layers"] = layers,
            &format!(
                "manifest.json: field `layers`: found {found}, expected at least one layer, ascending, each once; \
                 {MAKE_AGAIN}"
            ),
        );
    }
    check(
        |forged| forged.manifest["layers"] = json!([1, 6]),
        "manifest.json: field `layers`: found [1, 6], expected layers below num_hidden_layers = 6; \
         layers count from 0",
    );
}

#[test]
fn identities_and_sizes_are_there() {
    check(
        |forged| forged.manifest["architecture_id"] = json!(""),
        &format!(
            "manifest.json: field `architecture_id`: found \"\", expected 1 to 128 visible ASCII characters; {MAKE_AGAIN}"
        ),
    );
    check(
        |forged| forged.manifest["hidden_size"] = json!(0),
        &format!("manifest.json: field `hidden_size`: found 0, expected at least 1; {MAKE_AGAIN}"),
    );
}

#[test]
fn the_manifests_parts_name_the_same_categories() {
    check(
        |forged| forged.manifest["categories"] = json!(["malware_viruses", "fraud_deception"]),
        &format!(
            "manifest.json: field `categories`: found `malware_viruses`, `fraud_deception`, \
             expected at least one category, sorted, each once; {MAKE_AGAIN}"
        ),
    );
    let stranger = |field: &str| {
        format!(
            "manifest.json: field `{field}`: found `adult_content`, expected one of `fraud_deception`, \
             `malware_viruses`; remove it, or add the category with its vectors and policy"
        )
    };
    check(
        |forged| forged.manifest["safe_windows"]["adult_content"] = json!({"min": 0, "max": 1}),
        &stranger("safe_windows"),
    );
    check(|forged| forged.manifest["norms"]["adult_content"] = json!([]), &stranger("norms"));
    check(
        |forged| forged.manifest["measured"][0]["category"] = json!("adult_content"),
        &stranger("measured"),
    );
}

#[test]
fn recorded_norms_are_one_a_layer_finite_and_not_negative() {
    check(
        |forged| {
            forged.manifest["norms"]["fraud_deception"] = json!([{"vector": 1, "activation": 1}]);
        },
        &format!(
            "manifest.json: field `norms.fraud_deception`: found 1 entries, expected 2, one a layer; {MAKE_AGAIN}"
        ),
    );
    for (what, value, expected) in [
        ("vector", -1, "a finite norm, 0 where the category leaves the layer alone"),
        ("activation", 0, "a finite norm above 0"),
    ] {
        check(
            |forged| forged.manifest["norms"]["fraud_deception"][1][what] = json!(value),
            &format!(
                "manifest.json: field `norms.fraud_deception.{what} (layer 3)`: found {value}, expected {expected}; \
                 extract the vectors again, or leave the layer out"
            ),
        );
    }
    check(
        |forged| {
            for layer in 0..2 {
                forged.manifest["norms"]["fraud_deception"][layer]["vector"] = json!(0);
            }
        },
        "manifest.json: field `norms.fraud_deception`: found norm 0 in every layer, expected a norm above 0 in at \
         least one layer; a category without a vector cannot steer: extract it again, or leave it out",
    );
}

#[test]
fn safe_windows_are_ordered_and_not_negative() {
    for (min, max) in [(-0.5, 1.0), (1.5, 1.0)] {
        check(
            |forged| {
                forged.manifest["safe_windows"]["fraud_deception"] =
                    json!({"min": min, "max": max});
            },
            &format!(
                "manifest.json: field `safe_windows.fraud_deception`: found min {min}, max {max}, expected \
                 0 <= min <= max, finite; measure the window again; negative strengths exist in the lab alone"
            ),
        );
    }
}

#[test]
fn the_list_of_files_is_whole_and_has_no_other_names() {
    let unfixed = |edit: fn(&mut serde_json::Value), expected: &str| {
        check(
            |forged| {
                edit(&mut forged.manifest["files"]);
                forged.fix_digests = false;
            },
            expected,
        );
    };
    unfixed(
        |files| {
            files.as_object_mut().unwrap().remove("CARD.md");
        },
        &format!(
            "manifest.json: field `files`: found no `CARD.md`, expected a digest of each file; {MAKE_AGAIN}"
        ),
    );
    unfixed(
        |files| files["../../x"] = json!("00"),
        "manifest.json: field `files`: found \"../../x\", expected one of CARD.md, policy.toml, \
         vectors.safetensors, figures.json, probe.safetensors; remove it",
    );
    unfixed(
        |files| files["CARD.md"] = json!("AB"),
        &format!(
            "manifest.json: field `files.CARD.md`: found \"AB\", expected a SHA-256 in 64 lower-case hex digits; \
             {MAKE_AGAIN}"
        ),
    );
}

#[test]
fn the_policy_has_a_rule_for_each_category_and_no_other() {
    check(
        |forged| forged.replace_policy("categories.malware_viruses", "categories.adult_content"),
        "policy.toml: field `categories`: found without `malware_viruses` and with `adult_content`, expected the \
         manifest's, `fraud_deception`, `malware_viruses`; give every category of the generation a rule, and no other",
    );
}

#[test]
fn strengths_stay_inside_the_measured_safe_window() {
    let text = |floor: &str, ceiling: &str| {
        format!(
            "policy.toml: field `categories.fraud_deception.strength`: found floor {floor}, ceiling {ceiling}, \
             expected both inside the measured safe window 0.4 to 1; narrow the range, or measure a wider window"
        )
    };
    check(|forged| forged.replace_policy("ceiling = 1.0", "ceiling = 1.2"), &text("0.4", "1.2"));
    check(|forged| forged.replace_policy("floor = 0.4", "floor = 0.3"), &text("0.3", "1"));
}

#[test]
fn only_a_category_with_a_measured_window_steers() {
    let remove = |forged: &mut crate::forge::Forged| {
        forged.manifest["safe_windows"].as_object_mut().unwrap().clear();
    };
    check(
        remove,
        "policy.toml: field `categories.fraud_deception.strength`: found none measured, expected a safe window for the \
         category in manifest.json; measure it, or choose the action `log` until it is measured",
    );
    let root = tempfile::tempdir().unwrap();
    let id = forge(root.path(), |forged| {
        remove(forged);
        forged.replace_policy("\"steer\"", "\"log\"");
    });
    assert!(load_generation(root.path(), &id, None).is_ok());
}

#[test]
fn figures_are_an_object_of_a_known_format() {
    let check_figures = |figures: &[u8], expected: &str| {
        check(
            |forged| {
                forged.files.insert("figures.json".to_owned(), figures.to_vec());
            },
            &format!("figures.json: {expected}"),
        );
    };
    let again = "correct the file and write the generation again";
    let object = format!("found something else, expected an object in JSON; {again}");
    for figures in ["", "[1]", "1", "figures"] {
        check_figures(figures.as_bytes(), &object);
    }
    check_figures(
        br#"{"format_version": 1, "shares": [0.5}"#,
        &format!("expected `,` or `]` at line 1 column 37; {again}"),
    );
    check_figures(
        br#"{"shares": [0.5]}"#,
        &format!("missing field `format_version` at line 1 column 17; {again}"),
    );
    check_figures(
        b"{\"format_version\": \xff}",
        &format!(
            "found bytes that are not text (invalid utf-8 sequence of 1 bytes from index 19), expected UTF-8; {again}"
        ),
    );
    check_figures(
        br#"{"format_version": 2, "shares": {}}"#,
        "field `format_version`: found 2, expected 1; use a program that reads this version, or write the generation \
         again with this one",
    );
    let large = [b"{\"format_version\": 1, \"x\": \"", &vec![b'x'; 16 << 20][..], b"\"}"].concat();
    check_figures(
        &large,
        "found more than 16777216 bytes, expected at most that; this is not such a file",
    );
}

#[test]
fn a_generation_for_another_model_is_refused() {
    let other = "load the model that the vectors were made for, or extract them for this one";
    let check_model = |model: &ModelBinding, expected: &str| {
        check_for(model, |_| {}, &format!("manifest.json: field {expected}"));
    };
    check_model(
        &ModelBinding { architecture_id: "x".to_owned(), ..model() },
        &format!("`architecture_id`: wrong model: found arch, expected x; {other}"),
    );
    check_model(
        &ModelBinding { hidden_size: 8, ..model() },
        &format!("`hidden_size`: wrong model: found 4, expected 8; {other}"),
    );
    check_model(
        &ModelBinding { num_hidden_layers: 7, ..model() },
        &format!("`num_hidden_layers`: wrong model: found 6, expected 7; {other}"),
    );
    check_model(
        &ModelBinding { weights_id: "x".to_owned(), ..model() },
        "`weights_id`: wrong model: found weights, expected x; load the weights that the vectors were measured on, list \
         these under `also_measured_on` once measured, or set `allow_other_quantisation = true` in policy.toml",
    );
}

#[test]
fn other_weights_are_accepted_where_measured_or_allowed_and_the_latter_is_said() {
    let root = tempfile::tempdir().unwrap();
    let load = |allow: &str, weights_id: &str| {
        let id = forge(root.path(), |forged| {
            let line = "allow_other_quantisation = ";
            forged.replace_policy(&format!("{line}false"), &format!("{line}{allow}"));
        });
        let model = ModelBinding { weights_id: weights_id.to_owned(), ..model() };
        load_generation(root.path(), &id, Some(&model))
            .map(|generation| generation.weights_mismatch)
    };
    assert!(!load("false", "weights").unwrap());
    assert!(!load("false", "other-weights").unwrap());
    assert!(!load("true", "other-weights").unwrap());
    assert!(load("true", "unknown-weights").unwrap());
    assert!(load("false", "unknown-weights").is_err());
}
