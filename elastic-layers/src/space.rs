//! The search space: an ordered list of dimensions, and how one is made.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::architecture::check_value;
use crate::intern::Interned;
use crate::{Architecture, ArchitectureError, DimKind, ElasticDim, Size};

/// All dimensions of all spaces.
pub(crate) static DIMENSIONS: Interned<ElasticDim> = Interned::new();

/// The ordered list of a model's elastic dimensions.
///
/// A space made by [`SearchSpace::pinned`] hands out fixed sizes instead: the code that builds a supernet then builds
/// the static network of that architecture, with the initial weights that its own sizes ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchSpace {
    dims: Arc<Vec<&'static ElasticDim>>,
    pinned: Option<Architecture>,
}

impl SearchSpace {
    /// A space without dimensions.
    pub fn new() -> Self {
        Self::default()
    }

    /// A space whose dimensions, when they are added, are fixed to an architecture's values.
    ///
    /// The dimensions must be added with the names of the architecture's.
    pub fn pinned(architecture: &Architecture) -> Self {
        Self { dims: Arc::default(), pinned: Some(architecture.clone()) }
    }

    /// Adds a number of channels.
    pub fn channels(&mut self, name: impl Into<String>, base: usize) -> DimBuilder<'_> {
        self.dim(name, DimKind::Channels, base)
    }

    /// Adds an input resolution, in pixels.
    pub fn resolution(&mut self, name: impl Into<String>, base: usize) -> DimBuilder<'_> {
        self.dim(name, DimKind::Resolution, base)
    }

    /// Adds a number of layers.
    pub fn depth(&mut self, name: impl Into<String>, base: usize) -> DimBuilder<'_> {
        self.dim(name, DimKind::Depth, base)
    }

    fn dim(&mut self, name: impl Into<String>, kind: DimKind, base: usize) -> DimBuilder<'_> {
        DimBuilder { space: self, name: name.into(), kind, base, range: (base, base), step: 1, divisor: 1 }
    }

    /// The dimensions, in order.
    pub fn dims(&self) -> &[&'static ElasticDim] {
        &self.dims
    }

    /// The dimension of this name.
    pub fn get(&self, name: &str) -> Option<&'static ElasticDim> {
        self.dims.iter().copied().find(|dim| dim.name == name)
    }

    /// A short hash of all dimensions, for telling whether an architecture belongs to the space.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for dim in self.dims() {
            let ElasticDim { name, kind, base, min, max, step } = dim;
            hasher.update(format!("{name}\0{kind}\0{base}\0{min}\0{max}\0{step}\n").as_bytes());
        }
        hasher.finalize().to_hex()[..16].to_string()
    }

    /// An architecture from one value per dimension.
    ///
    /// # Errors
    /// If there are more or fewer values than dimensions, or one is not of its dimension.
    pub fn architecture(&self, values: impl Into<Vec<usize>>) -> Result<Architecture, ArchitectureError> {
        let values = values.into();
        if values.len() != self.dims.len() {
            return Err(ArchitectureError::Count { expected: self.dims.len(), found: values.len() });
        }
        for (dim, &found) in self.dims.iter().zip(&values) {
            check_value(dim, found)?;
        }
        Ok(self.of_values(values))
    }

    /// Whether an architecture, as read from a file, is of this space.
    ///
    /// # Errors
    /// If it has other dimensions, naming the first.
    pub fn check(&self, architecture: &Architecture) -> Result<(), ArchitectureError> {
        let (own, others) = (self.dims(), architecture.dims());
        let show = |dim: Option<&&ElasticDim>| match dim {
            Some(ElasticDim { name, kind, base, min, max, step }) => {
                format!("\"{name}\" ({kind} {base}, from {min} to {max} in steps of {step})")
            }
            None => "none".into(),
        };
        match (0..own.len().max(others.len())).find(|&index| own.get(index) != others.get(index)) {
            Some(index) => {
                let (expected, found) = (show(own.get(index)), show(others.get(index)));
                Err(ArchitectureError::Space { index, expected, found })
            }
            None => Ok(()),
        }
    }

    /// The architecture that continuous hyperparameters stand for: each rounded down and clamped
    /// ([`ElasticDim::at_param`]).
    ///
    /// # Panics
    /// If there are more or fewer hyperparameters than dimensions.
    pub fn at_params(&self, params: &[f64]) -> Architecture {
        assert_eq!(params.len(), self.dims.len(), "one hyperparameter per dimension");
        self.of_values(self.dims.iter().zip(params).map(|(dim, &h)| dim.at_param(h)).collect())
    }

    /// The architecture with every dimension at the given level, `0` being the smallest; levels beyond the last give the
    /// largest.
    ///
    /// # Panics
    /// If there are more or fewer levels than dimensions.
    pub fn at_levels(&self, levels: &[usize]) -> Architecture {
        assert_eq!(levels.len(), self.dims.len(), "one level per dimension");
        self.of_values(self.dims.iter().zip(levels).map(|(dim, &level)| dim.at_level(level)).collect())
    }

    /// The architecture with every dimension at the value nearest below what `value` gives, clamped.
    pub fn with_values(&self, value: impl Fn(&ElasticDim) -> usize) -> Architecture {
        self.of_values(self.dims.iter().map(|dim| dim.at_level(dim.level_of(value(dim)))).collect())
    }

    /// The backbone as its authors made it.
    pub fn base(&self) -> Architecture {
        self.with_values(|dim| dim.base)
    }

    /// Every dimension at its minimum.
    pub fn smallest(&self) -> Architecture {
        self.with_values(|dim| dim.min)
    }

    /// Every dimension at its maximum: the supernet.
    pub fn largest(&self) -> Architecture {
        self.with_values(|dim| dim.max)
    }

    /// Decimal logarithm of the number of architectures.
    pub fn log10_architectures(&self) -> f64 {
        // Not `sum`, which gives -0 for no dimensions.
        self.dims.iter().map(|dim| (dim.levels() as f64).log10()).fold(0.0, |sum, levels| sum + levels)
    }

    fn of_values(&self, values: Vec<usize>) -> Architecture {
        Architecture::new_unchecked(self.dims.clone(), values)
    }
}

