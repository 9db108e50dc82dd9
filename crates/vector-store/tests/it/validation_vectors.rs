//! What tensors must hold to, each with the text that says so.

use safetensors::tensor::Dtype;

use crate::forge::{Tensor, check, tensor};
use crate::support::{LAYERS, new_generation};

const MAKE_AGAIN: &str = "extract the vectors and write the generation again";

/// The clean tensor of `malware_viruses` beside an edited one of `fraud_deception`.
fn check_tensor(edit: impl FnOnce(&mut Tensor), expected: &str) {
    let mut edited = tensor("fraud_deception");
    edit(&mut edited);
    check(
        |forged| forged.set_tensors(&[edited, tensor("malware_viruses")]),
        &format!(
            "vectors.safetensors: tensor `fraud_deception/attn_out`: found {expected}; {MAKE_AGAIN}"
        ),
    );
}

#[test]
fn a_tensor_of_another_shape_or_type_is_refused() {
    let expected = "expected f32 [2, 4] (layers, hidden_size)";
    check_tensor(|tensor| tensor.shape = vec![4, 2], &format!("f32 [4, 2], {expected}"));
    check_tensor(|tensor| tensor.shape = vec![8], &format!("f32 [8], {expected}"));
    check_tensor(|tensor| tensor.dtype = Dtype::I32, &format!("i32 [2, 4], {expected}"));
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let expected = "at layer 3, coordinate 1, expected finite values";
    for (value, found) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        check_tensor(|tensor| tensor.values[5] = value, &format!("{found} {expected}"));
    }
}

#[test]
fn a_row_longer_or_shorter_than_recorded_is_refused() {
    let within = "within 0.1 %, as the manifest records it";
    check_tensor(
        |tensor| tensor.values[..4].fill(1.002),
        &format!("norm 2.004000 at layer 1, expected 2.000000 {within}"),
    );
    check_tensor(
        |tensor| tensor.values[4..].fill(0.0),
        &format!("norm 0.000000 at layer 3, expected 2.000000 {within}"),
    );
}

#[test]
fn a_row_of_zeros_is_accepted_where_the_manifest_says_so_and_not_in_every_layer() {
    let fraud = crate::support::category("fraud_deception");
    let root = tempfile::tempdir().unwrap();
    let mut new = new_generation(0);
    // Turning a vector round makes such zeros.
    new.vectors.get_mut(&fraud).unwrap().values[4..].fill(-0.0);
    let id = skeg_vector_store::write_generation(root.path(), &new).unwrap();
    let read = skeg_vector_store::load_generation(root.path(), &id, None).unwrap();
    let norms: Vec<f32> = read.manifest.norms[&fraud].iter().map(|norm| norm.vector).collect();
    assert_eq!(norms, [2.0, 0.0]);
    let acting = |slug: &str| {
        let vectors = &read.vectors[&crate::support::category(slug)];
        vectors.acting_rows().map(|(layer, _)| layer).collect::<Vec<usize>>()
    };
    assert_eq!((acting("fraud_deception"), acting("malware_viruses")), (vec![1], vec![1, 3]));
    check_not_written(
        |new| new.vectors.get_mut(&fraud).unwrap().values.fill(0.0),
        "field `norms.fraud_deception`: found norm 0 in every layer",
    );
    let mut edited = tensor("fraud_deception");
    edited.values[4] = 1e-6;
    check(
        |forged| {
            forged.manifest["norms"]["fraud_deception"][1]["vector"] = serde_json::json!(0);
            edited.values[5..].fill(0.0);
            forged.set_tensors(&[edited, tensor("malware_viruses")]);
        },
        &format!(
            "vectors.safetensors: tensor `fraud_deception/attn_out`: found norm 0.000001 at layer 3, expected 0.000000 \
             within 0.1 %, as the manifest records it; {MAKE_AGAIN}"
        ),
    );
}

#[test]
fn missing_and_extra_tensors_are_refused() {
    check(
        |forged| forged.set_tensors(&[tensor("malware_viruses")]),
        &format!(
            "vectors.safetensors: tensor `fraud_deception/attn_out`: found no such tensor, \
             expected f32 [2, 4] (layers, hidden_size); {MAKE_AGAIN}"
        ),
    );
    let all = ["adult_content", "fraud_deception", "malware_viruses"].map(tensor);
    check(
        |forged| forged.set_tensors(&all),
        &format!(
            "vectors.safetensors: tensor `adult_content/attn_out`: found a tensor that the manifest does not name, \
             expected `fraud_deception/attn_out`, `malware_viruses/attn_out` alone; {MAKE_AGAIN}"
        ),
    );
}

#[test]
fn a_tensor_for_another_site_is_not_taken_for_this_one() {
    let renamed =
        Tensor { name: "fraud_deception/resid_post".to_owned(), ..tensor("fraud_deception") };
    check(
        |forged| forged.set_tensors(&[renamed, tensor("malware_viruses")]),
        &format!(
            "vectors.safetensors: tensor `fraud_deception/resid_post`: found a tensor that the manifest does not name, \
             expected `fraud_deception/attn_out`, `malware_viruses/attn_out` alone; {MAKE_AGAIN}"
        ),
    );
}

#[test]
fn a_truncated_file_is_refused() {
    check(
        |forged| {
            let file = forged.files.get_mut("vectors.safetensors").unwrap();
            file.truncate(file.len() - 1);
        },
        "vectors.safetensors: not a safetensors file, or a truncated one: incomplete metadata, file not fully covered; \
         correct the file and write the generation again",
    );
}

/// Writing checks what only the writer knows and leaves nothing behind when it fails.
fn check_not_written(edit: impl FnOnce(&mut skeg_vector_store::NewGeneration), expected: &str) {
    let root = tempfile::tempdir().unwrap();
    let mut generation = new_generation(0);
    edit(&mut generation);
    let error = skeg_vector_store::write_generation(root.path(), &generation).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    let generations = root.path().join("generations");
    let left = generations.exists() && generations.read_dir().unwrap().next().is_some();
    assert!(!left, "something was left behind");
}

#[test]
fn what_would_not_load_is_not_written() {
    let fraud = crate::support::category("fraud_deception");
    let malware = crate::support::category("malware_viruses");
    check_not_written(
        |new| new.vectors.get_mut(&fraud).unwrap().values[0] = f32::NAN,
        "tensor `fraud_deception/attn_out`: found NaN, expected finite values",
    );
    check_not_written(
        |new| new.vectors.get_mut(&malware).unwrap().layers = vec![1, 2],
        "tensor `malware_viruses/attn_out`: found layers [1, 2], expected layers [1, 3], as the others",
    );
    check_not_written(
        |new| {
            new.vectors.get_mut(&fraud).unwrap().values.pop();
        },
        "found 7 values, expected [2, 4]",
    );
    check_not_written(
        |new| {
            new.activation_norms.clear();
        },
        "found 0 activation norms, expected 2, one a layer",
    );
    check_not_written(
        |new| new.policy.categories.get_mut(&fraud).unwrap().strength.ceiling = 2.0,
        "field `categories.fraud_deception.strength`",
    );
    check_not_written(|new| new.model.num_hidden_layers = LAYERS[1], "field `layers`");
    check_not_written(|new| new.figures = Some(b"{}".to_vec()), "missing field `format_version`");
}
