//! What a request says about its category, by header and by body, before any policy.

use std::collections::BTreeSet;

use axum::http::{HeaderMap, StatusCode};
use skeg_vector_store::{ALIASES, resolve_alias};

use super::{BODY_FIELD, HEADER, Rules, Source};
use crate::errors::ApiError;

/// Headers that a client may write by mistake; ignoring them would answer unsteered.
const NEAR_MISSES: [&str; 6] = [
    "x-safety-categories",
    "x-category",
    "x-categories",
    "x-steering-category",
    "safety-category",
    "x-safety-catagory",
];

/// Parts, split at commas, of the longest name in the alias table.
const MAX_NAME_PARTS: usize = 3;

/// A selection and where it stood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) source: Source,
    pub(crate) selection: Selection,
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    None,
    Auto,
    Categories(BTreeSet<String>),
}

/// The names in the category header, split at commas; `None` when it is not there.
///
/// A header sent several times is one list (RFC 9110, 5.3), so that a proxy's category and a client's both count.
pub(crate) fn read_header(headers: &HeaderMap) -> Result<Option<Vec<String>>, ApiError> {
    if let Some(name) = NEAR_MISSES.into_iter().find(|name| headers.contains_key(*name)) {
        return Err(ApiError::bad_request(
            "misspelled_header",
            name,
            format!("the header `{name}` does nothing; the category's header is `{HEADER}`"),
        ));
    }
    let mut names = None;
    for value in headers.get_all(HEADER) {
        let value = value.to_str().map_err(|_| {
            ApiError::bad_request(
                "invalid_category",
                HEADER,
                format!("`{HEADER}` holds more than visible ASCII"),
            )
        })?;
        names.get_or_insert_with(Vec::new).extend(split_names(value));
    }
    Ok(names)
}

/// The names in one header value. Some of `BeaverTails`' names hold commas themselves; the longest is taken.
fn split_names(value: &str) -> Vec<String> {
    let parts: Vec<&str> = value.split(',').collect();
    let (mut names, mut rest) = (Vec::new(), parts.as_slice());
    while !rest.is_empty() {
        let is_name = |num_parts: &usize| {
            let wanted = rest[..*num_parts].iter().map(|part| part.trim());
            ALIASES.iter().any(|alias| wanted.clone().eq(alias.name.split(',')))
        };
        let num_parts = (2..=rest.len().min(MAX_NAME_PARTS)).rev().find(is_name).unwrap_or(1);
        let (name, others) = rest.split_at(num_parts);
        names.push(name.join(","));
        rest = others;
    }
    names
}

impl Given {
    /// Reads header and body; both may be there if they say the same.
    pub(crate) fn from_request(
        header: Option<&[String]>,
        body: Option<&[String]>,
        rules: &Rules,
    ) -> Result<Option<Self>, ApiError> {
        let header = header.map(|names| Selection::parse(names, HEADER, rules)).transpose()?;
        let body = body.map(|names| Selection::parse(names, BODY_FIELD, rules)).transpose()?;
        match (header, body) {
            (Some(header), Some(body)) if header != body => Err(ApiError::bad_request(
                "category_conflict",
                BODY_FIELD,
                format!(
                    "the header `{HEADER}` and the body field `{BODY_FIELD}` name different categories"
                ),
            )),
            (Some(selection), _) => Ok(Some(Self { source: Source::Header, selection })),
            (None, Some(selection)) => Ok(Some(Self { source: Source::Body, selection })),
            (None, None) => Ok(None),
        }
    }

    /// The field that an error about the selection names.
    pub(crate) fn param(&self) -> &'static str {
        match self.source {
            Source::Header => HEADER,
            Source::Body | Source::Auto | Source::Default => BODY_FIELD,
        }
    }
}

impl Selection {
    fn parse(names: &[String], param: &'static str, rules: &Rules) -> Result<Self, ApiError> {
        let names: BTreeSet<&str> = names.iter().map(|name| name.trim()).collect();
        if names.is_empty() || names.contains("") {
            return Err(ApiError::bad_request(
                "invalid_category",
                param,
                format!(
                    "`{param}` is empty or has an empty name; name a category, `none`, or leave it out"
                ),
            ));
        }
        for (word, selection) in [("none", Self::None), ("auto", Self::Auto)] {
            if names.contains(word) {
                if names.len() == 1 {
                    return Ok(selection);
                }
                let message =
                    format!("`{param}` has `{word}` beside other names; `{word}` stands alone");
                return Err(ApiError::bad_request("category_conflict", param, message));
            }
        }
        names
            .into_iter()
            .map(|name| known_slug(name, param, rules))
            .collect::<Result<_, _>>()
            .map(Self::Categories)
    }
}

/// Longest part of an unknown name that an error repeats.
const MAX_ECHOED_CHARS: usize = 64;

fn known_slug(name: &str, param: &'static str, rules: &Rules) -> Result<String, ApiError> {
    if rules.categories.contains_key(name) {
        return Ok(name.to_owned());
    }
    // A name of another taxonomy counts where this policy has the category it means.
    let alias = resolve_alias(name).map(|category| category.to_string());
    if let Some(slug) = alias.filter(|slug| rules.categories.contains_key(slug)) {
        return Ok(slug);
    }
    let echoed: String = name.chars().take(MAX_ECHOED_CHARS).collect();
    let message = format!(
        "`{}` is not a category of this server; the categories are: {}",
        echoed.escape_debug(),
        rules.slugs()
    );
    Err(ApiError::new(StatusCode::BAD_REQUEST, "unknown_category", message).with_param(param))
}
