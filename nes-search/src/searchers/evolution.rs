//! Evolution under the budget, as MetaPruning and once-for-all search.

use elastic_layers::{Architecture, CostError};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Searcher, Turn, anywhere, by_loss};
use crate::projection::Projection;

/// Architectures in a generation.
const POPULATION: usize = 50;
/// How many of a generation are the parents of the next.
const PARENTS: usize = 12;
/// How likely a mutation changes a dimension.
const MUTATION: f64 = 0.1;

/// A population, of which the best quarter lives on and has children: half of them mutants, in which some dimensions are
/// drawn anew, half of them with every dimension from one of two parents; all moved onto the budget. Parents are scored
/// again with their children, since losses of other images cannot be compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvolutionSearcher {
    start: Vec<f64>,
    rng: ChaCha8Rng,
    /// The best first.
    parents: Vec<Architecture>,
    asked: Vec<Architecture>,
}

impl EvolutionSearcher {
    /// A search that has not begun, with `start` in its first generation.
    pub fn new(start: &[f64], rng: ChaCha8Rng) -> Self {
        Self { start: start.to_vec(), rng, parents: Vec::new(), asked: Vec::new() }
    }

    fn child(&mut self, projection: &Projection<'_>, mutant: bool) -> Vec<f64> {
        let parent =
            |rng: &mut ChaCha8Rng, parents: &[Architecture]| parents[rng.random_range(0..parents.len())].params();
        let one = parent(&mut self.rng, &self.parents);
        let (other, chance) = match mutant {
            true => (anywhere(projection, &mut self.rng), MUTATION),
            false => (parent(&mut self.rng, &self.parents), 0.5),
        };
        one.into_iter().zip(other).map(|(one, other)| if self.rng.random_bool(chance) { other } else { one }).collect()
    }
}

impl Searcher for EvolutionSearcher {
    fn ask(&mut self, Turn { projection, most, .. }: Turn<'_>) -> Result<Vec<Architecture>, CostError> {
        let mut asked = Vec::new();
        for parent in self.parents.iter().take(most) {
            asked.push(parent.clone());
        }
        while asked.len() < POPULATION.min(most) {
            let point = match (self.parents.is_empty(), asked.is_empty()) {
                (true, true) => self.start.clone(),
                (true, false) => anywhere(projection, &mut self.rng),
                (false, _) => self.child(projection, asked.len() % 2 == 0),
            };
            asked.push(projection.nearest(&point)?);
        }
        self.asked.clone_from(&asked);
        Ok(asked)
    }

    fn tell(&mut self, _projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError> {
        assert_eq!(losses.len(), self.asked.len(), "one loss per architecture");
        // Too few to select from are no generation.
        if self.asked.len() > PARENTS {
            let alive = by_loss(losses).into_iter().filter(|&index| losses[index].is_finite());
            let parents: Vec<_> = alive.take(PARENTS).map(|index| self.asked[index].clone()).collect();
            if !parents.is_empty() {
                self.parents = parents;
            }
        }
        Ok(())
    }

    fn params(&self) -> Vec<f64> {
        self.parents.first().map_or_else(|| self.start.clone(), Architecture::params)
    }
}
