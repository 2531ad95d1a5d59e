//! Training of weights: one step, its schedule, and whole networks from scratch.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use burn::grad_clipping::GradientClippingConfig;
use burn::lr_scheduler::LrSchedulerConfig;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::sequential::SequentialLrSchedulerConfig;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor};
use elastic_layers::kernels::SgdConfig;
use elastic_layers::{Backbone, recalibrate};
use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointError;
use crate::data::{Augment, Batch, DataError, EpochSampler, Feed, ImageSet, Normalization, Plan};
use crate::observer::{Observer, Progress};
use crate::rng::{Stream, derived_seed};
use crate::settings::{SettingsError, check};
use crate::training_state::{Checkpoints, Position, State};

/// Stochastic gradient descent with momentum, warmed up linearly and annealed by a cosine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgdSettings {
    /// Images in a batch.
    pub batch_size: usize,
    /// Learning rate at its peak.
    pub learning_rate: f64,
    /// Share of the steps in which the learning rate rises.
    pub warmup: f64,
    /// Momentum.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Largest Euclidean norm of the gradient of one parameter tensor; a longer one is scaled down to it.
    pub gradient_norm: f64,
    /// Label smoothing.
    pub label_smoothing: f64,
    /// Augmentation of training images.
    pub augment: Augment,
}

impl SgdSettings {
    /// Checks every field; `table` is where they are.
    pub(crate) fn check(&self, table: &str) -> Result<(), SettingsError> {
        check(format!("{table}.batch_size"), self.batch_size, 2..=65_536)?;
        check(format!("{table}.learning_rate"), self.learning_rate, 1e-8..=1.0)?;
        check(format!("{table}.warmup"), self.warmup, 0.0..=1.0)?;
        check(format!("{table}.momentum"), self.momentum, 0.0..=0.9999)?;
        check(format!("{table}.weight_decay"), self.weight_decay, 0.0..=1.0)?;
        check(format!("{table}.gradient_norm"), self.gradient_norm, 1e-6..=1e9)?;
        check(format!("{table}.label_smoothing"), self.label_smoothing, 0.0..=0.9)?;
        check(format!("{table}.augment.shift"), self.augment.shift, 0..=1024)?;
        if self.augment.random_resized_crop && self.augment.shift > 0 {
            let expected = "0 with random_resized_crop, which moves images itself";
            return Err(SettingsError::new(format!("{table}.augment.shift"), expected, self.augment.shift));
        }
        Ok(())
    }

    pub(crate) fn optimizer(&self) -> ModuleOptimizer {
        let momentum = MomentumConfig { momentum: self.momentum, dampening: 0.0, nesterov: true };
        let decay = WeightDecayConfig { penalty: self.weight_decay as f32 };
        let clipping = GradientClippingConfig::Norm(self.gradient_norm as f32);
        let config = SgdConfig::new().with_momentum(Some(momentum)).with_weight_decay(Some(decay));
        config.with_gradient_clipping(Some(clipping)).init()
    }

    pub(crate) fn schedule(&self, steps: usize) -> ModuleLrScheduler {
        let rising = ((steps as f64 * self.warmup) as usize).clamp(1, steps.saturating_sub(1).max(1));
        let falling = steps.saturating_sub(rising).max(1);
        let peak = self.learning_rate;
        SequentialLrSchedulerConfig::new(
            vec![
                LrSchedulerConfig::Linear(LinearLrSchedulerConfig::new(peak / rising as f64, peak, rising)),
                LrSchedulerConfig::Cosine(CosineAnnealingLrSchedulerConfig::new(peak, falling)),
            ],
            vec![rising],
        )
        .init()
        .expect("a learning rate in (0, 1]")
    }

    /// The learning rate after a share of all steps: linear to its peak, then a cosine to 0.
    pub(crate) fn learning_rate_at(&self, done: f64) -> f64 {
        match done < self.warmup {
            true => self.learning_rate * (done / self.warmup).max(0.01),
            false => {
                let falling = (done - self.warmup) / (1.0 - self.warmup).max(1e-9);
                self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * falling.min(1.0)).cos())
            }
        }
    }

    /// The mean cross-entropy of `[images, classes]` to labels.
    pub(crate) fn loss(&self, logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
        let smoothing = (self.label_smoothing > 0.0).then_some(self.label_smoothing as f32);
        CrossEntropyLossConfig::new().with_smoothing(smoothing).init(&logits.device()).forward(logits, labels)
    }

    /// One step on a network's weights; also returns the loss.
    pub(crate) fn step<M: Backbone>(
        &self,
        model: M,
        optimizer: &mut ModuleOptimizer,
        learning_rate: f64,
        batch: Batch,
    ) -> (M, f64) {
        let loss = self.loss(model.forward(batch.images), batch.labels);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        (optimizer.step(learning_rate, model, gradients), loss.into_scalar::<f32>().into())
    }
}

