//! A problem like that of a search, whose optimum is known.

use std::sync::Arc;

use elastic_layers::{Architecture, CostError, SearchSpace, SpaceError};
use nes_search::{Limit, Limits, Resource};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Deviation of the noise that all architectures of one round share, as that of an evaluation batch.
const SHARED_NOISE: f64 = 0.03;
/// Deviation of the noise that every evaluation has of its own.
const OWN_NOISE: f64 = 0.01;

/// An integer problem of channel numbers in a chain and a resolution.
///
/// Its utility is a sum of concave gains, `g_i (1 - exp(-k_i x_i))` with x_i the value over its base and the sum of all
/// g_i 1. Its cost is that of a chain of layers: the squared resolution times a sum over neighbours,
/// `r^2 (e_0 x_1 / 3 + sum_i e_i x_i x_(i+1) + e_n x_n / 3)`.
#[derive(Clone, Debug)]
pub struct Problem {
    space: SearchSpace,
    chain: Chain,
    budget: f64,
}

/// The numbers of a problem.
#[derive(Clone, Debug)]
pub struct Chain {
    /// g and k of every channel number and, last, of the resolution.
    gains: Vec<(f64, f64)>,
    /// e: from the input, between neighbours, and to the output; one for each dimension.
    edges: Vec<f64>,
    /// x at each level of each dimension.
    values: Vec<Vec<f64>>,
}

/// What input and output weigh beside two neighbours.
const END: f64 = 0.3;

impl Problem {
    /// The problem of a seed with so many channel numbers, and one resolution.
    ///
    /// # Errors
    /// If there are no such dimensions, which is never.
    pub fn new(channels: usize, seed: u64) -> Result<Self, SpaceError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut space = SearchSpace::new();
        for index in 0..channels {
            // Wider and wider, as in networks; 0.2 to 1.5 of the base in steps of 0.05, as Table 4 has MobileNetV2.
            let base = 2 * (16.0 * (1.0 + 0.5 * index as f64) * rng.random_range(0.8..1.2)) as usize;
            space.channels(format!("channels{index}"), base).scale(0.2..=1.5).step(0.05).add()?;
        }
        space.resolution("resolution", 224).range(96..=224).step_by(4).add()?;
        let spread = |rng: &mut ChaCha8Rng| -> f64 {
            let normal: f64 = StandardNormal.sample(rng);
            (0.8 * normal).exp()
        };
        let mut gains: Vec<(f64, f64)> =
            (0..channels).map(|_| (spread(&mut rng), rng.random_range(0.7..4.0))).collect();
        // A resolution costs as much as all channels together, and gains accordingly.
        gains.push((channels as f64 * spread(&mut rng), rng.random_range(2.5..4.0)));
        let sum: f64 = gains.iter().map(|(gain, _)| gain).sum();
        gains.iter_mut().for_each(|(gain, _)| *gain /= sum);
        let edges = (0..=channels).map(|_| spread(&mut rng)).collect();
        let level_values = |dim: &elastic_layers::ElasticDim| {
            (0..dim.levels()).map(|level| dim.at_level(level) as f64 / dim.base as f64).collect()
        };
        let chain = Chain { gains, edges, values: space.dims().iter().map(|dim| level_values(dim)).collect() };
        let budget = chain.cost(&levels(&space.base())) * rng.random_range(0.1..0.2);
        Ok(Self { space, chain, budget })
    }

    /// The space.
    pub fn space(&self) -> &SearchSpace {
        &self.space
    }

    /// The numbers.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The most that an architecture may cost.
    pub fn budget(&self) -> f64 {
        self.budget
    }

    /// The budget, as searchers are given it.
    pub fn limits(&self) -> Limits {
        Limits::new(Limit::new(Arc::new(self.chain.clone()), self.budget))
    }

    /// What an architecture is worth.
    pub fn utility(&self, architecture: &Architecture) -> f64 {
        self.chain.utility(&levels(architecture))
    }

    /// Losses of one round: 1 less the utility, with noise.
    pub fn losses(&self, architectures: &[Architecture], rng: &mut ChaCha8Rng) -> Vec<f64> {
        let mut normal = || -> f64 { StandardNormal.sample(rng) };
        let shared = SHARED_NOISE * normal();
        architectures.iter().map(|one| 1.0 - self.utility(one) + shared + OWN_NOISE * normal()).collect()
    }
}

/// The levels of an architecture.
fn levels(architecture: &Architecture) -> Vec<usize> {
    architecture.dims().iter().zip(architecture.values()).map(|(dim, &value)| dim.level_of(value)).collect()
}

impl Chain {
    /// The number of channel numbers.
    pub fn channels(&self) -> usize {
        self.values.len() - 1
    }

    /// The levels of a dimension; the resolution is the last.
    pub fn levels(&self, dim: usize) -> usize {
        self.values[dim].len()
    }

    /// What a level of a dimension brings.
    pub fn gain(&self, dim: usize, level: usize) -> f64 {
        let (gain, rate) = self.gains[dim];
        gain * (1.0 - (-rate * self.values[dim][level]).exp())
    }

    /// The squared resolution at a level.
    pub fn area(&self, level: usize) -> f64 {
        self.values[self.channels()][level].powi(2)
    }

    /// What a channel number costs beside its neighbours, for each unit of area: at the ends of the chain only.
    pub fn end(&self, dim: usize, level: usize) -> f64 {
        let first = if dim == 0 { self.edges[0] } else { 0.0 };
        let last = if dim + 1 == self.channels() { self.edges[self.channels()] } else { 0.0 };
        END * (first + last) * self.values[dim][level]
    }

    /// What a channel number and the one before it cost together, for each unit of area.
    pub fn pair(&self, dim: usize, before: usize, level: usize) -> f64 {
        self.edges[dim] * self.values[dim - 1][before] * self.values[dim][level]
    }

    /// What levels cost.
    pub fn cost(&self, levels: &[usize]) -> f64 {
        let ends = (0..self.channels()).map(|dim| self.end(dim, levels[dim]));
        let pairs = (1..self.channels()).map(|dim| self.pair(dim, levels[dim - 1], levels[dim]));
        self.area(levels[self.channels()]) * (ends.sum::<f64>() + pairs.sum::<f64>())
    }

    /// What levels are worth.
    pub fn utility(&self, levels: &[usize]) -> f64 {
        levels.iter().enumerate().map(|(dim, &level)| self.gain(dim, level)).sum()
    }
}

impl Resource for Chain {
    fn name(&self) -> &str {
        "cost"
    }

    fn unit(&self) -> &str {
        "units"
    }

    fn of(&self, architecture: &Architecture) -> Result<f64, CostError> {
        Ok(self.cost(&levels(architecture)))
    }
}
