//! Elastic linear layer.

use burn::module::{Module, Param};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::module::linear;
use burn::tensor::{Device, Tensor};

use super::label::Label;
use crate::crop::{active, in_use};
use crate::{Adaptation, AxesVisitor, Axis, Elastic, Size};

/// Configuration of an [`ElasticLinear`]; mirrors [`LinearConfig`].
#[derive(Clone, Debug)]
pub struct ElasticLinearConfig {
    features: [Size; 2],
    bias: bool,
    initializer: Initializer,
}

impl ElasticLinearConfig {
    /// A linear layer with bias and Burn's initialiser.
    pub fn new(inputs: impl Into<Size>, outputs: impl Into<Size>) -> Self {
        let burn = LinearConfig::new(1, 1);
        Self { features: [inputs.into(), outputs.into()], bias: burn.bias, initializer: burn.initializer }
    }

    /// Sets whether a bias is added.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Sets the initialiser of weight and bias.
    pub fn with_initializer(mut self, initializer: Initializer) -> Self {
        self.initializer = initializer;
        self
    }

    /// The layer at its maximum sizes.
    pub fn init(&self, device: &Device) -> ElasticLinear {
        let linear = LinearConfig::new(self.features[0].max(), self.features[1].max())
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .init(device);
        self.take_over(linear)
    }

    /// The layer with the parameters of one of Burn's, which is the layer at its maximum sizes.
    ///
    /// # Panics
    /// If that has other sizes.
    pub fn take_over(&self, linear: Linear) -> ElasticLinear {
        let features = self.features.clone().map(Axis::from);
        let (expected, got) = (features.each_ref().map(Axis::len), linear.weight.lazy_shape().dims::<2>());
        assert!(got == expected, "ElasticLinear: expected a weight of shape {expected:?}, got {got:?}");
        ElasticLinear { features, ..linear.into() }
    }
}

/// A linear layer whose numbers of input and output features are elastic.
///
/// Made by [`ElasticLinearConfig`]. At full size it is [`burn::nn::Linear`] with the same parameters.
#[derive(Module, Debug)]
pub struct ElasticLinear {
    /// `[features_in, features_out]`.
    pub weight: Param<Tensor<2>>,
    /// `[features_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    features: [Axis; 2],
    #[module(skip)]
    label: Label,
}

impl ElasticLinear {
    /// Applies the layer.
    ///
    /// # Shapes
    /// - `input`: `[..., features_in]`
    /// - output: `[..., features_out]`
    ///
    /// # Panics
    /// If the input has another number of features than the layer at its architecture.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let [inputs, outputs] = &self.features;
        let (expected, got) = (inputs.len(), input.dims()[D - 1]);
        assert!(
            got == expected,
            "ElasticLinear {}[{} -> {}]: expected {expected} input features, got {got}",
            self.label,
            inputs.size(),
            outputs.size(),
        );
        let bias = self.bias.as_ref().map(|bias| active(bias, [outputs]));
        linear(input, active(&self.weight, [inputs, outputs]), bias)
    }
}

/// With the same parameters, and fixed sizes.
impl From<Linear> for ElasticLinear {
    fn from(Linear { weight, bias }: Linear) -> Self {
        let features = weight.lazy_shape().dims::<2>().map(Axis::from);
        Self { weight, bias, features, label: Label::default() }
    }
}

/// Burn's own layer with the parameters in use: of a view, a copy of its part.
impl From<ElasticLinear> for Linear {
    fn from(ElasticLinear { weight, bias, features, .. }: ElasticLinear) -> Self {
        let [inputs, outputs] = &features;
        Self { weight: in_use(weight, [inputs, outputs]), bias: bias.map(|bias| in_use(bias, [outputs])) }
    }
}

impl Elastic for ElasticLinear {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        let features = self.features.each_ref().map(|axis| adaptation.axis(axis));
        let [inputs, outputs] = &features;
        Self {
            weight: adaptation.param(&self.weight, [inputs, outputs]),
            bias: self.bias.as_ref().map(|bias| adaptation.param(bias, [outputs])),
            features: features.map(|axis| adaptation.kept(axis)),
            label: self.label.at(adaptation),
        }
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        let [inputs, outputs] = &self.features;
        visitor.visit(&self.weight, [inputs, outputs]);
        if let Some(bias) = &self.bias {
            visitor.visit(bias, [outputs]);
        }
    }
}
