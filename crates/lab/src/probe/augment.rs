//! Disguised copies of training prompts, so that a probe learns what is asked and not how it is written.
//!
//! A copy stays in its prompt's set: a member that never saw a set has seen no copy of its prompts either. The sentences around the
//! copies are those of even seeds; whoever measures with an odd one measures with sentences that were in no copy. Leetspeak and
//! letters apart have no sentences: they have one form, and what is measured of them is the form that was trained on.

use sha2::{Digest, Sha256};

use super::corpus::{Corpus, Prompt};
use super::evasion::Evasion;
use crate::error::{Error, Result};

/// Which copies are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Augmentation {
    /// How prompts are disguised, each way for about as many copies.
    pub evasions: Vec<Evasion>,
    /// Share of prompts of each set that get one copy, of the harmful and of the harmless ones alike; above 0, at most 1.
    pub share: f64,
    /// Draws prompts and sentences.
    pub seed: u64,
}

/// The corpus with disguised copies of some of its prompts at its end, labelled as their prompts are. Which prompts get one
/// depends on seed and prompt; harmful and harmless prompts get the same evasions in turn.
///
/// # Errors
/// [`Error::Spec`] when no evasion is named or the share is not above 0 and at most 1.
pub fn augment(corpus: &Corpus, augmentation: &Augmentation) -> Result<Corpus> {
    let Augmentation { evasions, share, seed } = augmentation;
    if !(*share > 0.0 && *share <= 1.0) {
        return Err(Error::Spec(format!(
            "a share of {share} of the prompts is to be copied in disguise; expected more than 0 and at most 1"
        )));
    }
    if evasions.is_empty() {
        return Err(Error::Spec("no evasion to copy prompts in; name at least one".to_owned()));
    }
    let mut augmented = corpus.clone();
    for harmful in [true, false] {
        let mut turn = 0;
        for set_idx in 0..corpus.sets.len() {
            let prompts = drawn(corpus, (set_idx, harmful), *seed);
            let wanted = rounded(*share, prompts.len());
            let before = augmented.prompts.len();
            for prompt in prompts {
                if augmented.prompts.len() - before == wanted {
                    break;
                }
                if let Some(copy) = copy(prompt, evasions, turn, *seed) {
                    augmented.prompts.push(copy);
                    turn += 1;
                }
            }
        }
    }
    Ok(augmented)
}

/// The nearest number to a share of `count`.
fn rounded(share: f64, count: usize) -> usize {
    (1..=count).take_while(|&num| num as f64 - 0.5 <= share * count as f64).count()
}

/// One kind of a set's prompts, in an order that seed and content decide.
fn drawn(corpus: &Corpus, (set_idx, harmful): (usize, bool), seed: u64) -> Vec<&Prompt> {
    let is_wanted = |prompt: &&Prompt| {
        prompt.set_idx == set_idx && prompt.harmful == harmful && prompt.copied_as.is_none()
    };
    let mut prompts: Vec<&Prompt> = corpus.prompts.iter().filter(is_wanted).collect();
    prompts.sort_by_cached_key(|prompt| {
        let mut hasher = Sha256::new_with_prefix(seed.to_le_bytes());
        for message in &prompt.conversation {
            hasher.update((message.content.len() as u64).to_le_bytes());
            hasher.update(&message.content);
        }
        <[u8; 32]>::from(hasher.finalize())
    });
    prompts
}

