//! IFEval's rules on its prompts.

use std::collections::BTreeMap;
use std::path::Path;

use skeg_lab::evaluate::IfEval;
use skeg_lab::{Item, ReadOptions, read_data};

use crate::judge::data_dir;

#[test]
fn as_many_constraints_have_a_verdict_as_the_documentation_says() {
    let Some(dir) = data_dir() else {
        println!("skipped: no data");
        return;
    };
    let data = read_data(&Path::new(&dir).join("ifeval.jsonl"), &ReadOptions::default()).unwrap();
    let items: Vec<&Item> = data.items.iter().collect();
    let score = IfEval::score(&items, &vec!["An answer."; items.len()]).unwrap();
    let scored: BTreeMap<&str, usize> =
        score.by_instruction.iter().map(|(id, share)| (id.as_str(), share.total)).collect();
    let expected = BTreeMap::from([
        ("change_case:english_capital", 25),
        ("change_case:english_lowercase", 39),
        ("combination:two_responses", 24),
        ("detectable_content:number_placeholders", 26),
        ("detectable_content:postscript", 26),
        ("detectable_format:constrained_response", 10),
        ("detectable_format:json_format", 17),
        ("detectable_format:number_bullet_lists", 28),
        ("detectable_format:number_highlighted_sections", 41),
        ("detectable_format:title", 37),
        ("keywords:letter_frequency", 23),
        ("length_constraints:number_paragraphs", 13),
        ("length_constraints:number_sentences", 41),
        ("length_constraints:number_words", 47),
        ("punctuation:no_comma", 66),
        ("startend:end_checker", 19),
        ("startend:quotation", 40),
    ]);
    assert_eq!(scored, expected);
    assert_eq!((score.num_scored, score.num_not_scorable), (522, 293));
    let is_scorable = |item: &&&Item| {
        let mut ids = item.subcategory.as_deref().unwrap_or_default().split('+');
        ids.all(|id| IfEval::check(id, &item.text, "An answer.").is_some())
    };
    assert_eq!((score.prompts.total, items.iter().filter(is_scorable).count()), (406, 279));
}
