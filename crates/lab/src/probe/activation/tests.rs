//! A probe of two members, on the last row and on the mean.

use skeg_vector_store::Category;

use super::super::{Member, Planes, Stack, TextScores, TrainedOn};
use super::*;

fn input(row: PromptRow, layers: &[usize], prefix_token_ids: &[u32]) -> Input {
    Input::Activations {
        site: Site::ResidPost,
        layers: layers.to_vec(),
        hidden_size: 2,
        row,
        prefix_token_ids: prefix_token_ids.to_vec(),
    }
}

/// Of one category, each member's logit of harm being the product of its features and these weights.
fn probe(members: Vec<(Input, Vec<f32>)>) -> Probe {
    let members = members.into_iter().map(|(input, weights)| {
        let zeros = vec![0.0; weights.len()];
        Member { input, planes: Planes::new([weights, zeros].concat(), vec![0.0; 2]) }
    });
    let members: Vec<Member> = members.collect();
    let ones = vec![1.0; members.len()];
    Probe {
        categories: vec![Category::parse("fraud").unwrap()],
        stack: Stack { harm: ones.clone(), bias: 0.0, categories: ones },
        members,
        answer: None,
        trained_on: TrainedOn::default(),
    }
}

/// The last row at layers 1 and 3, and the mean at 2 and 3, behind three tokens.
fn both() -> Probe {
    probe(vec![
        (input(PromptRow::Last, &[1, 3], &[]), vec![1.0, 10.0, 100.0, 1000.0]),
        (input(PromptRow::Mean, &[2, 3], &[7, 8, 9]), vec![2.0, 20.0, 200.0, 2000.0]),
    ])
}

#[test]
fn a_probe_asks_for_the_layers_of_both_members_and_each_takes_its_own() {
    let probe = both();
    let asked = probe.activation_input().unwrap();
    assert_eq!((asked.layers.as_slice(), asked.hidden_size, asked.last), (&[1, 2, 3][..], 2, true));
    let given = PromptActivations {
        last: &[1e-4, 2e-4, 9.0, 9.0, 3e-4, 4e-4],
        mean: &[9.0, 9.0, 5e-4, 6e-4, 7e-4, 8e-4],
    };
    let verdict = probe.verdict(&TextScores::default(), Some(given)).unwrap();
    let logit: f32 = 0.4321 + 2.0 * 0.8765;
    assert!((verdict.harm - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6, "{verdict:?}");
    let only_last = PromptActivations { mean: &[], ..given };
    let error = probe.verdict(&TextScores::default(), Some(only_last)).unwrap_err().to_string();
    assert!(error.contains("6 activations of the mean of the rows and was given 0"), "{error}");
    let only_mean = PromptActivations { last: &[], ..given };
    assert!(probe.verdict(&TextScores::default(), Some(only_mean)).is_err());
}

#[test]
fn rows_of_the_template_do_not_count_where_a_prompt_begins_with_it_and_one_always_does() {
    let asked = both().activation_input().unwrap();
    for (prompt, from) in [
        (&[7, 8, 9, 1, 2][..], 3),
        (&[7, 8, 9, 1], 3),
        (&[7, 8, 9], 2),
        (&[7, 8, 1, 9], 0),
        (&[7, 8], 0),
        (&[1], 0),
        (&[], 0),
    ] {
        assert_eq!(asked.mean_from(prompt), Some(from), "{prompt:?}");
    }
    let last = probe(vec![(input(PromptRow::Last, &[1], &[]), vec![0.0; 2])]);
    assert_eq!(last.activation_input().unwrap().mean_from(&[7, 8, 9, 1]), None);
    let mean = probe(vec![(input(PromptRow::Mean, &[1], &[]), vec![0.0; 2])]);
    let asked = mean.activation_input().unwrap();
    assert_eq!((asked.last, asked.mean_from(&[7, 8])), (false, Some(0)));
}

#[test]
fn a_probe_with_both_is_read_as_it_was_written_and_what_is_new_is_only_where_it_is_used() {
    let bytes = both().to_bytes().unwrap();
    assert_eq!(Probe::from_bytes(&bytes).unwrap(), both());
    // A member on the last row is written as it was before there was a mean.
    let before =
        r#"{"kind":"activations","site":"resid_post","layers":[1,3],"hidden_size":2,"row":"last"}"#;
    let last = input(PromptRow::Last, &[1, 3], &[]);
    assert_eq!(serde_json::to_string(&last).unwrap(), before);
    assert_eq!(serde_json::from_str::<Input>(before).unwrap(), last);
}

#[test]
fn members_that_read_the_same_row_or_not_the_same_place_are_refused() {
    let elsewhere = |hidden_size, site| Input::Activations {
        site,
        layers: vec![1],
        hidden_size,
        row: PromptRow::Mean,
        prefix_token_ids: Vec::new(),
    };
    let last = || input(PromptRow::Last, &[1], &[]);
    for (members, expected) in [
        (vec![last(), last()], "2 members on row Last"),
        (
            vec![elsewhere(2, Site::ResidPost), elsewhere(2, Site::ResidPost)],
            "2 members on row Mean",
        ),
        (vec![last(), elsewhere(2, Site::AttnOut)], "different sites"),
        (vec![last(), elsewhere(4, Site::ResidPost)], "different widths"),
        (vec![input(PromptRow::Last, &[1], &[7])], "of the mean alone"),
    ] {
        let members = members.into_iter().map(|input| (input.clone(), vec![0.0; input.width()]));
        let error = probe(members.collect()).to_bytes().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
