//! Elastic layer normalisation.

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Tensor};

use super::label::Label;
use crate::crop::{active, in_use};
use crate::{Adaptation, AxesVisitor, Axis, Elastic, Size};

/// Configuration of an [`ElasticLayerNorm`]; mirrors [`LayerNormConfig`].
#[derive(Clone, Debug)]
pub struct ElasticLayerNormConfig {
    features: Size,
    epsilon: f64,
    bias: bool,
}

impl ElasticLayerNormConfig {
    /// A layer norm over so many features, with Burn's epsilon, and with a shift.
    pub fn new(features: impl Into<Size>) -> Self {
        let burn = LayerNormConfig::new(1);
        Self { features: features.into(), epsilon: burn.epsilon, bias: burn.bias }
    }

    /// Sets the value that is added to the variance.
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Sets whether there is a shift.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// The layer at its maximum size.
    pub fn init(&self, device: &Device) -> ElasticLayerNorm {
        self.take_over(LayerNormConfig::new(self.features.max()).with_bias(self.bias).init(device))
    }

    /// The layer with the parameters of one of Burn's, which is the layer at its maximum size. The epsilon is this
    /// configuration's, since Burn's layer does not tell its own; so there is no `From` either.
    ///
    /// # Panics
    /// If that has another size.
    pub fn take_over(&self, norm: LayerNorm) -> ElasticLayerNorm {
        let LayerNorm { gamma, beta, .. } = norm;
        let features = Axis::from(self.features.clone());
        let (expected, [got]) = (features.len(), gamma.lazy_shape().dims());
        assert!(got == expected, "ElasticLayerNorm [{}]: expected {expected} features, got {got}", self.features);
        ElasticLayerNorm { gamma, beta, epsilon: self.epsilon, features, label: Label::default() }
    }
}

/// A layer norm whose number of features, the last axis of its input, is elastic.
///
/// Made by [`ElasticLayerNormConfig`]. At full size it is [`burn::nn::LayerNorm`] with the same parameters; a view
/// normalises over its own features.
#[derive(Module, Debug)]
pub struct ElasticLayerNorm {
    /// Scale, `[features]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[features]`.
    pub beta: Option<Param<Tensor<1>>>,
    epsilon: f64,
    #[module(skip)]
    features: Axis,
    #[module(skip)]
    label: Label,
}

impl ElasticLayerNorm {
    /// Applies the normalisation.
    ///
    /// # Shapes
    /// - `input`: `[..., features]`
    /// - output: `[..., features]`
    ///
    /// # Panics
    /// If the input has another number of features than the layer at its architecture.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let (expected, got) = (self.features.len(), input.dims()[D - 1]);
        assert!(
            got == expected,
            "ElasticLayerNorm {}[{}]: expected {expected} features, got {got}",
            self.label,
            self.features.size(),
        );
        let beta = self.beta.as_ref().map(|beta| active(beta, [&self.features]));
        layer_norm(input, active(&self.gamma, [&self.features]), beta, self.epsilon)
    }
}

/// Burn's own layer with the parameters in use: of a view, a copy of its part.
impl From<ElasticLayerNorm> for LayerNorm {
    fn from(norm: ElasticLayerNorm) -> Self {
        let ElasticLayerNorm { gamma, beta, epsilon, features, .. } = norm;
        let config = LayerNormConfig::new(features.len()).with_epsilon(epsilon).with_bias(beta.is_some());
        let mut burn = config.init(&gamma.lazy_device());
        burn.gamma = in_use(gamma, [&features]);
        burn.beta = beta.map(|beta| in_use(beta, [&features]));
        burn
    }
}

impl Elastic for ElasticLayerNorm {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        let features = adaptation.axis(&self.features);
        Self {
            gamma: adaptation.param(&self.gamma, [&features]),
            beta: self.beta.as_ref().map(|beta| adaptation.param(beta, [&features])),
            epsilon: self.epsilon,
            features: adaptation.kept(features),
            label: self.label.at(adaptation),
        }
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        visitor.visit(&self.gamma, [&self.features]);
        if let Some(beta) = &self.beta {
            visitor.visit(beta, [&self.features]);
        }
    }
}
