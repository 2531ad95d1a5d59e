//! Keeping architectures within their limits.

use elastic_layers::{Architecture, CostError, DimKind, ElasticDim, SearchSpace};

use crate::resource::{Limit, Limits};

/// The share of the budget that a final architecture uses at least.
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
    /// The space is too coarse, or the bounds are too narrow for the budget.
    #[error(
        "no architecture between 0.98 and 1.00 of the budget of {limit}{} was found: the nearest below takes \
         {nearest:.3} of it",
        if *.bounds { " and within the bounds" } else { "" }
    )]
    Gap {
        /// The budget.
        limit: String,
        /// Whether there are bounds too.
        bounds: bool,
        /// The largest share of the budget below it.
        nearest: f64,
    },
    /// A cost could not be found.
    #[error(transparent)]
    Cost(#[from] CostError),
}

/// Moves architectures of a space onto a budget, and within its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    space: &'a SearchSpace,
    limits: &'a Limits,
}

impl<'a> Projection<'a> {
    /// A projection onto a budget.
    ///
    /// The smallest architecture of the space is taken for the cheapest, and the largest for the dearest. Times jump where
    /// channels fill a runtime's vectors, so that others may be: of a budget of time, what lies beyond those two is refused
    /// though a few architectures may take it. Between them an architecture is found whether or not what is taken grows
    /// with every dimension.
    ///
    /// # Errors
    /// If the space has nothing within the limits, or everything is below the budget.
    pub fn new(space: &'a SearchSpace, limits: &'a Limits) -> Result<Self, ProjectionError> {
        let taken = |limit: &Limit, architecture: &Architecture| limit.resource().of(architecture);
        for limit in limits.all() {
            let smallest = taken(limit, &space.smallest())?;
            if smallest > limit.most() {
                return Err(ProjectionError::TooSmall {
                    resource: limit.resource().name().into(),
                    limit: limit.amount(limit.most()),
                    smallest: limit.amount(smallest),
                });
            }
        }
        let budget = limits.budget();
        let largest = taken(budget, &space.largest())?;
        if largest / budget.most() < LEAST_SHARE {
            return Err(ProjectionError::TooLarge {
                resource: budget.resource().name().into(),
                limit: budget.amount(budget.most()),
                largest: budget.amount(largest),
            });
        }
        Ok(Self { space, limits })
    }

