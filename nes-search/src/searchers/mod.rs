//! Searchers: what decides which architectures are scored.
//!
//! A searcher is asked for architectures and told their losses, which come from the same images for all that were asked
//! for at once. It knows neither weights nor images: [`Search`](crate::Search) scores with a supernet, the comparison of
//! searchers with a problem whose optimum is known.

mod cma_es;
mod evolution;
mod finalists;
mod nes;
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

use crate::projection::{Projection, ProjectionError};

pub use cma_es::CmaEsSearcher;
pub use evolution::EvolutionSearcher;
pub use nes::{Constraint, NesSearcher, NesSettings, NesStep, SavedNes};
pub use netadapt::NetAdaptSearcher;
pub use random::RandomSearcher;
pub use uniform::UniformSearcher;

/// Decides which architectures are scored, and makes of their losses what it looks for.
///
/// All of its state is what [`saved`](Self::saved) says, random streams included: a searcher that was
/// [restored](Saved::restore) goes on as the one that was saved would have.
pub trait Searcher: Send {
    /// The architectures to score next, all on the same images; none, if there is nothing more to ask or `most` are too
    /// few.
    ///
    /// # Errors
    /// If what an architecture takes cannot be found.
    fn ask(&mut self, projection: &Projection<'_>, most: usize) -> Result<Vec<Architecture>, CostError>;

    /// Takes the losses of the architectures that were asked for last, in their order; one that is not finite never wins.
    ///
    /// # Errors
    /// If what an architecture takes cannot be found.
    ///
    /// # Panics
    /// If there is not one loss for each of them.
    fn tell(&mut self, projection: &Projection<'_>, losses: &[f64]) -> Result<(), CostError>;

    /// Where the search is, in steps above each dimension's smallest value: H, or the centre of what is best so far.
    fn params(&self) -> Vec<f64>;

    /// A point to train shared weights at, for searchers that move while weights are trained.
    fn around(&self, _rng: &mut ChaCha8Rng) -> Option<Vec<f64>> {
        None
    }

    /// What the last step of H was, for searchers that have one.
    fn step(&self) -> Option<NesStep> {
        None
    }

    /// The architecture that it would end with, between 0.98 and 1.00 of the budget and within the bounds.
    ///
    /// # Errors
    /// If there is none.
    fn found(&self, projection: &Projection<'_>) -> Result<Architecture, ProjectionError> {
        projection.architecture(&self.params())
    }

    /// All of its state.
    ///
    /// # Errors
    /// If an optimizer's state has no written form.
    fn saved(&self) -> Result<Saved, SavedError>;
}

/// A searcher's state that cannot be written or restored.
#[derive(Debug, thiserror::Error)]
#[error("state of a searcher: {0}")]
pub struct SavedError(pub(crate) String);

/// The state of a searcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saved {
    /// Of [`NesSearcher`].
    Nes(Box<SavedNes>),
    /// Of [`RandomSearcher`].
    Random(RandomSearcher),
    /// Of [`EvolutionSearcher`].
    Evolution(EvolutionSearcher),
    /// Of [`CmaEsSearcher`], whose solver says of itself how it is written.
    CmaEs(serde_json::Value),
    /// Of [`NetAdaptSearcher`].
    Netadapt(NetAdaptSearcher),
    /// Of [`UniformSearcher`].
    Uniform(UniformSearcher),
}

impl Saved {
    /// The searcher that was saved.
    ///
    /// # Errors
    /// If this is the state of none.
    pub fn restore(self, settings: &NesSettings, projection: &Projection<'_>) -> Result<Box<dyn Searcher>, SavedError> {
        Ok(match self {
            Self::Nes(saved) => Box::new(NesSearcher::restore(*saved, settings, projection)?),
            Self::Random(searcher) => Box::new(searcher),
            Self::Evolution(searcher) => Box::new(searcher),
            Self::CmaEs(saved) => Box::new(CmaEsSearcher::restore(saved)?),
            Self::Netadapt(searcher) => Box::new(searcher),
            Self::Uniform(searcher) => Box::new(searcher),
        })
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

    /// The searcher, not begun: from H at `start`, for so many evaluations, with its own random stream.
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
    ) -> Result<Box<dyn Searcher>, ProjectionError> {
        Ok(match self {
            Self::Nes => Box::new(NesSearcher::new(settings, projection, start, evaluations, rng)),
            Self::Random => Box::new(RandomSearcher::new(start, rng)),
            Self::Evolution => Box::new(EvolutionSearcher::new(start, rng)),
            Self::CmaEs => Box::new(CmaEsSearcher::new(projection, start, rng)),
            Self::Netadapt => Box::new(NetAdaptSearcher::new(projection, evaluations)?),
            Self::UniformChannel => Box::new(UniformSearcher::channel(projection)?),
            Self::UniformResolution => Box::new(UniformSearcher::resolution(projection)?),
            Self::UniformJoint => Box::new(UniformSearcher::joint(projection)?),
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
        let asked = searcher.ask(projection, evaluations - spent)?;
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

/// Levels of an architecture, from which it can be told without its space.
fn levels(architecture: &Architecture) -> Vec<usize> {
    architecture.dims().iter().zip(architecture.values()).map(|(dim, &value)| dim.level_of(value)).collect()
}

/// The centre of the cell of an architecture at these levels.
fn centre(levels: &[usize]) -> Vec<f64> {
    levels.iter().map(|&level| level as f64 + 0.5).collect()
}

/// The places of losses from the least on, those that are not finite last.
fn by_loss(losses: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..losses.len()).collect();
    let key = |index: usize| if losses[index].is_finite() { losses[index] } else { f64::INFINITY };
    order.sort_by(|&one, &other| key(one).total_cmp(&key(other)));
    order
}

/// sigma of each dimension: `sigma` steps, but no more than a fifth of the dimension's values.
fn spread(projection: &Projection<'_>, sigma: f64) -> Vec<f64> {
    projection.space().dims().iter().map(|dim| sigma.min(0.2 * dim.levels() as f64)).collect()
}
