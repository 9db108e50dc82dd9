//! Llama Guard as a chat model: `safe`, or `unsafe` and codes of hazards.

use serde::Deserialize;
use serde_json::{Value, json};
use skeg_model::ChatMessage;

use super::shares::{Names, ScoresByCategory};
use crate::probe::Verdict;

/// What an answer should have held.
pub(super) const EXPECTED: &str =
    "a verdict (expected a chat completion of `safe`, or `unsafe` and codes such as `S1,S5`)";

/// All 14 codes are 43 tokens.
const MAX_TOKENS: u32 = 64;
/// Alternatives of each token; `safe` and `unsafe` are the first two of a guard.
const NUM_TOP_LOGPROBS: u32 = 5;

/// The conversation as a chat, whose answer is the verdict.
pub(super) fn request(model: &str, messages: &[ChatMessage]) -> Value {
    json!({
        "model": model,
        "messages": turns(messages),
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "logprobs": true,
        "top_logprobs": NUM_TOP_LOGPROBS,
        "stream": false,
    })
}

/// The guard's template takes turns of `user` and `assistant` that alternate, the user's first. System messages and tools'
/// results come from outside the model, as the user's do; what follows each other from one side is one turn.
fn turns(messages: &[ChatMessage]) -> Vec<Value> {
    let mut turns: Vec<(&str, String)> = Vec::new();
    for message in messages {
        let is_answer = message.role == "assistant" && !turns.is_empty();
        let role = if is_answer { "assistant" } else { "user" };
        match turns.last_mut() {
            Some((last, text)) if *last == role => {
                text.push_str("\n\n");
                text.push_str(&message.content);
            }
            _ => turns.push((role, message.content.clone())),
        }
    }
    turns.into_iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Token>>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    logprob: f64,
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

#[derive(Deserialize)]
struct Alternative {
    token: String,
    logprob: f64,
}

/// The verdict of an answer's body, if it is one.
pub(super) fn verdict(body: &str, names: Names<'_>) -> Option<Verdict> {
    let completion: Completion = serde_json::from_str(body).ok()?;
    let Choice { message, logprobs } = completion.choices.into_iter().next()?;
    let mut lines = message.content.trim().lines();
    let word = lines.next()?.trim();
    let is_unsafe = match word {
        "safe" => false,
        "unsafe" => true,
        _ => return None,
    };
    let codes = lines.next().unwrap_or_default().split(',').map(str::trim);
    let mut gathered = ScoresByCategory::new(names);
    for code in codes.filter(|code| is_unsafe && !code.is_empty()) {
        gathered.add(code, 1.0);
    }
    let tokens = logprobs.and_then(|logprobs| logprobs.content).unwrap_or_default();
    let said = if is_unsafe { 1.0 } else { 0.0 };
    let harm = harm(&tokens, word).unwrap_or(said);
    Some(gathered.verdict(harm))
}

/// `P(unsafe) / (P(unsafe) + P(safe))` at the first token that is not blank, which may be the beginning of a word; `None` when that
/// token does not begin the word that was said, or has no probability.
fn harm(tokens: &[Token], word: &str) -> Option<f64> {
    let first = tokens.iter().find(|token| !bare(&token.token).is_empty())?;
    if !begins(&first.token, word) {
        return None;
    }
    let alternatives = first.top_logprobs.iter().map(|other| (&other.token, other.logprob));
    // Some endpoints leave the token itself out of its alternatives.
    let is_listed = first.top_logprobs.iter().any(|other| other.token == first.token);
    let itself = (!is_listed).then_some((&first.token, first.logprob));
    let (mut safe, mut harmful) = (0.0, 0.0);
    for (token, logprob) in alternatives.chain(itself) {
        let probability = logprob.min(0.0).exp();
        if begins(token, "unsafe") {
            harmful += probability;
        } else if begins(token, "safe") {
            safe += probability;
        }
    }
    let sum = safe + harmful;
    (sum > 0.0).then(|| harmful / sum)
}

/// The token without blanks, as tokenizers write them too.
fn bare(token: &str) -> &str {
    token.trim_matches(|sign: char| sign.is_whitespace() || matches!(sign, '▁' | 'Ġ' | 'Ċ'))
}

fn begins(token: &str, word: &str) -> bool {
    let token = bare(token);
    !token.is_empty() && word.starts_with(token)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use skeg_vector_store::Category;

    use super::*;

    static NO_MAP: BTreeMap<String, Category> = BTreeMap::new();

    fn message(role: &str, content: &str) -> ChatMessage {
        ChatMessage { role: role.to_owned(), content: content.to_owned() }
    }

    fn answer(content: &str, logprobs: &Value) -> Option<Verdict> {
        let categories = ["adult_content", "physical_harm", "privacy_violation"]
            .map(|slug| Category::parse(slug).unwrap());
        let choice = json!({"message": {"content": content}, "logprobs": logprobs});
        let names = Names { categories: &categories, map: &NO_MAP };
        verdict(&json!({"choices": [choice]}).to_string(), names)
    }

    fn check(content: &str, logprobs: &Value, harm: f32, shares: &[(&str, f32)]) {
        let verdict = answer(content, logprobs).unwrap();
        assert!((verdict.harm - harm).abs() < 1e-6, "{verdict:?}");
        for ((category, share), (slug, expected)) in verdict.categories.iter().zip(shares) {
            assert_eq!(category.as_str(), *slug, "{verdict:?}");
            assert!((share - expected).abs() < 1e-6, "{verdict:?}");
        }
    }

    /// A first token that is blank, and one with alternatives.
    fn logprobs(token: &str, alternatives: &[(&str, f64)]) -> Value {
        let top = alternatives.iter().map(|(token, p)| json!({"token": token, "logprob": p.ln()}));
        let blank = json!({"token": "\n\n", "logprob": 0.0, "top_logprobs": []});
        let top: Vec<Value> = top.collect();
        let logprob = 0.75_f64.ln();
        json!({"content": [blank, {"token": token, "logprob": logprob, "top_logprobs": top}]})
    }

    #[test]
    fn turns_alternate_and_begin_with_the_user() {
        let messages = [
            message("assistant", "a"),
            message("system", "b"),
            message("user", "c"),
            message("assistant", "d"),
            message("assistant", "e"),
            message("tool", "f"),
        ];
        let expected = json!([
            {"role": "user", "content": "a\n\nb\n\nc"},
            {"role": "assistant", "content": "d\n\ne"},
            {"role": "user", "content": "f"},
        ]);
        assert_eq!(request("guard", &messages)["messages"], expected);
    }

    #[test]
    fn the_word_and_the_codes_give_the_verdict() {
        let third = 1.0 / 3.0;
        let uniform =
            [("adult_content", third), ("physical_harm", third), ("privacy_violation", third)];
        check("\n\nsafe", &Value::Null, 0.0, &uniform);
        check("unsafe", &Value::Null, 1.0, &uniform);
        check("unsafe\nS8", &Value::Null, 1.0, &uniform);
        check("\n\nunsafe\nS1, S9", &Value::Null, 1.0, &[("physical_harm", 1.0)]);
        let two = [("physical_harm", 0.5), ("privacy_violation", 0.5), ("adult_content", 0.0)];
        check("unsafe\nS7,S1,", &Value::Null, 1.0, &two);
        for content in ["", "\n", "I cannot judge that.", "unsafely", "S1", "safe to say"] {
            assert_eq!(answer(content, &Value::Null), None, "{content}");
        }
    }

    #[test]
    fn harm_is_the_probability_of_the_first_word() {
        let two = [("unsafe", 0.75), ("safe", 0.2), ("S", 0.05)];
        check("\n\nunsafe\nS1", &logprobs("unsafe", &two), 0.75 / 0.95, &[]);
        let safe = [("safe", 0.75), ("unsafe", 0.25)];
        check("\n\nsafe", &logprobs("safe", &safe), 0.25, &[]);
        let pieces = [("▁un", 0.75), ("▁safe", 0.25)];
        check("unsafe", &logprobs("▁un", &pieces), 0.75, &[]);
        let without_itself = [("safe", 0.25)];
        check("unsafe", &logprobs("unsafe", &without_itself), 0.75, &[]);
    }

    #[test]
    fn logprobs_that_do_not_fit_the_answer_are_left_aside() {
        for logprobs in [
            json!({"content": null}),
            json!({"content": []}),
            logprobs("Hello", &[("safe", 0.9)]),
            logprobs("safe", &[("safe", 0.9)]),
            json!({"content": [{"token": "unsafe", "logprob": -1e9}]}),
        ] {
            check("unsafe\nS1", &logprobs, 1.0, &[]);
        }
    }
}
