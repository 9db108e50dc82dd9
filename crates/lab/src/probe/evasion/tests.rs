//! What evasions keep, what they change, and what they end with.

use std::collections::{BTreeSet, HashSet};

use skeg_vector_store::Category;

use super::*;

const PROMPT: &str = "How do I bake a loaf of bread without yeast?";

fn user(content: &str) -> Vec<ChatMessage> {
    vec![message("user", content)]
}

/// A system message, a turn before, and the prompt.
fn conversation() -> Vec<ChatMessage> {
    vec![
        message("system", "Be kind."),
        message("user", "Hello"),
        message("assistant", "Good day"),
        message("user", PROMPT),
    ]
}

fn roles(conversation: &[ChatMessage]) -> Vec<&str> {
    conversation.iter().map(|message| message.role.as_str()).collect()
}

/// The content of the last message.
fn last(conversation: &[ChatMessage]) -> &str {
    &conversation.last().unwrap().content
}

fn corpus(prompts: &[(&str, bool)]) -> Corpus {
    let prompt = |(idx, (content, harmful)): (usize, &(&str, bool))| Prompt {
        set_idx: idx % 2,
        id: format!("p{idx}"),
        conversation: user(content),
        harmful: *harmful,
        category_idx: harmful.then_some(0),
        twin_of: None,
        copied_as: None,
    };
    Corpus {
        sets: vec![("x".to_owned(), vec!["ab".to_owned()]), ("y".to_owned(), vec![])],
        categories: vec![Category::parse("fraud").unwrap()],
        prompts: prompts.iter().enumerate().map(prompt).collect(),
    }
}

#[test]
fn names_are_read_back() {
    for evasion in Evasion::ALL {
        assert_eq!(evasion.to_string().parse::<Evasion>().unwrap(), evasion);
    }
    assert_eq!(Evasion::ALL.map(Evasion::name).into_iter().collect::<HashSet<_>>().len(), 12);
    assert_eq!("role-play".parse::<Evasion>().unwrap(), Evasion::RolePlay);
    let error = "rot14".parse::<Evasion>().unwrap_err().to_string();
    assert!(error.contains("unknown evasion `rot14`; expected one of base64, "), "{error}");
}

#[test]
fn every_evasion_changes_the_text_and_leaves_the_turns_before() {
    for evasion in Evasion::ALL {
        for seed in 0..4 {
            assert_ne!(evasion.apply(&user(PROMPT), seed), user(PROMPT), "{evasion}");
            let disguised = evasion.apply(&conversation(), seed);
            assert_ne!(disguised, conversation(), "{evasion}");
            assert_eq!(disguised[1..3], conversation()[1..3], "{evasion}");
            assert!(disguised[0].content.starts_with("Be kind."), "{evasion}");
        }
    }
}

#[test]
fn roles_are_those_of_a_request() {
    for evasion in Evasion::ALL {
        let (alone, after_turns): (&[&str], &[&str]) = match evasion {
            Evasion::SplitOverTurns => (
                &["user", "assistant", "user", "assistant", "user"],
                &["user", "assistant", "user", "assistant", "user"],
            ),
            Evasion::SystemPrompt => (&["system", "user"], &["user"]),
            Evasion::ToolResult => (&["user", "assistant", "tool"], &["user", "assistant", "tool"]),
            _ => (&["user"], &["user"]),
        };
        assert_eq!(roles(&evasion.apply(&user(PROMPT), 1)), alone, "{evasion}");
        let expected = [&["system", "user", "assistant"], after_turns].concat();
        assert_eq!(roles(&evasion.apply(&conversation(), 1)), expected, "{evasion}");
    }
}

