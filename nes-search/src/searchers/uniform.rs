//! Uniform rescalings as searchers.

use elastic_layers::{Architecture, CostError, DimKind};
use serde::{Deserialize, Serialize};

use super::{Saved, SavedError, Searcher, by_loss, centre, levels};
use crate::baselines;
use crate::projection::{Projection, ProjectionError};

/// Scores a list of rescalings, over and over while evaluations last, and finds the one whose sum of losses is least.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UniformSearcher {
    candidates: Vec<Vec<usize>>,
    sums: Vec<f64>,
}

impl UniformSearcher {
    /// All channels by one factor.
    ///
    /// # Errors
    /// If that cannot meet the budget.
    pub fn channel(projection: &Projection<'_>) -> Result<Self, ProjectionError> {
        Ok(Self::of(&[baselines::uniform_channel(projection.space(), projection)?]))
    }

    /// The resolution alone, and channels where that does not meet the budget.
    ///
    /// # Errors
    /// If these cannot.
    pub fn resolution(projection: &Projection<'_>) -> Result<Self, ProjectionError> {
        let space = projection.space();
        let mut point = space.base().params();
        for (index, dim) in space.dims().iter().enumerate().filter(|(_, dim)| dim.kind == DimKind::Resolution) {
            while projection.limits().worst(&space.at_params(&point))? > 1.0 && point[index] >= 1.0 {
                point[index] -= 1.0;
            }
            debug_assert!(dim.contains(space.at_params(&point).values()[index]));
        }
        Ok(Self::of(&[projection.architecture(&point)?]))
    }

    /// Channels and resolution together: one rescaling for each resolution.
    ///
    /// # Errors
    /// If what an architecture takes cannot be found.
    pub fn joint(projection: &Projection<'_>) -> Result<Self, ProjectionError> {
        Ok(Self::of(&baselines::uniform_joint(projection.space(), projection)?))
    }

    fn of(candidates: &[Architecture]) -> Self {
        Self { sums: vec![0.0; candidates.len()], candidates: candidates.iter().map(levels).collect() }
    }
}

impl Searcher for UniformSearcher {
    fn ask(&mut self, projection: &Projection<'_>, most: usize) -> Result<Vec<Architecture>, CostError> {
        if self.candidates.len() == 1 || self.candidates.len() > most {
            return Ok(Vec::new());
        }
        Ok(self.candidates.iter().map(|levels| projection.space().at_levels(levels)).collect())
    }

    fn tell(&mut self, _projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError> {
        assert_eq!(losses.len(), self.sums.len(), "one loss per architecture");
        for (sum, loss) in self.sums.iter_mut().zip(losses) {
            *sum += loss;
        }
        Ok(())
    }

    fn params(&self) -> Vec<f64> {
        by_loss(&self.sums).first().map_or_else(Vec::new, |&best| centre(&self.candidates[best]))
    }

    fn saved(&self) -> Result<Saved, SavedError> {
        Ok(Saved::Uniform(self.clone()))
    }
}