    /// The space.
    pub fn space(&self) -> &'a SearchSpace {
        self.space
    }

    /// The limits.
    pub fn limits(&self) -> &'a Limits {
        self.limits
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
        while self.share(&self.space.at_params(&self.scaled(&params, f64::INFINITY)))? < LEAST_SHARE {
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
        match self.at_structure(params) {
            Ok(architecture) => Ok(architecture),
            Err(ProjectionError::Cost(error)) => Err(error),
            Err(_) => Ok(self.space.at_params(&self.project(params)?)),
        }
    }

    /// The architecture of H, moved to between 0.98 and 1.00 of the budget: channels are scaled, then single
    /// dimensions grown, the one that rounding down took most from first. Where a bound is reached before the budget, some
    /// are shrunk again for others. Where channels are too coarse for that, the nearest resolution and depth at which they
    /// are not.
    ///
    /// # Errors
    /// If no such architecture is found, naming the nearest.
    pub fn architecture(&self, params: &[f64]) -> Result<Architecture, ProjectionError> {
        let mut nearest = match self.at_structure(params) {
            Err(ProjectionError::Gap { nearest, .. }) => nearest,
            other => return other,
        };
        for structure in self.structures_by_distance(params) {
            match self.at_structure(&structure) {
                Err(ProjectionError::Gap { nearest: other, .. }) => nearest = nearest.max(other),
                other => return other,
            }
        }
        Err(self.gap(nearest))
    }

    /// H at every resolution and depth, the nearest first.
    fn structures_by_distance(&self, params: &[f64]) -> Vec<Vec<f64>> {
        let mut all = vec![(0, self.clamped(params))];
        for (index, dim) in self.space.dims().iter().enumerate().filter(|(_, dim)| dim.kind != DimKind::Channels) {
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

    /// As [`architecture`](Self::architecture), at the resolution and depth of H wherever the channels can reach the
    /// budget there.
    ///
    /// # Errors
    /// If no such architecture is found, naming the nearest.
    pub(crate) fn at_structure(&self, params: &[f64]) -> Result<Architecture, ProjectionError> {
        let params = self.project(params)?;
        let levels = params.iter().map(|&h| h as usize).collect();
        let (mut levels, mut share) = self.grown(&params, levels, None)?;
        while share < LEAST_SHARE && !self.limits.bounds().is_empty() {
            match self.exchanged(&params, &levels, share)? {
                Some(better) => (levels, share) = better,
                None => break,
            }
        }
        let architecture = self.space.at_levels(&levels);
        if share < LEAST_SHARE || !self.fits(&architecture)? {
            return Err(self.gap(share));
        }
        Ok(architecture)
    }

    fn gap(&self, nearest: f64) -> ProjectionError {
        let budget = self.limits.budget();
        ProjectionError::Gap { limit: budget.amount(budget.most()), bounds: !self.limits.bounds().is_empty(), nearest }
    }

    /// Levels with single channel numbers raised within the limits, all but one that is left as it is, and the share of
    /// the budget that this takes.
    fn grown(
        &self,
        params: &[f64],
        mut levels: Vec<usize>,
        left: Option<usize>,
    ) -> Result<(Vec<usize>, f64), CostError> {
        let mut share = self.share(&self.space.at_levels(&levels))?;
        loop {
            let mut best: Option<(f64, usize, f64)> = None;
            for (index, dim) in self.space.dims().iter().enumerate() {
                if dim.kind != DimKind::Channels || levels[index] + 1 >= dim.levels() || left == Some(index) {
                    continue;
                }
                let lost = params[index] - levels[index] as f64;
                if best.is_some_and(|(most, ..)| lost <= most) {
                    continue;
                }
                levels[index] += 1;
                let architecture = self.space.at_levels(&levels);
                levels[index] -= 1;
                let grown = self.share(&architecture)?;
                if grown > share && self.fits(&architecture)? {
                    best = Some((lost, index, grown));
                }
            }
            let Some((_, index, grown)) = best else { return Ok((levels, share)) };
            levels[index] += 1;
            share = grown;
        }
    }

    /// Levels of a larger share of the budget, in which one channel number is lowered and others are raised for it: the
    /// one that is the tightest bound's largest part for what it is of the budget's, if there is any.
    fn exchanged(&self, params: &[f64], levels: &[usize], share: f64) -> Result<Option<(Vec<usize>, f64)>, CostError> {
        let worst = self.limits.worst(&self.space.at_levels(levels))?;
        let mut lowered = Vec::new();
        for (index, dim) in self.space.dims().iter().enumerate() {
            if dim.kind == DimKind::Channels && levels[index] > 0 {
                let mut levels = levels.to_vec();
                levels[index] -= 1;
                let architecture = self.space.at_levels(&levels);
                let relief = worst - self.limits.worst(&architecture)?;
                let given = share - self.share(&architecture)?;
                if relief > 0.0 {
                    lowered.push((relief / given.max(1e-12), index, levels));
                }
            }
        }
        lowered.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));
        for (_, index, levels) in lowered {
            let (levels, larger) = self.grown(params, levels, Some(index))?;
            if larger > share {
                return Ok(Some((levels, larger)));
            }
        }
        Ok(None)
    }

    /// H within the bounds of its dimensions.
    pub(crate) fn clamped(&self, params: &[f64]) -> Vec<f64> {
        let dims = self.space.dims().iter().zip(params);
        dims.map(|(dim, &h)| if h.is_nan() { 0.0 } else { h.clamp(0.0, dim.levels() as f64 - 1e-3) }).collect()
    }

    /// H with every channel number times a factor, within its bounds.
    fn scaled(&self, params: &[f64], factor: f64) -> Vec<f64> {
        let scale = |dim: &ElasticDim, h: f64| {
            if dim.kind != DimKind::Channels {
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
            for (dim, h) in self.space.dims().iter().zip(params.iter_mut()).filter(|(dim, _)| dim.kind == kind) {
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
