//! From data items to the two sides of each category: which items stand on which side, and what is paired with what.

use std::collections::{BTreeMap, HashMap};

use skeg_vector_store::Category;

use super::spec::{CategoryInputs, Text};
use super::variant::Pairing;
use crate::data::Item;
use crate::error::{Error, Result};

/// What the sides differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Harmful prompts against harmless ones.
    Prompts,
    /// Unsafe answers against safe ones.
    Responses,
}

/// Labels of answers that are on the safe side.
const SAFE_LABELS: [&str; 2] = ["safe", "refusal"];
/// Labels of answers that are on the unsafe side.
const UNSAFE_LABELS: [&str; 2] = ["unsafe", "compliance"];

/// One item on its side.
struct Sided<'a> {
    item: &'a Item,
    is_safe: bool,
    text: Text,
}

/// The sides of every category that has an unsafe one.
///
/// Unmatched, safe items of a category without an unsafe side, and those without a category, such as general instructions,
/// serve every category. Matched, each unsafe item is paired with its harmless twin, or with the safe answer to the same
/// prompt; what has no partner is left out.
///
/// The categories come in the order of their names, the texts of a side in the order of `items`.
///
/// # Errors
/// [`Error::Data`] when no item is on an unsafe side, and, matched, when a category has no pair.
pub fn inputs_of(items: &[&Item], form: Form, pairing: Pairing) -> Result<Vec<CategoryInputs>> {
    let sided: Vec<Sided<'_>> = items
        .iter()
        .filter_map(|&item| side(item, form).map(|(is_safe, text)| Sided { item, is_safe, text }))
        .collect();
    let mut not_safe: BTreeMap<Category, Vec<&Sided<'_>>> = BTreeMap::new();
    for one in sided.iter().filter(|one| !one.is_safe) {
        if let Some(category) = one.item.category_slug() {
            not_safe.entry(category).or_default().push(one);
        }
    }
    if not_safe.is_empty() {
        return Err(Error::Data(match form {
            Form::Prompts => {
                "the data has no prompt with `harmful: true` and a category".to_owned()
            }
            Form::Responses => format!(
                "the data has no item with a category and a `response_label` of {}",
                UNSAFE_LABELS.join(" or ")
            ),
        }));
    }
    match pairing {
        Pairing::SafeMean => Ok(with_all_safe(&sided, not_safe)),
        Pairing::Matched => with_partners(&sided, not_safe, form),
    }
}

