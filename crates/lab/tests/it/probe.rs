//! A probe on the activations of a whole tiny model: what it reads, and what is refused.

use candle_core::Device;
use skeg_lab::data::{DataSet, Item};
use skeg_lab::probe::{
    Corpus, Penalties, ProbeSpec, PromptRow, Reads, SourceSet, Sources, train, verdicts,
};
use skeg_lab::{Error, NoProgress};
use skeg_model::engine::PromptActivations;
use skeg_model::steering::Site;
use skeg_model::{Capture, ChatMessage, Hooks, KvCache, KvCacheDtype, LoadedModel, PackedBatch};
use skeg_vector_store::Category;

use crate::tiny_model::model;

const LAYERS: [usize; 2] = [0, 2];

/// Two sources of two kinds of harm and of harmless prompts, one of them a conversation.
fn corpus() -> Corpus {
    let set = |name: &str| {
        let items = (0..12).map(|idx| {
            let (word, category) =
                [("poison", "fraud"), ("spying", "privacy"), ("bread", "")][idx % 3];
            let text = format!("{name} asks {idx} about {word}");
            let messages = (idx == 5).then(|| {
                let message = |role: &str, content: &str| ChatMessage {
                    role: role.to_owned(),
                    content: content.to_owned(),
                };
                vec![message("user", "hello"), message("assistant", "yes?"), message("user", &text)]
            });
            Item {
                harmful: Some(!category.is_empty()),
                category: Some(category.to_owned()),
                messages,
                ..Item::new(format!("{name}{idx}"), text.clone(), "own")
            }
        });
        SourceSet {
            name: name.to_owned(),
            files: vec![DataSet::of(items.collect(), "ab".to_owned())],
        }
    };
    let categories = ["fraud", "privacy"].map(|slug| Category::parse(slug).unwrap());
    Corpus::new(&[set("anna"), set("bert")], &categories).unwrap()
}

fn reads(layers: &[usize], row: PromptRow) -> Reads {
    Reads::Activations { site: Site::ResidPost, layers: layers.to_vec(), row }
}

fn spec() -> ProbeSpec {
    ProbeSpec { members: vec![reads(&LAYERS, PromptRow::Last)], penalties: Penalties::default() }
}

/// The rows of a rendered conversation at [`LAYERS`], by a pass of its own.
fn rows_by_hand(model: &LoadedModel, messages: &[ChatMessage]) -> Vec<Vec<f32>> {
    let text = model.chat_template.as_ref().unwrap().render(messages, true).unwrap();
    let token_ids = model.tokenizer.encode(&text, false).unwrap();
    let count = token_ids.len();
    let batch = PackedBatch {
        token_ids,
        positions: (0..count).collect(),
        cu_seqlens: vec![0, count],
        block_tables: vec![(0..8).collect()],
        logit_rows: Vec::new(),
    };
    let mut cache =
        KvCache::new(model.llama.config(), 8, 32, KvCacheDtype::F32, &Device::Cpu).unwrap();
    let mut capture = Capture::new(Site::ResidPost, LAYERS.to_vec(), (0..count).collect());
    let mut hooks = Hooks { steer: None, capture: Some(&mut capture) };
    model.llama.forward(&batch, &mut cache, &mut hooks).unwrap();
    let layers = capture.take();
    let row = |row: usize| layers.iter().flat_map(move |(_, values)| &values[row * 64..][..64]);
    (0..count).map(|idx| row(idx).copied().collect()).collect()
}

/// The mean of rows.
fn mean(rows: &[Vec<f32>]) -> Vec<f32> {
    let sum = |idx: usize| rows.iter().map(|row| row[idx]).sum::<f32>();
    (0..rows[0].len()).map(|idx| sum(idx) / rows.len() as f32).collect()
}