impl fmt::Display for SearchSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.dims.iter().map(|dim| dim.name.len()).max().unwrap_or(0).max("dimension".len());
        writeln!(f, "{:<width$}  {:<10}  {:>5} {:>5} {:>5} {:>5}", "dimension", "kind", "base", "min", "max", "step")?;
        for ElasticDim { name, kind, base, min, max, step } in self.dims.iter() {
            writeln!(f, "{name:<width$}  {:<10}  {base:>5} {min:>5} {max:>5} {step:>5}", kind.to_string())?;
        }
        write!(f, "10^{:.1} architectures in {} dimensions", self.log10_architectures(), self.dims.len())
    }
}

/// A dimension in the making; [`DimBuilder::add`] finishes it.
#[derive(Debug)]
#[must_use = "a dimension is added by `add`"]
pub struct DimBuilder<'a> {
    space: &'a mut SearchSpace,
    name: String,
    kind: DimKind,
    base: usize,
    range: (usize, usize),
    step: usize,
    divisor: usize,
}

impl DimBuilder<'_> {
    /// The range as fractions of the base, rounded to whole numbers, at least 1 (Table 4 of the paper).
    pub fn scale(mut self, fractions: RangeInclusive<f64>) -> Self {
        self.range = (self.fraction(*fractions.start()), self.fraction(*fractions.end()));
        self
    }

    /// The step as a fraction of the base, rounded to a whole number, at least 1 (Table 4 of the paper).
    pub fn step(mut self, fraction: f64) -> Self {
        self.step = self.fraction(fraction);
        self
    }

    /// The range in the dimension's own unit.
    pub fn range(mut self, range: RangeInclusive<usize>) -> Self {
        self.range = (*range.start(), *range.end());
        self
    }

    /// The step in the dimension's own unit.
    pub fn step_by(mut self, step: usize) -> Self {
        self.step = step;
        self
    }

    /// Allows multiples of a number only, as vector units like them: the step is rounded to such a multiple, at least one,
    /// and the base has to be one.
    pub fn multiple_of(mut self, divisor: usize) -> Self {
        self.divisor = divisor;
        self
    }

    fn fraction(&self, fraction: f64) -> usize {
        ((self.base as f64 * fraction).round() as usize).max(1)
    }

    /// Adds the dimension to its space. The values lie on a grid through the base, inside the range.
    ///
    /// # Errors
    /// If the name is taken, the step, the smallest value or the divisor is 0, or the base is outside the range or no
    /// multiple of the divisor; in a pinned space, if the architecture has no such dimension at this place.
    pub fn add(self) -> Result<Size, SpaceError> {
        let Self { space, name, kind, base, range: (low, high), step, divisor } = self;
        if space.get(&name).is_some() {
            return Err(SpaceError::Taken { name });
        }
        if step == 0 || low == 0 || divisor == 0 {
            return Err(SpaceError::Zero { name });
        }
        if !base.is_multiple_of(divisor) {
            return Err(SpaceError::Divisor { name, base, divisor });
        }
        if !(low..=high).contains(&base) {
            return Err(SpaceError::Range { name, base, low, high });
        }
        // The nearest multiple, the larger one of two that are as near.
        let step = ((step + divisor / 2) / divisor).max(1) * divisor;
        let (min, max) = (base - (base - low) / step * step, base + (high - base) / step * step);
        let index = space.dims.len();
        let dim = DIMENSIONS.of(Box::new(ElasticDim { name: name.clone(), kind, base, min, max, step }));
        if let Some(architecture) = &space.pinned {
            if architecture.dims().get(index) != Some(&dim) {
                return Err(SpaceError::Pinned { name, index });
            }
            let value = architecture.values()[index];
            Arc::make_mut(&mut space.dims).push(dim);
            return Ok(Size::Fixed(value));
        }
        Arc::make_mut(&mut space.dims).push(dim);
        Ok(Size::Elastic { index, dim })
    }
}

/// Why a dimension cannot be added to a space.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpaceError {
    /// A second dimension of the same name.
    #[error("dimension \"{name}\": the search space has one of that name already")]
    Taken {
        /// The name.
        name: String,
    },
    /// A size or step of nothing.
    #[error("dimension \"{name}\": the step, the smallest value and the divisor must be at least 1")]
    Zero {
        /// The name.
        name: String,
    },
    /// A base outside the range.
    #[error("dimension \"{name}\": the base {base} should be in the range {low} to {high}")]
    Range {
        /// The name.
        name: String,
        /// The base.
        base: usize,
        /// Lower end.
        low: usize,
        /// Upper end.
        high: usize,
    },
    /// A base that is no multiple of the divisor.
    #[error("dimension \"{name}\": the base {base} should be a multiple of {divisor}")]
    Divisor {
        /// The name.
        name: String,
        /// The base.
        base: usize,
        /// The divisor.
        divisor: usize,
    },
    /// The architecture that a space is pinned to was made for other dimensions.
    #[error("dimension \"{name}\": the architecture has no such dimension at place {index}")]
    Pinned {
        /// The name.
        name: String,
        /// Its place in the space.
        index: usize,
    },
    /// A backbone that cannot be built as configured.
    #[error("{what}: expected {expected}, found {found}")]
    Backbone {
        /// The setting.
        what: &'static str,
        /// What is allowed.
        expected: String,
        /// What was given.
        found: String,
    },
}