/// How a network is trained from scratch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Passes over the training images, or a part of one.
    pub epochs: f64,
    /// The optimizer.
    pub sgd: SgdSettings,
    /// Decay of the running average of the weights that is kept in the end; 0 keeps the last weights.
    pub average_decay: f64,
    /// Batches from which batch-norm statistics are recalibrated.
    pub recalibration_batches: usize,
}

impl TrainSettings {
    /// Checks every field.
    ///
    /// # Errors
    /// Naming the first field that is out of its range, and the range.
    pub fn check(&self) -> Result<(), SettingsError> {
        check("train.epochs", self.epochs, 1e-4..=1e6)?;
        check("train.average_decay", self.average_decay, 0.0..=0.999_999)?;
        check("train.recalibration_batches", self.recalibration_batches, 1..=1_000_000)?;
        self.sgd.check("train.sgd")
    }

    /// Images of a batch from a set of so many, and steps of a training on it.
    pub(crate) fn steps(&self, set: usize) -> (usize, usize) {
        let batch_size = self.sgd.batch_size.min(set).max(1);
        let steps = (set / batch_size) as f64 * self.epochs;
        (batch_size, (steps.round() as usize).max(1))
    }

    /// Images that one training on a set of so many processes: whole batches alone.
    pub fn images(&self, set: usize) -> u64 {
        let (batch_size, steps) = self.steps(set);
        (batch_size * steps) as u64
    }
}

/// A network trained from scratch.
#[derive(Debug)]
pub struct Trained<M> {
    /// The network, ready for inference.
    pub model: M,
    /// Loss of the last epoch's training batches, averaged.
    pub loss: f64,
    /// Training images processed.
    pub images: u64,
    /// The step, counted from 1, whose loss was not a finite number. The training ended there, and the network is of no use.
    pub diverged: Option<usize>,
}

/// Trains a network from scratch. Returns `None` if interrupted. The same seed gives the same weights.
///
/// # Errors
/// If an image file cannot be read or decoded.
///
/// # Panics
/// If a learning rate is outside (0, 1], or the set is empty.
pub fn train<M: Backbone>(
    model: M,
    set: &ImageSet,
    normalization: &Normalization,
    settings: &TrainSettings,
    seed: u64,
    name: &str,
    observer: &mut dyn Observer,
) -> Result<Option<Trained<M>>, DataError> {
    let course = Course { set, normalization, settings, seed, checkpoints: None };
    course.train(model, name, observer).map_err(|error| match error {
        TrainError::Data(error) => error,
        TrainError::Checkpoint(error) => unreachable!("{error}: no checkpoint was asked for"),
    })
}

/// Why a training ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// An image cannot be had.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A checkpoint cannot be written or used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// What one network is trained on, and how.
#[derive(Clone, Copy)]
pub struct Course<'a> {
    /// Training images.
    pub set: &'a ImageSet,
    /// How pixels become numbers.
    pub normalization: &'a Normalization,
    /// The recipe.
    pub settings: &'a TrainSettings,
    /// Decides order and augmentation.
    pub seed: u64,
    /// Where the state is kept, if anywhere. A training goes on from the newest checkpoint there, bit for bit.
    pub checkpoints: Option<&'a Checkpoints>,
}