/// A copy by the evasion whose turn it is, or the next one that can disguise this prompt; `None` where none can.
fn copy(prompt: &Prompt, evasions: &[Evasion], turn: usize, seed: u64) -> Option<Prompt> {
    let in_turn = evasions.iter().cycle().skip(turn % evasions.len()).take(evasions.len());
    in_turn.copied().find_map(|evasion| {
        // Even, whatever the seed is.
        let conversation = evasion.apply(&prompt.conversation, seed.wrapping_mul(2));
        (conversation != prompt.conversation).then(|| Prompt {
            conversation,
            copied_as: Some(evasion),
            ..prompt.clone()
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use skeg_model::ChatMessage;

    use super::*;
    use crate::probe::{NGrams, ProbeSpec, Reads, Sources, train};
    use crate::progress::NoProgress;
    use skeg_vector_store::Category;

    /// Two sets of 40 harmful and 20 harmless prompts.
    fn corpus() -> Corpus {
        let prompt = |set_idx: usize, idx: usize| {
            let (word, category_idx) =
                [("poison", Some(0)), ("spying", Some(1)), ("bread", None)][idx % 3];
            let content = format!("tell me of {word} number {idx} in {set_idx}");
            Prompt {
                set_idx,
                id: format!("{set_idx}-{idx}"),
                conversation: vec![ChatMessage { role: "user".to_owned(), content }],
                harmful: category_idx.is_some(),
                category_idx,
                twin_of: None,
                copied_as: None,
            }
        };
        Corpus {
            sets: ["a", "b"].map(|name| (name.to_owned(), vec!["ab".to_owned()])).to_vec(),
            categories: ["fraud", "privacy"].map(|slug| Category::parse(slug).unwrap()).to_vec(),
            prompts: (0..120).map(|idx| prompt(idx / 60, idx % 60)).collect(),
        }
    }

    fn augmentation(evasions: &[Evasion]) -> Augmentation {
        Augmentation { evasions: evasions.to_vec(), share: 0.1, seed: 3 }
    }

    fn copies(corpus: &Corpus) -> Vec<&Prompt> {
        corpus.prompts.iter().filter(|prompt| prompt.copied_as.is_some()).collect()
    }

    #[test]
    fn each_kind_of_each_set_gets_its_share_spread_over_the_evasions() {
        let corpus = corpus();
        let evasions = [Evasion::RolePlay, Evasion::Rot13];
        let augmented = augment(&corpus, &augmentation(&evasions)).unwrap();
        assert_eq!(augmented.prompts[..120], corpus.prompts, "prompts stay as and where they are");
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for copy in copies(&augmented) {
            *counts.entry((copy.set_idx, copy.harmful, copy.copied_as.unwrap())).or_default() += 1;
        }
        let expected = [0, 1].into_iter().flat_map(|set_idx| {
            evasions.into_iter().flat_map(move |evasion| {
                [((set_idx, true, evasion), 2), ((set_idx, false, evasion), 1)]
            })
        });
        assert_eq!(counts, expected.collect());
        for set_idx in [0, 1] {
            assert_eq!(augmented.counts(set_idx), [40, 20]);
            assert_eq!(augmented.num_augmented(set_idx), 6);
        }
    }

    #[test]
    fn a_copy_is_of_an_even_seed_and_has_the_labels_of_its_prompt() {
        let corpus = corpus();
        let evasions = Evasion::ALL;
        let all = Augmentation { share: 1.0, ..augmentation(&evasions) };
        let augmented = augment(&corpus, &all).unwrap();
        assert_eq!(copies(&augmented).len(), 120, "one a prompt");
        for copy in copies(&augmented) {
            let of = corpus.prompts.iter().find(|prompt| prompt.id == copy.id).unwrap();
            let labels = |p: &Prompt| (p.set_idx, p.harmful, p.category_idx);
            assert_eq!(labels(copy), labels(of));
            let evasion = copy.copied_as.unwrap();
            assert_eq!(copy.conversation, evasion.apply(&of.conversation, 6), "{evasion}");
            let is_fixed = matches!(evasion, Evasion::Leetspeak | Evasion::Spaced);
            for odd in [1, 3, 5, 7] {
                let measured = evasion.apply(&of.conversation, odd);
                assert_eq!(measured == copy.conversation, is_fixed, "{evasion}");
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        let corpus = corpus();
        let ids = |seed: u64| -> Vec<String> {
            let spec = Augmentation { seed, ..augmentation(&Evasion::ALL) };
            let augmented = augment(&corpus, &spec).unwrap();
            copies(&augmented).iter().map(|copy| copy.id.clone()).collect()
        };
        assert_eq!(ids(3), ids(3));
        assert_ne!(ids(3), ids(4));
    }

    #[test]
    fn what_cannot_be_disguised_one_way_is_disguised_another_way_or_left() {
        let mut corpus = corpus();
        for prompt in &mut corpus.prompts {
            prompt.conversation[0].content = "怎样".to_owned();
        }
        let evasions = [Evasion::Leetspeak, Evasion::Base64];
        let augmented = augment(&corpus, &augmentation(&evasions)).unwrap();
        assert_eq!(copies(&augmented).len(), 12);
        assert!(copies(&augmented).iter().all(|copy| copy.copied_as == Some(Evasion::Base64)));
        let none = augment(&corpus, &augmentation(&evasions[..1])).unwrap();
        assert_eq!(copies(&none).len(), 0);
    }

    #[test]
    fn a_share_of_nothing_or_of_more_than_all_and_no_evasion_are_refused() {
        for share in [0.0, -0.1, 1.1, f64::NAN] {
            let spec = Augmentation { share, ..augmentation(&Evasion::ALL) };
            let error = augment(&corpus(), &spec).unwrap_err().to_string();
            assert!(error.contains("expected more than 0 and at most 1"), "{error}");
        }
        assert!(augment(&corpus(), &augmentation(&[])).is_err());
    }

    #[test]
    fn a_set_is_scored_by_members_that_saw_no_copy_of_it_and_copies_are_counted_apart() {
        let spec = ProbeSpec {
            members: vec![Reads::NGrams(NGrams { log2_buckets: 10, ..NGrams::default() })],
            ..ProbeSpec::default()
        };
        let plain = corpus();
        let train =
            |corpus: &Corpus| train(corpus, &spec, Sources::default(), &mut NoProgress).unwrap();
        let augmented = augment(&plain, &augmentation(&[Evasion::Rot13])).unwrap();
        let mut of_a_alone = augmented.clone();
        of_a_alone.prompts.retain(|prompt| prompt.copied_as.is_none() || prompt.set_idx == 0);
        let [before, after] = [&plain, &of_a_alone].map(train);
        // Members that score set a saw set b alone, which is as it was; those that score b saw a's copies.
        assert_eq!(before.held_out[0].scores, after.held_out[0].scores);
        assert_ne!(before.held_out[60].scores, after.held_out[60].scores);
        let sets = &after.probe.trained_on.sets;
        assert_eq!((sets[0].num_prompts, sets[0].num_augmented), ([40, 20], 6));
        assert_eq!((sets[1].num_prompts, sets[1].num_augmented), ([40, 20], 0));
        assert_eq!(after.held_out.len(), 126);
    }
}
