//! Architectures: one value for every dimension of a space, and their written form.

use std::fmt;
use std::sync::Arc;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ElasticDim;
use crate::space::DIMENSIONS;

/// One concrete value for every dimension of a search space, checked against it.
///
/// It is made by [`SearchSpace::architecture`](crate::SearchSpace::architecture) and its siblings, or read from a file, so
/// that one that exists is valid. Its written form has all of its dimensions with their ranges:
/// [`SearchSpace::check`](crate::SearchSpace::check) tells whether it is of a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    dims: Arc<Vec<&'static ElasticDim>>,
    values: Vec<usize>,
}

impl Architecture {
    pub(crate) fn new_unchecked(dims: Arc<Vec<&'static ElasticDim>>, values: Vec<usize>) -> Self {
        Self { dims, values }
    }

    /// The values, in the order of the space's dimensions.
    pub fn values(&self) -> &[usize] {
        &self.values
    }

    /// The dimensions of the space, in order.
    pub fn dims(&self) -> &[&'static ElasticDim] {
        &self.dims
    }

    /// The value of the dimension of this name.
    pub fn get(&self, name: &str) -> Option<usize> {
        let index = self.dims.iter().position(|dim| dim.name == name)?;
        Some(self.values[index])
    }

    /// The value of a dimension, which is at `index` of its space.
    ///
    /// # Panics
    /// If the architecture has another dimension there, by its name, or a value that is none of that dimension's.
    #[inline]
    pub(crate) fn value_of(&self, index: usize, dim: &'static ElasticDim) -> usize {
        match self.dims.get(index) {
            Some(own) if std::ptr::eq(*own, dim) => self.values[index],
            _ => self.value_of_other(index, dim),
        }
    }

    /// The value of a dimension that is not quite that of the architecture's space.
    #[cold]
    fn value_of_other(&self, index: usize, dim: &ElasticDim) -> usize {
        let ElasticDim { name, min, max, step, .. } = dim;
        match self.dims.get(index) {
            Some(own) if own.name == *name => {
                let value = self.values[index];
                assert!(
                    dim.contains(value),
                    "the architecture is of another search space: dimension \"{name}\" has {min} to {max} in steps of {step}, \
                     got {value}"
                );
                value
            }
            found => panic!(
                "the architecture is of another search space: dimension {index} expected \"{name}\", got {}",
                found.map_or("none".to_string(), |dim| format!("\"{}\"", dim.name))
            ),
        }
    }

    /// The centre of the architecture's cell in continuous hyperparameters, in steps above each dimension's minimum.
    ///
    /// Half a step above the level, so that rounding down is not biased towards the smaller neighbour.
    pub fn params(&self) -> Vec<f64> {
        self.dims.iter().zip(&self.values).map(|(dim, &value)| dim.level_of(value) as f64 + 0.5).collect()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (dim, value)) in self.dims.iter().zip(&self.values).enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{}={value}", dim.name)?;
        }
        Ok(())
    }
}

/// The written form of an [`Architecture`]: complete, so that it can be read without its space.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    dimensions: Vec<WrittenValue>,
}

/// A dimension and its value.
#[derive(Serialize, Deserialize)]
struct WrittenValue {
    #[serde(flatten)]
    dim: ElasticDim,
    value: usize,
}

/// The version that is written and read.
const VERSION: u32 = 1;

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let dims = self.dims.iter().zip(&self.values);
        let dimensions = dims.map(|(dim, &value)| WrittenValue { dim: (*dim).clone(), value }).collect();
        Written { version: VERSION, dimensions }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written { version, dimensions } = Written::deserialize(deserializer)?;
        if version != VERSION {
            return Err(D::Error::custom(ArchitectureError::Version { found: version }));
        }
        let (mut dims, mut values) = (Vec::new(), Vec::new());
        for WrittenValue { dim, value } in dimensions {
            let ElasticDim { name, base, min, max, step, .. } = &dim;
            let on_grid = |value: usize| (*min..=*max).contains(&value) && (value - min).is_multiple_of(*step);
            if *step == 0 || *min == 0 || !on_grid(*base) || !on_grid(*max) {
                return Err(D::Error::custom(ArchitectureError::Range { name: name.clone() }));
            }
            check_value(&dim, value).map_err(D::Error::custom)?;
            dims.push(DIMENSIONS.of(Box::new(dim)));
            values.push(value);
        }
        Ok(Self { dims: Arc::new(dims), values })
    }
}

/// Checks that a value is one of a dimension's.
pub(crate) fn check_value(dim: &ElasticDim, found: usize) -> Result<(), ArchitectureError> {
    if dim.contains(found) {
        return Ok(());
    }
    let ElasticDim { name, min, max, step, .. } = dim.clone();
    Err(ArchitectureError::Value { name, min, max, step, found })
}

/// Why values or a file are no architecture of a space.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArchitectureError {
    /// A version that this crate does not read.
    #[error("version: expected {VERSION}, found {found}")]
    Version {
        /// What the file says.
        found: u32,
    },
    /// The number of values differs from the number of dimensions.
    #[error("the search space has {expected} dimensions, found {found} values")]
    Count {
        /// Dimensions of the space.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// A dimension without a grid from its smallest to its largest value.
    #[error(
        "dimension \"{name}\": expected a step and a smallest value above 0, and base and largest value on the grid"
    )]
    Range {
        /// Name of the dimension.
        name: String,
    },
    /// A dimension that differs from that of the space.
    #[error("the architecture is of another search space: dimension {index} expected {expected}, found {found}")]
    Space {
        /// Position.
        index: usize,
        /// The dimension of the space.
        expected: String,
        /// The dimension of the architecture.
        found: String,
    },
    /// A value outside its dimension.
    #[error("dimension \"{name}\": expected a value from {min} to {max} in steps of {step}, found {found}")]
    Value {
        /// Name of the dimension.
        name: String,
        /// Smallest value.
        min: usize,
        /// Largest value.
        max: usize,
        /// Step.
        step: usize,
        /// What was given.
        found: usize,
    },
}
