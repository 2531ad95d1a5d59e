//! The phases of a search, each with its own state.

use elastic_layers::Architecture;
use serde::{Deserialize, Serialize};

use super::factors::Factors;
use crate::searchers::AnySearcher;

/// Where a search is.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Short trainings from scratch decide where H starts.
    Trials(Sweep),
    /// The shared weights are trained on random views, for a searcher that does not train them itself.
    Weights(Allowance),
    /// The searcher asks; between its rounds, NES has the shared weights trained around H.
    Walk(Box<Walk>),
    /// What the searcher found is compared with uniform rescalings.
    Choice(Choice),
    /// Everything is known.
    #[default]
    Over,
}

/// Architectures that are trained for a short time, one after the other.
#[derive(Serialize, Deserialize)]
pub(super) struct Sweep {
    pub candidates: Vec<(Factors, Architecture)>,
    /// Losses of the first of them; not a number, if the training diverged.
    pub losses: Vec<Option<f64>>,
}

/// What a phase may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Allowance {
    /// MACs, from a number of processed ones on.
    Macs {
        /// Processed before.
        from: u64,
        /// To process.
        most: u64,
    },
    /// Outer iterations.
    Iterations(usize),
}

/// The walk of a searcher.
#[derive(Serialize, Deserialize)]
pub(super) struct Walk {
    pub searcher: AnySearcher,
    pub allowance: Allowance,
    /// The budget in the beginning over the final one.
    pub first: f64,
    /// Outer iterations that are over, and steps and rounds in this one.
    pub outer: usize,
    pub steps: usize,
    pub rounds: usize,
}

/// The comparison in the end.
#[derive(Serialize, Deserialize)]
pub(super) struct Choice {
    pub found: Architecture,
    /// Those that are compared, uniform ones first.
    pub finalists: Vec<Architecture>,
    /// Losses of the first of them after short trainings.
    pub losses: Vec<Option<f64>>,
}

/// A short training from scratch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What was trained.
    pub architecture: Architecture,
    /// Loss on the evaluation split; nothing, if it is not finite.
    pub loss: Option<f64>,
}
