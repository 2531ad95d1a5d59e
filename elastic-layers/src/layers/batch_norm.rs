//! Elastic batch normalisation.

use burn::module::{Flag, Module, Param, ParamId, RunningState};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{Device, Tensor};
use elastic_kernels::{
    Activation, BatchNormOutput, Part, batch_norm, batch_norm_train, conv2d_batch_norm, conv2d_batch_norm_train,
};

use super::conv2d::{Convolution, ElasticConv2d};
use super::label::Label;
use crate::crop::{crop, detached, in_use, part, place};
use crate::{Adaptation, AxesVisitor, Axis, Change, Elastic, Size, Statistics};

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
        let config = BatchNormConfig::new(self.features.max()).with_epsilon(self.epsilon).with_momentum(self.momentum);
        self.take_over(config.init(device))
    }

    /// The layer with the parameters, running statistics and options of one of Burn's, which is the layer at its maximum
    /// size.
    ///
    /// # Panics
    /// If that has another size.
    pub fn take_over(&self, norm: BatchNorm) -> ElasticBatchNorm {
        let features = Axis::from(self.features.clone());
        let (expected, [got]) = (features.len(), norm.gamma.lazy_shape().dims());
        assert!(got == expected, "ElasticBatchNorm [{}]: expected {expected} features, got {got}", self.features);
        ElasticBatchNorm { features, ..norm.into() }
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
    features: Axis,
    /// The features that the running statistics are of, if not of all of the supernet's.
    #[module(skip)]
    known: Option<Box<Axis>>,
    #[module(skip)]
    statistics: Statistics,
    #[module(skip)]
    label: Label,
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
        let (channels, device) = (input.dims()[1], input.device());
        self.normalize(input, channels, &device, activation)
    }

    /// Applies a convolution, the normalisation, then an activation: in fewer passes over the numbers where the
    /// [kernels](crate::kernels) apply.
    ///
    /// # Shapes
    /// As those of [`ElasticConv2d::forward`].
    ///
    /// # Panics
    /// As that and [`forward`](Self::forward).
    pub fn forward_convolved(&self, conv: &ElasticConv2d, input: Tensor<4>, activation: Activation) -> Tensor<4> {
        if conv.bias.is_some() {
            return self.forward_activated(conv.forward(input), activation);
        }
        let device = input.device();
        let convolution = conv.convolution(input);
        let channels = convolution.weight.dims()[0];
        self.normalize(convolution, channels, &device, activation)
    }

    fn normalize<const D: usize>(
        &self,
        input: impl Normalized<D>,
        channels: usize,
        device: &Device,
        activation: Activation,
    ) -> Tensor<D> {
        let expected = self.features.len();
        assert!(
            channels == expected,
            "ElasticBatchNorm {}[{}]: expected {expected} features, got {channels}",
            self.label,
            self.features.size(),
        );
        let training = device.is_autodiff() && self.training.is_enabled();
        let parameters = self.scale_and_shift();
        let weight = match self.statistics {
            Statistics::Running if !training => {
                let running = [&self.running_mean, &self.running_var];
                let running = running.map(|state| self.in_view(state.value().to_device(device)));
                return input.with_given(parameters, running, self.epsilon, activation);
            }
            Statistics::Running => self.momentum,
            Statistics::Batch => return input.with_batch(parameters, self.epsilon, activation).output,
            Statistics::Calibrate { seen } => 1.0 / (seen + 1) as f64,
        };
        let result = input.with_batch(parameters, self.epsilon, activation);
        self.move_statistics(result.mean, result.variance, weight, device);
        result.output
    }

    /// Moves the running statistics towards the batch's.
    fn move_statistics(&self, mean: Tensor<1>, variance: Tensor<1>, weight: f64, device: &Device) {
        for (state, batch) in [(&self.running_mean, mean), (&self.running_var, variance)] {
            let old = self.in_view(state.value_sync().to_device(device));
            let new = old.mul_scalar(1.0 - weight).add(batch.detach().mul_scalar(weight));
            state.update(new.detach());
        }
    }

    fn scale_and_shift(&self) -> [Part<1>; 2] {
        [&self.gamma, &self.beta].map(|param| part(param, [&self.features]))
    }

    /// A running statistic's features of this view. A view that updates the statistics leaves them with its own only.
    fn in_view(&self, statistic: Tensor<1>) -> Tensor<1> {
        if statistic.dims() == [self.features.len()] { statistic } else { crop(statistic, [&self.features]) }
    }

    /// The features that the running statistics are of.
    fn known(&self) -> Axis {
        self.known.as_deref().cloned().unwrap_or_else(|| self.features.size().clone().into())
    }

    /// Running mean and variance of the features in use, on their own. A feature that has none yet gets Burn's initial ones: a
    /// view that was recalibrated at one size can be selected at a larger one.
    fn own_statistics(&self) -> [RunningState<Tensor<1>>; 2] {
        let axis = self.known();
        [(&self.running_mean, 0.0), (&self.running_var, 1.0)].map(|(state, initial)| {
            let known = state.value_sync();
            let all = Tensor::full([axis.size().max()], initial, &known.device());
            let all = if known.dims() == all.dims() { known } else { place(all, known, [&axis]) };
            RunningState::with_id(ParamId::new(), detached(crop(all, [&self.features])))
        })
    }

    /// The layer behind a change, still with the running statistics of this one.
    #[inline]
    fn changed(&self, adaptation: &Adaptation<'_>) -> Self {
        let features = adaptation.axis(&self.features);
        let statistics = match adaptation.change() {
            Change::Select(_) => Statistics::Batch,
            Change::Materialize(_) => Statistics::Running,
            Change::Statistics(statistics) => statistics,
            Change::Name => self.statistics,
        };
        Self {
            gamma: adaptation.param(&self.gamma, [&features]),
            beta: adaptation.param(&self.beta, [&features]),
            training: self.training.clone(),
            running_mean: self.running_mean.clone(),
            running_var: self.running_var.clone(),
            momentum: self.momentum,
            epsilon: self.epsilon,
            known: self.known.clone(),
            features,
            statistics,
            label: self.label.at(adaptation),
        }
    }

    /// The same layer with running statistics of its own, of the features in use.
    fn with_own_statistics(self) -> Self {
        let [running_mean, running_var] = self.own_statistics();
        Self { running_mean, running_var, known: Some(Box::new(self.features.clone())), ..self }
    }
}

