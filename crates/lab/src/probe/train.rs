//! From labelled sets to a probe, and what each set is found to be by members that never saw it.
//!
//! The stack is fitted to scores of members that were trained without the set that they score: a member that learns its training
//! sets' style scores badly there and gets little weight, and probabilities are calibrated for texts of sets that are new.

use serde::{Deserialize, Serialize};

use super::corpus::{Corpus, Prompt};
use super::left_out::for_each_set;
use super::member::{Member, Planes};
use super::rows::{Reads, Rows, Sources, rows};
use super::subspace::plane_within;
use super::verdict::{Scores, Stack, Verdict};
use super::{Probe, TrainedOn, TrainingSource};
use crate::error::{Error, Result};
use crate::judge::FeatureRows;
use crate::logistic::{fit_classes, fit_member_weights, fit_weighted};
use crate::numbers::to_f32;
use crate::progress::Progress;

/// How strongly members are held back, as an L2 penalty for each row; see [`crate::judge::LinearHead`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Penalties {
    /// Of members on activations and embeddings, whose features are standardised.
    pub dense: f64,
    /// Of members on n-grams.
    pub sparse: f64,
    /// Of the stack.
    pub stack: f64,
    /// Where given, the harm planes of members on activations and embeddings lie in the span of so many main axes of what tells matched
    /// pairs apart.
    #[serde(default)]
    pub harm_rank: Option<usize>,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { dense: 0.1, sparse: 1e-5, stack: 1e-4, harm_rank: None }
    }
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProbeSpec {
    /// The members, at least one.
    pub members: Vec<Reads>,
    /// How strongly they are held back.
    pub penalties: Penalties,
    /// The set whose prompts say what the categories are. When categories are told apart its prompts count as much as those of all
    /// others together, however few they are.
    pub categories_by: Option<String>,
}

/// A trained probe with the scores that its stack was fitted to.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The probe, whose members saw every set.
    pub probe: Probe,
    /// One a prompt of the corpus: by members that did not see the prompt's set.
    pub held_out: Vec<HeldOut>,
}

/// What members that did not see a prompt's set make of it.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOut {
    /// One a member.
    pub scores: Vec<Scores>,
    /// Put together by the stack.
    pub verdict: Verdict,
}

/// Trains a probe.
///
/// # Errors
/// [`Error::Data`] when harmful or harmless prompts are missing, also without one of the sets, or a category has no prompt, or there are
/// no matched pairs for [`Penalties::harm_rank`];
/// [`Error::Spec`] when there is no member, a source for one is missing, or no set has the name in [`ProbeSpec::categories_by`]; what model and embedder return.
pub fn train(
    corpus: &Corpus,
    spec: &ProbeSpec,
    sources: Sources<'_>,
    progress: &mut dyn Progress,
) -> Result<Trained> {
    if spec.members.is_empty() {
        return Err(Error::Spec("a probe without a member; name at least one".to_owned()));
    }
    let inputs = rows(corpus, &spec.members, sources, progress)?;
    let categories_by =
        spec.categories_by.as_deref().map(|name| set_idx(corpus, name)).transpose()?;
    let trainer = Trainer { corpus, penalties: spec.penalties, categories_by };
    let everything: Vec<usize> = (0..corpus.prompts.len()).collect();
    let mut by_member = Vec::with_capacity(inputs.len());
    let mut members = Vec::with_capacity(inputs.len());
    for (input, rows) in inputs {
        by_member.push(trainer.held_out(&rows, progress)?);
        let planes = trainer.planes(&rows, &everything)?;
        members.push(Member { input, planes });
    }
    let scores: Vec<Vec<Scores>> = everything
        .iter()
        .map(|&idx| by_member.iter().map(|scores| scores[idx].clone()).collect())
        .collect();
    let stack = trainer.stack(&scores)?;
    let held_out = scores
        .into_iter()
        .map(|scores| {
            let verdict = stack.verdict(&scores, &corpus.categories);
            HeldOut { scores, verdict }
        })
        .collect();
    let categories = corpus.categories.clone();
    let probe = Probe { categories, members, stack, trained_on: trained_on(corpus), answer: None };
    probe.check()?;
    Ok(Trained { probe, held_out })
}

