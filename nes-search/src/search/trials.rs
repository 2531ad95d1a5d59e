//! Short trainings from scratch, which decide where the shared weights rank badly: between resolutions and depths.

use std::sync::{Mutex, PoisonError};

use elastic_layers::{Architecture, Backbone};
use serde::{Deserialize, Serialize};

use super::{Search, SearchError};
use crate::evaluate;
use crate::observer::Observer;
use crate::rng::{Stream, derived_seed};
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
    /// Trainings of each architecture in the last round, of which the mean loss counts; one in the rounds before.
    pub seeds: usize,
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
    /// Decides initial weights, order and augmentation.
    pub seed: u64,
    /// Loss on the evaluation split; none, if it is not finite.
    pub loss: Option<f64>,
}

impl Trials {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        check("search.trials.candidates", self.candidates, 0..=10_000)?;
        check("search.trials.epochs", self.epochs, 1..=1_000_000)?;
        check("search.trials.seeds", self.seeds, 1..=1000)
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
            let seeds = if round + 1 == rounds { self.settings.trials.seeds } else { 1 };
            let phase = format!("trials, round {} of {rounds}", round + 1);
            let Some(losses) = self.trial(&architectures, epochs, seeds, &phase, observer)? else { return Ok(None) };
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

    /// Mean losses on the evaluation split after training from scratch; nothing, if interrupted. A trial that has been
    /// made is not made again.
    fn trial(
        &mut self,
        architectures: &[Architecture],
        epochs: usize,
        seeds: usize,
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
        let first_seed = derived_seed(self.identity.seed, Stream::Trials);
        let seeds: Vec<u64> = (0..seeds as u64).map(|offset| first_seed.wrapping_add(offset)).collect();
        let of = |architecture: &Architecture, seed: u64| {
            let values = architecture.values().to_vec();
            move |trial: &&Trial| (&trial.architecture, trial.epochs, trial.seed) == (&values, epochs, seed)
        };
        let mut trainings = Vec::new();
        for &seed in &seeds {
            for (architecture, number) in architectures.iter().zip(1..) {
                if self.state.position.trials.iter().find(of(architecture, seed)).is_none() {
                    let (name, architecture) = (format!("candidate {number}"), architecture.clone());
                    trainings.push(Training { name, architecture, seed });
                }
            }
        }
        let results = Mutex::new(vec![(f64::NAN, 0); trainings.len()]);
        let done = |index: usize, trained: Trained<M>| {
            let batch = self.settings.evaluation_batch;
            // Where it was trained, which need not be the first device.
            let device = trained.model.devices().first().cloned().unwrap_or_default();
            let result = evaluate(&trained.model, task.evaluation, task.normalization, batch, &device);
            results.lock().unwrap_or_else(PoisonError::into_inner)[index] = (result.loss, trained.images);
            Ok::<_, SearchError>(())
        };
        if trainer.train_all(phase, &trainings, observer, done)?.is_none() {
            return Ok(None);
        }
        let position = &mut self.state.position;
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        for ((loss, images), Training { architecture, seed, .. }) in results.into_iter().zip(trainings) {
            position.images += images + task.evaluation.len() as u64;
            position.evaluations += 1;
            let (architecture, loss) = (architecture.values().to_vec(), loss.is_finite().then_some(loss));
            position.trials.push(Trial { architecture, epochs, seed, loss });
        }
        let loss = |architecture, seed| {
            position.trials.iter().find(of(architecture, seed)).and_then(|trial| trial.loss).unwrap_or(f64::NAN)
        };
        let count = seeds.len() as f64;
        let mean = |architecture| seeds.iter().map(|&seed| loss(architecture, seed)).sum::<f64>() / count;
        Ok(Some(architectures.iter().map(mean).collect()))
    }
}
