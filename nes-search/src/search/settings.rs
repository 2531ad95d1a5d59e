//! What a search is told to do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::trials::Trials;
use super::weights::Views;
use crate::searchers::{NesSettings, SearcherName};
use crate::settings::{SettingsError, check};
use crate::train::SgdSettings;

/// Where H starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At the backbone (the paper).
    Base,
    /// At the best uniform rescaling of channels, resolution and depth, after the warm-up: by a surface through the
    /// losses of [`Trials`] of some of them; of the shared weights, if there are no trials.
    Uniform,
}

/// Algorithm 1, and its options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchSettings {
    /// Weight steps before the first NES iteration, on views of random resolution, depth and channels at the budget.
    pub warmup_steps: usize,
    /// K: outer iterations.
    pub outer_iterations: usize,
    /// N: weight steps in each outer iteration, on views drawn around H (equation 8).
    pub weight_steps: usize,
    /// NES iterations in each outer iteration.
    pub nes_iterations: usize,
    /// What decides which architectures are scored. NES moves H while the weights are trained; for the other searchers
    /// the weights are trained first, in the same number of steps on views along the budget, and then as many views
    /// scored as NES would have.
    pub searcher: SearcherName,
    /// Where H starts.
    pub start: Start,
    /// Short trainings from scratch, which decide where H starts (with [`Start::Uniform`]) and what is found.
    pub trials: Trials,
    /// Images of the evaluation split in the batch that all candidates of an iteration are scored on.
    pub evaluation_batch: usize,
    /// Outer iterations between two checkpoints.
    pub checkpoint_every: usize,
    /// Seconds after which a checkpoint is written in any case.
    pub checkpoint_seconds: f64,
    /// How NES moves H.
    pub nes: NesSettings,
    /// The views in each weight step.
    pub views: Views,
    /// How the shared weights are trained.
    pub sgd: SgdSettings,
}

/// What the step at a position does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Warmup,
    Weights,
    Round,
}

impl SearchSettings {
    /// Checks every field.
    ///
    /// # Errors
    /// Naming the first field that is out of its range, and the range.
    pub fn check(&self) -> Result<(), SettingsError> {
        check("search.warmup_steps", self.warmup_steps, 0..=100_000_000)?;
        check("search.outer_iterations", self.outer_iterations, 1..=1_000_000)?;
        check("search.weight_steps", self.weight_steps, 0..=10_000_000)?;
        check("search.nes_iterations", self.nes_iterations, 1..=10_000)?;
        self.trials.check()?;
        self.views.check()?;
        check("search.evaluation_batch", self.evaluation_batch, 2..=65_536)?;
        check("search.checkpoint_every", self.checkpoint_every, 1..=1_000_000)?;
        check("search.checkpoint_seconds", self.checkpoint_seconds, 0.0..=1e9)?;
        self.nes.check("search.nes")?;
        self.sgd.check("search.sgd")
    }

    pub(super) fn total_nes_iterations(&self) -> usize {
        self.outer_iterations * self.nes_iterations
    }

    pub(super) fn total_weight_steps(&self) -> usize {
        self.warmup_steps + self.outer_iterations * self.weight_steps
    }

    /// Views that are scored in all, those that decide where H starts not counted.
    pub(super) fn evaluations(&self) -> usize {
        self.total_nes_iterations() * self.nes.evaluations()
    }

    /// What the step at a position does, counted from 0.
    pub(super) fn step_at(&self, position: usize) -> Step {
        let outer = self.weight_steps + self.nes_iterations;
        match position.checked_sub(self.warmup_steps) {
            None => Step::Warmup,
            Some(after) if !self.searcher.is_joint() => match after < self.outer_iterations * self.weight_steps {
                true => Step::Warmup,
                false => Step::Round,
            },
            Some(after) if after % outer < self.weight_steps => Step::Weights,
            Some(_) => Step::Round,
        }
    }

    /// The same for any choice of checkpoints, which change no result.
    pub(super) fn without_checkpoints(&self) -> Self {
        Self { checkpoint_every: 1, checkpoint_seconds: 0.0, ..self.clone() }
    }

    /// Whether a checkpoint is due before the step at a position, some time after the last.
    pub(super) fn checkpoint_before(&self, position: usize, since: Duration) -> bool {
        if since.as_secs_f64() >= self.checkpoint_seconds {
            return true;
        }
        let outer = self.weight_steps + self.nes_iterations;
        match position.checked_sub(self.warmup_steps) {
            Some(after) => after % outer == 0 && (after / outer).is_multiple_of(self.checkpoint_every),
            None => false,
        }
    }

    /// How many of the steps before a position were weight steps.
    pub(super) fn weight_steps_before(&self, position: usize) -> usize {
        if !self.searcher.is_joint() {
            return position.min(self.total_weight_steps());
        }
        let Some(after) = position.checked_sub(self.warmup_steps) else { return position };
        let outer = self.weight_steps + self.nes_iterations;
        let after = after.min(self.outer_iterations * outer);
        self.warmup_steps + after / outer * self.weight_steps + (after % outer).min(self.weight_steps)
    }

    /// How many of the steps before a position were rounds of the searcher.
    pub(super) fn rounds_before(&self, position: usize) -> usize {
        position - self.weight_steps_before(position)
    }

    /// The step that the searcher begins before.
    pub(super) fn start_step(&self) -> usize {
        if self.searcher.is_joint() { self.warmup_steps } else { self.total_weight_steps() }
    }

    /// The steps that are sure to be. A searcher that is not joint is asked on after them, as long as it has evaluations
    /// left.
    pub(super) fn last_sure_step(&self) -> usize {
        self.total_weight_steps() + if self.searcher.is_joint() { self.total_nes_iterations() } else { 0 }
    }
}