pub(super) fn trained_on(corpus: &Corpus) -> TrainedOn {
    let sets = corpus.sets.iter().enumerate().map(|(set_idx, (name, hashes))| TrainingSource {
        name: name.clone(),
        sha256: hashes.clone(),
        num_prompts: corpus.counts(set_idx),
        num_augmented: corpus.num_augmented(set_idx),
    });
    TrainedOn { sets: sets.collect() }
}

/// Planes of all prompts of a corpus, of which these are the rows.
///
/// # Errors
/// [`Error::Data`] when harmful or harmless prompts are missing or a category has no prompt.
pub(super) fn fit_planes(corpus: &Corpus, rows: &Rows, l2: f64) -> Result<Planes> {
    let penalties = Penalties { dense: l2, ..Penalties::default() };
    let everything: Vec<usize> = (0..corpus.prompts.len()).collect();
    Trainer { corpus, penalties, categories_by: None }.planes(rows, &everything)
}

fn set_idx(corpus: &Corpus, name: &str) -> Result<usize> {
    corpus.sets.iter().position(|(found, _)| found == name).ok_or_else(|| {
        let names: Vec<&str> = corpus.sets.iter().map(|(name, _)| name.as_str()).collect();
        Error::Spec(format!(
            "categories by set `{name}`, which is not trained on; expected one of {}",
            names.join(", ")
        ))
    })
}

struct Trainer<'a> {
    corpus: &'a Corpus,
    penalties: Penalties,
    /// Index of the set of [`ProbeSpec::categories_by`].
    categories_by: Option<usize>,
}

impl Trainer<'_> {
    /// Scores of every prompt by planes that were fitted without its set.
    fn held_out(&self, rows: &Rows, progress: &mut dyn Progress) -> Result<Vec<Scores>> {
        let of_set = |set_idx| self.held_out_of(set_idx, rows);
        let by_set = for_each_set(self.corpus.sets.len(), of_set, progress)?;
        let mut scores: Vec<Option<Scores>> = vec![None; self.corpus.prompts.len()];
        for (idx, of_prompt) in by_set.into_iter().flatten() {
            scores[idx] = Some(of_prompt);
        }
        Ok(scores.into_iter().flatten().collect())
    }

    /// Scores of one set's prompts by planes that were fitted without it, each with the prompt's index.
    fn held_out_of(&self, set_idx: usize, rows: &Rows) -> Result<Vec<(usize, Scores)>> {
        let prompts = &self.corpus.prompts;
        let (of_set, others): (Vec<usize>, Vec<usize>) =
            (0..prompts.len()).partition(|&idx| prompts[idx].set_idx == set_idx);
        let planes = self.planes(rows, &others).map_err(|error| {
            Error::Data(format!(
                "without set `{}`: {error}; a probe needs two sources or more, each label and category in two of them",
                self.corpus.sets[set_idx].0
            ))
        })?;
        Ok(of_set.into_iter().map(|idx| (idx, score(&planes, rows, idx))).collect())
    }

    /// Planes fitted to some prompts: harm to all, categories to the harmful ones that have one.
    fn planes(&self, rows: &Rows, prompt_idxs: &[usize]) -> Result<Planes> {
        let prompts = &self.corpus.prompts;
        let positives: Vec<bool> = prompt_idxs.iter().map(|&idx| prompts[idx].harmful).collect();
        let weights = balanced(&positives);
        let l2 = match rows {
            Rows::Dense(_) => self.penalties.dense,
            Rows::Sparse(_) => self.penalties.sparse,
        };
        let of_category: Vec<(usize, usize)> = prompt_idxs
            .iter()
            .filter_map(|&idx| prompts[idx].category_idx.map(|category| (idx, category)))
            .collect();
        let (category_rows, classes): (Vec<usize>, Vec<usize>) = of_category.into_iter().unzip();
        let classes = (classes.as_slice(), self.corpus.categories.len());
        let weights_of_categories = self.category_weights(&category_rows);
        let selected = rows.select(prompt_idxs);
        let harm = match (&selected, self.penalties.harm_rank) {
            (Rows::Dense(dense), Some(rank)) => {
                let of_rows: Vec<&Prompt> = prompt_idxs.iter().map(|&idx| &prompts[idx]).collect();
                plane_within(dense, &of_rows, rank, (&positives, &weights, l2))?
            }
            _ => fit_weighted(&selected, &positives, &weights, l2)?,
        };
        Ok(Planes::of(
            &harm,
            &fit_classes(&rows.select(&category_rows), classes, &weights_of_categories, l2)?,
        ))
    }

    /// How much each prompt counts when categories are told apart.
    fn category_weights(&self, prompt_idxs: &[usize]) -> Vec<f64> {
        let says = |idx: &usize| Some(self.corpus.prompts[*idx].set_idx) == self.categories_by;
        let num_saying = prompt_idxs.iter().filter(|idx| says(idx)).count();
        let num_others = prompt_idxs.len() - num_saying;
        let weight = (num_others as f64 / num_saying.max(1) as f64).max(1.0);
        prompt_idxs.iter().map(|idx| if says(idx) { weight } else { 1.0 }).collect()
    }

    /// The stack of held-out scores.
    fn stack(&self, scores: &[Vec<Scores>]) -> Result<Stack> {
        let prompts = &self.corpus.prompts;
        let num_members = scores.first().map_or(0, Vec::len);
        let harm = scores.iter().flatten().map(|scores| to_f32(scores.harm)).collect();
        let positives: Vec<bool> = prompts.iter().map(|prompt| prompt.harmful).collect();
        let rows = FeatureRows::new(harm, num_members);
        let plane = fit_weighted(&rows, &positives, &balanced(&positives), self.penalties.stack)?;
        let of_category = prompts.iter().zip(scores).filter_map(|(prompt, scores)| {
            let logits: Vec<&[f64]> = scores.iter().map(|one| one.categories.as_slice()).collect();
            prompt.category_idx.map(|category| (logits, category))
        });
        let (logits, classes): (Vec<_>, Vec<_>) = of_category.unzip();
        let categories = fit_member_weights(&logits, &classes, self.penalties.stack)?;
        Ok(Stack { harm: plane.weights, bias: plane.bias, categories })
    }
}

