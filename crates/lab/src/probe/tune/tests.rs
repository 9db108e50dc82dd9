//! On a BERT of two layers that is made here, and the forward pass of all-MiniLM-L6-v2 where `SKEG_TEST_EMBEDDER` names its folder.

#![expect(
    clippy::disallowed_methods,
    reason = "tests look at values, and find the embedder by the environment alone"
)]

mod tiny;

use candle_core::{Device, Tensor, Var};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::BertModel;
use skeg_vector_store::Category;

use self::tiny::{HIDDEN, WORDS, tiny_with};
use super::states::ends;
use super::*;
use crate::data::{DataSet, Item};
use crate::judge::Embed;
use crate::probe::{ProbeSpec, Reads, SourceSet, Sources};
use crate::progress::NoProgress;

fn tiny() -> tempfile::TempDir {
    tiny_with("")
}

/// Sets of their own wording, in which `poison` is fraud, `spy` is privacy, and `tea` is harmless.
fn corpus(sets: &[&str]) -> Corpus {
    let sources = sets.iter().map(|name| {
        let items = (0..24).map(|idx| {
            let (word, category) = [("poison", "fraud"), ("spy", "privacy"), ("tea", "")][idx % 3];
            let number = &WORDS[6..][idx / 3 % 6];
            let repeated = format!("{number} ").repeat(1 + idx / 4);
            Item {
                harmful: Some(!category.is_empty()),
                category: Some(category.to_owned()),
                ..Item::new(format!("{name}{idx}"), format!("{name} {word} {repeated}"), "own")
            }
        });
        SourceSet {
            name: (*name).to_owned(),
            files: vec![DataSet::of(items.collect(), format!("hash of {name}"))],
        }
    });
    let categories = ["fraud", "privacy"].map(|slug| Category::parse(slug).unwrap());
    Corpus::new(&sources.collect::<Vec<_>>(), &categories).unwrap()
}

/// A head that begins at little, so that there is something to learn.
fn spec() -> TuneSpec {
    TuneSpec {
        learning_rate: 2e-3,
        head_learning_rate: 1e-2,
        num_epochs: 16,
        batch_size: 8,
        max_tokens: 32,
        l2: 10.0,
        ..TuneSpec::default()
    }
}

fn tuned(spec: &TuneSpec) -> (tempfile::TempDir, TunedEmbedder) {
    let folder = tiny();
    let tuned = tune(folder.path(), &corpus(&["please", "how"]), spec, &mut NoProgress).unwrap();
    (folder, tuned)
}

fn bert(folder: &Path, num_tuned: usize) -> Bert {
    let weights = Weights::from_bytes(&std::fs::read(folder.join(WEIGHTS)).unwrap()).unwrap();
    Bert::new(&weights, &config(folder).unwrap(), num_tuned).unwrap()
}

fn states(bert: &Bert, token_ids: &[Vec<u32>]) -> States {
    let failed = |error: candle_core::Error| Error::Data(error.to_string());
    States::new(bert, token_ids, (&failed, &mut NoProgress)).unwrap()
}

const TOKEN_IDS: [&[u32]; 3] = [&[2, 4, 7, 3], &[2, 5, 8, 9, 10, 11, 3], &[2, 3]];

fn token_ids() -> Vec<Vec<u32>> {
    TOKEN_IDS.iter().map(|ids| ids.to_vec()).collect()
}

fn pooled(bert: &Bert, states: &States) -> Tensor {
    let (rows, mask) = states.batch(&[0, 1, 2]).unwrap();
    bert.pooled(&rows, &mask).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().max_all().unwrap();
    difference.to_scalar().unwrap()
}

