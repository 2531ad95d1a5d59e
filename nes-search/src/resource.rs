//! What architectures take, and how much of it they may take.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use elastic_layers::{Architecture, CostError, CostModel, Macs};
use serde::{Deserialize, Serialize};

use crate::budget::read_amount;

/// Something that architectures take, more or less of.
///
/// A search asks for it tens of thousands of times: it has to be quick, and always the same.
pub trait Resource: fmt::Debug + Send + Sync {
    /// What it is called, such as `parameters`.
    fn name(&self) -> &str;

    /// What it is measured in, such as `bytes`.
    fn unit(&self) -> &str;

    /// What an architecture takes: a finite number above 0.
    ///
    /// # Errors
    /// If that cannot be found.
    fn of(&self, architecture: &Architecture) -> Result<f64, CostError>;
}

/// What can be counted on the layers of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Count {
    /// Multiply-accumulates of convolutions and linear layers for one image.
    Macs,
    /// Trainable parameters.
    Parameters,
    /// Bytes of the input and output of the layer that takes most for them
    /// ([`Cost::activation_bytes`](elastic_layers::Cost::activation_bytes)).
    ActivationMemory,
}

impl Count {
    const ALL: [Self; 3] = [Self::Macs, Self::Parameters, Self::ActivationMemory];

    /// Its name in bounds, tables and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Macs => "macs",
            Self::Parameters => "parameters",
            Self::ActivationMemory => "activation-memory",
        }
    }
}

/// A [`Count`] by a cost model.
#[derive(Clone, Debug)]
pub struct Counted {
    count: Count,
    cost: Arc<CostModel>,
}

impl Counted {
    /// A count by a cost model.
    pub fn new(count: Count, cost: Arc<CostModel>) -> Self {
        Self { count, cost }
    }
}

impl Resource for Counted {
    fn name(&self) -> &str {
        self.count.name()
    }

    fn unit(&self) -> &str {
        match self.count {
            Count::Macs => "MACs",
            Count::Parameters => "parameters",
            Count::ActivationMemory => "bytes",
        }
    }

    fn of(&self, architecture: &Architecture) -> Result<f64, CostError> {
        let cost = self.cost.cost(architecture)?;
        Ok(match self.count {
            Count::Macs => cost.macs.as_f64(),
            Count::Parameters => cost.parameters as f64,
            Count::ActivationMemory => cost.activation_bytes as f64,
        })
    }
}

/// The most of a resource that an architecture may take.
#[derive(Clone, Debug)]
pub struct Limit {
    resource: Arc<dyn Resource>,
    most: f64,
}

impl Limit {
    /// A limit of a resource.
    ///
    /// # Panics
    /// If it is not a finite number above 0.
    pub fn new(resource: Arc<dyn Resource>, most: f64) -> Self {
        assert!(most.is_finite() && most > 0.0, "{}: expected a limit above 0, found {most}", resource.name());
        Self { resource, most }
    }

    fn times(&self, factor: f64) -> Self {
        Self::new(self.resource.clone(), self.most * factor)
    }

    /// What is limited.
    pub fn resource(&self) -> &dyn Resource {
        &*self.resource
    }

    /// The limit.
    pub fn most(&self) -> f64 {
        self.most
    }

    /// The share of the limit that an architecture takes: R / R_t.
    ///
    /// # Errors
    /// If what it takes cannot be found.
    pub fn ratio(&self, architecture: &Architecture) -> Result<f64, CostError> {
        Ok(self.resource.of(architecture)? / self.most)
    }

    /// An amount of the resource, with its unit.
    pub(crate) fn amount(&self, amount: f64) -> String {
        let unit = self.resource.unit();
        // Counts are written as MACs are: all digits, in groups of three.
        if amount.fract() == 0.0 { format!("{} {unit}", Macs(amount as u64)) } else { format!("{amount:.3} {unit}") }
    }
}

/// All limits of a search: a budget, of which the found architecture takes at least
/// [`LEAST_SHARE`](crate::LEAST_SHARE), and further bounds, of which it may take less.
#[derive(Clone, Debug)]
pub struct Limits {
    budget: Limit,
    bounds: Vec<Limit>,
}

