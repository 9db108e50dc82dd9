//! Fits against scikit-learn, and what cannot be fitted.

use super::*;
use crate::judge::FeatureRows;

/// 40 rows of 4 features: two waves, a constant, a saw.
fn data() -> (FeatureRows, Vec<bool>) {
    let row = |i: i32| {
        let x = f64::from(i);
        let features = [(x * 1.1).sin(), (x * 0.37).cos() * 3.0 + 1.0, 2.0, f64::from(i % 7) / 7.0];
        (features.map(crate::numbers::to_f32), (x * 1.1).sin() + (x * 2.1).cos() > 0.0)
    };
    let (rows, positives): (Vec<[f32; 4]>, Vec<bool>) = (0..40).map(row).unzip();
    (FeatureRows::new(rows.concat(), 4), positives)
}

/// scikit-learn 1.9.1: `LogisticRegression(C=1 / (l2 * 40), tol=1e-12)` on `StandardScaler`'s output, folded back:
/// `w / std`, `b - sum(w / std * mean)`.
#[test]
fn the_plane_is_that_of_scikit_learn() {
    let (rows, positives) = data();
    for (l2, weights, bias) in [
        (1.0 / 40.0, [1.838_721_718, -0.080_455_656, 0.0, -1.522_098_040], 0.874_777_732),
        (10.0 / 40.0, [0.863_309_136, -0.020_618_872, 0.0, -0.751_420_092], 0.445_492_769),
    ] {
        let plane = fit(&rows, &positives, l2).unwrap();
        assert!((plane.bias - bias).abs() < 1e-5, "{plane:?}");
        for (weight, expected) in plane.weights.iter().zip(weights) {
            assert!((weight - expected).abs() < 1e-5, "{plane:?}");
        }
        assert_eq!(plane, fit(&rows, &positives, l2).unwrap());
    }
}

/// One class where the first wave is high, the others by the second wave.
fn classes() -> Vec<usize> {
    let class = |i: i32| {
        let x = f64::from(i);
        let second = if (x * 0.37).cos() > 0.0 { 1 } else { 2 };
        if (x * 1.1).sin() > 0.3 { 0 } else { second }
    };
    (0..40).map(class).collect()
}

/// scikit-learn 1.9.1, as above with `C = 1 / (0.1 * 40)`: one softmax over three classes. Only differences of biases count.
#[test]
fn the_planes_of_many_classes_are_those_of_scikit_learn() {
    let (rows, _) = data();
    let planes = fit_classes(&rows, (&classes(), 3), &[1.0; 40], 0.1).unwrap();
    let expected = [
        ([1.690_55, -0.016_175, 0.0, -0.251_543], 0.421_333),
        ([-0.855_995, 0.385_75, 0.0, 0.145_106], -0.475_194),
        ([-0.834_555, -0.369_574, 0.0, 0.106_437], 0.053_861),
    ];
    let mean: f64 = planes.iter().map(|plane| plane.bias).sum::<f64>() / 3.0;
    for (plane, (weights, bias)) in planes.iter().zip(expected) {
        assert!((plane.bias - mean - bias).abs() < 2e-4, "{plane:?}");
        for (weight, expected) in plane.weights.iter().zip(weights) {
            assert!((weight - expected).abs() < 2e-4, "{plane:?}");
        }
    }
}

/// The same rows without scaling; the constant feature takes no part, as scikit-learn's comes out as 0 there.
#[test]
fn sparse_rows_give_the_plane_of_their_dense_form() {
    let (rows, _) = data();
    let sparse = |row: &[f32]| {
        let features = (0_u32..).zip(row.iter().copied());
        features.filter(|(idx, _)| *idx != 2).collect()
    };
    let sparse = SparseRows { rows: rows.iter().map(sparse).collect(), width: 4 };
    let positives: Vec<bool> = classes().iter().map(|&class| class == 0).collect();
    let plane = fit_weighted(&sparse, &positives, &[2.0; 40], 0.1).unwrap();
    let expected = [1.495_33, -0.033_683, 0.0, -0.079_15];
    for (weight, expected) in plane.weights.iter().zip(expected) {
        assert!((weight - expected).abs() < 1e-3, "{plane:?}");
    }
    assert!((plane.bias + 0.310_904).abs() < 1e-3, "{plane:?}");
    let planes = fit_classes(&sparse, (&classes(), 3), &[1.0; 40], 0.1).unwrap();
    assert_eq!(planes.len(), 3);
}

#[test]
fn a_heavy_row_counts_as_several() {
    let rows = FeatureRows::new(vec![0.0, 1.0, 0.0, 1.0, 0.0], 1);
    let positives = [false, true, true, false, false];
    let heavy = fit_weighted(&rows, &positives, &[1.0, 1.0, 3.0, 1.0, 1.0], 0.1).unwrap();
    let light = fit_weighted(&rows, &positives, &[1.0; 5], 0.1).unwrap();
    assert!(heavy.bias > light.bias, "{heavy:?} {light:?}");
}

#[test]
fn a_member_that_knows_gets_the_weight() {
    let classes: Vec<usize> = (0..60).map(|i| i % 3).collect();
    let knows = |class: usize| (0..3).map(|c| if c == class { 2.0 } else { 0.0 }).collect();
    let told: Vec<Vec<f64>> = classes.iter().map(|&class| knows(class)).collect();
    let noise: Vec<Vec<f64>> = (0..60).map(|i| knows((i / 3) % 3)).collect();
    let logits: Vec<Vec<&[f64]>> =
        told.iter().zip(&noise).map(|(a, b)| vec![a.as_slice(), b.as_slice()]).collect();
    let weights = fit_member_weights(&logits, &classes, 1e-3).unwrap();
    assert!(weights[0] > 1.0 && weights[1].abs() < 0.1, "{weights:?}");
    assert!(fit_member_weights(&logits, &classes[1..], 1e-3).is_err());
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let (rows, positives) = data();
    let error = fit(&rows, &positives[1..], 1.0).unwrap_err().to_string();
    assert!(error.contains("40 rows to train on, 20 of 39 labels positive"), "{error}");
    let error = fit(&rows, &[true; 40], 1.0).unwrap_err().to_string();
    assert!(error.contains("40 of 40 labels positive; expected"), "{error}");
    assert!(fit(&rows, &positives, 0.0).is_err());
    let error = fit_classes(&rows, (&[0; 40], 2), &[1.0; 40], 1.0).unwrap_err().to_string();
    assert!(error.contains("none of class 1"), "{error}");
}

#[test]
fn separable_rows_are_separated() {
    let rows = FeatureRows::new((0..20_i16).map(f32::from).collect(), 1);
    let positives: Vec<bool> = (0..20).map(|i| i >= 7).collect();
    let plane = fit(&rows, &positives, 1e-3).unwrap();
    for (row, positive) in rows.iter().zip(positives) {
        let logit = plane.weights[0] * f64::from(row[0]) + plane.bias;
        assert_eq!(logit > 0.0, positive, "{row:?}");
    }
}
