//! Searchers: what decides which architectures are scored.
//!
//! A searcher is asked for architectures and told their losses, which come from the same images for all that were asked
//! for at once. It knows neither weights nor images: [`Search`](crate::Search) scores with a supernet, the comparison of
//! searchers with a problem whose optimum is known.

mod cma_es;
mod evolution;
mod halving;
mod netadapt;
mod random;
#[cfg(test)]
mod tests;
mod uniform;

use std::fmt;

use elastic_layers::{Architecture, CostError};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::nes::{NesSearcher, NesSettings, NesStep};
use crate::projection::{Projection, ProjectionError};

pub use cma_es::CmaEsSearcher;
pub use evolution::EvolutionSearcher;
pub use halving::Halving;
pub use netadapt::NetAdaptSearcher;
pub use random::RandomSearcher;
pub use uniform::UniformSearcher;

/// What a searcher is asked under.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The budget and the bounds as they are now.
    pub projection: &'a Projection<'a>,
    /// Share of its allowance that the searcher has spent, from 0 to 1.
    pub done: f64,
    /// Architectures that can be scored at most.
    pub most: usize,
}

/// Decides which architectures are scored, and learns from their losses.
///
/// Every searcher is serialisable, random streams included: one that was written and read goes on as it would have.
pub trait Searcher: Send {
    /// The architectures to score next, all on the same images; none, if nothing is left to ask, or `most` is too small.
    ///
    /// # Errors
    /// If a cost cannot be found.
    fn ask(&mut self, turn: Turn<'_>) -> Result<Vec<Architecture>, CostError>;

    /// Takes the losses of the architectures that were asked for last, in their order. A loss that is not finite never wins.
    ///
    /// # Errors
    /// If a cost cannot be found.
    ///
    /// # Panics
    /// If there is not one loss for each of them.
    fn tell(&mut self, projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError>;

    /// How many architectures it asks for at once, where it always asks for the same number.
    fn evaluations(&self) -> usize {
        1
    }

    /// Where the search is, in steps above each dimension's smallest value: H, or the centre of the best so far.
    fn params(&self) -> Vec<f64>;

    /// A point to train shared weights at, for searchers that move while weights are trained.
    fn around(&self, _rng: &mut ChaCha8Rng) -> Option<Vec<f64>> {
        None
    }

    /// The last step of H, for searchers that have one.
    fn step(&self) -> Option<NesStep> {
        None
    }

    /// The architecture that it would end with, at the budget and within the bounds.
    ///
    /// # Errors
    /// If there is none.
    fn found(&self, projection: &Projection<'_>) -> Result<Architecture, ProjectionError> {
        projection.architecture(&self.params())
    }
}

/// Any of the searchers that have a [`SearcherName`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnySearcher {
    /// [`NesSearcher`].
    Nes(Box<NesSearcher>),
    /// [`RandomSearcher`].
    Random(RandomSearcher),
    /// [`EvolutionSearcher`].
    Evolution(EvolutionSearcher),
    /// [`CmaEsSearcher`].
    CmaEs(Box<CmaEsSearcher>),
    /// [`NetAdaptSearcher`].
    Netadapt(NetAdaptSearcher),
    /// [`UniformSearcher`].
    Uniform(UniformSearcher),
}

impl AnySearcher {
    fn inner(&self) -> &dyn Searcher {
        match self {
            Self::Nes(searcher) => &**searcher,
            Self::Random(searcher) => searcher,
            Self::Evolution(searcher) => searcher,
            Self::CmaEs(searcher) => &**searcher,
            Self::Netadapt(searcher) => searcher,
            Self::Uniform(searcher) => searcher,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn Searcher {
        match self {
            Self::Nes(searcher) => &mut **searcher,
            Self::Random(searcher) => searcher,
            Self::Evolution(searcher) => searcher,
            Self::CmaEs(searcher) => &mut **searcher,
            Self::Netadapt(searcher) => searcher,
            Self::Uniform(searcher) => searcher,
        }
    }
}

impl Searcher for AnySearcher {
    fn ask(&mut self, turn: Turn<'_>) -> Result<Vec<Architecture>, CostError> {
        self.inner_mut().ask(turn)
    }

    fn tell(&mut self, projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError> {
        self.inner_mut().tell(projection, losses)
    }

    fn evaluations(&self) -> usize {
        self.inner().evaluations()
    }

    fn params(&self) -> Vec<f64> {
        self.inner().params()
    }

    fn around(&self, rng: &mut ChaCha8Rng) -> Option<Vec<f64>> {
        self.inner().around(rng)
    }

    fn step(&self) -> Option<NesStep> {
        self.inner().step()
    }

    fn found(&self, projection: &Projection<'_>) -> Result<Architecture, ProjectionError> {
        self.inner().found(projection)
    }
}

/// A searcher by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum SearcherName {
    /// Natural evolution strategies: a gradient of H (the paper).
    #[default]
    Nes,
    /// Architectures drawn at random, the best of which is kept.
    Random,
    /// Mutation and crossover of the best of a population.
    Evolution,
    /// Covariance matrix adaptation.
    CmaEs,
    /// Greedy shrinking of the backbone, one dimension at a time.
    Netadapt,
    /// All channels scaled by one factor; needs no evaluation.
    UniformChannel,
    /// The resolution lowered alone, as far as it goes; needs no evaluation.
    UniformResolution,
    /// Channels and resolution scaled together, the best pair.
    UniformJoint,
}

impl SearcherName {
    /// Every searcher.
    pub const ALL: [Self; 8] = [
        Self::Nes,
        Self::Random,
        Self::Evolution,
        Self::CmaEs,
        Self::Netadapt,
        Self::UniformChannel,
        Self::UniformResolution,
        Self::UniformJoint,
    ];

    /// Whether it moves H while the shared weights are trained; the others begin when they are.
    pub fn is_joint(self) -> bool {
        self == Self::Nes
    }

    /// Whether what it finds is given: it scores nothing.
    pub fn is_given(self) -> bool {
        matches!(self, Self::UniformChannel | Self::UniformResolution)
    }

    /// The searcher, not begun: from H at `start`, with a random stream of its own. NetAdapt divides the evaluations that it
    /// may spend among its steps.
    ///
    /// # Errors
    /// If a uniform rescaling cannot meet the budget, or what an architecture takes cannot be found.
    pub fn init(
        self,
        settings: &NesSettings,
        projection: &Projection<'_>,
        start: &[f64],
        evaluations: usize,
        rng: ChaCha8Rng,
    ) -> Result<AnySearcher, ProjectionError> {
        Ok(match self {
            Self::Nes => AnySearcher::Nes(Box::new(NesSearcher::new(settings, projection, start, rng))),
            Self::Random => AnySearcher::Random(RandomSearcher::new(start, rng)),
            Self::Evolution => AnySearcher::Evolution(EvolutionSearcher::new(start, rng)),
            Self::CmaEs => AnySearcher::CmaEs(Box::new(CmaEsSearcher::new(projection, start, rng))),
            Self::Netadapt => AnySearcher::Netadapt(NetAdaptSearcher::new(projection, evaluations)?),
            Self::UniformChannel => AnySearcher::Uniform(UniformSearcher::channel(projection)?),
            Self::UniformResolution => AnySearcher::Uniform(UniformSearcher::resolution(projection)?),
            Self::UniformJoint => AnySearcher::Uniform(UniformSearcher::joint(projection)?),
        })
    }
}

impl fmt::Display for SearcherName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nes => "nes",
            Self::Random => "random",
            Self::Evolution => "evolution",
            Self::CmaEs => "cma-es",
            Self::Netadapt => "netadapt",
            Self::UniformChannel => "uniform-channel",
            Self::UniformResolution => "uniform-resolution",
            Self::UniformJoint => "uniform-joint",
        })
    }
}

