//! Fields of a row by name and kind, with errors that name fields and never quote them.

use serde_json::{Map, Value};
use skeg_model::ChatMessage;

use crate::data::rows::kind;

/// Fields that an error names.
const MAX_NAMED: usize = 30;
/// Longest name that an error quotes.
const MAX_NAME_BYTES: usize = 48;
/// Between the names of several categories.
const BETWEEN_NAMES: &str = " | ";

/// The fields of one row.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl Fields<'_> {
    /// A text that must be there.
    pub(super) fn text(self, name: &str) -> Result<String, String> {
        self.optional_text(name)?.ok_or_else(|| self.missing(name, "text"))
    }

    /// A text, or `None` where it is absent or null.
    pub(super) fn optional_text(self, name: &str) -> Result<Option<String>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.unexpected(name, other, "text")),
        }
    }

    /// An id that a program gave: text or a whole number.
    pub(super) fn optional_id(self, name: &str) -> Result<Option<String>, String> {
        match self.0.get(name) {
            Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
            _ => self.optional_text(name),
        }
    }

    /// A boolean that must be there.
    pub(super) fn flag(self, name: &str) -> Result<bool, String> {
        self.optional_flag(name)?.ok_or_else(|| self.missing(name, "true or false"))
    }

    /// A boolean, also as the text `true` or `false` in any case, or as 1 or 0: cells of CSV are text.
    pub(super) fn optional_flag(self, name: &str) -> Result<Option<bool>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match as_flag(value) {
                Some(flag) => Ok(Some(flag)),
                None => Err(self.unexpected(name, value, "true or false")),
            },
        }
    }

    /// Category and finer category from a name, or from an object of booleans or its JSON text: the one that is true;
    /// of several none is the category, and all of them are the finer one, in alphabetical order.
    pub(super) fn categories(self, name: &str) -> Result<(Option<String>, Option<String>), String> {
        let flags = match self.0.get(name) {
            None | Some(Value::Null) => return Ok((None, None)),
            Some(Value::Object(flags)) => flags.clone(),
            Some(Value::String(text)) if text.trim_start().starts_with('{') => {
                serde_json::from_str(text).map_err(|_| {
                    self.not_categories(name, "text that starts like JSON and is not")
                })?
            }
            Some(Value::String(text)) => return Ok((Some(text.clone()), None)),
            Some(other) => return Err(self.not_categories(name, kind(other))),
        };
        let mut names = Vec::new();
        for (category, value) in flags {
            match as_flag(&value) {
                Some(true) => names.push(category),
                Some(false) => {}
                None if value.is_null() => {}
                None => return Err(self.not_categories(name, "an object with other values")),
            }
        }
        names.sort();
        Ok(match names.len() {
            0 | 1 => (names.pop(), None),
            _ => (None, Some(names.join(BETWEEN_NAMES))),
        })
    }

    /// Messages `[{"role", "content"}]`, at least one and the last a user's or a tool's, or `None` where they are absent or null.
    pub(super) fn optional_messages(self, name: &str) -> Result<Option<Vec<ChatMessage>>, String> {
        let value = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let expected = "a list of objects with the texts `role` and `content`, the last of them not the assistant's";
        let text = |message: &Value, field: &str| {
            message.get(field).and_then(Value::as_str).map(str::to_owned)
        };
        let message = |message: &Value| {
            Some(ChatMessage { role: text(message, "role")?, content: text(message, "content")? })
        };
        let messages = value.as_array().and_then(|list| list.iter().map(message).collect());
        let messages: Option<Vec<ChatMessage>> = messages;
        messages
            .filter(|messages| messages.last().is_some_and(|last| last.role != "assistant"))
            .map(Some)
            .ok_or_else(|| self.unexpected(name, value, expected))
    }

    /// The first of the names that is there and not null.
    pub(super) fn first(self, names: &[String]) -> Option<&str> {
        let is_there = |name: &&String| self.0.get(*name).is_some_and(|value| !value.is_null());
        names.iter().find(is_there).map(String::as_str)
    }

    fn not_categories(self, name: &str, found: &str) -> String {
        let expected = "a name, or a JSON object of booleans";
        format!("field `{name}` is {found}; expected {expected}; {}", self.found())
    }

    fn unexpected(self, name: &str, value: &Value, expected: &str) -> String {
        format!("field `{name}` is {}; expected {expected}; {}", kind(value), self.found())
    }

    fn missing(self, name: &str, expected: &str) -> String {
        let state = if self.0.contains_key(name) { "null" } else { "missing" };
        format!("field `{name}` is {state}; expected {expected}; {}", self.found())
    }

    /// What the row has, for the end of an error.
    pub(super) fn found(self) -> String {
        format!("the row has {}", listed(self.0.keys().map(String::as_str)))
    }
}

