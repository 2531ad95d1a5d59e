//! Elastic linear layer.

use burn::module::{Module, Param};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::module::linear;
use burn::tensor::{Device, Tensor};

use crate::elastic::{active, materialize};
use crate::{Adaptation, AxesVisitor, Elastic, Size};

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
        let active = [self.features[0].max(), self.features[1].max()];
        let Linear { weight, bias } = LinearConfig::new(active[0], active[1])
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .init(device);
        ElasticLinear { weight, bias, features: self.features.clone(), active }
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
    features: [Size; 2],
    #[module(skip)]
    active: [usize; 2],
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
        let [inputs, outputs] = self.active;
        let features = input.dims()[D - 1];
        assert!(
            features == inputs,
            "ElasticLinear [{} -> {}]: expected {inputs} input features, got {features}",
            self.features[0],
            self.features[1],
        );
        linear(input, active(&self.weight, self.active), self.bias.as_ref().map(|bias| active(bias, [outputs])))
    }
}

impl Elastic for ElasticLinear {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        match adaptation {
            Adaptation::Select(architecture) => {
                let active = [self.features[0].at(architecture), self.features[1].at(architecture)];
                Self { active, ..self.clone() }
            }
            Adaptation::Materialize(architecture) => {
                let active = [self.features[0].at(architecture), self.features[1].at(architecture)];
                Self {
                    weight: materialize(&self.weight, active),
                    bias: self.bias.as_ref().map(|bias| materialize(bias, [active[1]])),
                    features: active.map(Size::Fixed),
                    active,
                }
            }
            Adaptation::Statistics(_) => self.clone(),
        }
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        visitor.visit(&self.weight, self.features.clone());
        if let Some(bias) = &self.bias {
            visitor.visit(bias, [self.features[1].clone()]);
        }
    }
}
