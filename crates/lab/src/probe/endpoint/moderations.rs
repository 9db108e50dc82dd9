//! OpenAI's moderations: a score a category, and whether the text is flagged.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use skeg_model::ChatMessage;

use super::shares::{Names, ScoresByCategory};
use crate::probe::Verdict;
use crate::probe::text::whole;

/// What an answer should have held.
pub(super) const EXPECTED: &str =
    "a moderation (expected results[0] with category_scores from 0 to 1, or categories)";

/// The conversation's whole text as one input.
pub(super) fn request(model: &str, messages: &[ChatMessage]) -> Value {
    json!({"model": model, "input": whole(messages)})
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    flagged: bool,
    /// Null for a category that the model does not know.
    #[serde(default)]
    categories: BTreeMap<String, Option<bool>>,
    #[serde(default)]
    category_scores: BTreeMap<String, Option<f64>>,
}

/// The verdict of an answer's body, if it is one. Harm is the largest score of a name that means one of the categories, or
/// of any name where the text is flagged: what only others call harm counts when the endpoint says so.
pub(super) fn verdict(body: &str, names: Names<'_>) -> Option<Verdict> {
    let answer: Answer = serde_json::from_str(body).ok()?;
    let outcome = answer.results.into_iter().next()?;
    let mut gathered = ScoresByCategory::new(names);
    for (name, score) in scores(&outcome)? {
        // Noise on what is not asked for would even out the shares.
        if outcome.flagged || gathered.is_mapped(name) {
            gathered.add(name, score);
        }
    }
    Some(gathered.verdict(gathered.max()))
}

/// Each name's score: 1 or 0 where there is a yes or no alone. `None` without any, or with one outside 0 to 1.
fn scores(outcome: &Outcome) -> Option<BTreeMap<&str, f64>> {
    let said = outcome.categories.iter().filter_map(|(name, is_so)| {
        is_so.map(|is_so| (name.as_str(), if is_so { 1.0 } else { 0.0 }))
    });
    let scored = outcome.category_scores.iter();
    let scored = scored.filter_map(|(name, score)| score.map(|score| (name.as_str(), score)));
    // The later one of a name stays.
    let scores: BTreeMap<&str, f64> = said.chain(scored).collect();
    let is_sound = scores.values().all(|score| (0.0..=1.0).contains(score));
    (is_sound && !scores.is_empty()).then_some(scores)
}

#[cfg(test)]
mod tests {
    use skeg_vector_store::Category;

    use super::*;

    static NO_MAP: BTreeMap<String, Category> = BTreeMap::new();

    fn categories() -> Vec<Category> {
        ["adult_content", "physical_harm"].map(|slug| Category::parse(slug).unwrap()).to_vec()
    }

    fn read(body: &str) -> Option<Verdict> {
        verdict(body, Names { categories: &categories(), map: &NO_MAP })
    }

    fn verdict_of(result: &Value) -> Option<Verdict> {
        read(&json!({"results": [result]}).to_string())
    }

    fn check(result: &Value, harm: f32, first: &str, share: f32) {
        let verdict = verdict_of(result).unwrap();
        assert!((verdict.harm - harm).abs() < 1e-6, "{verdict:?}");
        let (category, found) = &verdict.categories[0];
        assert_eq!(category.as_str(), first);
        assert!((found - share).abs() < 1e-6, "{verdict:?}");
    }

    #[test]
    fn scores_are_mapped_and_normalised() {
        let scores = json!({"self-harm": 0.6, "self-harm/intent": 0.3, "sexual": 0.2});
        check(&json!({"flagged": false, "category_scores": scores}), 0.6, "physical_harm", 0.75);
    }

    #[test]
    fn names_of_no_category_count_when_the_text_is_flagged() {
        let scores = json!({"self-harm": 0.1, "spam": 0.9});
        check(&json!({"flagged": false, "category_scores": scores}), 0.1, "physical_harm", 1.0);
        check(&json!({"flagged": true, "category_scores": scores}), 0.9, "physical_harm", 0.55);
        let only = json!({"spam": 0.9});
        check(&json!({"flagged": true, "category_scores": only}), 0.9, "adult_content", 0.5);
        check(&json!({"flagged": false, "category_scores": only}), 0.0, "adult_content", 0.5);
    }

    #[test]
    fn a_yes_or_no_stands_in_for_a_missing_score() {
        let said = json!({"sexual": true, "self-harm": null});
        check(&json!({"flagged": true, "categories": said}), 1.0, "adult_content", 1.0);
        let scores = json!({"sexual": 0.7, "self-harm": null});
        let both = json!({"flagged": true, "categories": said, "category_scores": scores});
        check(&both, 0.7, "adult_content", 1.0);
    }

    #[test]
    fn anything_else_is_no_verdict() {
        for result in [
            json!({"flagged": true}),
            json!({"category_scores": {"sexual": 1.5}}),
            json!({"category_scores": {"spam": -0.1}}),
            json!({"category_scores": {"sexual": "high"}}),
            json!([]),
        ] {
            assert_eq!(verdict_of(&result), None, "{result}");
        }
        for body in ["", "<html>", "{}", r#"{"results": []}"#, r#"{"error": {}}"#] {
            assert_eq!(read(body), None, "{body}");
        }
    }
}
