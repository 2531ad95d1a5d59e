//! The state of a training from scratch, and its checkpoints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::optim::ModuleOptimizer;
use elastic_layers::Backbone;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{
    self, CheckpointError, Files, check_identity, load_module, load_optimizer, module_bytes, optimizer_bytes, take,
};
use crate::data::{Batch, EpochSampler, Normalization, Plan};
use crate::observer::Observer;
use crate::rng::{Stream, derived_seed, stream};
use crate::train::{Course, TrainSettings, WeightAverage};

/// Where the state of a training is kept, and how often.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    /// The directory of this training alone.
    pub directory: PathBuf,
    /// The time between two checkpoints.
    pub every: Duration,
}

const KIND: &str = "nes-search/training 1";
const MODEL: &str = "model.bpk";
const AVERAGE: &str = "average.bpk";
const OPTIMIZER: &str = "optimizer.bpk";

/// What a checkpoint belongs to. Another training cannot go on from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    seed: u64,
    images: usize,
    classes: usize,
    normalization: Normalization,
    settings: TrainSettings,
}

impl Identity {
    fn of(course: &Course<'_>) -> Self {
        let Course { set, normalization, settings, seed, .. } = *course;
        let (normalization, settings) = (normalization.clone(), settings.clone());
        Self { seed, images: set.len(), classes: set.class_count(), normalization, settings }
    }
}

/// Where a training is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// Steps done.
    pub step: usize,
    pub order: EpochSampler,
    pub augmentation: ChaCha8Rng,
    /// Mean loss of this epoch's batches so far.
    pub recent_loss: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    identity: Identity,
    position: Position,
}

/// All that a training needs to go on.
pub(crate) struct State<M> {
    pub model: M,
    pub average: WeightAverage,
    pub position: Position,
    optimizer: ModuleOptimizer,
}

impl<M: Backbone> State<M> {
    /// The state before the first step.
    pub(crate) fn begin(course: &Course<'_>, model: M) -> Self {
        let Course { set, settings, seed, .. } = *course;
        let position = Position {
            step: 0,
            order: EpochSampler::new(set.len(), derived_seed(seed, Stream::TrainingOrder)),
            augmentation: stream(seed, Stream::Augmentation),
            recent_loss: 0.0,
        };
        Self { average: WeightAverage::new(&model), optimizer: settings.sgd.optimizer(), model, position }
    }

    /// The state of the newest good checkpoint, if there is one.
    pub(crate) fn resume(self, course: &Course<'_>, observer: &mut dyn Observer) -> Result<Self, CheckpointError> {
        let Some(Checkpoints { directory, .. }) = course.checkpoints else { return Ok(self) };
        let accept = |path: &Path, saved: Saved, files| self.restored(course, path, saved, files);
        let found = checkpoint::read_latest(directory, KIND, accept, &mut |warning| observer.warning(warning))?;
        Ok(found.unwrap_or(self))
    }

    fn restored(
        &self,
        course: &Course<'_>,
        path: &Path,
        Saved { identity, position }: Saved,
        mut files: Files,
    ) -> Result<Self, CheckpointError> {
        check_identity(&Identity::of(course), &identity, path)?;
        let mut file = |name: &str| Ok((take(&mut files, name, path)?, path.join(name)));
        let (model, model_path) = file(MODEL)?;
        let (average, average_path) = file(AVERAGE)?;
        let (optimizer, optimizer_path) = file(OPTIMIZER)?;
        let averaged = load_module(self.model.valid(), average, &average_path)?;
        Ok(Self {
            model: load_module(self.model.clone(), model, &model_path)?,
            average: WeightAverage::new(&averaged),
            optimizer: load_optimizer(course.settings.sgd.optimizer(), optimizer, &optimizer_path)?,
            position,
        })
    }

    /// Writes a checkpoint, if there is a directory for it.
    pub(crate) fn save(&self, course: &Course<'_>) -> Result<(), CheckpointError> {
        let Some(Checkpoints { directory, .. }) = course.checkpoints else { return Ok(()) };
        let averaged = self.average.applied(self.model.valid());
        let files = Files::from([
            (MODEL.into(), module_bytes(&self.model, directory)?),
            (AVERAGE.into(), module_bytes(&averaged, directory)?),
            (OPTIMIZER.into(), optimizer_bytes(&self.optimizer, directory)?),
        ]);
        let saved = Saved { identity: Identity::of(course), position: self.position.clone() };
        checkpoint::write(directory, self.position.step, KIND, &saved, files)
    }

    /// The state after one step, which takes the next batch, and the loss of that.
    pub(crate) fn step(self, course: &Course<'_>, learning_rate: f64, batch: Batch) -> (Self, f64) {
        let TrainSettings { sgd, average_decay, .. } = course.settings;
        let Self { model, mut average, mut position, mut optimizer } = self;
        // The model is moved: an optimizer works in place on parameters that nobody else holds.
        let (model, loss) = sgd.step(model, &mut optimizer, learning_rate, batch);
        // Where the feed was when it drew this batch, and where it is for the next one.
        Plan::next(&mut position.order, sgd.batch_size, &sgd.augment, &mut position.augmentation);
        position.step += 1;
        average.update(&model, *average_decay, position.step);
        (Self { model, average, position, optimizer }, loss)
    }
}
