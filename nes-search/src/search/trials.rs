//! Short trainings from scratch, which decide where the shared weights rank badly: between resolutions and depths.

use std::sync::{Mutex, PoisonError};

use elastic_layers::{Architecture, Backbone};
use serde::{Deserialize, Serialize};

use super::{Search, SearchError};
use crate::evaluate;
use crate::observer::Observer;
use crate::settings::{SettingsError, check};
use crate::train::{TrainSettings, Trained};
use crate::trainings::{Trainer, Training};

/// Successive halving ([Jamieson and Talwalkar, 2016](https://arxiv.org/abs/1502.07943)) by trainings from scratch, with
/// a third of the architectures left after each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trials {
    /// Architectures in the first round; with 0 there are no trials, and the shared weights decide.
    pub candidates: usize,
    /// Passes over the training images in the last round; a third as many in the one before, and so on.
    pub epochs: usize,
}

/// Architectures of a round for each one of the next, as Hyperband has it.
const CUT: usize = 3;

/// What one trial came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Values of the dimensions.
    pub architecture: Vec<usize>,
    /// Passes over the training images.
    pub epochs: usize,
    /// Loss on the evaluation split; none, if it is not finite.
    pub loss: Option<f64>,
}

impl Trials {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        check("search.trials.candidates", self.candidates, 0..=10_000)?;
        check("search.trials.epochs", self.epochs, 1..=1_000_000)
    }
}

impl<M: Backbone + 'static> Search<'_, M> {
    /// The architecture that does best on the evaluation split after a short training from scratch; nothing, if
    /// interrupted.
    pub(super) fn best_by_trials(
        &mut self,
        mut architectures: Vec<Architecture>,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Architecture>, SearchError> {
        let rounds = (0..).find(|&rounds| CUT.pow(rounds) >= architectures.len()).unwrap_or_default();
        for round in 0..rounds {
            let epochs = (self.settings.trials.epochs / CUT.pow(rounds - 1 - round)).max(1);
            let phase = format!("trials, round {} of {rounds}", round + 1);
            let Some(losses) = self.trial(&architectures, epochs, &phase, observer)? else { return Ok(None) };
            let mut ranked: Vec<(f64, Architecture)> = losses.into_iter().zip(architectures).collect();
            // What is not a number is last, whatever its sign.
            ranked.sort_by(|(one, _), (other, _)| one.abs().total_cmp(&other.abs()));
            if !ranked[0].0.is_finite() {
                return Err(SearchError::Diverged);
            }
            ranked.truncate(ranked.len().div_ceil(CUT));
            architectures = ranked.into_iter().map(|(_, architecture)| architecture).collect();
        }
        Ok(architectures.into_iter().next())
    }

    /// Losses on the evaluation split after training from scratch; nothing, if interrupted.
    fn trial(
        &mut self,
        architectures: &[Architecture],
        epochs: usize,
        phase: &str,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Vec<f64>>, SearchError> {
        let task = self.task;
        let sgd = self.settings.sgd.clone();
        let settings = TrainSettings { epochs, sgd, average_decay: 0.99, recalibration_batches: 16 };
        let trainer = Trainer {
            blueprint: task.blueprint,
            set: task.train,
            normalization: task.normalization,
            settings: &settings,
            devices: task.devices,
        };
        let seed = self.identity.seed;
        let trainings: Vec<Training> = architectures
            .iter()
            .zip(1..)
            .map(|(architecture, n)| Training {
                name: format!("candidate {n}"),
                architecture: architecture.clone(),
                seed,
            })
            .collect();
        let losses = Mutex::new(vec![(f64::NAN, 0); architectures.len()]);
        let done = |index: usize, trained: Trained<M>| {
            let batch = self.settings.evaluation_batch;
            let result = evaluate(&trained.model, task.evaluation, task.normalization, batch, &task.devices[0]);
            losses.lock().unwrap_or_else(PoisonError::into_inner)[index] = (result.loss, trained.images);
            Ok::<_, SearchError>(())
        };
        if trainer.train_all(phase, &trainings, observer, done)?.is_none() {
            return Ok(None);
        }
        let losses = losses.into_inner().unwrap_or_else(PoisonError::into_inner);
        let position = &mut self.state.position;
        for ((loss, images), architecture) in losses.iter().zip(architectures) {
            position.images += images + task.evaluation.len() as u64;
            position.evaluations += 1;
            let (architecture, loss) = (architecture.values().to_vec(), loss.is_finite().then_some(*loss));
            position.trials.push(Trial { architecture, epochs, loss });
        }
        Ok(Some(losses.into_iter().map(|(loss, _)| loss).collect()))
    }
}
