//! A probe on the activations of a whole tiny model: what it reads, and what is refused.

use std::ops::ControlFlow;

use skeg_lab::data::{DataSet, Item};
use skeg_lab::probe::{
    Corpus, Penalties, ProbeSpec, PromptRow, Reads, RowCache, SourceSet, Sources, train, verdicts,
};
use skeg_lab::{Error, NoProgress, Progress};
use skeg_model::engine::PromptActivations;
use skeg_model::steering::Site;
use skeg_model::{ChatMessage, KvCacheDtype, LoadedModel};
use skeg_vector_store::Category;

use crate::tiny_model::{model, rows_of_pass};

pub(crate) const LAYERS: [usize; 2] = [0, 2];

/// Two sources of two kinds of harm and of harmless prompts, one of them a conversation.
pub(crate) fn corpus() -> Corpus {
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
    ProbeSpec { members: vec![reads(&LAYERS, PromptRow::Last)], ..ProbeSpec::default() }
}

/// The rows of a rendered conversation at [`LAYERS`], by a pass of its own.
fn rows_by_hand(model: &LoadedModel, messages: &[ChatMessage]) -> Vec<Vec<f32>> {
    let text = model.chat_template.as_ref().unwrap().render(messages, true).unwrap();
    let token_ids = model.tokenizer.encode(&text, false).unwrap();
    rows_of_pass(&model.llama, token_ids, &LAYERS, KvCacheDtype::F32)
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
    let sources = Sources { model: Some(&model), ..Sources::default() };
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
    let sources = Sources { model: Some(&model), ..Sources::default() };
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
    let sources = Sources { model: Some(&model), ..Sources::default() };
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
    let sources = Sources { model: Some(&model), ..Sources::default() };
    let trained = train(&corpus(), &spec(), sources, &mut NoProgress).unwrap();
    let error = verdicts(&trained.probe, &corpus(), Sources::default(), &mut NoProgress);
    assert!(matches!(error, Err(Error::Spec(reason)) if reason.contains("give the model")));
    let beyond = ProbeSpec { members: vec![reads(&[3], PromptRow::Last)], ..spec() };
    assert!(train(&corpus(), &beyond, sources, &mut NoProgress).is_err());
    let without = LoadedModel { chat_template: None, ..model };
    let sources = Sources { model: Some(&without), ..Sources::default() };
    let error = train(&corpus(), &spec(), sources, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
}

/// Counts rows that are computed and rows that are there already.
#[derive(Default)]
struct Steps {
    /// Of each `advance`, in order.
    steps: Vec<usize>,
    is_fitting: bool,
}

impl Progress for Steps {
    fn start(&mut self, what: &str, _total: usize) {
        self.is_fitting = what == "sets left out";
    }

    fn advance(&mut self, num_steps: usize) -> ControlFlow<()> {
        if !self.is_fitting {
            self.steps.push(num_steps);
        }
        ControlFlow::Continue(())
    }

    fn note(&mut self, _message: &str) {}

    fn finish(&mut self) {}
}

/// The file of a probe on both kinds of rows at these layers.
fn trained_bytes(sources: Sources<'_>, layers: &[usize], l2: f64, steps: &mut Steps) -> Vec<u8> {
    let members = [PromptRow::Last, PromptRow::Mean].map(|row| reads(layers, row)).to_vec();
    let penalties = Penalties { dense: l2, ..Penalties::default() };
    let spec = ProbeSpec { members, penalties, categories_by: None };
    train(&corpus(), &spec, sources, steps).unwrap().probe.to_bytes().unwrap()
}

#[test]
fn kept_rows_are_those_that_would_be_computed_and_only_new_ones_are() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let cache = RowCache::open(folder.path(), "dense").unwrap();
    let plain = Sources { model: Some(&model), ..Sources::default() };
    let kept = Sources { cache: Some(&cache), ..plain };
    let corpus = corpus();
    // What was there comes first, then what is computed.
    let num_there = |layers: &[usize], l2: f64, cache: Sources<'_>| {
        let mut steps = Steps::default();
        let found = trained_bytes(cache, layers, l2, &mut steps);
        let expected = trained_bytes(plain, layers, l2, &mut Steps::default());
        assert!(found == expected, "{layers:?} {l2}");
        assert_eq!(steps.steps.iter().sum::<usize>(), 48);
        steps.steps[0]
    };
    assert_eq!(num_there(&LAYERS, 0.1, kept), 0);
    assert_eq!(num_there(&LAYERS, 0.3, kept), 48, "another penalty");
    assert_eq!(num_there(&[1], 0.1, kept), 0, "another layer");
    let other = RowCache::open(folder.path(), "quantised").unwrap();
    assert_eq!(num_there(&LAYERS, 0.1, Sources { cache: Some(&other), ..plain }), 0);
    let mut other = crate::tiny_model::model();
    other.identity.weights_id = "another model".to_owned();
    let other = Sources { model: Some(&other), ..kept };
    assert_eq!(num_there(&LAYERS, 0.1, other), 0);

    // More data: the rows of one set are there, those of verdicts as well.
    let mut steps = Steps::default();
    let mut more = corpus.clone();
    more.prompts[3].conversation[0].content.push_str(" please");
    let probe = train(&corpus, &spec(), kept, &mut NoProgress).unwrap().probe;
    let found = verdicts(&probe, &more, kept, &mut steps).unwrap();
    assert_eq!(steps.steps, [23, 1]);
    assert_eq!(found, verdicts(&probe, &more, plain, &mut NoProgress).unwrap());
}

#[test]
fn a_harm_plane_of_a_rank_is_another_one_and_needs_twins() {
    let model = model();
    let sources = Sources { model: Some(&model), ..Sources::default() };
    let penalties = Penalties { harm_rank: Some(2), ..Penalties::default() };
    let of_rank = ProbeSpec { penalties, ..spec() };
    let mut corpus = corpus();
    let error = train(&corpus, &of_rank, sources, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("without set `anna`") && error.contains("twin_of"), "{error}");
    for idx in (2..corpus.prompts.len()).step_by(3) {
        corpus.prompts[idx].twin_of = Some(corpus.prompts[idx - 1].id.clone());
    }
    let [any, within] = [spec(), of_rank].map(|spec| {
        let held_out = train(&corpus, &spec, sources, &mut NoProgress).unwrap().held_out;
        held_out.into_iter().map(|one| one.scores[0].clone()).collect::<Vec<_>>()
    });
    for (any, within) in any.iter().zip(&within) {
        assert_ne!(any.harm.to_bits(), within.harm.to_bits());
        assert_eq!(any.categories, within.categories);
    }
}
