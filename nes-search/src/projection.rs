//! Keeping architectures at the budget.

use elastic_layers::{Architecture, CostError, CostModel, DimKind, Macs, SearchSpace};

/// The share of the budget that a final architecture uses at least.
pub const LEAST_SHARE: f64 = 0.98;

/// Why no architecture meets a budget.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// Even the smallest architecture exceeds the budget.
    #[error("budget: expected at least {smallest}, which the smallest architecture of the space takes, found {budget}")]
    TooSmall {
        /// The budget.
        budget: Macs,
        /// The smallest cost.
        smallest: Macs,
    },
    /// Even the largest architecture leaves too much of the budget.
    #[error("budget: expected at most {largest}, which the largest architecture of the space takes, found {budget}")]
    TooLarge {
        /// The budget.
        budget: Macs,
        /// The largest cost.
        largest: Macs,
    },
    /// The space is too coarse.
    #[error(
        "no architecture between 0.98 and 1.00 of the budget of {budget} was found: the nearest below takes {nearest}"
    )]
    Gap {
        /// The budget.
        budget: Macs,
        /// The nearest cost below it.
        nearest: Macs,
    },
    /// A cost could not be found.
    #[error(transparent)]
    Cost(#[from] CostError),
}

/// Moves architectures of a space onto a budget.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    space: &'a SearchSpace,
    cost: &'a CostModel,
    budget: Macs,
}

impl<'a> Projection<'a> {
    /// A projection onto a budget.
    ///
    /// # Errors
    /// If the space has nothing at or below the budget, or everything is below it.
    pub fn new(space: &'a SearchSpace, cost: &'a CostModel, budget: Macs) -> Result<Self, ProjectionError> {
        let smallest = cost.cost(&space.smallest())?.macs;
        if smallest > budget {
            return Err(ProjectionError::TooSmall { budget, smallest });
        }
        let largest = cost.cost(&space.largest())?.macs;
        if largest.ratio(budget) < LEAST_SHARE {
            return Err(ProjectionError::TooLarge { budget, largest });
        }
        Ok(Self { space, cost, budget })
    }

    /// The budget.
    pub fn budget(&self) -> Macs {
        self.budget
    }

    fn macs(&self, architecture: &Architecture) -> Result<Macs, CostError> {
        Ok(self.cost.cost(architecture)?.macs)
    }

    /// H with all channel numbers scaled by one factor, so that the architecture is as large as the budget lets it be.
    ///
    /// If the channels alone cannot reach the budget, the resolution and depth give way too, one step at a time.
    ///
    /// # Errors
    /// If a cost cannot be found.
    pub fn project(&self, params: &[f64]) -> Result<Vec<f64>, CostError> {
        let mut params = self.clamped(params);
        while self.macs(&self.space.at_params(&self.scaled(&params, 0.0)))? > self.budget {
            if !self.shift_structure(&mut params, -1.0) {
                break;
            }
        }
        while self.macs(&self.space.at_params(&self.scaled(&params, f64::INFINITY)))?.ratio(self.budget) < LEAST_SHARE {
            if !self.shift_structure(&mut params, 1.0) {
                break;
            }
        }
        // The cost grows with the factor: the largest factor within the budget, to a part in a million.
        let (mut low, mut high) = (0.0, 1.0);
        while high < 1e3 && self.macs(&self.space.at_params(&self.scaled(&params, high)))? <= self.budget {
            (low, high) = (high, high * 2.0);
        }
        for _ in 0..24 {
            let middle = (low + high) / 2.0;
            match self.macs(&self.space.at_params(&self.scaled(&params, middle)))? <= self.budget {
                true => low = middle,
                false => high = middle,
            }
        }
        Ok(self.scaled(&params, low))
    }

    /// The architecture of H, moved to between 0.98 and 1.00 of the budget: channels are scaled, then single
    /// dimensions grown, the one that rounding down took most from first. Where channels are too coarse for that, the
    /// nearest resolution and depth at which they are not.
    ///
    /// # Errors
    /// If no such architecture is found, naming the nearest.
    pub fn architecture(&self, params: &[f64]) -> Result<Architecture, ProjectionError> {
        let (budget, mut nearest) = match self.at_structure(params) {
            Err(ProjectionError::Gap { budget, nearest }) => (budget, nearest),
            other => return other,
        };
        for structure in self.structures_by_distance(params) {
            match self.at_structure(&structure) {
                Err(ProjectionError::Gap { nearest: other, .. }) => nearest = nearest.max(other),
                other => return other,
            }
        }
        Err(ProjectionError::Gap { budget, nearest })
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
        let dims = self.space.dims();
        let mut levels: Vec<usize> = params.iter().map(|&h| h as usize).collect();
        let mut nearest = self.macs(&self.space.at_levels(&levels))?;
        loop {
            let mut best: Option<(f64, Vec<usize>, Macs)> = None;
            for (index, dim) in dims.iter().enumerate() {
                if dim.kind != DimKind::Channels || levels[index] + 1 >= dim.levels() {
                    continue;
                }
                let mut grown = levels.clone();
                grown[index] += 1;
                let macs = self.macs(&self.space.at_levels(&grown))?;
                let lost = params[index] - levels[index] as f64;
                if macs <= self.budget && macs > nearest && best.as_ref().is_none_or(|(most, ..)| lost > *most) {
                    best = Some((lost, grown, macs));
                }
            }
            match best {
                Some((_, grown, macs)) => (levels, nearest) = (grown, macs),
                None => break,
            }
        }
        if nearest.ratio(self.budget) < LEAST_SHARE || nearest > self.budget {
            return Err(ProjectionError::Gap { budget: self.budget, nearest });
        }
        Ok(self.space.at_levels(&levels))
    }

    fn clamped(&self, params: &[f64]) -> Vec<f64> {
        let bound = |(dim, &h): (&elastic_layers::ElasticDim, &f64)| {
            let top = dim.levels() as f64 - 1e-3;
            if h.is_nan() { 0.0 } else { h.clamp(0.0, top) }
        };
        self.space.dims().iter().zip(params).map(bound).collect()
    }

    /// H with every channel number times a factor, within its bounds.
    fn scaled(&self, params: &[f64], factor: f64) -> Vec<f64> {
        let scale = |(dim, &h): (&elastic_layers::ElasticDim, &f64)| {
            if dim.kind != DimKind::Channels {
                return h;
            }
            let (min, step) = (dim.min as f64, dim.step as f64);
            let value = if factor.is_infinite() { f64::MAX } else { (min + step * h) * factor };
            ((value - min) / step).clamp(0.0, dim.levels() as f64 - 1e-3)
        };
        self.space.dims().iter().zip(params).map(scale).collect()
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
