//! Greedy shrinking, as NetAdapt does it.

use elastic_layers::{Architecture, CostError};
use serde::{Deserialize, Serialize};

use super::{Searcher, Turn, by_loss};
use crate::projection::Projection;

/// What one step takes off at least, as a share of what is left: smaller ones drown in the noise of losses, and
/// evaluations are better spent on more images for each.
const LEAST_STEP: f64 = 0.08;

/// Shrinks the backbone in steps to the budget. In each, every dimension is shrunk on its own until the step's part is
/// saved, and the one at which the loss is least is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetAdaptSearcher {
    left: Architecture,
    /// The largest share of a limit that the backbone takes.
    first: f64,
    /// What is left of that after each step.
    factor: f64,
    steps: u32,
    /// Rounds of images that a step's losses are summed over.
    rounds: usize,
    asked: Vec<Architecture>,
    /// One for each that was asked for, over the rounds so far.
    sums: Vec<f64>,
    done: usize,
}

impl NetAdaptSearcher {
    /// A search that has not begun, for so many evaluations.
    ///
    /// # Errors
    /// If what the backbone takes cannot be found.
    pub fn new(projection: &Projection<'_>, evaluations: usize) -> Result<Self, CostError> {
        let base = projection.space().base();
        let first = projection.limits().worst(&base)?;
        let all = (evaluations / base.values().len().max(1)).max(1) as f64;
        let steps = (first.max(1.0).ln() / LEAST_STEP).ceil().clamp(1.0, all);
        Ok(Self {
            left: base,
            first,
            factor: first.max(1.0).powf(-1.0 / steps),
            steps: 0,
            rounds: (all / steps) as usize,
            asked: Vec::new(),
            sums: Vec::new(),
            done: 0,
        })
    }

    /// The dimensions shrunk one by one, each until no limit is taken more than a share of.
    fn shrunk(&self, projection: &Projection<'_>, most: f64) -> Result<Vec<Architecture>, CostError> {
        let mut all = Vec::new();
        for index in 0..self.left.values().len() {
            let mut params = self.left.params();
            while projection.moves(self.left.dims()[index]) && params[index] >= 1.0 {
                params[index] -= 1.0;
                let one = projection.space().at_params(&params);
                if projection.limits().worst(&one)? <= most {
                    all.push(one);
                    break;
                }
            }
        }
        Ok(all)
    }

    fn next_step(&mut self, projection: &Projection<'_>) -> Result<(), CostError> {
        let left = projection.limits().worst(&self.left)?;
        self.asked = Vec::new();
        let mut most = left;
        while left > 1.0 && self.asked.is_empty() {
            self.steps += 1;
            most = (self.first * self.factor.powf(f64::from(self.steps))).max(1.0).min(most);
            if most < left {
                self.asked = self.shrunk(projection, most)?;
                if self.asked.is_empty() {
                    // No dimension alone has so much: any one step then.
                    self.asked = self.shrunk(projection, f64::INFINITY)?;
                }
            }
        }
        (self.sums, self.done) = (vec![0.0; self.asked.len()], 0);
        Ok(())
    }
}

impl Searcher for NetAdaptSearcher {
    fn ask(&mut self, Turn { projection, most, .. }: Turn<'_>) -> Result<Vec<Architecture>, CostError> {
        if self.done == 0 {
            self.next_step(projection)?;
        }
        if self.asked.len() > most {
            return Ok(Vec::new());
        }
        Ok(self.asked.clone())
    }

    fn tell(&mut self, _projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError> {
        assert_eq!(losses.len(), self.asked.len(), "one loss per architecture");
        for (sum, loss) in self.sums.iter_mut().zip(losses) {
            *sum += loss;
        }
        self.done += 1;
        if self.done == self.rounds {
            self.left.clone_from(&self.asked[by_loss(&self.sums)[0]]);
            self.done = 0;
        }
        Ok(())
    }

    fn params(&self) -> Vec<f64> {
        self.left.params()
    }
}