fn as_flag(value: &Value) -> Option<bool> {
    let text = match value {
        Value::Bool(flag) => return Some(*flag),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_lowercase(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    match text.as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Names of fields in alphabetical order. Only what looks like a name is quoted: in a CSV file without a
/// header the names are the texts of its first row.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let (mut plain, others): (Vec<&str>, Vec<&str>) = names.partition(|name| is_plain(name));
    plain.sort_unstable();
    let num_left_out = others.len() + plain.len().saturating_sub(MAX_NAMED);
    plain.truncate(MAX_NAMED);
    match (plain.is_empty(), num_left_out) {
        (true, 0) => "no fields".to_owned(),
        (true, count) => format!("{count} fields whose names are not plain words"),
        (false, 0) => plain.join(", "),
        (false, count) => format!("{} and {count} more", plain.join(", ")),
    }
}

fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with<T>(value: Value, read: impl FnOnce(Fields<'_>) -> T) -> T {
        let fields = Map::from_iter([("f".to_owned(), value)]);
        read(Fields(&fields))
    }

    #[test]
    fn flags_are_booleans_also_as_text_and_digits() {
        for value in
            [json!(true), json!("true"), json!("True"), json!(" TRUE "), json!("1"), json!(1)]
        {
            assert_eq!(with(value.clone(), |row| row.flag("f")), Ok(true), "{value}");
        }
        for value in [json!(false), json!("False"), json!("0"), json!(0)] {
            assert_eq!(with(value.clone(), |row| row.flag("f")), Ok(false), "{value}");
        }
        for value in [json!("secret"), json!(2), json!([]), json!({})] {
            let reason = with(value, |row| row.flag("f")).unwrap_err();
            assert!(
                reason.contains("expected true or false") && !reason.contains("secret"),
                "{reason}"
            );
        }
        assert_eq!(with(json!(null), |row| row.optional_flag("f")), Ok(None));
        assert!(with(json!(null), |row| row.flag("f")).unwrap_err().contains("`f` is null"));
        assert!(with(json!(1), |row| row.flag("g")).unwrap_err().contains("`g` is missing"));
    }

    #[test]
    fn a_category_is_a_name_or_the_one_that_is_true() {
        let read = |value| with(value, |row| row.categories("f"));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(json!(null)), Ok((None, None)));
        assert_eq!(read(json!("hate")), Ok((some("hate"), None)));
        assert_eq!(read(json!({"a": false, "b": null})), Ok((None, None)));
        assert_eq!(read(json!({"a": false, "b": true})), Ok((some("b"), None)));
        assert_eq!(read(json!("{\"a\": false, \"b\": 1}")), Ok((some("b"), None)));
        assert_eq!(read(json!({"b": true, "c": false, "a": true})), Ok((None, some("a | b"))));
        for value in [json!({"a": "secret"}), json!("{'a': 'secret'}"), json!(3)] {
            let reason = read(value).unwrap_err();
            assert!(
                reason.contains("JSON object of booleans") && !reason.contains("secret"),
                "{reason}"
            );
        }
    }

    #[test]
    fn messages_have_a_role_and_a_content_and_end_with_what_is_to_be_answered() {
        let message = |role: &str| json!({"role": role, "content": "secret"});
        let read = |value| with(value, |row| row.optional_messages("f"));
        assert_eq!(read(json!(null)), Ok(None));
        let messages = read(json!([message("user"), message("assistant"), message("tool")]));
        let messages = messages.unwrap().unwrap();
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool"]);
        for value in
            [json!([]), json!("secret"), json!([{"role": "user"}]), json!([message("assistant")])]
        {
            let reason = read(value).unwrap_err();
            assert!(
                reason.contains("`role` and `content`") && !reason.contains("secret"),
                "{reason}"
            );
        }
    }

    #[test]
    fn only_plain_names_of_fields_are_quoted() {
        assert_eq!(listed(["b", "a_1"].into_iter()), "a_1, b");
        assert_eq!(listed(["How to do it?", "a"].into_iter()), "a and 1 more");
        assert_eq!(listed([" "].into_iter()), "1 fields whose names are not plain words");
        assert_eq!(listed([].into_iter()), "no fields");
        let many: Vec<String> = (0..40).map(|number| format!("f{number:02}")).collect();
        let text = listed(many.iter().map(String::as_str));
        assert!(text.ends_with("f29 and 10 more"), "{text}");
    }
}
