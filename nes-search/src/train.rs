//! Training of weights: one step, its schedule, and whole networks from scratch.

use std::collections::HashMap;

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

use crate::data::{Augment, Batch, DataError, EpochSampler, Feed, ImageSet, Normalization, Plan};
use crate::observer::{Observer, Progress};
use crate::rng::{Stream, derived_seed, stream};
use crate::settings::{SettingsError, check};

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
}

/// Trains a network from scratch; nothing, if interrupted. The same seed gives the same weights.
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
    let device = model.devices().first().cloned().unwrap_or_default().autodiff();
    let mut model = model;
    let (batch_size, steps) = settings.steps(set.len());
    let per_epoch = set.len() / batch_size;
    let mut optimizer = settings.sgd.optimizer();
    let mut schedule = settings.sgd.schedule(steps);
    let mut order = EpochSampler::new(set.len(), derived_seed(seed, Stream::TrainingOrder));
    let mut augmentation = stream(seed, Stream::Augmentation);
    let plans = (0..steps).map(|_| Plan::next(&mut order, batch_size, &settings.sgd.augment, &mut augmentation));
    let feed = Feed::new(set, plans, normalization, &device);
    let mut average = WeightAverage::new(&model, settings.average_decay);
    let mut recent = 0.0;
    for (step, data) in feed.enumerate() {
        if observer.interrupted() {
            return Ok(None);
        }
        let data = data?;
        let learning_rate = schedule.step();
        let (stepped, loss) = settings.sgd.step(model, &mut optimizer, learning_rate.base(), data);
        model = stepped;
        average.update(&model);
        recent = if step % per_epoch == 0 { loss } else { recent + (loss - recent) / (step % per_epoch + 1) as f64 };
        let message = format!("loss {recent:.3}");
        observer.progress(Progress { phase: name, done: step + 1, total: steps, message });
    }
    let plain = device.without_autodiff();
    let averaged = average.apply(model.valid());
    let mut error = None;
    let calibration = calibration_batches(set, normalization, settings, seed, &plain)
        .map_while(|batch| batch.map_err(|failure| error = Some(failure)).ok());
    let model = recalibrate(&averaged, calibration, |model, batch| drop(model.forward(batch.images)));
    match error {
        Some(error) => Err(error),
        None => Ok(Some(Trained { model, loss: recent, images: settings.images(set.len()) })),
    }
}

/// Training images, not augmented, for batch-norm statistics.
fn calibration_batches(
    set: &ImageSet,
    normalization: &Normalization,
    settings: &TrainSettings,
    seed: u64,
    device: &Device,
) -> impl Iterator<Item = Result<Batch, DataError>> + use<> {
    let mut order = EpochSampler::new(set.len(), derived_seed(seed, Stream::EvaluationOrder));
    let batch_size = settings.sgd.batch_size.max(128).min(set.len());
    let plans = (0..settings.recalibration_batches).map(move |_| Plan::new(order.next_batch(batch_size), None));
    Feed::new(set, plans, normalization, device)
}

/// A running average of weights, which takes out the noise of the last steps.
struct WeightAverage {
    decay: f64,
    steps: i32,
    weights: HashMap<ParamId, Tensor<1>>,
}

impl WeightAverage {
    fn new<M: Module>(model: &M, decay: f64) -> Self {
        Self { decay, steps: 0, weights: flat(model) }
    }

    fn update<M: Module>(&mut self, model: &M) {
        self.steps += 1;
        // A young average forgets faster, so that initial weights do not stay in it.
        let decay = self.decay.min(f64::from(self.steps) / f64::from(self.steps + 10));
        for (id, new) in flat(model) {
            if let Some(old) = self.weights.get_mut(&id) {
                *old = old.clone().mul_scalar(decay) + new.mul_scalar(1.0 - decay);
            }
        }
    }

    fn apply<M: Module>(self, model: M) -> M {
        struct Assign(HashMap<ParamId, Tensor<1>>);
        impl ModuleMapper for Assign {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                match self.0.remove(&param.id) {
                    Some(average) => param.map(|old| average.reshape(old.dims())),
                    None => param,
                }
            }
        }
        model.map(&mut Assign(self.weights))
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
