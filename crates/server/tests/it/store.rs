//! A store with four categories: `fraud_deception` and `malware_viruses` steer, `adult_content` refuses,
//! `political_campaigning` is logged.

use std::path::Path;
use std::sync::Arc;

use skeg_lab::probe::{
    AnswerPart, Input, Member, NGrams, Planes, Probe, PromptRow, Stack, TrainedOn, TrainedOnAnswers,
};
use skeg_model::engine::EngineHandle;
use skeg_server::{ClassifierKind, Origin, SteeringSlots, steering_slots};
use skeg_vector_store::place::{LocalPlace, Place as _};
use skeg_vector_store::{
    Category, CategoryVectors, GenerationId, Mirror, ModelBinding, NewGeneration, Operator,
    Orientation, Policy, Provenance, SafeWindow, SecretKey, Site, Store, TrustedKeys, read_current,
    set_current, sign_files, write_generation,
};

use crate::harness::NUM_LAYERS;

pub(crate) const HIDDEN_SIZE: usize = 4;
const ACTIONS: [(&str, &str); 4] = [
    ("adult_content", "refuse"),
    ("fraud_deception", "steer"),
    ("malware_viruses", "steer"),
    ("political_campaigning", "log"),
];

/// What differs between tests.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "one difference each")]
pub(crate) struct TestPolicy {
    /// `none`, `reject` or a category.
    pub(crate) when_missing: &'static str,
    /// `none`, `reject` or a category.
    pub(crate) on_abstain: &'static str,
    /// Whether `anonymous` may do everything; otherwise it may name categories only.
    pub(crate) permissive: bool,
    pub(crate) operator: Operator,
    /// `malware_viruses` leaves layer 1 alone.
    pub(crate) partial: bool,
    /// The vectors are of other weights than those that are loaded, and the policy allows that.
    pub(crate) other_weights: bool,
    /// Whether there is a probe.
    pub(crate) probe: bool,
    /// Whether it reads the mean of the prompt's rows as well.
    pub(crate) mean: bool,
    /// More of the policy: tables.
    pub(crate) more: &'static str,
}

impl Default for TestPolicy {
    fn default() -> Self {
        Self {
            when_missing: "none",
            on_abstain: "reject",
            permissive: true,
            operator: Operator::Add,
            partial: false,
            other_weights: false,
            probe: false,
            mean: false,
            more: "",
        }
    }
}

pub(crate) fn binding() -> ModelBinding {
    ModelBinding {
        architecture_id: "a".repeat(64),
        weights_id: "b".repeat(64),
        hidden_size: HIDDEN_SIZE,
        num_hidden_layers: NUM_LAYERS,
    }
}

fn policy(policy: &TestPolicy) -> Policy {
    let may = policy.permissive;
    let mut text = format!(
        "when_missing = \"{}\"\non_abstain = \"{}\"\nallow_other_quantisation = {}\n",
        policy.when_missing, policy.on_abstain, policy.other_weights
    );
    for (slug, action) in ACTIONS {
        text += &format!(
            "[categories.{slug}]\naction = \"{action}\"\npositions = \"all\"\n\
             strength = {{ default = 1.0, floor = 0.5, ceiling = 1.5 }}\n\
             refusal = \"The policy refuses this.\"\n"
        );
    }
    text += &format!(
        "[groups.anonymous]\nmay_none = {may}\nmay_raise = {may}\nmay_lower = {may}\nmay_compare = {may}\n"
    );
    text += policy.more;
    Policy::parse(&text).unwrap()
}

/// A probe that reads the four activations of layer 1: the first is a quarter of the logit of harm, the others are the logits of
/// fraud, malware and politics; that of adult content is 1. The text counts nothing. It reads answers as it reads prompts, and is half
/// as sure.
fn probe() -> Vec<u8> {
    let mut probe = Probe::from_bytes(&probe_on(1, HIDDEN_SIZE)).unwrap();
    let planes = probe.members[0].planes.clone();
    let trained_on = TrainedOnAnswers::default();
    probe.answer = Some(AnswerPart { planes, calibration: [0.5, 0.0], trained_on });
    probe.to_bytes().unwrap()
}

/// [`probe`], with a member whose logit of harm is the second activation of layer 2 in the mean of the rows behind `<user>`.
pub(crate) fn probe_on_mean() -> Vec<u8> {
    let mut probe = Probe::from_bytes(&probe()).unwrap();
    let num_planes = 1 + ACTIONS.len();
    let mut weights = vec![0.0; num_planes * HIDDEN_SIZE];
    weights[1] = 1.0;
    let input = Input::Activations {
        site: skeg_model::steering::Site::ResidPost,
        layers: vec![2],
        hidden_size: HIDDEN_SIZE,
        row: PromptRow::Mean,
        prefix_token_ids: b"<user>".iter().copied().map(u32::from).collect(),
    };
    probe.members.push(Member { input, planes: Planes::new(weights, vec![0.0; num_planes]) });
    probe.stack.harm.push(1.0);
    probe.stack.categories.push(0.0);
    // Its part on answers would read both layers.
    probe.answer = None;
    probe.to_bytes().unwrap()
}