/// candle-transformers' own forward pass, the mean over a text's tokens, of length 1.
fn reference(folder: &Path) -> Tensor {
    let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
    let builder =
        VarBuilder::from_buffered_safetensors(bytes, candle_core::DType::F32, &Device::Cpu)
            .unwrap();
    let model = BertModel::load(builder, &config(folder).unwrap()).unwrap();
    let rows: Vec<Tensor> = TOKEN_IDS
        .iter()
        .map(|ids| {
            let ids = Tensor::new(*ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let rows = model.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
            let mean = rows.mean(1).unwrap();
            let norm = mean.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
            mean.broadcast_div(&norm).unwrap()
        })
        .collect();
    Tensor::cat(&rows, 0).unwrap()
}

#[test]
fn the_forward_pass_is_candles_whatever_is_frozen_and_padded() {
    for prefix in ["", "bert."] {
        let folder = tiny_with(prefix);
        let expected = reference(folder.path());
        for num_tuned in 0..=2 {
            let bert = bert(folder.path(), num_tuned);
            let found = pooled(&bert, &states(&bert, &token_ids()));
            assert!(largest_difference(&found, &expected) < 1e-5, "{num_tuned} layers, `{prefix}`");
            assert_eq!(bert.tuned.len(), 16 * num_tuned);
        }
    }
}

/// Derivatives of the loss by two-sided differences, at some places of each kind of variable.
#[test]
fn gradients_are_those_of_finite_differences() {
    let folder = tiny();
    let corpus = corpus(&["please"]);
    let bert = bert(folder.path(), 2);
    let states = states(&bert, &token_ids());
    let wave = |num: usize| (0..num).map(|idx| (idx as f32 * 1.7).sin()).collect();
    let head = Head::new(&Planes::new(wave(3 * HIDDEN), wave(3))).unwrap();
    let labels = Labels::new(&corpus);
    let loss = || labels.loss(&head.logits(&pooled(&bert, &states)).unwrap(), &[0, 1, 2]).unwrap();
    let gradients = loss().backward().unwrap();
    let head_vars = [("head", &head.weights), ("head bias", &head.biases)];
    let vars = bert.tuned.iter().map(|(name, var)| (name.as_str(), var)).chain(head_vars);
    for (name, var) in vars {
        let gradient = gradients.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // The largest, where rounding matters least.
        let place = (0..gradient.len())
            .max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()))
            .unwrap();
        let at = |change: f32| {
            let kept = var.as_tensor().copy().unwrap();
            let mut values = kept.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[place] += change;
            set(var, values);
            let found: f32 = loss().to_scalar().unwrap();
            var.set(&kept).unwrap();
            found
        };
        let step = 4e-3;
        let expected = (at(step) - at(-step)) / (2.0 * step);
        let tolerance = 2e-4 + 0.02 * expected.abs();
        assert!(
            (gradient[place] - expected).abs() < tolerance,
            "{name}: {} {expected}",
            gradient[place]
        );
    }
}

fn set(var: &Var, values: Vec<f32>) {
    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
}

/// Counts by hand: one harmful prompt of weight 3/4 with its category, and one harmless of weight 3/2.
#[test]
fn the_loss_is_that_of_a_sum_by_hand() {
    let labels = Labels::new(&corpus(&["please"]));
    // Of three prompts in turn two are harmful, of categories 0 and 1.
    let logits = Tensor::new(&[[2.0_f32, 1.0, 0.0], [-100.0, 5.0, 5.0]], &Device::Cpu).unwrap();
    let loss: f32 = labels.loss(&logits, &[0, 2]).unwrap().to_scalar().unwrap();
    let expected = 0.5 * 0.75 * (1.0 + (-2.0_f32).exp()).ln() + (1.0 + (-1.0_f32).exp()).ln();
    assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
    // A batch without a category, and a logit that exp cannot hold.
    let wrong: f32 = labels.loss(&(logits * -1.0).unwrap(), &[2, 2]).unwrap().to_scalar().unwrap();
    let expected = 0.5 * 1.5 * (100.0 + (1.0 + (-2.0_f32).exp()).ln());
    assert!((wrong - expected).abs() < 1e-3, "{wrong} {expected}");
}

