//! Keeping architectures within their limits.

mod fill;

use std::borrow::Cow;

use elastic_layers::{Architecture, CostError, DimKind, ElasticDim, SearchSpace};

use crate::resource::{Limit, Limits};

/// The share of the budget that a final architecture takes at least, unless the space is too coarse for that.
pub const LEAST_SHARE: f64 = 0.98;

/// Why no architecture meets a budget and its bounds.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// Even the smallest architecture exceeds a limit.
    #[error(
        "limit of {resource}: expected at least {smallest}, which the smallest architecture of the space takes, found \
         {limit}"
    )]
    TooSmall {
        /// What is limited.
        resource: String,
        /// The limit.
        limit: String,
        /// What the smallest architecture takes.
        smallest: String,
    },
    /// Even the largest architecture leaves too much of the budget.
    #[error(
        "budget of {resource}: expected at most {largest}, which the largest architecture of the space takes, found \
         {limit}"
    )]
    TooLarge {
        /// What is limited.
        resource: String,
        /// The budget.
        limit: String,
        /// What the largest architecture takes.
        largest: String,
    },
    /// Nothing within the limits was found at all.
    #[error("no architecture within the budget of {limit} and the bounds was found")]
    Nothing {
        /// The budget.
        limit: String,
    },
    /// A cost could not be found.
    #[error(transparent)]
    Cost(#[from] CostError),
}

/// Moves architectures of a space onto a budget, and within its bounds.
#[derive(Clone, Debug)]
pub struct Projection<'a> {
    space: &'a SearchSpace,
    limits: Cow<'a, Limits>,
    least: f64,
    /// Kinds of dimensions that move; others stay at the backbone's value.
    kinds: Cow<'a, [DimKind]>,
}

/// Every kind of dimension.
pub const ALL_KINDS: [DimKind; 3] = [DimKind::Channels, DimKind::Resolution, DimKind::Depth];

impl<'a> Projection<'a> {
    /// A projection onto a budget.
    ///
    /// The smallest architecture of the space is taken for the cheapest, and the largest for the dearest. Times jump where
    /// channels fill a runtime's vectors, so that others may be: of a budget of time, what lies beyond those two is refused
    /// though a few architectures may take it. Between them an architecture is found whether or not what is taken grows
    /// with every dimension.
    ///
    /// Architectures take at least [`LEAST_SHARE`] of the budget. Where the space is too coarse for that, they take at least
    /// [`least`](Self::least), which is the largest share that was found.
    ///
    /// # Errors
    /// If the space has nothing within the limits, or everything is below the budget.
    pub fn new(space: &'a SearchSpace, limits: &'a Limits) -> Result<Self, ProjectionError> {
        Self::of_kinds(space, limits, &ALL_KINDS)
    }

