//! A probe on the activations of a whole tiny model: what it reads, and what is refused.

use candle_core::Device;
use skeg_lab::data::{DataSet, Item};
use skeg_lab::probe::{Corpus, Penalties, ProbeSpec, Reads, SourceSet, Sources, train, verdicts};
use skeg_lab::{Error, NoProgress};
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

fn spec() -> ProbeSpec {
    let reads = Reads::Activations { site: Site::ResidPost, layers: LAYERS.to_vec() };
    ProbeSpec { members: vec![reads], penalties: Penalties::default() }
}

/// The last row of a rendered conversation at [`LAYERS`], by a pass of its own.
fn row_by_hand(model: &LoadedModel, messages: &[ChatMessage]) -> Vec<f32> {
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
    let mut capture = Capture::new(Site::ResidPost, LAYERS.to_vec(), vec![count - 1]);
    let mut hooks = Hooks { steer: None, capture: Some(&mut capture) };
    model.llama.forward(&batch, &mut cache, &mut hooks).unwrap();
    capture.take().into_iter().flat_map(|(_, values)| values).collect()
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
        let row = row_by_hand(&model, &prompt.conversation);
        let text = trained.probe.text_scores(&prompt.conversation, None).unwrap();
        let expected = trained.probe.verdict(&text, Some(&row)).unwrap();
        assert_eq!(*verdict, expected, "{}", prompt.id);
    }
    let different: Vec<u32> = found.iter().map(|verdict| verdict.harm.to_bits()).collect();
    assert!(different.iter().any(|harm| *harm != different[0]), "every prompt has one row");
}

#[test]
fn a_probe_on_activations_needs_the_model_and_its_layers() {
    let model = model();
    let sources = Sources { model: Some(&model), embedder: None };
    let trained = train(&corpus(), &spec(), sources, &mut NoProgress).unwrap();
    let error = verdicts(&trained.probe, &corpus(), Sources::default(), &mut NoProgress);
    assert!(matches!(error, Err(Error::Spec(reason)) if reason.contains("give the model")));
    let reads = Reads::Activations { site: Site::ResidPost, layers: vec![3] };
    let beyond = ProbeSpec { members: vec![reads], ..spec() };
    assert!(train(&corpus(), &beyond, sources, &mut NoProgress).is_err());
    let without = LoadedModel { chat_template: None, ..model };
    let sources = Sources { model: Some(&without), embedder: None };
    let error = train(&corpus(), &spec(), sources, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
}