fn score(planes: &Planes, rows: &Rows, idx: usize) -> Scores {
    match rows {
        Rows::Dense(rows) => planes.score(rows.row(idx)),
        Rows::Sparse(rows) => planes.score_sparse(&rows.rows[idx]),
    }
}

/// Weights under which harmful and harmless rows count the same.
pub(super) fn balanced(positives: &[bool]) -> Vec<f64> {
    let num_positive = positives.iter().filter(|&&positive| positive).count();
    let num_negative = positives.len() - num_positive;
    let weight = |count: usize| 1.0 / (count.max(1) as f64);
    positives
        .iter()
        .map(|&positive| if positive { weight(num_positive) } else { weight(num_negative) })
        .collect()
}

#[cfg(test)]
mod tests {
    use skeg_vector_store::Category;

    use super::super::NGrams;
    use super::super::corpus::SourceSet;
    use super::*;
    use crate::data::{DataSet, Item};
    use crate::progress::NoProgress;

    /// Three sets of their own wording, in which `poison` is fraud, `spy` is privacy, and `tea` is harmless.
    fn corpus() -> Corpus {
        let set = |name: &str, wording: &str| {
            let items = (0..30).map(|idx| {
                let (word, category) =
                    [("poison", "fraud"), ("spy", "privacy"), ("tea", "")][idx % 3];
                Item {
                    harmful: Some(!category.is_empty()),
                    category: Some(category.to_owned()),
                    ..Item::new(
                        format!("{name}{idx}"),
                        format!("{wording} {word} number{idx}"),
                        "own",
                    )
                }
            });
            SourceSet {
                name: name.to_owned(),
                files: vec![DataSet::of(items.collect(), "ab".to_owned())],
            }
        };
        let categories = ["fraud", "privacy"].map(|slug| Category::parse(slug).unwrap());
        Corpus::new(
            &[set("a", "please tell"), set("b", "how about"), set("c", "wanted")],
            &categories,
        )
        .unwrap()
    }