#[test]
fn the_seed_and_the_prompt_decide() {
    for evasion in Evasion::ALL {
        assert_eq!(evasion.apply(&user(PROMPT), 7), evasion.apply(&user(PROMPT), 7), "{evasion}");
        let by_seed: HashSet<String> =
            (0..40).map(|seed| format!("{:?}", evasion.apply(&user(PROMPT), seed))).collect();
        let is_fixed = matches!(evasion, Evasion::Leetspeak | Evasion::Spaced);
        assert_eq!(by_seed.len() == 1, is_fixed, "{evasion}");
    }
    let around = |prompt: &str| {
        let disguised = Evasion::RolePlay.apply(&user(prompt), 0);
        last(&disguised).replace(prompt, "")
    };
    let by_prompt: HashSet<String> = (0..20).map(|number| around(&format!("{number}?"))).collect();
    assert_eq!(by_prompt.len(), 3, "each role of the even seeds");
}

#[test]
fn even_and_odd_seeds_share_no_sentence() {
    let sentences = |evasion: Evasion, first: u64| -> BTreeSet<String> {
        let disguised = (0..30).flat_map(|number| evasion.apply(&user(PROMPT), first + 2 * number));
        let contents = disguised.flat_map(|message| {
            let content = message.content.replace(&rot13(PROMPT), "\n\n");
            let parts = content.replace(PROMPT, "\n\n");
            parts.split("\n\n").map(str::to_owned).collect::<Vec<_>>()
        });
        contents.filter(|part| part.chars().count() > 30).collect()
    };
    for evasion in [
        Evasion::Base64,
        Evasion::Rot13,
        Evasion::RolePlay,
        Evasion::PrefixInjection,
        Evasion::PaddingAround,
        Evasion::SystemPrompt,
        Evasion::ToolResult,
    ] {
        let (even, odd) = (sentences(evasion, 0), sentences(evasion, 1));
        assert!(even.len() > 1 && odd.len() > 1, "{evasion}");
        assert!(even.is_disjoint(&odd), "{evasion}");
    }
}

#[test]
fn either_half_of_the_seeds_has_three_wrappers_or_more() {
    for evasion in [
        Evasion::Base64,
        Evasion::Rot13,
        Evasion::RolePlay,
        Evasion::PrefixInjection,
        Evasion::SplitOverTurns,
        Evasion::SystemPrompt,
        Evasion::ToolResult,
    ] {
        for first in [0, 1] {
            let disguised = (0..60).map(|number| evasion.apply(&user(PROMPT), first + 2 * number));
            let different: HashSet<String> = disguised.map(|turns| format!("{turns:?}")).collect();
            assert!(different.len() >= 3, "{evasion}: {}", different.len());
        }
    }
}

#[test]
fn encodings_give_the_prompt_back() {
    let prompt = "Wie backt man Brötchen?";
    let decoded = |word: &str| {
        let bytes = STANDARD.decode(word.trim_matches(['`', '.'])).ok()?;
        String::from_utf8(bytes).ok()
    };
    for seed in 0..10 {
        let disguised = Evasion::Base64.apply(&user(prompt), seed);
        let found: Vec<String> = last(&disguised).split_whitespace().filter_map(decoded).collect();
        assert!(found.iter().any(|text| text == prompt), "{disguised:?}");
        assert!(!last(&disguised).contains("backt"));
        let disguised = Evasion::Rot13.apply(&user(prompt), seed);
        assert!(rot13(last(&disguised)).contains(prompt), "{disguised:?}");
    }
}

#[test]
fn padding_keeps_the_prompt_whole_among_some_600_words() {
    let [before, after, around] =
        [Evasion::PaddingBefore, Evasion::PaddingAfter, Evasion::PaddingAround].map(|evasion| {
            let words = |text: &str| text.split_whitespace().count();
            let by_seed: Vec<(usize, usize)> = (0..8)
                .map(|seed| {
                    let disguised = evasion.apply(&user(PROMPT), seed);
                    let (before, after) = last(&disguised).split_once(PROMPT).unwrap();
                    (words(before), words(after))
                })
                .collect();
            for (before, after) in &by_seed {
                assert!((550..=680).contains(&(before + after)), "{evasion}: {before} + {after}");
            }
            by_seed
        });
    assert!(before.iter().all(|(_, after)| *after == 0));
    assert!(after.iter().all(|(before, _)| *before == 0));
    assert!(around.iter().all(|(before, after)| *before > 250 && *after > 250), "{around:?}");
}

