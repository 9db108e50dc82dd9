//! The JSON schema of `policy.toml`, from the types that read it.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::file::PolicyFile;
use crate::Category;
use crate::category::{MAX_SLUG_BYTES, RESERVED};

/// A slug as [`Category::parse`] takes it. Without lookahead, which not every validator has.
const SLUG: &str = "^[a-z][a-z0-9]*(_[a-z0-9]+)*$";

/// The JSON schema of `policy.toml`, in draft 7, which editors of TOML read.
///
/// What it refuses, [`Policy::parse`](super::Policy::parse) refuses. It cannot say that strengths are in order, that a category which is
/// named has a rule, or what a generation needs; `parse` and loading do.
#[must_use]
pub fn policy_schema() -> Value {
    // Comments are broken where the source's lines end.
    let on_one_line = RecursiveTransform(|schema: &mut Schema| {
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = text.replace('\n', " ");
        }
    });
    let settings = SchemaSettings::draft07().with_transform(on_one_line);
    settings.into_generator().into_root_schema_for::<PolicyFile>().to_value()
}

impl JsonSchema for Category {
    fn schema_name() -> Cow<'static, str> {
        "Category".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A category's slug: lower snake case, a letter first, at most 64 bytes, not `all`, `auto`, `none` or \
                            `reject`.",
            "type": "string",
            "pattern": SLUG,
            "maxLength": MAX_SLUG_BYTES,
            "not": {"enum": RESERVED},
        })
    }
}

pub(super) fn when_missing(generator: &mut SchemaGenerator) -> Schema {
    category_or(generator, &["auto", "none", "reject"])
}

pub(super) fn on_abstain(generator: &mut SchemaGenerator) -> Schema {
    category_or(generator, &["none", "reject"])
}

fn category_or(generator: &mut SchemaGenerator, words: &[&str]) -> Schema {
    json_schema!({"anyOf": [{"enum": words}, generator.subschema_for::<Category>()]})
}
