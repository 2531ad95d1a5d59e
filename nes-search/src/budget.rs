//! The budget R_t, and what exceeding it costs.

use std::fmt;
use std::str::FromStr;

use elastic_layers::Macs;
use serde::{Deserialize, Serialize};

/// A budget as a user writes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Budget {
    /// A fraction of the backbone's MACs.
    Fraction(f64),
    /// MACs.
    Macs(Macs),
}

impl Budget {
    /// The budget in MACs for a backbone of the given MACs.
    pub fn resolve(self, backbone: Macs) -> Macs {
        match self {
            Self::Fraction(fraction) => Macs((backbone.as_f64() * fraction).round() as u64),
            Self::Macs(macs) => macs,
        }
    }
}

/// A text that is no budget.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "a budget is a fraction of the backbone's MACs above 0 and up to 10 (0.1), or MACs (250k, 2.5M, 1G): found {0:?}"
)]
pub struct BudgetError(String);

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let error = || BudgetError(text.to_string());
        let trimmed = text.trim();
        let units = [("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9)];
        let unit = units.iter().find_map(|(suffix, unit)| Some((trimmed.strip_suffix(suffix)?, *unit)));
        let (digits, unit) = unit.unwrap_or((trimmed, 1.0));
        if !digits.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(error());
        }
        let number: f64 = digits.trim().parse().map_err(|_| error())?;
        let macs = (number * unit).round();
        match (unit, number) {
            (1.0, fraction) if fraction > 0.0 && fraction <= 10.0 => Ok(Self::Fraction(fraction)),
            (_, number) if number > 0.0 && (1.0..1e18).contains(&macs) => Ok(Self::Macs(Macs(macs as u64))),
            _ => Err(error()),
        }
    }
}

impl TryFrom<String> for Budget {
    type Error = BudgetError;

    fn try_from(text: String) -> Result<Self, BudgetError> {
        text.parse()
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
            Self::Macs(Macs(macs)) if macs % 1000 == 0 => write!(f, "{}k", macs / 1000),
            Self::Macs(Macs(macs)) => write!(f, "{}k", *macs as f64 / 1e3),
        }
    }
}

/// phi: what the penalty makes of a relative excess over the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phi {
    /// Its square (the paper's).
    Square,
    /// Its absolute value.
    Absolute,
    /// Itself where it is positive: being below the budget costs nothing.
    Positive,
}

/// The resource term of the loss: `rho * phi(R / R_t - 1)` (equation 2, relative to the budget).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Penalty {
    /// rho, the weight of the term.
    pub rho: f64,
    /// phi.
    pub phi: Phi,
}

impl Penalty {
    /// What a resource costs against a budget, to be added to the classification loss.
    pub fn at(&self, resource: Macs, budget: Macs) -> f64 {
        let excess = resource.ratio(budget) - 1.0;
        self.rho
            * match self.phi {
                Phi::Square => excess * excess,
                Phi::Absolute => excess.abs(),
                Phi::Positive => excess.max(0.0),
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
        ] {
            let budget: Budget = text.parse().unwrap();
            assert_eq!(budget, expected, "{text}");
            assert_eq!(budget.to_string().parse(), Ok(expected), "{text} written and read again");
        }
        for text in ["", "0", "-1", "nan", "inf", "1e30", "12q", "k", "0.0001k", "4ms", "-250k"] {
            assert!(text.parse::<Budget>().is_err(), "{text:?} was taken for a budget");
        }
    }

    #[test]
    fn penalties_are_what_the_paper_says() {
        let penalty = |phi, macs| Penalty { rho: 2.0, phi }.at(Macs(macs), Macs(100));
        assert!((penalty(Phi::Square, 150) - 0.5).abs() < 1e-12);
        assert!((penalty(Phi::Square, 50) - 0.5).abs() < 1e-12);
        assert!((penalty(Phi::Absolute, 50) - 1.0).abs() < 1e-12);
        assert!((penalty(Phi::Positive, 150) - 1.0).abs() < 1e-12);
        assert_eq!(penalty(Phi::Positive, 50), 0.0);
    }
}
