//! From data items to the two sides of each category.

use std::collections::BTreeMap;

use anyhow::bail;
use skeg_lab::Item;
use skeg_lab::extract::{CategoryInputs, Text};
use skeg_vector_store::Category;

/// What the sides differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Harmful prompts against harmless ones.
    Prompts,
    /// Unsafe answers against safe ones.
    Responses,
}

/// Labels of answers that are on the safe side.
const SAFE_LABELS: [&str; 2] = ["safe", "refusal"];
/// Labels of answers that are on the unsafe side.
const UNSAFE_LABELS: [&str; 2] = ["unsafe", "compliance"];

/// The sides of every category that has an unsafe one. Safe items without a category, such as general
/// instructions, serve every category; other items without a side are left out.
pub(super) fn inputs_of(items: &[&Item], form: Form) -> anyhow::Result<Vec<CategoryInputs>> {
    let mut sides: BTreeMap<Category, (Vec<Text>, Vec<Text>)> = BTreeMap::new();
    let mut safe_for_all = Vec::new();
    for item in items {
        match (side(item, form), item.catqa_category()) {
            (Some((true, text)), Some(category)) => sides.entry(category).or_default().0.push(text),
            (Some((true, text)), None) => safe_for_all.push(text),
            (Some((false, text)), Some(category)) => {
                sides.entry(category).or_default().1.push(text);
            }
            (Some((false, _)) | None, _) => {}
        }
    }
    sides.retain(|_, (_, unsafe_side)| !unsafe_side.is_empty());
    if sides.is_empty() {
        match form {
            Form::Prompts => {
                bail!("the data has no prompt with `harmful: true` and a CatQA category")
            }
            Form::Responses => bail!(
                "the data has no item with a CatQA category and a `response_label` of {}",
                UNSAFE_LABELS.join(" or ")
            ),
        }
    }
    Ok(sides
        .into_iter()
        .map(|(category, (mut safe_side, unsafe_side))| {
            safe_side.extend(safe_for_all.iter().cloned());
            CategoryInputs { category, unsafe_side, safe_side }
        })
        .collect())
}

/// Whether the item is on the safe side, and its text; `None` where it is on neither.
fn side(item: &Item, form: Form) -> Option<(bool, Text)> {
    match form {
        Form::Prompts => Some((!item.harmful?, Text::prompt(&item.id, &item.text))),
        Form::Responses => {
            let (response, label) = (item.response.as_deref()?, item.response_label.as_deref()?);
            let is_safe = SAFE_LABELS.contains(&label);
            (is_safe || UNSAFE_LABELS.contains(&label))
                .then(|| (is_safe, Text::with_response(&item.id, &item.text, response)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, category: Option<&str>, harmful: Option<bool>, label: Option<&str>) -> Item {
        Item {
            id: id.to_owned(),
            text: format!("text {id}"),
            category: category.map(ToOwned::to_owned),
            subcategory: None,
            harmful,
            response: label.map(|_| "answer".to_owned()),
            response_label: label.map(ToOwned::to_owned),
            source: "own".to_owned(),
        }
    }

    fn ids(texts: &[Text]) -> Vec<&str> {
        texts.iter().map(|text| text.id.as_str()).collect()
    }

    #[test]
    fn harmless_prompts_without_a_category_serve_all() {
        let items = [
            item("a", Some("malware_viruses"), Some(true), None),
            item("b", Some("fraud_deception"), Some(true), None),
            item("c", None, Some(false), None),
            item("d", Some("fraud_deception"), Some(false), None),
            item("e", Some("adult_content"), Some(false), None),
            item("f", None, None, None),
        ];
        let inputs = inputs_of(&items.iter().collect::<Vec<_>>(), Form::Prompts).unwrap();
        let names: Vec<&str> = inputs.iter().map(|one| one.category.as_str()).collect();
        assert_eq!(names, ["fraud_deception", "malware_viruses"]);
        assert_eq!(ids(&inputs[0].safe_side), ["d", "c"]);
        assert_eq!(ids(&inputs[0].unsafe_side), ["b"]);
        assert_eq!(ids(&inputs[1].safe_side), ["c"]);
    }

    #[test]
    fn answers_go_by_their_label() {
        let items = [
            item("a", Some("malware_viruses"), Some(true), Some("unsafe")),
            item("b", Some("malware_viruses"), Some(true), Some("refusal")),
            item("c", Some("malware_viruses"), Some(true), Some("partial")),
        ];
        let inputs = inputs_of(&items.iter().collect::<Vec<_>>(), Form::Responses).unwrap();
        assert_eq!(ids(&inputs[0].unsafe_side), ["a"]);
        assert_eq!(ids(&inputs[0].safe_side), ["b"]);
        assert_eq!(inputs[0].safe_side[0].response.as_deref(), Some("answer"));
    }

    #[test]
    fn data_without_an_unsafe_side_is_refused() {
        let items = [item("a", Some("malware_viruses"), Some(false), None)];
        let items: Vec<&Item> = items.iter().collect();
        let message = |form| inputs_of(&items, form).unwrap_err().to_string();
        assert!(message(Form::Prompts).contains("harmful"));
        assert!(message(Form::Responses).contains("response_label"));
    }
}
