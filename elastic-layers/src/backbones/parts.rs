//! What the backbones are made of.

use burn::module::Module;
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use elastic_kernels::{Activation, global_mean};

use crate::{Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv2d, ElasticConv2dConfig, Size};

/// A dense convolution that keeps the size of its input, but for the stride.
pub(super) fn conv(channels: [Size; 2], kernel: usize, stride: usize) -> ElasticConv2dConfig {
    ElasticConv2dConfig::new(channels, [kernel; 2]).with_stride([stride; 2]).with_padding(padding(kernel))
}

/// A depthwise convolution of 3x3 that keeps the size of its input, but for the stride.
pub(super) fn depthwise(channels: Size, stride: usize) -> ElasticConv2dConfig {
    ElasticConv2dConfig::depthwise(channels, [3, 3]).with_stride([stride; 2]).with_padding(padding(3))
}

/// The padding at which an odd kernel keeps the size.
pub(super) fn padding(kernel: usize) -> PaddingConfig2d {
    let pad = kernel / 2;
    PaddingConfig2d::Explicit(pad, pad, pad, pad)
}

/// The class scores' input: the mean over the pixels of each channel.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, channels]`
pub(super) fn pooled(x: Tensor<4>) -> Tensor<2> {
    global_mean(x)
}

/// Convolution without bias, batch norm, activation.
#[derive(Module, Elastic, Debug)]
pub(super) struct ConvNorm {
    conv: ElasticConv2d,
    norm: ElasticBatchNorm,
    #[module(skip)]
    #[elastic(skip)]
    activation: Activation,
}

impl ConvNorm {
    /// Weights from N(0, 2 / fan_out), as torchvision's. Only for depthwise convolutions it is another: Burn counts the
    /// one output of each group, torchvision those of all groups.
    pub(super) fn new(conv: &ElasticConv2dConfig, activation: Activation, device: &Device) -> Self {
        let initializer = Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: true };
        let conv = conv.clone().with_bias(false).with_initializer(initializer);
        let norm = ElasticBatchNormConfig::new(conv.outputs().clone()).init(device);
        Self { conv: conv.init(device), norm, activation }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward_convolved(&self.conv, x, self.activation)
    }
}