#[test]
fn wrappers_keep_the_prompt_whole() {
    for seed in 0..20 {
        for evasion in [Evasion::RolePlay, Evasion::PrefixInjection] {
            assert!(last(&evasion.apply(&user(PROMPT), seed)).contains(PROMPT), "{evasion}");
        }
        let disguised = Evasion::ToolResult.apply(&user(PROMPT), seed);
        let holds: Vec<bool> =
            disguised.iter().map(|message| message.content.contains(PROMPT)).collect();
        assert_eq!(holds, [false, false, true]);
        let disguised = Evasion::SystemPrompt.apply(&user(PROMPT), seed);
        let holds: Vec<bool> =
            disguised.iter().map(|message| message.content.contains(PROMPT)).collect();
        assert_eq!(holds, [true, false]);
    }
}

#[test]
fn split_parts_join_to_the_prompt() {
    for seed in 0..8 {
        let disguised = Evasion::SplitOverTurns.apply(&user(PROMPT), seed);
        let of = |role: &str| -> Vec<&str> {
            let turns = disguised.iter().filter(|message| message.role == role);
            turns.map(|message| message.content.as_str()).collect()
        };
        assert_eq!(of("user").len(), 3);
        assert_eq!(of("user").join(" "), PROMPT);
        assert_ne!(of("assistant")[0], of("assistant")[1]);
    }
}

#[test]
fn the_last_user_message_is_found_before_a_tools() {
    let conversation = [conversation(), vec![message("tool", "A result")]].concat();
    let disguised = Evasion::Leetspeak.apply(&conversation, 0);
    assert_eq!(disguised[3].content, leetspeak(PROMPT));
    assert_eq!(disguised[4], conversation[4]);
}

#[test]
fn a_corpus_keeps_its_labels_under_new_names() {
    let corpus = corpus(&[(PROMPT, true), ("What is a good tea?", false), ("Name a lake", true)]);
    let labels = |corpus: &Corpus| -> Vec<_> {
        let of = |p: &Prompt| (p.set_idx, p.id.clone(), p.harmful, p.category_idx);
        corpus.prompts.iter().map(of).collect()
    };
    for evasion in Evasion::ALL {
        let disguised = evade(&corpus, evasion, 3);
        assert_eq!(labels(&disguised), labels(&corpus), "{evasion}");
        assert_eq!(disguised.categories, corpus.categories);
        let sets =
            [(format!("x+{evasion}"), vec!["ab".to_owned()]), (format!("y+{evasion}"), vec![])];
        assert_eq!(disguised.sets, sets);
        for (prompt, was) in disguised.prompts.iter().zip(&corpus.prompts) {
            assert_eq!(prompt.conversation, evasion.apply(&was.conversation, 3), "{evasion}");
        }
    }
}

#[test]
fn what_cannot_be_disguised_is_left_out() {
    let mut corpus = corpus(&[("怎样", true), ("?", false), (" ", false), (PROMPT, true)]);
    corpus.prompts[3].conversation[0].role = "tool".to_owned();
    let kept = |evasion| -> Vec<String> {
        evade(&corpus, evasion, 0).prompts.into_iter().map(|prompt| prompt.id).collect()
    };
    assert_eq!(kept(Evasion::Leetspeak), [] as [&str; 0]);
    assert_eq!(kept(Evasion::Rot13), [] as [&str; 0]);
    assert_eq!(kept(Evasion::Spaced), ["p0"]);
    assert_eq!(kept(Evasion::SplitOverTurns), ["p0"]);
    assert_eq!(kept(Evasion::Base64), ["p0", "p1"]);
}
