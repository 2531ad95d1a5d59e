//! Elastic batch normalisation.

use burn::module::{Flag, Module, Param, ParamId, RunningState};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{Device, Tensor};
use elastic_kernels::{Activation, BatchNormOutput, batch_norm, batch_norm_train};

use crate::elastic::{active, crop, detached, materialize};
use crate::{Adaptation, AxesVisitor, Elastic, Size, Statistics};

/// Configuration of an [`ElasticBatchNorm`]; mirrors [`BatchNormConfig`].
#[derive(Clone, Debug)]
pub struct ElasticBatchNormConfig {
    features: Size,
    epsilon: f64,
    momentum: f64,
}

impl ElasticBatchNormConfig {
    /// A batch norm with Burn's epsilon and momentum.
    pub fn new(features: impl Into<Size>) -> Self {
        let burn = BatchNormConfig::new(1);
        Self { features: features.into(), epsilon: burn.epsilon, momentum: burn.momentum }
    }

    /// Sets the value that is added to the variance.
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Sets the weight of a batch in the running statistics.
    pub fn with_momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// The layer at its maximum size.
    pub fn init(&self, device: &Device) -> ElasticBatchNorm {
        let features = self.features.max();
        let BatchNorm { gamma, beta, training, running_mean, running_var, momentum, epsilon } =
            BatchNormConfig::new(features).with_epsilon(self.epsilon).with_momentum(self.momentum).init(device);
        ElasticBatchNorm {
            gamma,
            beta,
            training,
            running_mean,
            running_var,
            momentum,
            epsilon,
            features: self.features.clone(),
            active: features,
            statistics: Statistics::Running,
        }
    }
}

/// A batch norm whose number of features is elastic.
///
/// Made by [`ElasticBatchNormConfig`]. As built, and materialised, it behaves as [`burn::nn::BatchNorm`]; a view uses
/// the statistics of the batch (see [`Statistics`]).
#[derive(Module, Debug)]
pub struct ElasticBatchNorm {
    /// Scale, `[features]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[features]`.
    pub beta: Param<Tensor<1>>,
    training: Param<Flag>,
    running_mean: RunningState<Tensor<1>>,
    running_var: RunningState<Tensor<1>>,
    momentum: f64,
    epsilon: f64,
    #[module(skip)]
    features: Size,
    #[module(skip)]
    active: usize,
    #[module(skip)]
    statistics: Statistics,
}

impl ElasticBatchNorm {
    /// Applies the normalisation.
    ///
    /// # Shapes
    /// - `input`: `[batch, features, ...]`
    /// - output: `[batch, features, ...]`
    ///
    /// # Panics
    /// If the input has another number of features than the layer at its architecture, or less than two axes.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        self.forward_activated(input, Activation::None)
    }

    /// Applies the normalisation, then an activation: in one pass over the numbers where the
    /// [kernels](crate::kernels) apply.
    ///
    /// # Shapes
    /// - `input`: `[batch, features, ...]`
    /// - output: `[batch, features, ...]`
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_activated<const D: usize>(&self, input: Tensor<D>, activation: Activation) -> Tensor<D> {
        let features = input.dims()[1];
        assert!(
            features == self.active,
            "ElasticBatchNorm [{}]: expected {} features, got {features}",
            self.features,
            self.active
        );
        let training = input.device().is_autodiff() && self.training.is_enabled();
        match self.statistics {
            Statistics::Running if !training => self.forward_running(input, activation),
            Statistics::Running => self.forward_updating(input, activation, self.momentum),
            Statistics::Batch => self.forward_batch(input, activation).output,
            Statistics::Calibrate { seen } => self.forward_updating(input, activation, 1.0 / (seen + 1) as f64),
        }
    }

    fn forward_batch<const D: usize>(&self, input: Tensor<D>, activation: Activation) -> BatchNormOutput<D> {
        let [gamma, beta] = self.scale_and_shift();
        batch_norm_train(input, gamma, beta, self.epsilon, activation)
    }

    fn forward_running<const D: usize>(&self, input: Tensor<D>, activation: Activation) -> Tensor<D> {
        let device = input.device();
        let [gamma, beta] = self.scale_and_shift();
        let [mean, var] =
            [&self.running_mean, &self.running_var].map(|state| crop(state.value().to_device(&device), [self.active]));
        batch_norm(input, gamma, beta, mean, var, self.epsilon, activation)
    }

    /// Normalises with the batch's statistics, and moves the running ones towards them.
    fn forward_updating<const D: usize>(&self, input: Tensor<D>, activation: Activation, weight: f64) -> Tensor<D> {
        let device = input.device();
        let result = self.forward_batch(input, activation);
        for (state, batch) in [(&self.running_mean, result.mean), (&self.running_var, result.variance)] {
            let old = crop(state.value_sync().to_device(&device), [self.active]);
            let new = old.mul_scalar(1.0 - weight).add(batch.detach().mul_scalar(weight));
            state.update(new.detach());
        }
        result.output
    }

    fn scale_and_shift(&self) -> [Tensor<1>; 2] {
        [active(&self.gamma, [self.active]), active(&self.beta, [self.active])]
    }

    /// Running mean and variance of so many features, on their own. A feature that has none yet gets Burn's initial
    /// ones: a view that was recalibrated at one size can be selected at a larger one.
    fn own_statistics(&self, features: usize) -> [RunningState<Tensor<1>>; 2] {
        [(&self.running_mean, 0.0), (&self.running_var, 1.0)].map(|(state, initial)| {
            let known = state.value_sync();
            let [len] = known.dims();
            let sized = match features.checked_sub(len) {
                None | Some(0) => crop(known, [features]),
                Some(missing) => {
                    let rest = Tensor::full([missing], initial, &known.device());
                    Tensor::cat(vec![known, rest], 0)
                }
            };
            RunningState::with_id(ParamId::new(), detached(sized))
        })
    }
}

impl Elastic for ElasticBatchNorm {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        match adaptation {
            Adaptation::Select(architecture) => {
                Self { active: self.features.at(architecture), statistics: Statistics::Batch, ..self.clone() }
            }
            Adaptation::Materialize(architecture) => {
                let features = self.features.at(architecture);
                let [running_mean, running_var] = self.own_statistics(features);
                Self {
                    gamma: materialize(&self.gamma, [features]),
                    beta: materialize(&self.beta, [features]),
                    running_mean,
                    running_var,
                    features: Size::Fixed(features),
                    active: features,
                    statistics: Statistics::Running,
                    ..self.clone()
                }
            }
            Adaptation::Statistics(statistics @ Statistics::Calibrate { .. }) => {
                let [running_mean, running_var] = self.own_statistics(self.active);
                Self { running_mean, running_var, statistics: *statistics, ..self.clone() }
            }
            Adaptation::Statistics(statistics) => {
                if matches!(self.statistics, Statistics::Calibrate { .. }) {
                    // Burn holds an update back until a synchronised read, which inference and saving are not.
                    let _ = (self.running_mean.value_sync(), self.running_var.value_sync());
                }
                let changed = Self { statistics: *statistics, ..self.clone() };
                if *statistics == Statistics::Running && self.running_mean.value().dims() != [self.active] {
                    // The statistics are shared with the supernet, which training a view would leave with fewer.
                    let [running_mean, running_var] = self.own_statistics(self.active);
                    return Self { running_mean, running_var, ..changed };
                }
                changed
            }
        }
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        visitor.visit(&self.gamma, [self.features.clone()]);
        visitor.visit(&self.beta, [self.features.clone()]);
    }
}
