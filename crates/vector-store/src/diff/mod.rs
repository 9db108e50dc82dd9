//! What changes when one generation follows another, in plain words and in numbers.

mod policy;
mod vectors;

use serde::Serialize;

pub use vectors::{LayerChange, VectorChange};

use crate::{Category, Generation, GenerationId, Manifest, SafeWindow};

/// What is different in one generation from another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The generation before.
    pub from: GenerationId,
    /// The generation after.
    pub to: GenerationId,
    /// Model, site, operator, layers and what was measured.
    pub manifest: Vec<FieldChange>,
    /// The policy.
    pub policy: Vec<FieldChange>,
    /// The vectors of the categories that are in either.
    pub vectors: Vec<VectorChange>,
}

/// A value that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// What it is of, such as a category; empty for what holds for all.
    pub of: String,
    /// What it is.
    pub field: String,
    /// What it was; absent if it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it is now; absent if it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl FieldChange {
    /// One line of plain words.
    #[must_use]
    pub fn words(&self) -> String {
        let of = if self.of.is_empty() { String::new() } else { format!("{}: ", self.of) };
        let field = &self.field;
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => format!("{of}{field} was {from}, is {to}"),
            (None, Some(to)) => format!("{of}{field} is new: {to}"),
            (Some(from), None) => format!("{of}{field} is gone, was {from}"),
            (None, None) => format!("{of}{field}"),
        }
    }
}

impl Difference {
    /// What is different in `to` from `from`.
    #[must_use]
    pub fn between(from: &Generation, to: &Generation) -> Self {
        Self {
            from: from.id.clone(),
            to: to.id.clone(),
            manifest: manifest_changes(&from.manifest, &to.manifest),
            policy: policy::changes(&from.policy, &to.policy),
            vectors: vectors::changes(from, to),
        }
    }

    /// The difference in plain words, a line each; one line says so where nothing that is served differs.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let fields = self.manifest.iter().chain(&self.policy).map(FieldChange::words);
        let vectors = self.vectors.iter().filter_map(VectorChange::words);
        let mut words: Vec<String> = fields.chain(vectors).collect();
        if words.is_empty() {
            words.push(if self.from == self.to {
                "it is the same generation".to_owned()
            } else {
                "policy and vectors are the same; card, figures, probe or provenance differ"
                    .to_owned()
            });
        }
        words
    }
}

/// A name and its value, in words.
type Fact = (String, String);

fn manifest_changes(from: &Manifest, to: &Manifest) -> Vec<FieldChange> {
    let mut changes = compare("", &facts(from), &facts(to));
    let window = |manifest: &Manifest, category: &Category| {
        let window = manifest.safe_windows.get(category);
        window.map(|SafeWindow { min, max }| format!("{min} to {max}"))
    };
    let categories = from.categories.iter().chain(&to.categories);
    let mut categories: Vec<&Category> = categories.collect();
    categories.sort();
    categories.dedup();
    for category in categories {
        let field = |manifest| {
            window(manifest, category).map(|window| ("measured safe window".to_owned(), window))
        };
        let (before, after): (Vec<Fact>, Vec<Fact>) =
            (field(from).into_iter().collect(), field(to).into_iter().collect());
        changes.extend(compare(category.as_str(), &before, &after));
    }
    changes
}

fn facts(manifest: &Manifest) -> Vec<Fact> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    vec![
        fact("architecture", manifest.architecture_id.clone()),
        fact("weights", manifest.weights_id.clone()),
        fact("other weights it was measured on", list(manifest.also_measured_on.iter())),
        fact("hidden size", manifest.hidden_size.to_string()),
        fact("site", manifest.site.to_string()),
        fact("operator", manifest.operator.to_string()),
        fact("orientation", word(&manifest.orientation)),
        fact("layers", list(manifest.layers.iter())),
        fact("probe", yes_or_no(manifest.files.contains_key(crate::files::PROBE))),
    ]
}

/// The differences of facts that stand in the same order on both sides, as far as they are on both.
fn compare(of: &str, from: &[Fact], to: &[Fact]) -> Vec<FieldChange> {
    let change = |field: &str, from: Option<&str>, to: Option<&str>| FieldChange {
        of: of.to_owned(),
        field: field.to_owned(),
        from: from.map(ToOwned::to_owned),
        to: to.map(ToOwned::to_owned),
    };
    fn value<'a>(facts: &'a [Fact], name: &str) -> Option<&'a str> {
        facts.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
    let gone_or_changed = from.iter().filter_map(|(name, before)| {
        let after = value(to, name);
        (after != Some(before)).then(|| change(name, Some(before), after))
    });
    let new = to.iter().filter(|(name, _)| value(from, name).is_none());
    gone_or_changed.chain(new.map(|(name, after)| change(name, None, Some(after)))).collect()
}

/// The word that files use.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn list<T: ToString>(values: impl Iterator<Item = T>) -> String {
    let words: Vec<String> = values.map(|value| value.to_string()).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn yes_or_no(is: bool) -> String {
    (if is { "yes" } else { "no" }).to_owned()
}
