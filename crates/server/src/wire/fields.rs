//! Typed access to the fields of a JSON object, so that every complaint names its field.

use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::errors::ApiError;

/// A JSON object whose fields are taken out one by one.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// Put before a field's name in complaints: `steering.`, or nothing.
    prefix: &'static str,
}

impl Fields {
    /// Reads a request body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            ApiError::new(
                axum::http::StatusCode::BAD_REQUEST,
                "invalid_json",
                format!("the body is not JSON: {error}"),
            )
        })?;
        match value {
            Value::Object(map) => Ok(Self { map, prefix: "" }),
            _ => Err(ApiError::new(
                axum::http::StatusCode::BAD_REQUEST,
                "invalid_json",
                "the body is JSON but not an object",
            )),
        }
    }

    pub(crate) fn new(map: Map<String, Value>, prefix: &'static str) -> Self {
        Self { map, prefix }
    }

    /// The field's name in a complaint.
    pub(crate) fn param(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The field as JSON; `null` is the same as absent.
    pub(crate) fn take_value(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// The field as `T`.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take_value(name) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|error| {
            let param = self.param(name);
            ApiError::invalid(&param, format!("`{param}`: {error}"))
        })
    }

    /// A number within `range`, or `default`.
    pub(crate) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f32>,
        default: f32,
    ) -> Result<f32, ApiError> {
        let Some(value) = self.take::<f32>(name)? else { return Ok(default) };
        if range.contains(&value) {
            return Ok(value);
        }
        let param = self.param(name);
        let message =
            format!("`{param}` is {value}; it must be from {} to {}", range.start(), range.end());
        Err(ApiError::invalid(param, message))
    }

    /// A whole number within `range`.
    pub(crate) fn whole(
        &mut self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.take::<i64>(name)? else { return Ok(None) };
        match usize::try_from(value) {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => {
                let param = self.param(name);
                let message = format!(
                    "`{param}` is {value}; it must be a whole number from {} to {}",
                    range.start(),
                    range.end()
                );
                Err(ApiError::invalid(param, message))
            }
        }
    }

    /// Names of the fields that nobody took.
    pub(crate) fn rest(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }
}
