//! Architectures: one value for every dimension of a space, and the file that keeps them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{DimKind, ElasticDim, SearchSpace};

/// One concrete value for every dimension of a search space, checked against it.
///
/// Made by [`SearchSpace::architecture`] and its siblings only, so that one that exists is valid.
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
    /// If the architecture has another dimension there, by its name, or a value that is larger than that dimension's.
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
        let ElasticDim { name, max, .. } = dim;
        match self.dims.get(index) {
            Some(dim) if dim.name == *name => {
                let value = self.values[index];
                assert!(
                    value <= *max,
                    "the architecture is of another search space: dimension \"{name}\" holds up to {max}, got {value}"
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

    /// What is written to a file.
    pub fn to_file(&self) -> ArchitectureFile {
        ArchitectureFile {
            format: ArchitectureFile::FORMAT.into(),
            version: ArchitectureFile::VERSION,
            space: SearchSpace::hash_of(&self.dims),
            dimensions: self
                .dims
                .iter()
                .zip(&self.values)
                .map(|(dim, &value)| DimensionValue { name: dim.name.clone(), kind: dim.kind, value })
                .collect(),
        }
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

/// The versioned file of an [`Architecture`]; [`SearchSpace::check`] turns it into one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchitectureFile {
    /// Always [`ArchitectureFile::FORMAT`].
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// Hash of the search space.
    pub space: String,
    /// Every dimension's value, in the order of the space.
    pub dimensions: Vec<DimensionValue>,
}

/// One dimension's value in an [`ArchitectureFile`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DimensionValue {
    /// Name of the dimension.
    pub name: String,
    /// Kind of the dimension.
    pub kind: DimKind,
    /// Its value.
    pub value: usize,
}

impl ArchitectureFile {
    /// What the field `format` holds.
    pub const FORMAT: &'static str = "nes-search/architecture";
    /// The version that this crate writes and reads.
    pub const VERSION: u32 = 1;
}

/// Why values or a file are no architecture of a space.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArchitectureError {
    /// Another kind of file.
    #[error("format: expected \"{}\", found \"{found}\"", ArchitectureFile::FORMAT)]
    Format {
        /// What the file says.
        found: String,
    },
    /// A version that this crate does not read.
    #[error("version: expected {}, found {found}", ArchitectureFile::VERSION)]
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
    /// A dimension of another name or kind.
    #[error(
        "the architecture is of another search space: dimension {index} expected \"{expected}\", found \"{found}\""
    )]
    Name {
        /// Position.
        index: usize,
        /// Name in the space.
        expected: String,
        /// Name in the file.
        found: String,
    },
    /// The dimensions agree by name, but not in their ranges.
    #[error("the architecture is of another search space: expected space hash {expected}, found {found}")]
    Space {
        /// Hash of the space.
        expected: String,
        /// Hash in the file.
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
