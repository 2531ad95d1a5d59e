//! Ranges of settings.

use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;

/// A setting that is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct SettingsError {
    field: String,
    expected: String,
    found: String,
}

impl SettingsError {
    /// A field's name with those of the tables it is in, what it may be, and what it is.
    pub fn new(field: impl Into<String>, expected: impl Into<String>, found: impl Display) -> Self {
        Self { field: field.into(), expected: expected.into(), found: found.to_string() }
    }
}

/// Checks that a setting lies within a range; not a number is in none.
pub(crate) fn check<T: PartialOrd + Display + Debug>(
    field: impl Into<String>,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), SettingsError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(SettingsError::new(field, format!("{} to {}", range.start(), range.end()), value))
}
