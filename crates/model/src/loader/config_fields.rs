//! The fields of a configuration file, read alike whatever its format.

use crate::error::{Error, Result};

/// Named fields; each error says which field, what was found and what was expected.
pub(super) trait ConfigFields {
    /// What the file's format has as a value.
    type Value;

    /// The field, `None` where it is absent.
    fn get(&self, field: &str) -> Option<&Self::Value>;
    /// The error of a field.
    fn error(&self, field: &str, reason: impl Into<String>) -> Error;
    /// A value for a message.
    fn shown(value: &Self::Value) -> String;
    /// A value that is a whole number, not negative.
    fn whole(value: &Self::Value) -> Option<u64>;
    /// A value that is a real number.
    fn real(value: &Self::Value) -> Option<f64>;

    /// A dimension: a whole number above 0.
    fn count(&self, field: &str) -> Result<usize> {
        self.optional_count(field)?
            .ok_or_else(|| self.error(field, "is missing; expected a whole number above 0"))
    }

    /// A dimension that may be left out.
    fn optional_count(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = Self::whole(value).and_then(|number| usize::try_from(number).ok());
        number.filter(|&number| number > 0).map(Some).ok_or_else(|| {
            let shown = Self::shown(value);
            self.error(field, format!("is {shown}; expected a whole number above 0"))
        })
    }

    /// A real number that may be left out.
    fn number(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        Self::real(value).map(Some).ok_or_else(|| {
            self.error(field, format!("is {}; expected a number", Self::shown(value)))
        })
    }
}
