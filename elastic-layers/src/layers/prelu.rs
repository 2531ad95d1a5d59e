//! Elastic parametric ReLU.

use burn::module::{Module, Param};
use burn::nn::{PRelu, PReluConfig};
use burn::tensor::activation::prelu;
use burn::tensor::{Device, Tensor};

use super::label::Label;
use crate::crop::{active, in_use};
use crate::{Adaptation, AxesVisitor, Axis, Elastic, Size};

/// Configuration of an [`ElasticPRelu`]; mirrors [`PReluConfig`].
#[derive(Clone, Debug)]
pub struct ElasticPReluConfig {
    num_parameters: Size,
    alpha: f64,
}

impl Default for ElasticPReluConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl ElasticPReluConfig {
    /// One slope for all channels, Burn's.
    pub fn new() -> Self {
        let burn = PReluConfig::new();
        Self { num_parameters: burn.num_parameters.into(), alpha: burn.alpha }
    }

    /// Sets the number of slopes: 1, or the number of channels.
    pub fn with_num_parameters(mut self, num_parameters: impl Into<Size>) -> Self {
        self.num_parameters = num_parameters.into();
        self
    }

    /// Sets the slope in the beginning.
    pub fn with_alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// The layer at its maximum size.
    pub fn init(&self, device: &Device) -> ElasticPRelu {
        let config = PReluConfig::new().with_num_parameters(self.num_parameters.max()).with_alpha(self.alpha);
        self.take_over(config.init(device))
    }

    /// The layer with the slopes of one of Burn's, which is the layer at its maximum size.
    ///
    /// # Panics
    /// If that has another size.
    pub fn take_over(&self, prelu: PRelu) -> ElasticPRelu {
        let channels = Axis::from(self.num_parameters.clone());
        let (expected, [got]) = (channels.len(), prelu.alpha.lazy_shape().dims());
        assert!(got == expected, "ElasticPRelu [{}]: expected {expected} slopes, got {got}", self.num_parameters);
        ElasticPRelu { channels, ..prelu.into() }
    }
}

/// A parametric ReLU, `max(x, 0) + alpha * min(x, 0)`, whose number of channels is elastic.
///
/// Made by [`ElasticPReluConfig`]. At full size it is [`burn::nn::PRelu`] with the same slopes.
#[derive(Module, Debug)]
pub struct ElasticPRelu {
    /// Slope for negative inputs, `[channels]` or `[1]`.
    pub alpha: Param<Tensor<1>>,
    alpha_value: f64,
    #[module(skip)]
    channels: Axis,
    #[module(skip)]
    label: Label,
}

impl ElasticPRelu {
    /// Applies the function.
    ///
    /// # Shapes
    /// - `input`: `[batch, channels, ...]`
    /// - output: `[batch, channels, ...]`
    ///
    /// # Panics
    /// If there is more than one slope, and the input has another number of channels.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let (expected, got) = (self.channels.len(), input.dims().get(1).copied().unwrap_or(1));
        let is_shared = self.channels.size() == &Size::Fixed(1);
        assert!(
            is_shared || got == expected,
            "ElasticPRelu {}[{}]: expected {expected} channels, got {got}",
            self.label,
            self.channels.size(),
        );
        prelu(input, active(&self.alpha, [&self.channels]))
    }
}

/// With the same slopes, and a fixed size.
impl From<PRelu> for ElasticPRelu {
    fn from(PRelu { alpha, alpha_value }: PRelu) -> Self {
        let [channels] = alpha.lazy_shape().dims();
        Self { alpha, alpha_value, channels: channels.into(), label: Label::default() }
    }
}

/// Burn's own layer with the slopes in use: of a view, a copy of its part.
impl From<ElasticPRelu> for PRelu {
    fn from(ElasticPRelu { alpha, alpha_value, channels, .. }: ElasticPRelu) -> Self {
        Self { alpha: in_use(alpha, [&channels]), alpha_value }
    }
}

impl Elastic for ElasticPRelu {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        let channels = adaptation.axis(&self.channels);
        Self {
            alpha: adaptation.param(&self.alpha, [&channels]),
            alpha_value: self.alpha_value,
            channels: adaptation.kept(channels),
            label: self.label.at(adaptation),
        }
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        visitor.visit(&self.alpha, [&self.channels]);
    }
}