/// What is normalised: a tensor, or what a convolution makes of one.
trait Normalized<const D: usize> {
    /// With the statistics of the batch.
    fn with_batch(self, affine: [Part<1>; 2], epsilon: f64, activation: Activation) -> BatchNormOutput<D>;

    /// With given mean and variance.
    fn with_given(
        self,
        affine: [Part<1>; 2],
        statistics: [Tensor<1>; 2],
        epsilon: f64,
        activation: Activation,
    ) -> Tensor<D>;
}

impl<const D: usize> Normalized<D> for Tensor<D> {
    fn with_batch(self, [gamma, beta]: [Part<1>; 2], epsilon: f64, activation: Activation) -> BatchNormOutput<D> {
        batch_norm_train(self, gamma, beta, epsilon, activation)
    }

    fn with_given(
        self,
        affine: [Part<1>; 2],
        [mean, variance]: [Tensor<1>; 2],
        epsilon: f64,
        activation: Activation,
    ) -> Tensor<D> {
        let [gamma, beta] = affine.map(Part::into_tensor);
        batch_norm(self, gamma, beta, mean, variance, epsilon, activation)
    }
}

impl Normalized<4> for Convolution {
    fn with_batch(self, [gamma, beta]: [Part<1>; 2], epsilon: f64, activation: Activation) -> BatchNormOutput<4> {
        conv2d_batch_norm_train(self.input, self.weight, self.options, gamma, beta, epsilon, activation)
    }

    fn with_given(
        self,
        affine: [Part<1>; 2],
        [mean, variance]: [Tensor<1>; 2],
        epsilon: f64,
        activation: Activation,
    ) -> Tensor<4> {
        let [gamma, beta] = affine.map(Part::into_tensor);
        let parameters = [gamma, beta, mean, variance];
        conv2d_batch_norm(self.input, self.weight, self.options, parameters, epsilon, activation)
    }
}

/// With the same parameters and running statistics, and a fixed size.
impl From<BatchNorm> for ElasticBatchNorm {
    fn from(norm: BatchNorm) -> Self {
        let BatchNorm { gamma, beta, training, running_mean, running_var, momentum, epsilon } = norm;
        let [features] = gamma.lazy_shape().dims();
        let features = Axis::from(features);
        Self {
            gamma,
            beta,
            training,
            running_mean,
            running_var,
            momentum,
            epsilon,
            known: None,
            features,
            statistics: Statistics::Running,
            label: Label::default(),
        }
    }
}

/// Burn's own layer with the parameters and running statistics in use: of a view, a copy of its part.
impl From<ElasticBatchNorm> for BatchNorm {
    fn from(norm: ElasticBatchNorm) -> Self {
        let norm = if norm.known() == norm.features { norm } else { norm.with_own_statistics() };
        let ElasticBatchNorm { gamma, beta, training, running_mean, running_var, momentum, epsilon, features, .. } =
            norm;
        let (gamma, beta) = (in_use(gamma, [&features]), in_use(beta, [&features]));
        Self { gamma, beta, training, running_mean, running_var, momentum, epsilon }
    }
}

impl Elastic for ElasticBatchNorm {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        match adaptation.change() {
            // `select` has no time to spare for moving layers.
            Change::Select(_) | Change::Name => self.changed(adaptation),
            Change::Materialize(_) => {
                let changed = self.changed(adaptation).with_own_statistics();
                let fixed = adaptation.kept(changed.features);
                Self { known: None, features: fixed, ..changed }
            }
            Change::Statistics(Statistics::Calibrate { .. }) => self.changed(adaptation).with_own_statistics(),
            Change::Statistics(statistics) => {
                if matches!(self.statistics, Statistics::Calibrate { .. }) {
                    // Burn holds an update back until a synchronised read, which inference and saving are not.
                    let _ = (self.running_mean.value_sync(), self.running_var.value_sync());
                }
                let changed = self.changed(adaptation);
                // The statistics are shared with the supernet, which training a view would leave with fewer.
                let shares = statistics == Statistics::Running && self.known() != self.features;
                if shares { changed.with_own_statistics() } else { changed }
            }
        }
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        visitor.visit(&self.gamma, [&self.features]);
        visitor.visit(&self.beta, [&self.features]);
    }
}