/// Lets a searcher spend evaluations, each round on images of its own; returns how many it spent.
///
/// # Errors
/// If what an architecture takes cannot be found, or the architectures cannot be scored.
pub fn spend<E: From<CostError>>(
    searcher: &mut dyn Searcher,
    projection: &Projection<'_>,
    evaluations: usize,
    mut score: impl FnMut(&[Architecture]) -> Result<Vec<f64>, E>,
) -> Result<usize, E> {
    let mut spent = 0;
    while spent < evaluations {
        let done = spent as f64 / evaluations as f64;
        let asked = searcher.ask(Turn { projection, done, most: evaluations - spent })?;
        if asked.is_empty() {
            break;
        }
        spent += asked.len();
        searcher.tell(projection, &score(&asked)?)?;
    }
    Ok(spent)
}

/// A point anywhere in the space.
fn anywhere(projection: &Projection<'_>, rng: &mut ChaCha8Rng) -> Vec<f64> {
    projection.space().dims().iter().map(|dim| rng.random_range(0.0..dim.levels() as f64)).collect()
}

/// The places of losses from the least on, those that are not finite last.
fn by_loss(losses: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..losses.len()).collect();
    let key = |index: usize| if losses[index].is_finite() { losses[index] } else { f64::INFINITY };
    order.sort_by(|&one, &other| key(one).total_cmp(&key(other)));
    order
}

/// sigma of each dimension: `sigma` steps, but no more than a fifth of the dimension's values.
pub(crate) fn spread(projection: &Projection<'_>, sigma: f64) -> Vec<f64> {
    projection.space().dims().iter().map(|dim| sigma.min(0.2 * dim.levels() as f64)).collect()
}