impl Course<'_> {
    /// Trains a network from scratch, or goes on with that. Returns `None` if interrupted; the state is then kept.
    ///
    /// # Errors
    /// If an image file cannot be read or decoded, or a checkpoint cannot be written or used. The state is kept where an
    /// image is the reason.
    ///
    /// # Panics
    /// As [`train`].
    pub fn train<M: Backbone>(
        &self,
        model: M,
        name: &str,
        observer: &mut dyn Observer,
    ) -> Result<Option<Trained<M>>, TrainError> {
        let Self { set, settings, .. } = *self;
        let device = model.devices().first().cloned().unwrap_or_default().autodiff();
        let (batch_size, steps) = settings.steps(set.len());
        let per_epoch = set.len() / batch_size;
        let mut state = State::begin(self, model).resume(self, observer)?;
        let mut schedule = settings.sgd.schedule(steps);
        (0..state.position.step).for_each(|_| drop(schedule.step()));
        if state.position.step == steps {
            observer.progress(Progress { phase: name, done: steps, total: steps, message: "trained before".into() });
        }
        let mut saved = Instant::now();
        for data in self.batches(&state.position, steps, &device) {
            let interrupted = observer.interrupted();
            if interrupted || data.is_err() || self.is_due(saved.elapsed()) {
                state.save(self)?;
                saved = Instant::now();
            }
            if interrupted {
                return Ok(None);
            }
            let loss;
            (state, loss) = state.step(self, schedule.step().base(), data?);
            let done = state.position.step;
            if !loss.is_finite() {
                let message = format!("diverged at step {done}");
                observer.progress(Progress { phase: name, done: steps, total: steps, message });
                let images = (done * batch_size) as u64;
                return Ok(Some(Trained { model: state.model.valid(), loss, images, diverged: Some(done) }));
            }
            let place = (done - 1) % per_epoch;
            let recent = &mut state.position.recent_loss;
            *recent = if place == 0 { loss } else { *recent + (loss - *recent) / (place + 1) as f64 };
            let message = format!("loss {recent:.3}");
            observer.progress(Progress { phase: name, done, total: steps, message });
        }
        // Whatever becomes of the network now, it need not be trained again.
        state.save(self)?;
        let loss = state.position.recent_loss;
        let model = self.recalibrated(state, &device.without_autodiff())?;
        Ok(Some(Trained { model, loss, images: settings.images(set.len()), diverged: None }))
    }

    fn is_due(&self, since: Duration) -> bool {
        self.checkpoints.is_some_and(|checkpoints| since >= checkpoints.every)
    }

    /// The batches of all steps to come, drawn from copies of the order and the random state: the feed runs ahead of the
    /// steps, and a checkpoint has to hold what the steps have come to.
    fn batches(
        &self,
        position: &Position,
        steps: usize,
        device: &Device,
    ) -> impl Iterator<Item = Result<Batch, DataError>> + use<> {
        let (mut order, mut augmentation) = (position.order.clone(), position.augmentation.clone());
        let (batch_size, augment) = (self.settings.sgd.batch_size, self.settings.sgd.augment.clone());
        let left = position.step..steps;
        let plans = left.map(move |_| Plan::next(&mut order, batch_size, &augment, &mut augmentation));
        Feed::new(self.set, plans, self.normalization, device)
    }

    /// The averaged weights with batch-norm statistics of training images that are not augmented.
    fn recalibrated<M: Backbone>(&self, state: State<M>, device: &Device) -> Result<M, DataError> {
        let Self { set, settings, seed, .. } = *self;
        let mut order = EpochSampler::new(set.len(), derived_seed(seed, Stream::EvaluationOrder));
        let batch_size = settings.sgd.batch_size.max(128).min(set.len());
        let plans = (0..settings.recalibration_batches).map(move |_| Plan::new(order.next_batch(batch_size), None));
        let mut error = None;
        let batches = Feed::new(set, plans, self.normalization, device)
            .map_while(|batch| batch.map_err(|failure| error = Some(failure)).ok());
        let averaged = state.average.applied(state.model.valid());
        let model = recalibrate(&averaged, batches, |model, batch| drop(model.forward(batch.images)));
        error.map_or(Ok(model), Err)
    }
}

/// A running average of weights, which takes out the noise of the last steps.
pub(crate) struct WeightAverage {
    weights: HashMap<ParamId, Tensor<1>>,
}

impl WeightAverage {
    /// An average that is a model's weights.
    pub(crate) fn new<M: Module>(model: &M) -> Self {
        Self { weights: flat(model) }
    }

    /// Takes the weights after so many steps into the average.
    pub(crate) fn update<M: Module>(&mut self, model: &M, decay: f64, steps: usize) {
        // A young average forgets faster, so that initial weights do not stay in it.
        let decay = decay.min(steps as f64 / (steps + 10) as f64);
        for (id, new) in flat(model) {
            if let Some(old) = self.weights.get_mut(&id) {
                *old = old.clone().mul_scalar(decay) + new.mul_scalar(1.0 - decay);
            }
        }
    }

    /// A model with the averaged weights.
    pub(crate) fn applied<M: Module>(&self, model: M) -> M {
        struct Assign(HashMap<ParamId, Tensor<1>>);
        impl ModuleMapper for Assign {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                match self.0.remove(&param.id) {
                    Some(average) => param.map(|old| average.reshape(old.dims())),
                    None => param,
                }
            }
        }
        model.map(&mut Assign(self.weights.clone()))
    }
}

fn flat<M: Module>(model: &M) -> HashMap<ParamId, Tensor<1>> {
    struct Flat(HashMap<ParamId, Tensor<1>>);
    impl ModuleVisitor for Flat {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val().without_autodiff();
            let elements = tensor.shape().num_elements();
            self.0.insert(param.id, tensor.reshape([elements]));
        }
    }
    let mut visitor = Flat(HashMap::new());
    model.visit(&mut visitor);
    visitor.0
}
