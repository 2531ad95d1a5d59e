//! The budget R_t, and what exceeding it costs.

use std::fmt;
use std::str::FromStr;

use elastic_layers::{Architecture, CostError, Macs};
use serde::{Deserialize, Serialize};

use crate::resource::{Limit, Limits};

/// A budget as a user writes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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
            Self::Milliseconds(ms) => write!(f, "{ms}ms"),
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

impl Phi {
    /// Of an excess, as a share of the limit.
    fn of(self, excess: f64) -> f64 {
        match self {
            Self::Square => excess * excess,
            Self::Absolute => excess.abs(),
            Self::Positive => excess.max(0.0),
        }
    }
}

/// The resource term of the loss: `rho * phi(R / R_t - 1)` (equation 2, relative to the budget), with
/// [`Phi::Positive`] for bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Penalty {
    /// rho, the weight of the term.
    pub rho: f64,
    /// phi.
    pub phi: Phi,
    /// Directions that the gradient of the term is estimated with apart from that of the loss, since it is exact and cheap;
    /// with 0, the paper's, it is added to each candidate's loss.
    #[serde(default)]
    pub apart: usize,
}

impl Penalty {
    /// What an architecture costs against its limits, to be added to the classification loss.
    ///
    /// # Errors
    /// If what it takes cannot be found.
    pub fn at(&self, architecture: &Architecture, limits: &Limits) -> Result<f64, CostError> {
        let of = |phi: Phi, limit: &Limit| Ok::<_, CostError>(phi.of(limit.ratio(architecture)? - 1.0));
        let mut sum = of(self.phi, limits.budget())?;
        for bound in limits.bounds() {
            sum += of(Phi::Positive, bound)?;
        }
        Ok(self.rho * sum)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use elastic_layers::SearchSpace;

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

    /// As many of it as the only dimension has.
    #[derive(Debug)]
    struct Width;

    impl crate::Resource for Width {
        fn name(&self) -> &str {
            "width"
        }

        fn unit(&self) -> &str {
            "channels"
        }

        fn of(&self, architecture: &Architecture) -> Result<f64, CostError> {
            Ok(architecture.values()[0] as f64)
        }
    }

    #[test]
    fn penalties_are_what_the_paper_says() {
        let mut space = SearchSpace::new();
        space.channels("width", 100).range(1..=200).add().unwrap();
        let limit = |most| Limit::new(Arc::new(Width), most);
        let penalty = |phi, width, limits: &Limits| {
            Penalty { rho: 2.0, phi, apart: 0 }.at(&space.architecture(vec![width]).unwrap(), limits).unwrap()
        };
        let budget = Limits::new(limit(100.0));
        assert!((penalty(Phi::Square, 150, &budget) - 0.5).abs() < 1e-12);
        assert!((penalty(Phi::Square, 50, &budget) - 0.5).abs() < 1e-12);
        assert!((penalty(Phi::Absolute, 50, &budget) - 1.0).abs() < 1e-12);
        assert!((penalty(Phi::Positive, 150, &budget) - 1.0).abs() < 1e-12);
        assert_eq!(penalty(Phi::Positive, 50, &budget), 0.0);
        let bound = budget.with_bound(limit(120.0));
        assert!((penalty(Phi::Square, 150, &bound) - 1.0).abs() < 1e-12, "0.5 for the budget, 0.5 for the bound");
        assert!((penalty(Phi::Square, 50, &bound) - 0.5).abs() < 1e-12, "below a bound costs nothing");
    }
}
