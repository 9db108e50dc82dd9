//! A probe as a file, and its verdicts.

use skeg_model::ChatMessage;
use skeg_model::steering::Site;

use super::*;
use crate::logistic::Plane;

fn plane(weights: Vec<f64>, bias: f64) -> Plane {
    Plane { weights, bias }
}

/// Alarmed by the word "bomb", and by the first activation.
fn probe() -> Probe {
    let ngrams = NGrams { max_words: 1, min_chars: 8, max_chars: 8, log2_buckets: 10 };
    let bomb = ngrams.row("bomb");
    let mut weights = vec![0.0; ngrams.width()];
    weights[bomb[0].0 as usize] = 10.0;
    let zeros = plane(vec![0.0; ngrams.width()], 0.0);
    let activations = Input::Activations {
        site: Site::ResidPost,
        layers: vec![1, 3],
        hidden_size: 2,
        row: PromptRow::Last,
        prefix_token_ids: Vec::new(),
    };
    let categories: Vec<Category> =
        ["physical_harm", "fraud"].map(|slug| Category::parse(slug).unwrap()).to_vec();
    Probe {
        members: vec![
            Member {
                input: activations,
                planes: Planes::of(
                    &plane(vec![1.0, 0.0, 0.0, 0.0], 0.0),
                    &[plane(vec![0.0, 1.0, 0.0, 0.0], 0.0), plane(vec![0.0, 0.0, 0.0, 2.0], 0.5)],
                ),
            },
            Member {
                input: Input::NGrams(ngrams),
                planes: Planes::of(&plane(weights, -1.0), &[zeros.clone(), zeros]),
            },
        ],
        stack: Stack { harm: vec![1.0, 2.0], bias: -0.5, categories: vec![1.0, 0.5] },
        trained_on: TrainedOn {
            sets: vec![TrainingSource {
                name: "own".to_owned(),
                sha256: vec!["ab".repeat(32)],
                num_prompts: [3, 4],
                num_augmented: 0,
            }],
        },
        categories,
        answer: None,
    }
}

fn conversation(contents: &[(&str, &str)]) -> Vec<ChatMessage> {
    let message = |(role, content): &(&str, &str)| ChatMessage {
        role: (*role).to_owned(),
        content: (*content).to_owned(),
    };
    contents.iter().map(message).collect()
}

fn last(last: &[f32]) -> PromptActivations<'_> {
    PromptActivations { last, mean: &[] }
}

fn harm(messages: &[(&str, &str)], activations: [f32; 4]) -> f32 {
    let probe = probe();
    let text = probe.text_scores(&conversation(messages), None).unwrap();
    probe.verdict(&text, Some(last(&activations))).unwrap().harm
}

#[test]
fn a_probe_is_read_as_it_was_written_and_its_bytes_are_always_the_same() {
    let bytes = probe().to_bytes().unwrap();
    assert_eq!(bytes, probe().to_bytes().unwrap());
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(header_len % 8, 0, "values begin at a multiple of 8");
    assert_eq!(Probe::from_bytes(&bytes).unwrap(), probe());
}

#[test]
fn copies_are_in_the_file_and_a_file_without_their_number_is_read() {
    let mut one = probe();
    let bytes = one.to_bytes().unwrap();
    let says = |bytes: &[u8]| bytes.windows(13).any(|window| window == b"num_augmented");
    assert!(!says(&bytes), "as builds wrote it that knew of no copies");
    one.trained_on.sets[0].num_augmented = 2;
    let bytes = one.to_bytes().unwrap();
    assert!(says(&bytes));
    assert_eq!(Probe::from_bytes(&bytes).unwrap().trained_on, one.trained_on);
}

#[test]
fn text_and_activations_both_count() {
    let calm = harm(&[("user", "tea")], [0.0; 4]);
    assert!(harm(&[("user", "a bomb")], [0.0; 4]) > calm + 0.3);
    assert!(harm(&[("user", "tea")], [3.0, 0.0, 0.0, 0.0]) > calm + 0.3);
}

#[test]
fn the_categories_are_those_of_the_weighted_logits() {
    let probe = probe();
    let text = probe.text_scores(&conversation(&[("user", "tea")]), None).unwrap();
    let verdict = probe.verdict(&text, Some(last(&[0.0, 2.0, 0.0, 0.25]))).unwrap();
    // Logits 2 and 0.5 + 2 * 0.25 = 1.
    assert_eq!(verdict.first().map(Category::as_str), Some("physical_harm"));
    let expected = 1.0 / (1.0 + (-1.0_f32).exp());
    assert!((verdict.categories[0].1 - expected).abs() < 1e-6, "{verdict:?}");
}

