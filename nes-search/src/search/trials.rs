//! Short trainings from scratch, which decide in place of the shared weights: between resolutions and depths.

use std::sync::{Mutex, PoisonError};

use elastic_layers::{Architecture, Backbone};
use serde::{Deserialize, Serialize};

use super::surface::Surface;
use super::trial_log::Made;
use super::{Search, SearchError, least_finite};
use crate::evaluate;
use crate::observer::Observer;
use crate::rng::{Stream, derived_seed};
use crate::settings::{SettingsError, check};
use crate::train::{TrainSettings, Trained};
use crate::trainings::{Trainer, Training};

/// Short trainings from scratch of uniform rescalings. Their losses make a surface over resolution and depth: where it is
/// least H starts, and what it differs by from the shared weights' losses corrects those of candidates. In the end the
/// architecture of H has to do better in such trainings than its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trials {
    /// Uniform rescalings that are trained; with 0 there are no trials, and the shared weights decide.
    pub candidates: usize,
    /// Passes over the training images.
    pub epochs: usize,
    /// Trainings of each of the last two architectures, of which the mean loss counts.
    pub seeds: usize,
}

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
    /// What has to be added to the shared weights' losses on some batches so that they depend on resolution and depth as
    /// those of the trials do; nothing, if there were no trials.
    pub(super) fn trial_correction(&mut self, batches: &[Vec<usize>]) -> Result<Option<Surface>, SearchError> {
        let space = self.task.blueprint.space();
        let mut architectures = Vec::new();
        let mut trial_losses = Vec::new();
        for Trial { architecture, loss, .. } in &self.state.position.trials {
            architectures.push(space.architecture(architecture.clone())?);
            trial_losses.push(loss.unwrap_or(f64::NAN));
        }
        if architectures.is_empty() {
            return Ok(None);
        }
        let shared = self.score(&architectures, batches)?;
        let differences = trial_losses.into_iter().zip(shared).map(|(trial, shared)| trial - shared);
        let differences: Vec<_> = architectures.into_iter().zip(differences).collect();
        let surface = Surface::fit(space, self.task.blueprint.cost(), &differences)?;
        Ok(Some(surface.ok_or(SearchError::Diverged)?))
    }

    /// The architecture that does best in trials; nothing, if interrupted.
    pub(super) fn best_by_trials(
        &mut self,
        mut architectures: Vec<Architecture>,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Architecture>, SearchError> {
        if architectures.len() > 1 {
            let seeds = self.settings.trials.seeds;
            let Some(losses) = self.trial(&architectures, seeds, "trials of finalists", observer)? else {
                return Ok(None);
            };
            let best = least_finite(&losses).ok_or(SearchError::Diverged)?;
            architectures.swap(0, best);
        }
        Ok(architectures.into_iter().next())
    }

    /// Mean losses on the evaluation split after training from scratch; nothing, if interrupted. A trial that has been
    /// made is not made again.
    pub(super) fn trial(
        &mut self,
        architectures: &[Architecture],
        seeds: usize,
        phase: &str,
        observer: &mut (dyn Observer + Send),
    ) -> Result<Option<Vec<f64>>, SearchError> {
        let task = self.task;
        let epochs = self.settings.trials.epochs;
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
        let missing: Vec<(&Architecture, u64)> = (seeds.iter())
            .flat_map(|&seed| architectures.iter().map(move |architecture| (architecture, seed)))
            .filter(|&(architecture, seed)| {
                !self.state.position.trials.iter().any(|made| of(architecture, seed)(&made))
            })
            .collect();
        let known = self.trial_log.made();
        let waiting = missing
            .iter()
            .zip(1..)
            .filter(|&(&(architecture, seed), _)| !known.iter().any(|made| of(architecture, seed)(&&made.trial)));
        let trainings: Vec<Training> = waiting
            .map(|(&(architecture, seed), number)| Training {
                name: format!("candidate {number}"),
                architecture: architecture.clone(),
                seed,
            })
            .collect();
        let made = Mutex::new(known);
        let done = |index: usize, trained: Trained<M>| {
            let batch = self.settings.evaluation_batch;
            // Where it was trained, which need not be the first device.
            let device = trained.model.devices().first().cloned().unwrap_or_default();
            let result = evaluate(&trained.model, task.evaluation, task.normalization, batch, &device)?;
            let Training { architecture, seed, .. } = &trainings[index];
            let (architecture, loss) = (architecture.values().to_vec(), result.loss.is_finite().then_some(result.loss));
            let one = Made { trial: Trial { architecture, epochs, seed: *seed, loss }, images: trained.images };
            made.lock().unwrap_or_else(PoisonError::into_inner).push(one.clone());
            self.trial_log.add(one, self.state.position.seconds + self.clock.elapsed().as_secs_f64())?;
            Ok::<_, SearchError>(())
        };
        if trainer.train_all(phase, &trainings, observer, done)?.is_none() {
            return Ok(None);
        }
        let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let position = &mut self.state.position;
        // In this order, whichever was over first.
        for (architecture, seed) in missing {
            let Some(Made { trial, images }) = made.iter().find(|made| of(architecture, seed)(&&made.trial)) else {
                unreachable!("every training was finished")
            };
            position.images += images + task.evaluation.len() as u64;
            position.evaluations += 1;
            position.trials.push(trial.clone());
        }
        let loss = |architecture, seed| {
            position.trials.iter().find(of(architecture, seed)).and_then(|trial| trial.loss).unwrap_or(f64::NAN)
        };
        let count = seeds.len() as f64;
        let mean = |architecture| seeds.iter().map(|&seed| loss(architecture, seed)).sum::<f64>() / count;
        Ok(Some(architectures.iter().map(mean).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Estimator;
    use crate::search::Start;
    use crate::search::test_setting::Setting;

    #[test]
    fn h_starts_at_the_rescaling_that_trials_find_best() {
        let setting = Setting::new(0.25);
        let mut search = setting.search(|settings| {
            settings.trials = Trials { candidates: 5, epochs: 2, seeds: 2 };
            settings.outer_iterations = 1;
            settings.nes_iterations = 1;
            // H stays where it starts.
            settings.nes.learning_rate = 0.0;
        });
        let found = search.run(None, &mut ()).expect("no error").expect("not interrupted");
        assert_eq!(found.architecture.get("resolution"), Some(14), "{}", found.architecture);
        // Of 15 resolutions, every third; none again, as H is where it started.
        let mut resolutions: Vec<usize> = found.trials.iter().map(|trial| trial.architecture[0]).collect();
        resolutions.sort_unstable();
        let distances: Vec<usize> = resolutions.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(distances, [3; 4], "{resolutions:?}");
        for trial in &found.trials {
            // Cross-entropy over ten equal scores and one that is larger, of images of the ten.
            let excess = 0.2 * (trial.architecture[0] as f64 - 14.0);
            let expected = (10.0 + excess.exp()).ln();
            assert!((trial.loss.expect("finite") - expected).abs() < 1e-4, "{trial:?}: expected {expected}");
            assert_eq!(trial.epochs, 2);
        }
    }

    #[test]
    fn h_goes_where_trials_say_and_not_where_the_shared_weights_do() {
        let setting = Setting::new(0.4);
        let space = setting.blueprint.space();
        let resolution_after = |trials: &[(usize, f64)]| {
            let mut search = setting.search(|settings| {
                settings.start = Start::Base;
                settings.outer_iterations = 10;
                settings.nes.estimator = Estimator::antithetic(8);
            });
            let start = space.at_params(&search.projection.project(&[6.5, 100.0]).expect("at the budget"));
            search.begin_at(&start.params()).expect("a start");
            for &(resolution, loss) in trials {
                let architecture = vec![resolution, 200];
                search.state.position.trials.push(Trial { architecture, epochs: 1, seed: 1, loss: Some(loss) });
            }
            if !trials.is_empty() {
                let images: Vec<usize> = (0..8).collect();
                let correction =
                    search.trial_correction(std::slice::from_ref(&images)).expect("finite losses").expect("trials");
                for &(resolution, loss) in trials {
                    let architecture = space.architecture(vec![resolution, 200]).expect("one of the space");
                    let shared = search
                        .score(std::slice::from_ref(&architecture), std::slice::from_ref(&images))
                        .expect("in memory")[0];
                    let cost = setting.blueprint.cost();
                    let corrected = shared + correction.at(space, cost, &architecture).expect("a cost");
                    assert!((corrected - loss).abs() < 1e-4, "resolution {resolution}: {corrected}, not {loss}");
                }
            }
            search.run(None, &mut ()).expect("no error").expect("not interrupted");
            search.params()[0]
        };
        let shared_alone = resolution_after(&[]);
        assert!(shared_alone < 6.0, "the shared weights prefer few pixels: {shared_alone} above 14");
        let corrected = resolution_after(&[(14, 0.5), (21, 0.4), (28, 0.3)]);
        assert!(corrected > 7.0, "the trials prefer many: {corrected} above 14");
    }

    #[test]
    fn the_finalist_with_the_least_mean_loss_is_found() {
        let setting = Setting::new(0.25);
        let mut search = setting.search(|settings| settings.trials = Trials { candidates: 5, epochs: 1, seeds: 2 });
        let at = |resolution| setting.blueprint.space().architecture(vec![resolution, 100]).expect("one of the space");
        let finalists = vec![at(21), at(16), at(28)];
        let found = search.best_by_trials(finalists, &mut ()).expect("no error").expect("not interrupted");
        assert_eq!(found, at(16));
        let trials = &search.state.position.trials;
        assert_eq!(trials.len(), 6, "three finalists, two seeds");
        assert_ne!(trials[0].seed, trials[3].seed);
        // One seed whose loss is not a number makes the mean none.
        search.state.position.trials[1].loss = None;
        let found = search.best_by_trials(vec![at(16), at(28), at(21)], &mut ()).expect("no error");
        assert_eq!(found, Some(at(21)));
        assert_eq!(search.state.position.trials.len(), 6, "nothing is trained again");
        for trial in &mut search.state.position.trials {
            trial.loss = None;
        }
        let error = search.best_by_trials(vec![at(16), at(21)], &mut ()).expect_err("none is finite");
        assert!(matches!(error, SearchError::Diverged), "{error}");
    }
}