/// [`probe`] on another layer, of rows of another width.
pub(crate) fn probe_on(layer: usize, hidden_size: usize) -> Vec<u8> {
    let categories = ACTIONS.iter().map(|(slug, _)| Category::parse(slug).unwrap()).collect();
    let num_planes = 1 + ACTIONS.len();
    let weights = [
        [4.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
    let input = Input::Activations {
        site: skeg_model::steering::Site::ResidPost,
        layers: vec![layer],
        hidden_size,
        row: PromptRow::Last,
        prefix_token_ids: Vec::new(),
    };
    let biases = vec![0.0, 1.0, 0.0, 0.0, 0.0];
    let ngrams = NGrams { log2_buckets: 4, ..NGrams::default() };
    let silent = Planes::new(vec![0.0; num_planes * ngrams.width()], vec![0.0; num_planes]);
    let probe = Probe {
        categories,
        members: vec![
            Member { input, planes: Planes::new(wide(&weights, hidden_size), biases) },
            Member { input: Input::NGrams(ngrams), planes: silent },
        ],
        stack: Stack { harm: vec![1.0; 2], bias: 0.0, categories: vec![1.0; 2] },
        trained_on: TrainedOn::default(),
        answer: None,
    };
    probe.to_bytes().unwrap()
}

/// The rows one after the other, each brought to this width.
fn wide(rows: &[[f32; HIDDEN_SIZE]], width: usize) -> Vec<f32> {
    let row = |row: &[f32; HIDDEN_SIZE]| {
        let mut row = row.to_vec();
        row.resize(width, 0.0);
        row
    };
    rows.iter().flat_map(row).collect()
}

/// A generation that a test may still change.
pub(crate) fn generation(test_policy: &TestPolicy) -> NewGeneration {
    let slugs = || ACTIONS.iter().map(|(slug, _)| Category::parse(slug).unwrap());
    let vectors = CategoryVectors { layers: vec![1, 2], values: vec![0.5; 2 * HIDDEN_SIZE] };
    let vectors_of = |category: Category| {
        let mut vectors = vectors.clone();
        if test_policy.partial && category.as_str() == "malware_viruses" {
            vectors.values[..HIDDEN_SIZE].fill(0.0);
        }
        (category, vectors)
    };
    let mut model = binding();
    if test_policy.other_weights {
        model.weights_id = "c".repeat(64);
    }
    NewGeneration {
        model,
        also_measured_on: Vec::new(),
        site: Site::AttnOut,
        operator: test_policy.operator,
        orientation: Orientation::SafeMinusUnsafe,
        vectors: slugs().map(vectors_of).collect(),
        activation_norms: slugs().map(|category| (category, vec![4.0, 4.0])).collect(),
        safe_windows: slugs()
            .map(|category| (category, SafeWindow { min: 0.0, max: 2.0 }))
            .collect(),
        provenance: Provenance {
            method: "difference_of_means".to_owned(),
            tokens: "all".to_owned(),
            prompt_form: "raw".to_owned(),
            made_by: "test".to_owned(),
            ..Provenance::default()
        },
        measured: Vec::new(),
        policy: policy(test_policy),
        probe: test_policy.probe.then(if test_policy.mean { probe_on_mean } else { probe }),
        card: "# Card\n".to_owned(),
        figures: None,
    }
}

/// Writes a generation and names it in `CURRENT`.
pub(crate) fn publish(root: &Path, test_policy: &TestPolicy) {
    let id = write_generation(root, &generation(test_policy)).unwrap();
    set_current(root, &id, None).unwrap();
}

/// Signs a generation of a place.
pub(crate) fn sign(place: &LocalPlace, id: &GenerationId, key: &SecretKey) {
    let mut files = place.read_files(id).unwrap();
    sign_files(&mut files, &place.load(id).unwrap(), key).unwrap();
    place.add_files(&files).unwrap();
}

/// A store with one generation, signed if there is a key, which is trusted then, in the folder itself or copied from the place.
pub(crate) fn open(
    root: &Path,
    place: Option<&Path>,
    (policy, key): (&TestPolicy, Option<&SecretKey>),
    (engine, classifier): (EngineHandle, ClassifierKind),
) -> (Origin, Arc<Store<SteeringSlots>>) {
    publish(place.unwrap_or(root), policy);
    let trusted = match key {
        None => TrustedKeys::default(),
        Some(key) => {
            let current = read_current(place.unwrap_or(root)).unwrap().generation;
            sign(&LocalPlace::new(place.unwrap_or(root)), &current, key);
            TrustedKeys::parse(&[format!("ops-key:{}", key.public_key())]).unwrap()
        }
    };
    let origin = match place {
        None => Origin::Folder(LocalPlace::new(root)),
        Some(place) => {
            let mirror = Mirror::new(Box::new(LocalPlace::new(place)), root).unwrap();
            let mirror = mirror.for_model(binding()).trusting(trusted.clone());
            mirror.sync().unwrap();
            Origin::Followed(Arc::new(mirror))
        }
    };
    let slots = steering_slots(engine, classifier);
    let store = Store::open_trusting(root, binding(), trusted, slots).unwrap();
    let store = Arc::new(store);
    if let Origin::Followed(mirror) = &origin {
        mirror.lead(&store);
    }
    (origin, store)
}
