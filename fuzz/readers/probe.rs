//! The reader of skeg-lab's probes, and what a probe from elsewhere says of a conversation.

use skeg_lab::probe::{
    AnswerPart, Input, Member, NGrams, Planes, Probe, PromptRow, Stack, TrainedOn,
    TrainedOnAnswers, TrainingSource, Verdict,
};
use skeg_model::ChatMessage;
use skeg_model::engine::PromptActivations;
use skeg_model::steering::Site;
use skeg_vector_store::Category;

use crate::heap::{Reader, bounded};

pub(crate) const READERS: [Reader; 1] = [Reader { name: "probe", read: probe, seeds: probe_seeds }];

/// Each byte of a file may cost this many, and a file this many more: the JSON of the header and of the metadata in it, in which
/// a list of one element takes 128 bytes before it is known to belong nowhere.
const BYTES_A_BYTE: usize = 96;
const BYTES_A_FILE: usize = 16 * 1024;
/// Those of the generation that the store's reader has.
const CATEGORIES: [&str; 2] = ["fraud_deception", "malware_viruses"];
/// Numbers of one layer's row in a seed.
const HIDDEN_SIZE: usize = 2;

fn probe(bytes: &[u8]) -> bool {
    is_read(bytes, "the probe")
}

/// Reads bytes and holds the reader to its bound; whether they are a probe, which is then asked.
pub(crate) fn is_read(bytes: &[u8], what: &str) -> bool {
    let most = BYTES_A_BYTE * bytes.len() + BYTES_A_FILE;
    let read = bounded(most, what, || Probe::from_bytes(bytes).map_err(|error| error.to_string()));
    let Ok(probe) = read else { return false };
    let written = probe.to_bytes().unwrap();
    assert!(Probe::from_bytes(&written).unwrap() == probe, "{what}: read again it is another");
    check_verdicts(&probe, what);
    true
}

/// A probe that was accepted has a verdict of any text and any row.
fn check_verdicts(probe: &Probe, what: &str) {
    let message = ChatMessage { role: "user".to_owned(), content: "Bake 2 cakes".to_owned() };
    let asked = probe.activation_input();
    let width = asked.map_or(0, |asked| asked.layers.len() * asked.hidden_size);
    let row: Vec<f32> = (0..width).map(|idx| idx as f32 - 0.5).collect();
    let text = probe.text_scores(&[message], None);
    assert_eq!(text.is_err(), probe.embedder().is_some(), "{what}");
    if let Ok(text) = text {
        let given = PromptActivations { last: &row, mean: &row };
        check_verdict(probe, &probe.verdict(&text, Some(given)).unwrap(), what);
    }
    if probe.answer.is_some() {
        check_verdict(probe, &probe.answer_verdict(&row).unwrap(), what);
    }
}

fn check_verdict(probe: &Probe, verdict: &Verdict, what: &str) {
    assert!((0.0..=1.0).contains(&verdict.harm), "{what}: {verdict:?}");
    assert_eq!(verdict.categories.len(), probe.categories.len(), "{what}");
    let sum: f32 = verdict.categories.iter().map(|(_, share)| share).sum();
    assert!(probe.categories.is_empty() || (sum - 1.0).abs() < 1e-3, "{what}: {verdict:?}");
}

/// A probe with such members, an answer part if it is to have one, and all that one can say of its training.
pub(crate) fn file(inputs: &[Input], answer_width: Option<usize>) -> Vec<u8> {
    let num_planes = 1 + CATEGORIES.len();
    let planes = |width: usize| {
        let weights = (0..num_planes * width).map(|idx| idx as f32 * 0.37 - 1.0).collect();
        Planes::new(weights, vec![0.25; num_planes])
    };
    let member = |input: &Input| Member { input: input.clone(), planes: planes(input.width()) };
    let stack = vec![0.5; inputs.len()];
    let source = TrainingSource {
        name: "made".to_owned(),
        sha256: vec!["ab".repeat(32)],
        num_prompts: [3, 4],
        num_augmented: 2,
    };
    let answer = |width| AnswerPart {
        planes: planes(width),
        calibration: [1.5, -0.5],
        trained_on: TrainedOnAnswers::default(),
    };
    let probe = Probe {
        categories: CATEGORIES.map(|slug| Category::parse(slug).unwrap()).to_vec(),
        members: inputs.iter().map(member).collect(),
        stack: Stack { harm: stack.clone(), bias: -0.5, categories: stack },
        trained_on: TrainedOn { sets: vec![source] },
        answer: answer_width.map(answer),
    };
    probe.to_bytes().unwrap()
}

/// Of the activations: one row of these layers.
pub(crate) fn activations(row: PromptRow, layers: &[usize]) -> Input {
    let prefix = if row == PromptRow::Mean { vec![1, 2] } else { Vec::new() };
    Input::Activations {
        site: Site::ResidPost,
        layers: layers.to_vec(),
        hidden_size: HIDDEN_SIZE,
        row,
        prefix_token_ids: prefix,
    }
}

fn probe_seeds() -> Vec<Vec<u8>> {
    let ngrams = Input::NGrams(NGrams { log2_buckets: 1, ..NGrams::default() });
    let embedding = Input::Embedding { embedder: "an-embedder".to_owned(), width: 3 };
    let both = [activations(PromptRow::Last, &[1, 3]), activations(PromptRow::Mean, &[1, 2])];
    vec![
        file(&[both[0].clone(), ngrams.clone()], None),
        file(&both, Some(3 * HIDDEN_SIZE)),
        file(&[ngrams, embedding], None),
    ]
}