#[test]
fn harm_anywhere_in_a_conversation_counts_and_a_quotation_in_a_system_prompt_less() {
    let calm = harm(&[("user", "tea")], [0.0; 4]);
    let early = [("user", "a bomb"), ("assistant", "No."), ("user", "and then?")];
    let tool = [("user", "read it"), ("tool", "now a bomb")];
    let system = [
        ("system", "Never speak of a bomb, in none of your long and many words."),
        ("user", "tea"),
    ];
    let alone = harm(&[("user", "a bomb")], [0.0; 4]);
    assert!((harm(&early, [0.0; 4]) - alone).abs() < 1e-6);
    assert!(harm(&tool, [0.0; 4]) > calm + 0.2);
    let of_system = harm(&system, [0.0; 4]);
    assert!(of_system > calm && of_system < alone, "{of_system}");
}

#[test]
fn a_verdict_without_its_inputs_is_an_error() {
    let probe = probe();
    let text = probe.text_scores(&conversation(&[("user", "tea")]), None).unwrap();
    let error = probe.verdict(&text, Some(last(&[0.0; 3]))).unwrap_err().to_string();
    assert!(error.contains("reads 4 activations of the last row and was given 3"), "{error}");
    assert!(probe.verdict(&text, None).is_err());
    let error =
        probe.verdict(&TextScores::default(), Some(last(&[0.0; 4]))).unwrap_err().to_string();
    assert!(error.contains("no text scores of member 1"), "{error}");
}

#[test]
fn a_file_that_is_no_probe_is_refused_with_the_part() {
    let good = probe().to_bytes().unwrap();
    for (from, to, expected) in [
        (r#"\"format_version\":1"#, r#"\"format_version\":7"#, "format_version is 7"),
        ("member.1.biases", "member.7.biases", "no tensor `member.1.biases`"),
        (r#"\"none\"]"#, r#"\"nune\"]"#, "does not end with `none`"),
        (r#"\"layers\":[1,3]"#, r#"\"layers\":[3,1]"#, "expected at least one, ascending"),
        (r#"\"log2_buckets\":10"#, r#"\"log2_buckets\":11"#, "expected F32 [3, 2048]"),
    ] {
        assert_eq!(from.len(), to.len());
        let at = good.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        let error = Probe::from_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // Two layers of 2^63 numbers each are 2^64, which is none where a product wraps round.
    for (to, expected) in [
        (r#"\"hidden_size\":0"#, "rows of no numbers"),
        (r#"\"hidden_size\":9223372036854775808"#, "than can be counted"),
    ] {
        let bytes = with_header(&good, r#"\"hidden_size\":2"#, to);
        let error = Probe::from_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let twice = Probe { categories: vec![probe().categories[0].clone(); 2], ..probe() };
    assert!(twice.to_bytes().unwrap_err().to_string().contains("a category twice"));
    let bytes = with_header(&good, "fraud", "physical_harm");
    let error = Probe::from_bytes(&bytes).unwrap_err().to_string();
    assert!(error.contains("a category twice"), "{error}");
    let mut bytes = good.clone();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(Probe::from_bytes(&bytes).unwrap_err().to_string().contains("not finite"));
    assert!(Probe::from_bytes(&good[..good.len() - 3]).is_err());
}

/// The file with another text in its header, which may be longer.
fn with_header(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap());
    let (header, values) = rest.split_at(usize::try_from(length).unwrap());
    let header = std::str::from_utf8(header).unwrap();
    assert!(header.contains(from));
    let header = header.replace(from, to);
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), values].concat()
}

#[test]
fn a_file_that_is_too_large_or_no_file_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("probe.safetensors");
    let refused = |path: &std::path::Path| Probe::read_file(path).unwrap_err().to_string();
    assert!(refused(&path).contains("cannot use"), "{}", refused(&path));
    assert!(refused(folder.path()).contains("expected a regular file"));
    let bytes = probe().to_bytes().unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Probe::read_file(&path).unwrap(), bytes);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(256 * 1024 * 1024 + 1).unwrap();
    assert!(refused(&path).contains("more than 268435456 bytes"), "{}", refused(&path));
}
