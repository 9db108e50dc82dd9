//! What a manifest must hold to by itself, and against a model.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use super::{Manifest, ModelBinding};
use crate::Category;
use crate::error::{BadValue, Error, Result};
use crate::{files, hash};

/// Longest accepted identity text, in bytes.
const MAX_ID_BYTES: usize = 128;
const MAKE_AGAIN: &str = "write the generation again with a program that fills it in";

type Checked = Result<(), Box<BadValue>>;

impl Manifest {
    /// Everything that can be said without other files or a model.
    pub(super) fn check(&self) -> Checked {
        self.check_identity()?;
        self.check_layers()?;
        self.check_categories()?;
        self.check_windows()?;
        self.check_norms()?;
        self.check_files()?;
        self.check_records()
    }

    fn check_identity(&self) -> Checked {
        let ids = [("architecture_id", &self.architecture_id), ("weights_id", &self.weights_id)];
        let also = self.also_measured_on.iter().map(|id| ("also_measured_on", id));
        for (field, id) in ids.into_iter().chain(also) {
            let is_visible = id.bytes().all(|byte| byte.is_ascii_graphic());
            if id.is_empty() || id.len() > MAX_ID_BYTES || !is_visible {
                let expected = format!("1 to {MAX_ID_BYTES} visible ASCII characters");
                return Err(BadValue::new(field, format_args!("{id:?}"), expected, MAKE_AGAIN));
            }
        }
        for (field, size) in
            [("hidden_size", self.hidden_size), ("num_hidden_layers", self.num_hidden_layers)]
        {
            if size == 0 {
                return Err(BadValue::new(field, 0, "at least 1", MAKE_AGAIN));
            }
        }
        Ok(())
    }

    fn check_layers(&self) -> Checked {
        let found = format_args!("{:?}", self.layers);
        if self.layers.is_empty() || !self.layers.is_sorted_by(|a, b| a < b) {
            let expected = "at least one layer, ascending, each once";
            return Err(BadValue::new("layers", found, expected, MAKE_AGAIN));
        }
        if self.layers.last().is_some_and(|last| *last >= self.num_hidden_layers) {
            let expected = format!("layers below num_hidden_layers = {}", self.num_hidden_layers);
            return Err(BadValue::new("layers", found, expected, "layers count from 0"));
        }
        Ok(())
    }

    fn check_categories(&self) -> Checked {
        if self.categories.is_empty() || !self.categories.is_sorted_by(|a, b| a < b) {
            let found = list(&self.categories);
            let expected = "at least one category, sorted, each once";
            return Err(BadValue::new("categories", found, expected, MAKE_AGAIN));
        }
        let known = |category: &Category| self.categories.binary_search(category).is_ok();
        let named = (self.safe_windows.keys().map(|c| ("safe_windows", c)))
            .chain(self.norms.keys().map(|c| ("norms", c)))
            .chain(self.provenance.categories.keys().map(|c| ("provenance.categories", c)))
            .chain(self.measured.iter().filter_map(|m| Some(("measured", m.category.as_ref()?))));
        for (field, category) in named {
            if !known(category) {
                let expected = format!("one of {}", list(&self.categories));
                let advice = "remove it, or add the category with its vectors and policy";
                return Err(BadValue::new(field, format_args!("`{category}`"), expected, advice));
            }
        }
        Ok(())
    }

    fn check_windows(&self) -> Checked {
        for (category, window) in &self.safe_windows {
            let ordered = 0.0 <= window.min && window.min <= window.max;
            if !(ordered && window.max.is_finite()) {
                let field = format!("safe_windows.{category}");
                let found = format_args!("min {}, max {}", window.min, window.max);
                let advice = "measure the window again; negative strengths exist in the lab alone";
                return Err(BadValue::new(field, found, "0 <= min <= max, finite", advice));
            }
        }
        Ok(())
    }

    fn check_norms(&self) -> Checked {
        for category in &self.categories {
            let field = format!("norms.{category}");
            let norms = self.norms.get(category).map_or(&[][..], Vec::as_slice);
            if norms.len() != self.layers.len() {
                let expected = format!("{}, one a layer", self.layers.len());
                let found = format_args!("{} entries", norms.len());
                return Err(BadValue::new(field, found, expected, MAKE_AGAIN));
            }
            for (layer, norm) in self.layers.iter().zip(norms) {
                let bad = |what: &str, value: f32, expected: &str| {
                    let field = format!("{field}.{what} (layer {layer})");
                    let advice = "extract the vectors again, or leave the layer out";
                    Err(BadValue::new(field, value, expected, advice))
                };
                if !(norm.vector.is_finite() && norm.vector >= 0.0) {
                    let expected = "a finite norm, 0 where the category leaves the layer alone";
                    return bad("vector", norm.vector, expected);
                }
                if !(norm.activation.is_finite() && norm.activation > 0.0) {
                    return bad("activation", norm.activation, "a finite norm above 0");
                }
            }
            if norms.iter().all(|norm| norm.vector <= 0.0) {
                let advice =
                    "a category without a vector cannot steer: extract it again, or leave it out";
                let expected = "a norm above 0 in at least one layer";
                return Err(BadValue::new(field, "norm 0 in every layer", expected, advice));
            }
        }
        Ok(())
    }