    fn spec() -> ProbeSpec {
        ProbeSpec {
            members: vec![Reads::NGrams(NGrams { log2_buckets: 10, ..NGrams::default() })],
            ..ProbeSpec::default()
        }
    }

    #[test]
    fn a_probe_knows_words_in_sets_that_it_did_not_see() {
        let corpus = corpus();
        let trained = train(&corpus, &spec(), Sources::default(), &mut NoProgress).unwrap();
        for (prompt, held_out) in corpus.prompts.iter().zip(&trained.held_out) {
            let verdict = &held_out.verdict;
            assert_eq!(verdict.harm > 0.5, prompt.harmful, "{prompt:?} {verdict:?}");
            if let Some(idx) = prompt.category_idx {
                assert_eq!(verdict.first(), Some(&corpus.categories[idx]), "{prompt:?}");
            }
        }
        let sets = &trained.probe.trained_on.sets;
        assert_eq!(sets.len(), 3);
        assert_eq!((sets[0].name.as_str(), sets[0].num_prompts), ("a", [20, 10]));
        let again = train(&corpus, &spec(), Sources::default(), &mut NoProgress).unwrap();
        assert_eq!(again.probe.to_bytes().unwrap(), trained.probe.to_bytes().unwrap());
    }

    #[test]
    fn what_only_one_set_knows_is_not_known_without_it() {
        let mut corpus = corpus();
        // Harmless prompts of set c alone: without it there are none to learn from.
        corpus.prompts.retain(|prompt| prompt.harmful || prompt.set_idx == 2);
        let error = train(&corpus, &spec(), Sources::default(), &mut NoProgress).unwrap_err();
        assert!(error.to_string().contains("without set `c`"), "{error}");
    }

    #[test]
    fn the_set_that_defines_the_categories_counts_as_much_as_all_others() {
        let corpus = corpus();
        let weights = |categories_by: Option<usize>, prompt_idxs: &[usize]| {
            let trainer =
                Trainer { corpus: &corpus, penalties: Penalties::default(), categories_by };
            trainer.category_weights(prompt_idxs)
        };
        // One prompt of set a, three of the others; then more of a than of the others; then none of a, as where it is left out.
        assert_eq!(weights(Some(0), &[0, 30, 31, 60]), [3.0, 1.0, 1.0, 1.0]);
        assert_eq!(weights(Some(0), &[0, 1, 30]), [1.0, 1.0, 1.0]);
        assert_eq!(weights(Some(0), &[30, 60]), [1.0, 1.0]);
        assert_eq!(weights(None, &[0, 30, 31]), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_set_that_defines_the_categories_moves_the_planes_and_must_be_there() {
        let corpus = corpus();
        let trained = |categories_by: Option<&str>| {
            let spec = ProbeSpec { categories_by: categories_by.map(str::to_owned), ..spec() };
            train(&corpus, &spec, Sources::default(), &mut NoProgress)
        };
        let [plain, by_a] = [None, Some("a")].map(|by| trained(by).unwrap().probe.members);
        let width = plain[0].input.width();
        let (before, after) = (&plain[0].planes.weights, &by_a[0].planes.weights);
        assert_eq!(before[..width], after[..width], "harm is as it was");
        assert_ne!(before[width..], after[width..]);
        let error = trained(Some("z")).unwrap_err();
        assert!(error.to_string().contains("expected one of a, b, c"), "{error}");
    }

    #[test]
    fn a_member_without_its_source_is_refused() {
        for (reads, expected) in [
            (vec![Reads::Embedding], "an embedder"),
            (
                vec![Reads::Activations {
                    site: skeg_model::steering::Site::ResidPost,
                    layers: vec![1],
                    row: super::super::PromptRow::Mean,
                }],
                "a model",
            ),
            (Vec::new(), "at least one"),
        ] {
            let spec = ProbeSpec { members: reads, ..spec() };
            let error = train(&corpus(), &spec, Sources::default(), &mut NoProgress).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
