//! Uniform rescalings as searchers.

use elastic_layers::{Architecture, CostError, DimKind};
use serde::{Deserialize, Serialize};

use super::{Searcher, Turn, by_loss};
use crate::baselines;
use crate::projection::{Projection, ProjectionError};

/// Scores a list of rescalings, over and over while evaluations last, and finds the one whose sum of losses is least.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UniformSearcher {
    candidates: Vec<Architecture>,
    sums: Vec<f64>,
}

impl UniformSearcher {
    /// All channels by one factor.
    ///
    /// # Errors
    /// If that cannot meet the budget.
    pub fn channel(projection: &Projection<'_>) -> Result<Self, ProjectionError> {
        Ok(Self::new(vec![baselines::uniform_channel(projection)?]))
    }

    /// The resolution alone, and channels where that does not meet the budget.
    ///
    /// # Errors
    /// If these cannot.
    pub fn resolution(projection: &Projection<'_>) -> Result<Self, ProjectionError> {
        let space = projection.space();
        let mut point = space.base().params();
        for (index, dim) in space.dims().iter().enumerate() {
            if dim.kind != DimKind::Resolution || !projection.moves(dim) {
                continue;
            }
            while projection.limits().worst(&space.at_params(&point))? > 1.0 && point[index] >= 1.0 {
                point[index] -= 1.0;
            }
            debug_assert!(dim.contains(space.at_params(&point).values()[index]));
        }
        Ok(Self::new(vec![projection.architecture(&point)?]))
    }

    /// Channels and resolution together: one rescaling for each resolution.
    ///
    /// # Errors
    /// If what an architecture takes cannot be found.
    pub fn joint(projection: &Projection<'_>) -> Result<Self, ProjectionError> {
        Ok(Self::new(baselines::uniform_joint(projection)?))
    }

    fn new(candidates: Vec<Architecture>) -> Self {
        Self { sums: vec![0.0; candidates.len()], candidates }
    }
}

impl Searcher for UniformSearcher {
    fn ask(&mut self, Turn { most, .. }: Turn<'_>) -> Result<Vec<Architecture>, CostError> {
        if self.candidates.len() == 1 || self.candidates.len() > most {
            return Ok(Vec::new());
        }
        Ok(self.candidates.clone())
    }

    fn tell(&mut self, _projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError> {
        assert_eq!(losses.len(), self.sums.len(), "one loss per architecture");
        for (sum, loss) in self.sums.iter_mut().zip(losses) {
            *sum += loss;
        }
        Ok(())
    }

    fn params(&self) -> Vec<f64> {
        by_loss(&self.sums).first().map_or_else(Vec::new, |&best| self.candidates[best].params())
    }
}
