//! What a search is told to do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::trials::Trials;
use super::weights::Views;
use crate::budget::Penalty;
use crate::estimator::{Estimator, Sampling};
use crate::settings::{SettingsError, check};
use crate::train::SgdSettings;

/// Where H starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At the backbone (the paper).
    Base,
    /// At the best uniform rescaling of channels, resolution and depth, after the warm-up: by [`Trials`] of some of
    /// them; by the shared weights' loss, if there are no trials.
    Uniform,
}

/// How the search is kept at the budget. The final architecture is within 0.98 and 1.00 of it in any case.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Constraint {
    /// A penalty on the loss of each candidate (equation 2).
    Penalty(Penalty),
    /// Every candidate, and H itself, is moved onto the budget. The gradient is taken with respect to the step that the
    /// candidate really made, so that it is of the loss along the budget.
    Projection,
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
    /// Where H starts.
    pub start: Start,
    /// Short trainings from scratch, which decide where H starts (with [`Start::Uniform`]) and what is found.
    pub trials: Trials,
    /// sigma of the first NES iteration, in steps of the dimensions; it falls linearly to `sigma_floor`.
    pub sigma: f64,
    /// sigma after the last NES iteration.
    pub sigma_floor: f64,
    /// alpha, the learning rate of H in the first NES iteration; it falls linearly to 0.
    pub learning_rate: f64,
    /// Weight of the past in the running mean of the gradients; 0, the paper's, has none.
    pub momentum: f64,
    /// Images of the evaluation split in the batch that all candidates of an iteration are scored on.
    pub evaluation_batch: usize,
    /// Outer iterations between two checkpoints.
    pub checkpoint_every: usize,
    /// Seconds after which a checkpoint is written in any case.
    pub checkpoint_seconds: f64,
    /// The estimator of the gradient.
    pub estimator: Estimator,
    /// How the search is kept at the budget.
    pub constraint: Constraint,
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
    Nes,
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
        check("search.sigma", self.sigma, 1e-3..=1e3)?;
        check("search.sigma_floor", self.sigma_floor, 0.0..=self.sigma)?;
        check("search.learning_rate", self.learning_rate, 0.0..=1e3)?;
        check("search.momentum", self.momentum, 0.0..=0.999)?;
        check("search.evaluation_batch", self.evaluation_batch, 2..=65_536)?;
        check("search.checkpoint_every", self.checkpoint_every, 1..=1_000_000)?;
        check("search.checkpoint_seconds", self.checkpoint_seconds, 0.0..=1e9)?;
        check("search.estimator.samples", self.estimator.samples, 2..=100_000)?;
        if self.estimator.sampling == Sampling::Antithetic && self.estimator.samples % 2 == 1 {
            let found = self.estimator.samples;
            return Err(SettingsError::new("search.estimator.samples", "an even number, for antithetic pairs", found));
        }
        if let Constraint::Penalty(penalty) = self.constraint {
            check("search.constraint.penalty.rho", penalty.rho, 0.0..=1e6)?;
        }
        self.sgd.check("search.sgd")
    }

    pub(super) fn total_nes_iterations(&self) -> usize {
        self.outer_iterations * self.nes_iterations
    }

    pub(super) fn total_weight_steps(&self) -> usize {
        self.warmup_steps + self.outer_iterations * self.weight_steps
    }

    pub(super) fn total_steps(&self) -> usize {
        self.total_weight_steps() + self.total_nes_iterations()
    }

    /// What the step at a position does, counted from 0.
    pub(super) fn step_at(&self, position: usize) -> Step {
        match position.checked_sub(self.warmup_steps) {
            None => Step::Warmup,
            Some(after) if after % (self.weight_steps + self.nes_iterations) < self.weight_steps => Step::Weights,
            Some(_) => Step::Nes,
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
        let Some(after) = position.checked_sub(self.warmup_steps) else { return position };
        let outer = self.weight_steps + self.nes_iterations;
        self.warmup_steps + after / outer * self.weight_steps + (after % outer).min(self.weight_steps)
    }

    /// How many of the steps before a position were NES iterations.
    pub(super) fn nes_iterations_before(&self, position: usize) -> usize {
        position - self.weight_steps_before(position)
    }

    /// sigma and the learning rate of H at an NES iteration, counted from 0.
    pub(super) fn decayed(&self, iteration: usize) -> (f64, f64) {
        let left = 1.0 - iteration as f64 / self.total_nes_iterations() as f64;
        (self.sigma_floor + (self.sigma - self.sigma_floor) * left, self.learning_rate * left)
    }
}