impl Limits {
    /// A budget and no bounds.
    pub fn new(budget: Limit) -> Self {
        Self { budget, bounds: Vec::new() }
    }

    /// With one more bound.
    pub fn with_bound(mut self, bound: Limit) -> Self {
        self.bounds.push(bound);
        self
    }

    /// With the budget of something that takes so many times what its resource says.
    ///
    /// # Panics
    /// If that is no finite number above 0.
    pub fn at_scale(&self, scale: f64) -> Self {
        Self { budget: self.budget.times(1.0 / scale), bounds: self.bounds.clone() }
    }

    /// With the budget and all bounds multiplied by a factor.
    ///
    /// # Panics
    /// If that is no finite number above 0.
    pub fn times(&self, factor: f64) -> Self {
        Self {
            budget: self.budget.times(factor),
            bounds: self.bounds.iter().map(|bound| bound.times(factor)).collect(),
        }
    }

    /// The budget.
    pub fn budget(&self) -> &Limit {
        &self.budget
    }

    /// The bounds.
    pub fn bounds(&self) -> &[Limit] {
        &self.bounds
    }

    /// The budget and the bounds.
    pub fn all(&self) -> impl Iterator<Item = &Limit> {
        std::iter::once(&self.budget).chain(&self.bounds)
    }

    /// The largest share of a limit that an architecture takes; at most 1 if it keeps to all of them.
    ///
    /// # Errors
    /// If what it takes cannot be found.
    pub fn worst(&self, architecture: &Architecture) -> Result<f64, CostError> {
        self.all().try_fold(0.0, |worst: f64, limit| Ok(worst.max(limit.ratio(architecture)?)))
    }

    /// The name of each limited resource and its limit.
    pub(crate) fn named(&self) -> Vec<(String, f64)> {
        self.all().map(|limit| (limit.resource.name().to_string(), limit.most)).collect()
    }
}

/// Everything with its unit, the budget first.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "budget {}", self.budget.amount(self.budget.most))?;
        self.bounds.iter().try_for_each(|bound| write!(f, ", at most {}", bound.amount(bound.most)))
    }
}

/// A bound as a user writes it: `parameters=5k`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bound {
    /// What is bounded.
    pub count: Count,
    /// The most of it.
    pub most: u64,
}

/// A text that is no bound.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "a bound is macs, parameters or activation-memory (in bytes) with a number (parameters=5k, \
     activation-memory=64k): found {0:?}"
)]
pub struct BoundError(String);

impl FromStr for Bound {
    type Err = BoundError;

    fn from_str(text: &str) -> Result<Self, BoundError> {
        let read = || {
            let (name, amount) = text.split_once('=')?;
            let count = Count::ALL.into_iter().find(|count| count.name() == name.trim())?;
            let (number, unit) = read_amount(amount)?;
            let most = (number * unit).round();
            (1.0..1e18).contains(&most).then_some(Self { count, most: most as u64 })
        };
        read().ok_or_else(|| BoundError(text.to_string()))
    }
}

impl TryFrom<String> for Bound {
    type Error = BoundError;

    fn try_from(text: String) -> Result<Self, BoundError> {
        text.parse()
    }
}

impl From<Bound> for String {
    fn from(bound: Bound) -> Self {
        bound.to_string()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.count.name(), self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_as_written() {
        for (text, count, most) in [
            ("parameters=5k", Count::Parameters, 5000),
            (" activation-memory = 1.5M ", Count::ActivationMemory, 1_500_000),
            ("macs=250000", Count::Macs, 250_000),
        ] {
            let bound: Bound = text.parse().unwrap();
            assert_eq!(bound, Bound { count, most }, "{text}");
            assert_eq!(bound.to_string().parse(), Ok(bound), "{text} written and read again");
        }
        for text in ["", "parameters", "parameters=", "parameters=0", "parameters=-5", "weight=3", "macs=nan", "=5k"] {
            let error = text.parse::<Bound>().expect_err(text).to_string();
            assert!(error.contains("parameters=5k") && error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
