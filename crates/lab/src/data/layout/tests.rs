//! Layouts on rows of their own shape.

use serde_json::{Value, json};

use super::*;
use crate::error::Place;

fn row(number: usize, fields: Value) -> Row {
    let Value::Object(fields) = fields else { panic!("the test's row is no object") };
    Row { number, place: Place::Row(number), fields }
}

fn options(layout: Layout) -> ReadOptions {
    ReadOptions { layout, ..ReadOptions::default() }
}

fn items(layout: Layout, fields: Value) -> Result<Vec<Item>, String> {
    LayoutReader::new("set", &options(layout)).items(&row(7, fields))
}

fn one(layout: Layout, fields: Value) -> Item {
    let [item]: [Item; 1] = items(layout, fields).unwrap().try_into().unwrap();
    item
}

/// An item of row 7 with nothing said about it.
fn bare(text: &str) -> Item {
    Item::new("set-7", text, "set")
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn the_own_form_takes_all_its_fields() {
    let fields = json!({"id": "a", "text": "x", "category": "c", "subcategory": "s", "harmful": true,
        "response": "r", "response_label": "safe", "source": "own", "twin_of": "b", "other": 1});
    let expected = Item {
        id: "a".to_owned(),
        category: some("c"),
        subcategory: some("s"),
        harmful: Some(true),
        response: some("r"),
        response_label: some("safe"),
        source: "own".to_owned(),
        twin_of: some("b"),
        ..bare("x")
    };
    assert_eq!(one(Layout::Skeg, fields), expected);
    let reason = items(Layout::Skeg, json!({"id": 3, "text": "x", "source": "own"})).unwrap_err();
    assert!(reason.contains("`id` is a number; expected text"), "{reason}");
    let reason = items(Layout::Skeg, json!({"id": "a", "text": "x"})).unwrap_err();
    assert!(reason.contains("`source` is missing") && reason.contains("has id, text"), "{reason}");
}

#[test]
fn catqa_prompts_are_harmful_and_have_a_category() {
    let fields = json!({"Question": "x", "Category": "Child Abuse", "Subcategory": "s"});
    let expected = Item {
        category: some("Child Abuse"),
        subcategory: some("s"),
        harmful: Some(true),
        ..bare("x")
    };
    assert_eq!(one(Layout::CatQa, fields), expected);
    let reason = items(Layout::CatQa, json!({"Question": "x"})).unwrap_err();
    assert!(reason.contains("`Category` is missing"), "{reason}");
}

#[test]
fn beavertails_labels_the_answer_and_not_the_prompt() {
    let fields = json!({"prompt": "x", "response": "r", "is_safe": false,
        "category": {"self_harm": true, "animal_abuse": false}});
    let expected = Item {
        category: some("self_harm"),
        response: some("r"),
        response_label: some("unsafe"),
        ..bare("x")
    };
    assert_eq!(one(Layout::BeaverTails, fields), expected);
    let reason = items(Layout::BeaverTails, json!({"prompt": "x", "response": "r"})).unwrap_err();
    assert!(reason.contains("`is_safe` is missing"), "{reason}");
}

#[test]
fn rows_of_several_categories_are_counted() {
    let options = options(Layout::BeaverTails);
    let mut reader = LayoutReader::new("set", &options);
    for (number, both) in [(1, true), (2, false), (3, true)] {
        let fields = json!({"prompt": "x", "response": "r", "is_safe": false,
            "category": {"b": both, "a": true}});
        let items = reader.items(&row(number, fields)).unwrap();
        assert_eq!(items[0].category.is_none(), both);
    }
    assert_eq!(reader.num_several_categories(), 2);
}

#[test]
fn a_row_of_pku_saferlhf_gives_two_items() {
    let fields = json!({"prompt": "x", "response_0": "r", "response_1": "s", "is_response_0_safe": true,
        "is_response_1_safe": false, "response_1_harm_category": {"Violence": true}});
    let first = Item {
        id: "set-7-0".to_owned(),
        response: some("r"),
        response_label: some("safe"),
        ..bare("x")
    };
    let second = Item {
        id: "set-7-1".to_owned(),
        category: some("Violence"),
        response: some("s"),
        response_label: some("unsafe"),
        ..bare("x")
    };
    assert_eq!(items(Layout::PkuSafeRlhf, fields), Ok(vec![first, second]));
}

#[test]
fn alpaca_joins_instruction_and_input() {
    let expected = Item { harmful: Some(false), response: some("o"), ..bare("do\n\nthis") };
    let fields = json!({"instruction": "do", "input": "this", "output": "o"});
    assert_eq!(one(Layout::Alpaca, fields), expected);
    let expected = Item { harmful: Some(false), ..bare("do") };
    let fields = json!({"instruction": "do", "input": "", "output": ""});
    assert_eq!(one(Layout::Alpaca, fields), expected);
    // The input alone is no prompt.
    assert_eq!(one(Layout::Alpaca, json!({"instruction": " ", "input": "this"})).text, " ");
}

#[test]
fn generic_takes_the_first_name_that_is_not_null() {
    let fields = json!({"text": null, "prompt": "x", "instruction": "y", "answer": "r", "id": 12,
        "is_harmful": "True", "category": {"a": 1}, "response_label": "refusal", "label": 3});
    let expected = Item {
        id: "12".to_owned(),
        category: some("a"),
        harmful: Some(true),
        response: some("r"),
        response_label: some("refusal"),
        ..bare("x")
    };
    assert_eq!(one(Layout::Generic, fields), expected);
    assert_eq!(one(Layout::Generic, json!({"question": "x"})), bare("x"));
    let reason = items(Layout::Generic, json!({"goal": "x"})).unwrap_err();
    assert!(reason.contains("text, prompt, instruction, question"), "{reason}");
    assert!(reason.contains("the row has goal"), "{reason}");
}

#[test]
fn given_names_that_no_row_has_are_an_error() {
    let mut options = options(Layout::Generic);
    options.fields.text = vec!["goal".to_owned()];
    options.fields.response = vec!["answr".to_owned()];
    // Not read at all, and so not missed.
    options.fields.category = Vec::new();
    let mut reader = LayoutReader::new("set", &options);
    reader.items(&row(1, json!({"goal": "x", "category": 3, "answer": "r"}))).unwrap();
    let reason = reader.check_given_names().unwrap_err();
    assert!(reason.contains("`response` (answr)"), "{reason}");
    assert!(reason.contains("answer, category, goal"), "{reason}");
    reader.items(&row(2, json!({"goal": "y", "answr": "r"}))).unwrap();
    reader.check_given_names().unwrap();
}

#[test]
fn auto_keeps_to_what_the_first_row_says() {
    let options = options(Layout::Auto);
    let mut reader = LayoutReader::new("set", &options);
    reader.items(&row(1, json!({"Question": "x", "Category": "c"}))).unwrap();
    assert_eq!(reader.layout(), Layout::CatQa);
    let reason = reader.items(&row(2, json!({"prompt": "x"}))).unwrap_err();
    assert!(reason.contains("`Category` is missing"), "{reason}");
}