#[test]
fn a_probe_reads_the_last_row_of_the_whole_rendered_conversation() {
    let model = model();
    let corpus = corpus();
    let sources = Sources { model: Some(&model), embedder: None };
    let trained = train(&corpus, &spec(), sources, &mut NoProgress).unwrap();
    let found = verdicts(&trained.probe, &corpus, sources, &mut NoProgress).unwrap();
    assert_eq!(found.len(), 24);
    for (prompt, verdict) in corpus.prompts.iter().zip(&found) {
        let rows = rows_by_hand(&model, &prompt.conversation);
        let text = trained.probe.text_scores(&prompt.conversation, None).unwrap();
        let read = PromptActivations { last: &rows[rows.len() - 1], mean: &[] };
        let expected = trained.probe.verdict(&text, Some(read)).unwrap();
        assert_eq!(*verdict, expected, "{}", prompt.id);
    }
    let different: Vec<u32> = found.iter().map(|verdict| verdict.harm.to_bits()).collect();
    assert!(different.iter().any(|harm| *harm != different[0]), "every prompt has one row");
}

#[test]
fn a_probe_reads_the_mean_of_the_rows_behind_what_every_prompt_begins_with() {
    let model = model();
    let corpus = corpus();
    let sources = Sources { model: Some(&model), embedder: None };
    let members = vec![reads(&[0], PromptRow::Last), reads(&LAYERS, PromptRow::Mean)];
    let trained =
        train(&corpus, &ProbeSpec { members, ..spec() }, sources, &mut NoProgress).unwrap();
    let asked = trained.probe.activation_input().unwrap();
    assert_eq!((asked.layers.as_slice(), asked.last), (&LAYERS[..], true));
    // What stands before the first message of a user, one token a character.
    let prefix = model.tokenizer.encode("<|start|>user: ", false).unwrap();
    assert_eq!(asked.mean_without, Some(prefix.clone()));
    let found = verdicts(&trained.probe, &corpus, sources, &mut NoProgress).unwrap();
    let mut with_prefix = 0;
    for (prompt, verdict) in corpus.prompts.iter().zip(&found) {
        let rows = rows_by_hand(&model, &prompt.conversation);
        let text = trained.probe.text_scores(&prompt.conversation, None).unwrap();
        let with = |from: usize| {
            let mean = mean(&rows[from..]);
            let read = PromptActivations { last: &rows[rows.len() - 1], mean: &mean };
            trained.probe.verdict(&text, Some(read)).unwrap().harm
        };
        let expected = with(prefix.len());
        assert!(
            (verdict.harm - expected).abs() < 1e-4,
            "{}: {verdict:?} for {expected}",
            prompt.id
        );
        with_prefix += usize::from((with(0) - expected).abs() > 1e-3);
    }
    assert!(with_prefix > 0, "whether the first rows count makes no difference: {with_prefix}");
}

#[test]
fn both_members_are_read_as_each_alone() {
    let model = model();
    let corpus = corpus();
    let sources = Sources { model: Some(&model), embedder: None };
    let last = || reads(&[0], PromptRow::Last);
    let mean = || reads(&LAYERS, PromptRow::Mean);
    let trained = |members: Vec<Reads>| {
        train(&corpus, &ProbeSpec { members, ..spec() }, sources, &mut NoProgress).unwrap().probe
    };
    let both = trained(vec![last(), mean()]);
    assert_eq!(
        both.members,
        [trained(vec![last()]).members, trained(vec![mean()]).members].concat()
    );
}

#[test]
fn a_probe_on_activations_needs_the_model_and_its_layers() {
    let model = model();
    let sources = Sources { model: Some(&model), embedder: None };
    let trained = train(&corpus(), &spec(), sources, &mut NoProgress).unwrap();
    let error = verdicts(&trained.probe, &corpus(), Sources::default(), &mut NoProgress);
    assert!(matches!(error, Err(Error::Spec(reason)) if reason.contains("give the model")));
    let beyond = ProbeSpec { members: vec![reads(&[3], PromptRow::Last)], ..spec() };
    assert!(train(&corpus(), &beyond, sources, &mut NoProgress).is_err());
    let without = LoadedModel { chat_template: None, ..model };
    let sources = Sources { model: Some(&without), embedder: None };
    let error = train(&corpus(), &spec(), sources, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
}
