//! What a search costs.

use std::time::{Duration, Instant};

use elastic_layers::{Backbone, Macs};
use serde::{Deserialize, Serialize};

use super::{SearchError, Task};
use crate::data::{EpochSampler, Feed, Plan};
use crate::observer::{Observer, Progress};
use crate::rng::{Stream, stream};

/// MACs of a training step over those of a forward pass: forward, gradient of the input, gradient of the weights.
pub const STEP: u64 = 3;

/// What a search took so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SearchCost {
    /// MACs processed: those of one image's forward for each image that was scored, three times as many for each that
    /// was trained on.
    pub macs: u64,
    /// Images processed, trained on and scored.
    pub images: u64,
    /// Seconds.
    pub seconds: f64,
    /// Views scored.
    pub evaluations: u64,
}

impl SearchCost {
    /// Adds training on images.
    pub(super) fn trained(&mut self, macs: Macs, images: u64) {
        self.macs += STEP * macs.0 * images;
        self.images += images;
    }

    /// Adds the scoring of a view.
    pub(super) fn scored(&mut self, macs: Macs, images: u64) {
        self.macs += macs.0 * images;
        self.images += images;
        self.evaluations += 1;
    }
}

/// Steps of the backbone that are measured at most, steps before them, and the time after which no more are.
const MEASURED: usize = 100;
const WARM_UP: usize = 3;
const LONGEST: Duration = Duration::from_secs(20);

impl<M: Backbone + 'static> Task<'_, M> {
    /// MACs of training the backbone from scratch on all images of the task.
    ///
    /// # Errors
    /// If its cost cannot be found.
    pub fn training_macs(&self) -> Result<u64, SearchError> {
        let backbone = self.blueprint.cost().cost(&self.blueprint.space().base())?.macs;
        let images = self.recipe.images(self.train.len() + self.evaluation.len());
        Ok(STEP.saturating_mul(backbone.0).saturating_mul(images))
    }

    /// Seconds of training the backbone from scratch on all images of the task, by the median of some of its steps with all
    /// threads. Returns `None` if interrupted.
    ///
    /// # Errors
    /// If the backbone cannot be built, or an image cannot be read.
    pub fn training_seconds(&self, observer: &mut (dyn Observer + Send)) -> Result<Option<f64>, SearchError> {
        // Among the threads that compute, no operation has to wake them.
        rayon::scope(|_| self.timed_training(observer))
    }

    fn timed_training(&self, observer: &mut (dyn Observer + Send)) -> Result<Option<f64>, SearchError> {
        let device = self.devices[0].clone().autodiff();
        let mut model = self.blueprint.network(&self.blueprint.space().base(), 0, &device)?;
        let (batch_size, steps) = self.recipe.steps(self.train.len() + self.evaluation.len());
        let mut optimizer = self.recipe.sgd.optimizer();
        let mut order = EpochSampler::new(self.train.len(), 0);
        let mut augmentation = stream(0, Stream::Augmentation);
        let batch_size = batch_size.min(self.train.len());
        let total = MEASURED.min(steps) + WARM_UP;
        let plan = || Plan::next(&mut order, batch_size, &self.recipe.sgd.augment, &mut augmentation);
        let plans = std::iter::repeat_with(plan).take(total);
        let mut feed = Feed::new(self.train, plans, self.normalization, &device);
        let (begin, mut seconds) = (Instant::now(), Vec::new());
        loop {
            if observer.interrupted() {
                return Ok(None);
            }
            let step = Instant::now();
            let Some(batch) = feed.next() else { break };
            // A learning rate at which nothing happens to the weights that could change the time.
            (model, _) = self.recipe.sgd.step(model, &mut optimizer, 1e-6, batch?);
            seconds.push(step.elapsed().as_secs_f64());
            let message = "steps of the backbone".into();
            observer.progress(Progress { phase: "cost", done: seconds.len(), total, message });
            if begin.elapsed() > LONGEST && seconds.len() > WARM_UP {
                break;
            }
        }
        let mut measured = seconds.split_off(WARM_UP.min(seconds.len().saturating_sub(1)));
        measured.sort_by(f64::total_cmp);
        Ok(Some(measured[measured.len() / 2] * steps as f64))
    }
}
