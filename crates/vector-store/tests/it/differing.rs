//! Differences in plain words: each change is said, and nothing else.

use skeg_vector_store::{
    Action, CategoryVectors, Difference, Generation, GroupPolicy, NewGeneration, Operator,
    Positions, SafeWindow, WhenMissing, load_generation, write_generation,
};

use crate::support::{category, new_generation};

fn generation(new: &NewGeneration) -> Generation {
    let root = tempfile::tempdir().unwrap();
    let id = write_generation(root.path(), new).unwrap();
    load_generation(root.path(), &id, None).unwrap()
}

/// The words of the difference that an edit makes.
fn words(edit: impl FnOnce(&mut NewGeneration)) -> Vec<String> {
    let mut after = new_generation(0);
    edit(&mut after);
    Difference::between(&generation(&new_generation(0)), &generation(&after)).words()
}

#[test]
fn each_change_of_policy_is_one_line() {
    let changed = words(|new| {
        let rule = new.policy.categories.get_mut(&category("malware_viruses")).unwrap();
        rule.action = Action::Refuse;
        rule.strength.floor = 0.5;
        rule.positions = Positions::Generation;
        rule.refusal = "No.".to_owned();
        new.policy.when_missing = WhenMissing::None;
        new.policy.groups.get_mut("staff").unwrap().may_none = true;
        new.policy.groups.insert("audit".to_owned(), GroupPolicy::default());
    });
    let expected = [
        "when_missing was reject, is none",
        "malware_viruses: action was steer, is refuse",
        "malware_viruses: floor was 0.4, is 0.5",
        "malware_viruses: positions was all, is generation",
        "malware_viruses: refusal was \"I can't help with that.\", is \"No.\"",
        "group audit: group is new: categories all, may_none no, may_raise no, may_lower no, may_compare no",
        "group staff: may_none was no, is yes",
    ];
    assert_eq!(changed, expected);
}

#[test]
fn changes_of_site_model_and_window_are_said() {
    let changed = words(|new| {
        new.operator = Operator::ProjectOut;
        new.model.weights_id = "others".to_owned();
        let window = SafeWindow { min: 0.25, max: 1.0 };
        new.safe_windows.insert(category("fraud_deception"), window);
    });
    let expected = [
        "weights was weights, is others",
        "operator was add, is project_out",
        "fraud_deception: measured safe window was 0.4 to 1, is 0.25 to 1",
    ];
    assert_eq!(changed, expected);
}

#[test]
fn turned_and_longer_vectors_are_said_in_numbers() {
    let edit = |new: &mut NewGeneration| {
        let vectors = new.vectors.get_mut(&category("malware_viruses")).unwrap();
        // From (1, 1, 1, 1) at right angles, and half as long again.
        vectors.values = vec![1.0, 1.0, -1.0, -1.0, 1.5, 1.5, 1.5, 1.5];
    };
    assert_eq!(
        words(edit),
        [
            "malware_viruses: vectors differ in 2 of 2 layers: cosine 0.000 to 1.000, norm +0.0 % to +50.0 %"
        ]
    );
    let mut after = new_generation(0);
    edit(&mut after);
    let difference = Difference::between(&generation(&new_generation(0)), &generation(&after));
    let layers = &difference.vectors[1].layers;
    assert_eq!(layers.iter().map(|layer| layer.layer).collect::<Vec<_>>(), [1, 3]);
    let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-9;
    assert!(near(layers[0].cosine, 0.0) && near(layers[0].norm_change(), 0.0));
    assert!(near(layers[1].cosine, 1.0) && near(layers[1].norm_change(), 0.5));
    assert!(difference.vectors[0].words().is_none());
}

#[test]
fn a_category_that_comes_or_goes_is_one_line_each() {
    let slug = category("privacy_violation");
    let mut more = new_generation(0);
    let first = category("fraud_deception");
    more.vectors.insert(slug.clone(), more.vectors[&first].clone());
    more.activation_norms.insert(slug.clone(), more.activation_norms[&first].clone());
    more.safe_windows.insert(slug.clone(), more.safe_windows[&first]);
    let rule = more.policy.categories[&first].clone();
    more.policy.categories.insert(slug, rule);
    let (less, more) = (generation(&new_generation(0)), generation(&more));
    let rule = "action steer, default strength 0.7, floor 0.4, ceiling 1, positions all, refusal \"I can't help with that.\", auto as [auto]";
    assert_eq!(
        Difference::between(&less, &more).words(),
        [
            "privacy_violation: measured safe window is new: 0.4 to 1".to_owned(),
            format!("privacy_violation: category is new: {rule}"),
            "privacy_violation: has vectors now (2 layers)".to_owned(),
        ]
    );
    let gone = Difference::between(&more, &less).words();
    assert!(gone.contains(&format!("privacy_violation: category is gone, was {rule}")), "{gone:?}");
    assert!(gone.contains(&"privacy_violation: has no vectors any more (2 layers)".to_owned()));
}

#[test]
fn other_layers_have_no_cosine() {
    let changed = words(|new| {
        for vectors in new.vectors.values_mut() {
            *vectors = CategoryVectors { layers: vec![3], values: vec![1.0; 4] };
        }
        new.activation_norms.values_mut().for_each(|norms| *norms = vec![16.0]);
        let records = new.provenance.categories.values_mut();
        records.for_each(|record| record.split_half_cosine = vec![0.5]);
    });
    let gone = "vectors differ in 1 of 2 layers: cosine unknown, norm -100.0 % to -100.0 %";
    let expected = [
        "layers was 1, 3, is 3".to_owned(),
        format!("fraud_deception: {gone}"),
        format!("malware_viruses: {gone}"),
    ];
    assert_eq!(changed, expected);
}

#[test]
fn equal_generations_are_said_to_be_equal() {
    assert_eq!(words(|_| {}), ["it is the same generation"]);
    let changed = words(|new| new.card.push_str("more"));
    assert_eq!(
        changed,
        ["policy and vectors are the same; card, figures, probe or provenance differ"]
    );
}