    /// The same where some kinds of dimensions move alone. Others stay at the backbone's values.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_kinds(space: &'a SearchSpace, limits: &'a Limits, kinds: &[DimKind]) -> Result<Self, ProjectionError> {
        let kinds: Cow<'a, [DimKind]> = Cow::Owned(kinds.to_vec());
        let of = |end: fn(&ElasticDim) -> usize| {
            space.with_values(|dim| if kinds.contains(&dim.kind) { end(dim) } else { dim.base })
        };
        let (smallest, largest) = (of(|dim| dim.min), of(|dim| dim.max));
        let taken = |limit: &Limit, architecture: &Architecture| limit.resource().of(architecture);
        for limit in limits.all() {
            let smallest = taken(limit, &smallest)?;
            if smallest > limit.most() {
                return Err(ProjectionError::TooSmall {
                    resource: limit.resource().name().into(),
                    limit: limit.amount(limit.most()),
                    smallest: limit.amount(smallest),
                });
            }
        }
        let budget = limits.budget();
        let largest = taken(budget, &largest)?;
        if largest / budget.most() < LEAST_SHARE {
            return Err(ProjectionError::TooLarge {
                resource: budget.resource().name().into(),
                limit: budget.amount(budget.most()),
                largest: budget.amount(largest),
            });
        }
        let mut projection = Self { space, limits: Cow::Borrowed(limits), least: LEAST_SHARE, kinds };
        let best = projection.fullest(&space.base().params())?;
        projection.least = LEAST_SHARE.min(projection.share(&best)?);
        Ok(projection)
    }

    /// The same with the budget and all bounds multiplied by a factor, as while a budget falls.
    #[must_use]
    pub fn scaled_by(&self, factor: f64) -> Self {
        Self { limits: Cow::Owned(self.limits.times(factor)), ..self.clone() }
    }

    /// The share of the budget that an architecture takes at least: less than was asked for, where the space is too coarse.
    pub fn least(&self) -> f64 {
        self.least
    }

    /// Whether a dimension moves.
    pub fn moves(&self, dim: &ElasticDim) -> bool {
        self.kinds.contains(&dim.kind)
    }

    /// The space.
    pub fn space(&self) -> &'a SearchSpace {
        self.space
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The share of the budget that an architecture takes.
    ///
    /// # Errors
    /// If what it takes cannot be found.
    pub fn share(&self, architecture: &Architecture) -> Result<f64, CostError> {
        self.limits.budget().ratio(architecture)
    }

    fn fits(&self, architecture: &Architecture) -> Result<bool, CostError> {
        Ok(self.limits.worst(architecture)? <= 1.0)
    }

    /// H with all channel numbers scaled by one factor, so that the architecture is as large as the limits let it be.
    ///
    /// If the channels alone cannot reach the budget, the resolution and depth give way too, one step at a time.
    ///
    /// # Errors
    /// If a cost cannot be found.
    pub fn project(&self, params: &[f64]) -> Result<Vec<f64>, CostError> {
        let mut params = self.clamped(params);
        while !self.fits(&self.space.at_params(&self.scaled(&params, 0.0)))? {
            if !self.shift_structure(&mut params, -1.0) {
                break;
            }
        }
        while self.share(&self.space.at_params(&self.scaled(&params, f64::INFINITY)))? < self.least {
            if !self.shift_structure(&mut params, 1.0) {
                break;
            }
        }
        // What is taken grows with the factor: the largest factor within the limits, to a part in a million.
        let (mut low, mut high) = (0.0, 1.0);
        while high < 1e3 && self.fits(&self.space.at_params(&self.scaled(&params, high)))? {
            (low, high) = (high, high * 2.0);
        }
        for _ in 0..24 {
            let middle = (low + high) / 2.0;
            match self.fits(&self.space.at_params(&self.scaled(&params, middle)))? {
                true => low = middle,
                false => high = middle,
            }
        }
        Ok(self.scaled(&params, low))
    }

    /// The architecture that stands for a point: at the budget, at the point's own resolution and depth wherever the
    /// channels can reach it there; the nearest below it where they are too coarse for that.
    ///
    /// # Errors
    /// If a cost cannot be found.
    pub fn nearest(&self, params: &[f64]) -> Result<Architecture, CostError> {
        self.filled(params).map(|(architecture, _)| architecture)
    }

    /// The architecture at the budget that stands for H: channels are scaled by one factor, then single dimensions are
    /// raised, the one that rounding down took most from first, and exchanged for others. Where channels are too coarse
    /// for that, the nearest resolution and depth at which they are not; and at last any architecture of the space.
    ///
    /// # Errors
    /// If nothing within the limits is found.
    pub fn architecture(&self, params: &[f64]) -> Result<Architecture, ProjectionError> {
        self.fullest(params)
    }

    /// The architecture at the point's own resolution and depth, if it takes enough of the budget.
    pub(crate) fn at_structure(&self, params: &[f64]) -> Result<Option<Architecture>, CostError> {
        let (architecture, share) = self.filled(params)?;
        Ok((share >= self.least && self.fits(&architecture)?).then_some(architecture))
    }

    /// H at every resolution and depth, the nearest first.
    fn structures_by_distance(&self, params: &[f64]) -> Vec<Vec<f64>> {
        let mut all = vec![(0, self.clamped(params))];
        for (index, dim) in self.space.dims().iter().enumerate() {
            if dim.kind == DimKind::Channels || !self.moves(dim) {
                continue;
            }
            let at_level = |(distance, h): &(usize, Vec<f64>), level: usize| {
                let mut moved = h.clone();
                moved[index] = level as f64 + 0.5;
                (distance + (h[index] as usize).abs_diff(level), moved)
            };
            all = all.iter().flat_map(|one| (0..dim.levels()).map(move |level| at_level(one, level))).collect();
        }
        all.sort_by_key(|(distance, _)| *distance);
        all.into_iter().map(|(_, h)| h).collect()
    }

    /// H within the bounds of its dimensions.
    pub(crate) fn clamped(&self, params: &[f64]) -> Vec<f64> {
        let clamp = |dim: &ElasticDim, h: f64| match h {
            _ if !self.moves(dim) => dim.level_of(dim.base) as f64 + 0.5,
            h if h.is_nan() => 0.0,
            h => h.clamp(0.0, dim.levels() as f64 - 1e-3),
        };
        self.space.dims().iter().zip(params).map(|(dim, &h)| clamp(dim, h)).collect()
    }

    /// H with every channel number times a factor, within its bounds.
    fn scaled(&self, params: &[f64], factor: f64) -> Vec<f64> {
        let scale = |dim: &ElasticDim, h: f64| {
            if dim.kind != DimKind::Channels || !self.moves(dim) {
                return h;
            }
            let (min, step) = (dim.min as f64, dim.step as f64);
            let value = if factor.is_infinite() { f64::MAX } else { (min + step * h) * factor };
            ((value - min) / step).clamp(0.0, dim.levels() as f64 - 1e-3)
        };
        self.space.dims().iter().zip(params).map(|(dim, &h)| scale(dim, h)).collect()
    }

    /// Moves resolution, or depth when that is at its end, by one step; false when both are.
    fn shift_structure(&self, params: &mut [f64], by: f64) -> bool {
        for kind in [DimKind::Resolution, DimKind::Depth] {
            for (dim, h) in self.space.dims().iter().zip(params.iter_mut()) {
                if dim.kind != kind || !self.moves(dim) {
                    continue;
                }
                let moved = (*h + by).clamp(0.0, dim.levels() as f64 - 1e-3);
                if moved.floor() != h.floor() {
                    *h = moved;
                    return true;
                }
            }
        }
        false
    }
}