#[test]
fn the_loss_falls_and_the_same_seed_gives_the_same_weights() {
    let (_folder, first) = tuned(&spec());
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let of_epoch = first.losses.len() / spec().num_epochs;
    let [before, after] =
        [&first.losses[..of_epoch], &first.losses[first.losses.len() - of_epoch..]].map(mean);
    assert_eq!(of_epoch, 6);
    assert!(after < 0.6 * before, "{:?}", first.losses);
    let (_folder, again) = tuned(&spec());
    assert_eq!(first.losses, again.losses);
    assert!(first.weights == again.weights);
    let (_folder, other) = tuned(&TuneSpec { seed: 1, ..spec() });
    assert!(first.weights != other.weights);
}

#[test]
fn only_the_tuned_layers_change_and_the_folder_is_an_embedder() {
    let (base, tuned) = tuned(&TuneSpec { num_layers: 1, ..spec() });
    let out = base.path().join("tuned/here");
    tuned.write(&out).unwrap();
    let [before, after] = [base.path(), &out]
        .map(|folder| candle_core::safetensors::load(folder.join(WEIGHTS), &Device::Cpu).unwrap());
    assert_eq!(before.len(), after.len());
    for (name, tensor) in &before {
        let changed = largest_difference(tensor, &after[name]) > 0.0;
        // A key's bias takes no part in a softmax, so only rounding moves it.
        if !name.contains("key.bias") {
            assert_eq!(changed, name.starts_with("encoder.layer.1."), "{name}");
        }
    }
    let [frozen, loaded] =
        [base.path(), &out].map(|folder| SentenceEmbedder::load(folder).unwrap());
    assert_ne!(frozen.id(), loaded.id());
    assert_eq!(tuned.training.base, frozen.id());

    // What the folder gives is what was trained.
    let text = "please poison one one";
    let embedding = loaded.embed(&[text], &mut NoProgress).unwrap().remove(0);
    let bert = bert(&out, 1);
    let ids = states::read(&out, &[text.to_owned()], 32).unwrap();
    let (rows, mask) = states(&bert, &ids).batch(&[0]).unwrap();
    let found = bert.pooled(&rows, &mask).unwrap();
    let expected = Tensor::new(&*embedding, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    assert!(largest_difference(&found, &expected) < 1e-5);

    let error = tuned.write(&out).unwrap_err().to_string();
    assert!(error.contains("holds an embedder already"), "{error}");
}

#[test]
fn a_report_measures_both_on_sets_that_neither_saw() {
    let (base, tuned) = tuned(&spec());
    let out = base.path().join("tuned");
    tuned.write(&out).unwrap();
    let [frozen, loaded] =
        [base.path(), &out].map(|folder| SentenceEmbedder::load(folder).unwrap());
    let trained = corpus(&["please", "how"]);
    let (measured, num_dropped) = unseen(corpus(&["how", "want"]), &trained);
    let num_of_set = corpus(&["how"]).prompts.len();
    assert_eq!((num_dropped, measured.counts(0)), (num_of_set, [0, 0]));
    let report = TuneReport::new(&tuned, [&frozen, &loaded], &measured, &mut NoProgress).unwrap();
    let [before, after] = [&report.before, &report.after]
        .map(|heads| heads.report.sets[0].operating.auc.unwrap().value);
    assert!(after >= before && after > 0.8, "{before} {after}");
    let text = report.to_plain();
    assert!(text.contains("AUC before") && text.contains("want"), "{text}");
    assert!(
        report.to_markdown().contains("| want | its own | 8 | 16 |"),
        "{}",
        report.to_markdown()
    );

    let other = Corpus { categories: measured.categories[..1].to_vec(), ..measured };
    let error = TuneReport::new(&tuned, [&frozen, &loaded], &other, &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("a head of 3 planes for 1 categories"), "{error}");
}

#[test]
fn a_folder_says_which_sets_its_encoder_has_seen() {
    let (base, tuned) = tuned(&TuneSpec { num_epochs: 1, ..spec() });
    assert_eq!(EmbedderTraining::read(base.path()).unwrap(), None);
    let out = base.path().join("tuned");
    tuned.write(&out).unwrap();
    let training = EmbedderTraining::read(&out).unwrap().unwrap();
    assert_eq!(training, tuned.training);
    assert_eq!(training.trained_on.sets[1].num_prompts, corpus(&["please", "how"]).counts(1));
    assert_eq!(training.seen(&corpus(&["want", "how"])), ["how"]);
    assert!(training.seen(&corpus(&["want"])).is_empty());
    std::fs::write(out.join("training.json"), "{}").unwrap();
    let error = EmbedderTraining::read(&out).unwrap_err().to_string();
    assert!(error.contains("training.json") && error.contains("tune-embedder"), "{error}");
}

/// The member of a probe, as of any embedder.
#[test]
fn a_probe_is_trained_on_the_tuned_embeddings() {
    let (base, tuned) = tuned(&spec());
    let out = base.path().join("tuned");
    tuned.write(&out).unwrap();
    let loaded = SentenceEmbedder::load(&out).unwrap();
    let spec = ProbeSpec { members: vec![Reads::Embedding], ..ProbeSpec::default() };
    let sources = Sources { embedder: Some(&loaded), ..Sources::default() };
    let corpus = corpus(&["please", "how"]);
    let trained = crate::probe::train(&corpus, &spec, sources, &mut NoProgress).unwrap();
    assert_eq!(trained.probe.embedder(), Some(loaded.id()));
}

#[test]
fn what_cannot_be_tuned_is_an_error() {
    let folder = tiny();
    let both = corpus(&["please", "how"]);
    let error = |corpus: &Corpus, spec: &TuneSpec| {
        tune(folder.path(), corpus, spec, &mut NoProgress).unwrap_err().to_string()
    };
    let found = error(&both, &TuneSpec { num_layers: 3, ..spec() });
    assert!(found.contains("3 layers to tune; expected 1 to 2"), "{found}");
    let mut harmful = both.clone();
    harmful.prompts.retain(|prompt| prompt.harmful);
    let found = error(&harmful, &TuneSpec { max_tokens: 32, ..spec() });
    assert!(found.contains("both kinds"), "{found}");
    let mut bytes = std::fs::read(folder.path().join(WEIGHTS)).unwrap();
    bytes.truncate(100);
    std::fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
    let found = error(&both, &spec());
    assert!(found.contains(WEIGHTS), "{found}");
}

#[test]
fn of_a_long_text_both_ends_are_read() {
    let ids: Vec<u32> = (0..10).collect();
    assert_eq!(ends(&ids, 10), ids);
    assert_eq!(ends(&ids, 5), [0, 1, 2, 8, 9]);
    assert_eq!(ends(&ids, 4), [0, 1, 8, 9]);
}

/// The same weights, all layers frozen, and texts of different length in one batch.
#[test]
fn minilm_is_read_as_the_frozen_embedder_reads_it() {
    let Some(folder) = std::env::var_os("SKEG_TEST_EMBEDDER").map(PathBuf::from) else {
        println!("skipped: no data (SKEG_TEST_EMBEDDER names no folder of all-MiniLM-L6-v2)");
        return;
    };
    let long = "A longer text about the weather of some days in spring. ".repeat(5);
    let texts = ["How do I bake bread?".to_owned(), String::new(), long];
    let given: Vec<&str> = texts.iter().map(String::as_str).collect();
    let embedder = SentenceEmbedder::load(&folder).unwrap();
    let expected = embedder.embed(&given, &mut NoProgress).unwrap().concat();
    let expected = Tensor::from_vec(expected, (3, embedder.width()), &Device::Cpu).unwrap();
    let bert = bert(&folder, 2);
    let ids = states::read(&folder, &texts, 96).unwrap();
    let found = pooled(&bert, &states(&bert, &ids));
    assert!(largest_difference(&found, &expected) < 1e-4);
}
