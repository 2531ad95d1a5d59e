//! Covariance matrix adaptation.

use std::convert::Infallible;

use basin::{CmaEs, CostFunction, DenseMatrix, PopulationProgress, Problem, Solver};
use elastic_layers::{Architecture, CostError};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Searcher, Turn, by_loss, spread};
use crate::projection::Projection;

/// The first sigma, in steps.
const SIGMA: f64 = 4.0;

/// CMA-ES with the population size and constants of its author's tutorial. Points are scored as the architectures that
/// they become on the budget; what it finds is its mean.
#[derive(Serialize, Deserialize)]
pub struct CmaEsSearcher {
    solver: CmaEs<Vec<f64>, DenseMatrix>,
    progress: PopulationProgress<Vec<f64>>,
    start: Vec<f64>,
    begun: bool,
    asked: Vec<Vec<f64>>,
}

/// What the solver is given for losses while it draws a generation; they are replaced when the real ones are told.
struct Unknown;

impl CostFunction for Unknown {
    type Param = Vec<f64>;
    type Output = f64;
    type Error = Infallible;

    fn cost(&self, _point: &Vec<f64>) -> Result<f64, Infallible> {
        Ok(0.0)
    }
}

impl CmaEsSearcher {
    /// A search that has not begun, with its mean at `start`.
    pub fn new(projection: &Projection<'_>, start: &[f64], mut rng: ChaCha8Rng) -> Self {
        let relative = spread(projection, SIGMA).into_iter().map(|sigma| sigma / SIGMA).collect::<Vec<_>>();
        Self {
            solver: CmaEs::new(rng.next_u64(), SIGMA).with_stds(relative),
            progress: PopulationProgress::from_point(start.to_vec()),
            start: start.to_vec(),
            begun: false,
            asked: Vec::new(),
        }
    }
}

impl Searcher for CmaEsSearcher {
    fn ask(&mut self, Turn { projection, most, .. }: Turn<'_>) -> Result<Vec<Architecture>, CostError> {
        if most < CmaEs::<Vec<f64>, DenseMatrix>::default_lambda(self.start.len()) {
            return Ok(Vec::new());
        }
        let mut problem = Problem::new(Unknown);
        let progress = self.progress.clone();
        let drawn = match self.begun {
            false => self.solver.init(&mut problem, progress),
            true => self.solver.next_iter(&mut problem, progress).map(|step| step.into_parts().0),
        };
        let Ok(drawn) = drawn;
        self.progress = drawn;
        self.begun = true;
        self.asked = self.progress.candidates().to_vec();
        self.asked.iter().map(|point| projection.nearest(point)).collect()
    }

    fn tell(&mut self, _projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError> {
        assert_eq!(losses.len(), self.asked.len(), "one loss per architecture");
        let order = by_loss(losses);
        let points = order.iter().map(|&index| self.asked[index].clone()).collect();
        // The order alone matters to it.
        let costs = order.iter().map(|&index| if losses[index].is_finite() { losses[index] } else { f64::MAX });
        self.progress.replace(points, costs.collect()).expect("as many points as losses, of the same dimensions");
        Ok(())
    }

    fn params(&self) -> Vec<f64> {
        self.solver.mean().unwrap_or(&self.start).clone()
    }
}
