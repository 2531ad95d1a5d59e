//! The budget R_t as users write it.

use std::fmt;
use std::str::FromStr;

use elastic_layers::Macs;
use serde::{Deserialize, Serialize};

/// A budget as a user writes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Budget {
    /// A fraction of the backbone's MACs.
    Fraction(f64),
    /// MACs.
    Macs(Macs),
    /// Milliseconds, by a latency table.
    Milliseconds(f64),
}

/// Longest budget, in ms.
const LONGEST_MS: f64 = 1e6;

/// A text that is no budget.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "a budget is a fraction of the backbone's MACs above 0 and up to 10 (0.1), or MACs (250k, 2.5M, \
     1G), or milliseconds (4ms): found {0:?}"
)]
pub struct BudgetError(String);

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let error = || BudgetError(text.to_string());
        if let Some(ms) = text.trim().strip_suffix("ms") {
            let ms = read_amount(ms).filter(|&(ms, unit)| unit == 1.0 && ms > 0.0 && ms <= LONGEST_MS);
            return ms.map(|(ms, _)| Self::Milliseconds(ms)).ok_or_else(error);
        }
        let (number, unit) = read_amount(text).ok_or_else(error)?;
        let macs = (number * unit).round();
        match (unit, number) {
            (1.0, fraction) if fraction > 0.0 && fraction <= 10.0 => Ok(Self::Fraction(fraction)),
            (_, number) if number > 0.0 && (1.0..1e18).contains(&macs) => Ok(Self::Macs(Macs(macs as u64))),
            _ => Err(error()),
        }
    }
}

/// A number as written, and what its suffix multiplies it by.
pub(crate) fn read_amount(text: &str) -> Option<(f64, f64)> {
    let text = text.trim();
    let units = [("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9)];
    let unit = units.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)));
    let (digits, unit) = unit.unwrap_or((text, 1.0));
    let begins = digits.starts_with(|first: char| first.is_ascii_digit());
    Some((begins.then(|| digits.trim().parse().ok())??, unit))
}

/// A budget in a file: a number, or a text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Text(String),
}

impl TryFrom<Written> for Budget {
    type Error = BudgetError;

    fn try_from(written: Written) -> Result<Self, BudgetError> {
        match written {
            Written::Number(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.to_string()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fraction(fraction) => write!(f, "{fraction}"),
            Self::Milliseconds(ms) => write!(f, "{ms}ms"),
            Self::Macs(Macs(macs)) if macs % 1000 == 0 => write!(f, "{}k", macs / 1000),
            Self::Macs(Macs(macs)) => write!(f, "{}k", *macs as f64 / 1e3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_as_written() {
        for (text, expected) in [
            ("0.1", Budget::Fraction(0.1)),
            ("1", Budget::Fraction(1.0)),
            ("250k", Budget::Macs(Macs(250_000))),
            ("2.5M", Budget::Macs(Macs(2_500_000))),
            ("1G", Budget::Macs(Macs(1_000_000_000))),
            ("300000", Budget::Macs(Macs(300_000))),
            ("4ms", Budget::Milliseconds(4.0)),
            ("0.35 ms", Budget::Milliseconds(0.35)),
        ] {
            let budget: Budget = text.parse().unwrap();
            assert_eq!(budget, expected, "{text}");
            assert_eq!(budget.to_string().parse(), Ok(expected), "{text} written and read again");
        }
        for text in
            ["", "0", "-1", "nan", "inf", "1e30", "12q", "k", "0.0001k", "-4ms", "0ms", "ms", "4kms", "1e9ms", "-250k"]
        {
            assert!(text.parse::<Budget>().is_err(), "{text:?} was taken for a budget");
        }
    }
}
