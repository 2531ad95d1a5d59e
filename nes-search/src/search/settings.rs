//! What a search is told to do.

use elastic_layers::DimKind;
use serde::{Deserialize, Serialize};

use crate::nes::NesSettings;
use crate::searchers::SearcherName;
use crate::settings::{SettingsError, check};
use crate::train::SgdSettings;

/// How long a search is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Length {
    /// Until it has processed this share of the MACs that training the backbone from scratch takes.
    Cost(f64),
    /// So many outer iterations (K in Algorithm 1).
    Iterations(usize),
}

/// Algorithm 1 under a budget that falls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchSettings {
    /// The searcher that decides which architectures are scored. NES moves H while the shared weights are trained; the
    /// other searchers begin after that.
    pub searcher: SearcherName,
    /// Kinds of dimensions that are searched; others stay at the backbone's values.
    pub dimensions: Vec<DimKind>,
    /// How long the search is.
    pub length: Length,
    /// Share of the search's cost for short trainings from scratch, which decide where H starts; with 0 it starts at the
    /// backbone.
    pub trials: f64,
    /// Length of such a training, as a share of the final training's.
    pub trial_length: f64,
    /// Share of the walk in which the budget falls from the start's cost to the target; with 0 it is the target all along.
    pub fall: f64,
    /// N: weight steps in each outer iteration, on views drawn around H (equation 8).
    pub weight_steps: usize,
    /// Views in each weight step, each on a batch of its own. Their gradients are averaged.
    pub views: usize,
    /// NES iterations in each outer iteration.
    pub nes_iterations: usize,
    /// Images of the evaluation split that all candidates of an NES iteration are scored on.
    pub evaluation_batch: usize,
    /// Seconds between two checkpoints.
    pub checkpoint_seconds: f64,
    /// How NES moves H.
    pub nes: NesSettings,
    /// How the shared weights are trained.
    pub sgd: SgdSettings,
}

impl SearchSettings {
    /// Checks every field.
    ///
    /// # Errors
    /// Naming the first field that is out of its range, and the range.
    pub fn check(&self) -> Result<(), SettingsError> {
        match self.length {
            Length::Cost(cost) => check("search.length.cost", cost, 1e-6..=1e6)?,
            Length::Iterations(iterations) => check("search.length.iterations", iterations, 1..=1_000_000)?,
        }
        if self.dimensions.is_empty() {
            return Err(SettingsError::new("search.dimensions", "at least one kind", "none"));
        }
        check("search.trials", self.trials, 0.0..=0.9)?;
        if self.trials > 0.0 && matches!(self.length, Length::Iterations(_)) {
            return Err(SettingsError::new("search.trials", "0 where search.length is in iterations", self.trials));
        }
        check("search.trial_length", self.trial_length, 1e-4..=1.0)?;
        check("search.fall", self.fall, 0.0..=1.0)?;
        check("search.weight_steps", self.weight_steps, 0..=10_000_000)?;
        check("search.views", self.views, 1..=1000)?;
        check("search.nes_iterations", self.nes_iterations, 1..=10_000)?;
        check("search.evaluation_batch", self.evaluation_batch, 2..=65_536)?;
        check("search.checkpoint_seconds", self.checkpoint_seconds, 0.0..=1e9)?;
        self.nes.check("search.nes")?;
        self.sgd.check("search.sgd")
    }

    /// The same for any choice of checkpoints, which change no result.
    pub(super) fn without_checkpoints(&self) -> Self {
        Self { checkpoint_seconds: 0.0, ..self.clone() }
    }

    /// The share of the walk's cost that weight steps take: the rest is evaluation.
    pub(super) fn weights_share(&self) -> f64 {
        let steps = (3 * self.weight_steps * self.views * self.sgd.batch_size) as f64;
        let evaluation = (self.nes_iterations * self.nes.samples * self.evaluation_batch) as f64;
        steps / (steps + evaluation)
    }
}