fn with_all_safe(
    sided: &[Sided<'_>],
    not_safe: BTreeMap<Category, Vec<&Sided<'_>>>,
) -> Vec<CategoryInputs> {
    let mut own: BTreeMap<Category, Vec<Text>> = BTreeMap::new();
    let mut for_all = Vec::new();
    for one in sided.iter().filter(|one| one.is_safe) {
        match one.item.category_slug().filter(|category| not_safe.contains_key(category)) {
            Some(category) => own.entry(category).or_default().push(one.text.clone()),
            None => for_all.push(one.text.clone()),
        }
    }
    let inputs = not_safe.into_iter().map(|(category, unsafe_side)| {
        let mut safe_side = own.remove(&category).unwrap_or_default();
        safe_side.extend(for_all.iter().cloned());
        let unsafe_side = unsafe_side.into_iter().map(|one| one.text.clone()).collect();
        CategoryInputs { category, unsafe_side, safe_side }
    });
    inputs.collect()
}

fn with_partners(
    sided: &[Sided<'_>],
    not_safe: BTreeMap<Category, Vec<&Sided<'_>>>,
    form: Form,
) -> Result<Vec<CategoryInputs>> {
    // Last in the list comes first in the data.
    let mut partners: HashMap<&str, Vec<&Text>> = HashMap::new();
    for one in sided.iter().rev().filter(|one| one.is_safe) {
        let key = match form {
            Form::Prompts => one.item.twin_of.as_deref(),
            Form::Responses => Some(one.item.text.as_str()),
        };
        if let Some(key) = key {
            partners.entry(key).or_default().push(&one.text);
        }
    }
    let mut inputs = Vec::new();
    for (category, candidates) in not_safe {
        let (mut safe_side, mut unsafe_side) = (Vec::new(), Vec::new());
        for one in candidates {
            let key = match form {
                Form::Prompts => one.item.id.as_str(),
                Form::Responses => one.item.text.as_str(),
            };
            if let Some(partner) = partners.get_mut(key).and_then(Vec::pop) {
                safe_side.push(partner.clone());
                unsafe_side.push(one.text.clone());
            }
        }
        if unsafe_side.is_empty() {
            return Err(Error::Data(format!(
                "no unsafe item of category `{category}` has a partner; matched pairs need {}",
                match form {
                    Form::Prompts => "harmless prompts whose `twin_of` is the id of a harmful one",
                    Form::Responses => "a safe and an unsafe answer to the same prompt",
                }
            )));
        }
        inputs.push(CategoryInputs { category, unsafe_side, safe_side });
    }
    Ok(inputs)
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
            category: category.map(ToOwned::to_owned),
            harmful,
            response: label.map(|_| "answer".to_owned()),
            response_label: label.map(ToOwned::to_owned),
            ..Item::new(id, format!("text {id}"), "own")
        }
    }

    fn ids(texts: &[Text]) -> Vec<&str> {
        texts.iter().map(|text| text.id.as_str()).collect()
    }

    fn unmatched(items: &[Item], form: Form) -> Vec<CategoryInputs> {
        inputs_of(&items.iter().collect::<Vec<_>>(), form, Pairing::SafeMean).unwrap()
    }

    fn matched(items: &[Item], form: Form) -> Result<Vec<CategoryInputs>> {
        inputs_of(&items.iter().collect::<Vec<_>>(), form, Pairing::Matched)
    }

    #[test]
    fn harmful_prompts_are_matched_with_their_twins() {
        let twin = |id: &str, of: &str| Item {
            twin_of: Some(of.to_owned()),
            ..item(id, Some("fraud_deception"), Some(false), None)
        };
        let mut items = vec![
            item("a", Some("fraud_deception"), Some(true), None),
            item("b", Some("fraud_deception"), Some(true), None),
            item("c", Some("fraud_deception"), Some(true), None),
            item("d", None, Some(false), None),
            twin("tc", "c"),
            twin("ta", "a"),
        ];
        let inputs = matched(&items, Form::Prompts).unwrap();
        assert_eq!(ids(&inputs[0].unsafe_side), ["a", "c"]);
        assert_eq!(ids(&inputs[0].safe_side), ["ta", "tc"]);
        items.push(item("x", Some("adult_content"), Some(true), None));
        let error = matched(&items, Form::Prompts).unwrap_err().to_string();
        assert!(error.contains("`adult_content`") && error.contains("twin_of"), "{error}");
    }

    #[test]
    fn answers_are_matched_by_their_prompt() {
        let answer = |id: &str, prompt: &str, label: &str| Item {
            text: prompt.to_owned(),
            ..item(id, Some("self-made"), None, Some(label))
        };
        let items = [
            answer("a", "p", "unsafe"),
            answer("b", "q", "unsafe"),
            answer("c", "q", "safe"),
            answer("d", "q", "safe"),
            answer("e", "q", "unsafe"),
        ];
        let inputs = matched(&items, Form::Responses).unwrap();
        assert_eq!(inputs[0].category.as_str(), "self_made");
        assert_eq!(ids(&inputs[0].unsafe_side), ["b", "e"]);
        assert_eq!(ids(&inputs[0].safe_side), ["c", "d"]);
    }

    #[test]
    fn safe_items_without_an_unsafe_side_of_their_own_serve_all() {
        let items = [
            item("a", Some("malware_viruses"), Some(true), None),
            item("b", Some("fraud_deception"), Some(true), None),
            item("c", None, Some(false), None),
            item("d", Some("fraud_deception"), Some(false), None),
            item("e", Some("adult_content"), Some(false), None),
            item("f", None, None, None),
        ];
        let inputs = unmatched(&items, Form::Prompts);
        let names: Vec<&str> = inputs.iter().map(|one| one.category.as_str()).collect();
        assert_eq!(names, ["fraud_deception", "malware_viruses"]);
        assert_eq!(ids(&inputs[0].safe_side), ["d", "c", "e"]);
        assert_eq!(ids(&inputs[0].unsafe_side), ["b"]);
        assert_eq!(ids(&inputs[1].safe_side), ["c", "e"]);
    }

    #[test]
    fn answers_go_by_their_label() {
        let items = [
            item("a", Some("malware_viruses"), Some(true), Some("unsafe")),
            item("b", Some("malware_viruses"), Some(true), Some("refusal")),
            item("c", Some("malware_viruses"), Some(true), Some("partial")),
        ];
        let inputs = unmatched(&items, Form::Responses);
        assert_eq!(ids(&inputs[0].unsafe_side), ["a"]);
        assert_eq!(ids(&inputs[0].safe_side), ["b"]);
        assert_eq!(inputs[0].safe_side[0].response.as_deref(), Some("answer"));
    }

    #[test]
    fn data_without_an_unsafe_side_is_refused() {
        let items = [item("a", Some("malware_viruses"), Some(false), None)];
        let items: Vec<&Item> = items.iter().collect();
        let message = |form| inputs_of(&items, form, Pairing::SafeMean).unwrap_err().to_string();
        assert!(message(Form::Prompts).contains("harmful"));
        assert!(message(Form::Responses).contains("response_label"));
    }
}
