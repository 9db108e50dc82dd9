//! The Jinja environment that transformers gives to chat templates (`utils/chat_template_utils.py`).

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error as JinjaError, ErrorKind, Value};
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::strftime::strftime_now;
use crate::{Error, Result};

/// Steps a rendering may take. One is an instruction or 64 bytes of text, so this also bounds the memory to
/// about 64 MB. A conversation of a thousand long messages needs some ten thousand.
pub(super) const FUEL: u64 = 1_000_000;

/// Depth of nested macro calls and includes; templates of the hub use at most a few.
const RECURSION_LIMIT: usize = 64;

/// What a template said through `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

pub(super) fn environment() -> Result<Environment<'static>> {
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|cause| Error::ChatTemplate(format!("syntax configuration: {cause}")))?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| {
        strftime_now(format).map_err(|reason| JinjaError::new(ErrorKind::InvalidOperation, reason))
    });
    Ok(environment)
}

fn raise_exception(message: String) -> std::result::Result<Value, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, "raise_exception")
        .with_source(Raised(message)))
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands keyword arguments over")]
fn tojson(value: &Value, args: Kwargs) -> std::result::Result<Value, JinjaError> {
    let indent: Option<usize> = args.get("indent")?;
    let ensure_ascii: Option<bool> = args.get("ensure_ascii")?;
    args.assert_all_used()?;
    if ensure_ascii == Some(true) {
        return Err(JinjaError::new(
            ErrorKind::InvalidOperation,
            "tojson: ensure_ascii=True is not supported",
        ));
    }
    let mut bytes = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)),
        Some(width) => {
            let indent = b" ".repeat(width.min(16));
            let formatter = PrettyFormatter::with_indent(&indent);
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        }
    };
    let failed = |cause: String| JinjaError::new(ErrorKind::InvalidOperation, cause);
    written.map_err(|cause| failed(format!("tojson: {cause}")))?;
    String::from_utf8(bytes).map(Value::from).map_err(|cause| failed(format!("tojson: {cause}")))
}

/// Python's default layout: `, ` between items, `: ` after keys.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
