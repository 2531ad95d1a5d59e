//! Elastic squeeze-and-excite block.

use burn::module::Module;
use burn::tensor::activation::{hard_sigmoid, relu, sigmoid};
use burn::tensor::{Device, Tensor};

use super::conv2d::{ElasticConv2d, ElasticConv2dConfig};
use crate::{Elastic, Size};

/// What makes a factor of a squeeze-and-excite block out of any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The logistic function, as published.
    Sigmoid,
    /// `min(max(x / 6 + 1 / 2, 0), 1)`, as in MobileNetV3.
    HardSigmoid,
}

/// Configuration of an [`ElasticSqueezeExcite`].
#[derive(Clone, Debug)]
pub struct ElasticSqueezeExciteConfig {
    channels: Size,
    squeezed: Size,
    gate: Gate,
}

impl ElasticSqueezeExciteConfig {
    /// A block for so many channels, which are squeezed to fewer; with a sigmoid gate.
    pub fn new(channels: impl Into<Size>, squeezed: impl Into<Size>) -> Self {
        Self { channels: channels.into(), squeezed: squeezed.into(), gate: Gate::Sigmoid }
    }

    /// Sets the gate.
    pub fn with_gate(mut self, gate: Gate) -> Self {
        self.gate = gate;
        self
    }

    /// The block at its maximum sizes.
    pub fn init(&self, device: &Device) -> ElasticSqueezeExcite {
        let conv = |from: &Size, to: &Size| ElasticConv2dConfig::new([from.clone(), to.clone()], [1, 1]).init(device);
        ElasticSqueezeExcite {
            reduce: conv(&self.channels, &self.squeezed),
            expand: conv(&self.squeezed, &self.channels),
            gate: self.gate,
        }
    }
}

/// Scales every channel by a factor that depends on the means of all channels
/// ([Hu et al., 2017](https://arxiv.org/abs/1709.01507)); both its channels and its squeezed channels are elastic.
///
/// Made by [`ElasticSqueezeExciteConfig`]. `x * gate(expand(relu(reduce(mean(x)))))`, the two convolutions being 1x1.
#[derive(Module, Elastic, Debug)]
pub struct ElasticSqueezeExcite {
    /// From the channels to the squeezed ones.
    pub reduce: ElasticConv2d,
    /// Back.
    pub expand: ElasticConv2d,
    #[module(skip)]
    #[elastic(skip)]
    gate: Gate,
}

impl ElasticSqueezeExcite {
    /// Applies the block.
    ///
    /// # Shapes
    /// - `input`: `[batch, channels, height, width]`
    /// - output: `[batch, channels, height, width]`
    ///
    /// # Panics
    /// If the input has another number of channels than the block at its architecture.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let squeezed = relu(self.reduce.forward(input.clone().mean_dims(&[2, 3])));
        let excited = self.expand.forward(squeezed);
        let factors = match self.gate {
            Gate::Sigmoid => sigmoid(excited),
            Gate::HardSigmoid => hard_sigmoid(excited, 1.0 / 6.0, 0.5),
        };
        input * factors
    }
}