    fn check_files(&self) -> Checked {
        for name in files::REQUIRED {
            if !self.files.contains_key(name) {
                let found = format_args!("no `{name}`");
                return Err(BadValue::new("files", found, "a digest of each file", MAKE_AGAIN));
            }
        }
        for (name, digest) in &self.files {
            if !files::is_listed_name(name) {
                let known = [&files::REQUIRED[..], &files::OPTIONAL].concat();
                let expected = format!("one of {}", known.join(", "));
                return Err(BadValue::new(
                    "files",
                    format_args!("{name:?}"),
                    expected,
                    "remove it",
                ));
            }
            if !hash::is_sha256(digest) {
                let found = format_args!("{digest:?}");
                let expected = "a SHA-256 in 64 lower-case hex digits";
                return Err(BadValue::new(format!("files.{name}"), found, expected, MAKE_AGAIN));
            }
        }
        Ok(())
    }

    fn check_records(&self) -> Checked {
        for (category, record) in &self.provenance.categories {
            let cosines = &record.split_half_cosine;
            if !cosines.is_empty() && cosines.len() != self.layers.len() {
                let field = format!("provenance.categories.{category}.split_half_cosine");
                let expected = format!("none or {}, one a layer", self.layers.len());
                let found = format_args!("{} entries", cosines.len());
                return Err(BadValue::new(field, found, expected, MAKE_AGAIN));
            }
            if let Some(cosine) = cosines.iter().find(|cosine| !cosine.is_finite()) {
                let field = format!("provenance.categories.{category}.split_half_cosine");
                return Err(BadValue::new(field, cosine, "finite cosines", MAKE_AGAIN));
            }
        }
        if let Some(figure) = self.measured.iter().find(|figure| !figure.value.is_finite()) {
            let field =
                format!("measured.{} ({}, {})", figure.metric, figure.condition, figure.data);
            return Err(BadValue::new(field, figure.value, "a finite figure", MAKE_AGAIN));
        }
        Ok(())
    }

    /// Compares with the loaded model; `true` when only the weights differ and the policy allows that.
    pub(crate) fn check_binding(
        &self,
        model: &ModelBinding,
        allow_other_quantisation: bool,
        path: &Path,
    ) -> Result<bool> {
        let wrong = |field, found: &dyn fmt::Display, expected: &dyn fmt::Display, advice| {
            let bad = BadValue::new(field, found, expected.to_string(), advice);
            Err(Error::WrongModel(bad.in_file(path)))
        };
        const OTHER: &str =
            "load the model that the vectors were made for, or extract them for this one";
        if self.architecture_id != model.architecture_id {
            return wrong("architecture_id", &self.architecture_id, &model.architecture_id, OTHER);
        }
        for (field, found, expected) in [
            ("hidden_size", self.hidden_size, model.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers, model.num_hidden_layers),
        ] {
            if found != expected {
                return wrong(field, &found, &expected, OTHER);
            }
        }
        if self.weights_id == model.weights_id || self.also_measured_on.contains(&model.weights_id)
        {
            return Ok(false);
        }
        if allow_other_quantisation {
            return Ok(true);
        }
        const WEIGHTS: &str = "load the weights that the vectors were measured on, list these under `also_measured_on` \
                               once measured, or set `allow_other_quantisation = true` in policy.toml";
        wrong("weights_id", &self.weights_id, &model.weights_id, WEIGHTS)
    }
}

/// The difference between two sets of categories, in words; `None` if they are equal.
pub(crate) fn category_difference<'a>(
    found: impl Iterator<Item = &'a Category>,
    expected: &'a [Category],
) -> Option<String> {
    let found: BTreeSet<&Category> = found.collect();
    let expected: BTreeSet<&Category> = expected.iter().collect();
    let missing: Vec<&Category> = expected.difference(&found).copied().collect();
    let extra: Vec<&Category> = found.difference(&expected).copied().collect();
    let parts = [("without", missing), ("with", extra)].into_iter();
    let said: Vec<String> = parts
        .filter(|(_, categories)| !categories.is_empty())
        .map(|(word, categories)| format!("{word} {}", list(categories)))
        .collect();
    (!said.is_empty()).then(|| said.join(" and "))
}

/// Names in backticks, separated by commas.
pub(crate) fn list<C: fmt::Display>(names: impl IntoIterator<Item = C>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
