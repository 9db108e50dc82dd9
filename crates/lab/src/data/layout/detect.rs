//! Which layout a row's fields fit.

use serde_json::{Map, Value};

use super::fields::listed;
use crate::data::options::{FieldNames, Layout};

/// Fields that tell a layout from the others, the specific ones first.
const SIGNS: [(Layout, &[&str]); 5] = [
    (Layout::Skeg, &["id", "text", "source"]),
    (Layout::CatQa, &["Question", "Category"]),
    (Layout::PkuSafeRlhf, &["prompt", "response_0", "response_1", "is_response_0_safe"]),
    (Layout::BeaverTails, &["prompt", "response", "is_safe"]),
    (Layout::Alpaca, &["instruction", "output"]),
];

/// The first layout whose fields the row has, or the generic one where a field for the prompt is there.
pub(super) fn detect(fields: &Map<String, Value>, names: &FieldNames) -> Result<Layout, String> {
    let fits =
        |(_, signs): &&(Layout, &[&str])| signs.iter().all(|&sign| fields.contains_key(sign));
    if let Some((layout, _)) = SIGNS.iter().find(fits) {
        return Ok(*layout);
    }
    if names.text.iter().any(|name| fields.contains_key(name)) {
        return Ok(Layout::Generic);
    }
    let known: Vec<String> =
        SIGNS.iter().map(|(layout, signs)| format!("{layout} ({})", signs.join(", "))).collect();
    Err(format!(
        "no layout fits; expected the fields of {}, or a prompt in {}; the row has {}",
        known.join(", "),
        listed(names.text.iter().map(String::as_str)),
        listed(fields.keys().map(String::as_str))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(fields: &[&str]) -> Result<Layout, String> {
        let fields = fields.iter().map(|&name| (name.to_owned(), Value::Null)).collect();
        detect(&fields, &FieldNames::default())
    }

    #[test]
    fn each_layout_is_known_by_its_fields() {
        for (layout, signs) in SIGNS {
            assert_eq!(detected(signs), Ok(layout));
        }
        assert_eq!(detected(&["prompt", "response"]), Ok(Layout::Generic));
        assert_eq!(detected(&["instruction", "category"]), Ok(Layout::Generic));
    }

    #[test]
    fn fields_that_fit_no_layout_are_named() {
        let reason = detected(&["goal", "target"]).unwrap_err();
        assert!(reason.contains("goal, target") && reason.contains("catqa (Question"), "{reason}");
    }
}
