//! Elastic 2-D convolution.

use std::array::from_fn;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use elastic_kernels::conv2d;

use crate::elastic::{active, materialize};
use crate::{Adaptation, AxesVisitor, Elastic, Size};

/// Which input channels an output channel sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// All of them.
    Dense,
    /// Its own only; output and input channels are the same dimension.
    Depthwise,
}

/// Configuration of an [`ElasticConv2d`]; mirrors [`Conv2dConfig`].
#[derive(Clone, Debug)]
pub struct ElasticConv2dConfig {
    channels: [Size; 2],
    kernel_size: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    groups: Groups,
    padding: PaddingConfig2d,
    bias: bool,
    initializer: Initializer,
}

impl ElasticConv2dConfig {
    /// A dense convolution from the first to the second number of channels: stride 1, no padding, with bias, and
    /// Burn's initialiser.
    pub fn new(channels: [Size; 2], kernel_size: [usize; 2]) -> Self {
        let burn = Conv2dConfig::new([1, 1], kernel_size);
        Self {
            channels,
            kernel_size,
            stride: burn.stride,
            dilation: burn.dilation,
            groups: Groups::Dense,
            padding: burn.padding,
            bias: burn.bias,
            initializer: burn.initializer,
        }
    }

    /// A depthwise convolution: one filter for each channel.
    pub fn depthwise(channels: Size, kernel_size: [usize; 2]) -> Self {
        Self { groups: Groups::Depthwise, ..Self::new([channels.clone(), channels], kernel_size) }
    }

    /// Sets the stride.
    pub fn with_stride(mut self, stride: [usize; 2]) -> Self {
        self.stride = stride;
        self
    }

    /// Sets the spacing between kernel elements.
    pub fn with_dilation(mut self, dilation: [usize; 2]) -> Self {
        self.dilation = dilation;
        self
    }

    /// Sets the padding.
    pub fn with_padding(mut self, padding: PaddingConfig2d) -> Self {
        self.padding = padding;
        self
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

    /// The number of output channels.
    pub fn outputs(&self) -> &Size {
        &self.channels[1]
    }

    /// The layer at its maximum sizes.
    pub fn init(&self, device: &Device) -> ElasticConv2d {
        let [inputs, outputs] = [self.channels[0].max(), self.channels[1].max()];
        let groups = match self.groups {
            Groups::Dense => 1,
            Groups::Depthwise => outputs,
        };
        let Conv2d { weight, bias, .. } = Conv2dConfig::new([inputs, outputs], self.kernel_size)
            .with_groups(groups)
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .init(device);
        ElasticConv2d {
            weight,
            bias,
            stride: self.stride,
            kernel_size: self.kernel_size,
            dilation: self.dilation,
            groups: self.groups,
            padding: self.padding.clone(),
            channels: self.channels.clone(),
            active: [inputs, outputs],
        }
    }
}

/// A 2-D convolution whose numbers of input and output channels are elastic.
///
/// Made by [`ElasticConv2dConfig`]. At full size it is [`burn::nn::conv::Conv2d`] with the same parameters.
#[derive(Module, Debug)]
pub struct ElasticConv2d {
    /// `[channels_out, channels_in, kernel_height, kernel_width]`; `channels_in` is 1 if depthwise.
    pub weight: Param<Tensor<4>>,
    /// `[channels_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Stride, vertical and horizontal.
    pub stride: [usize; 2],
    /// Height and width of the kernel.
    pub kernel_size: [usize; 2],
    /// Spacing between kernel elements.
    pub dilation: [usize; 2],
    #[module(skip)]
    groups: Groups,
    #[module(skip)]
    padding: PaddingConfig2d,
    #[module(skip)]
    channels: [Size; 2],
    #[module(skip)]
    active: [usize; 2],
}

impl ElasticConv2d {
    /// Applies the convolution.
    ///
    /// # Shapes
    /// - `input`: `[batch, channels_in, height_in, width_in]`
    /// - output: `[batch, channels_out, height_out, width_out]`
    ///
    /// # Panics
    /// If the input has another number of channels than the layer at its architecture.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let [_, channels, height, width] = input.dims();
        let [inputs, outputs] = self.active;
        assert!(
            channels == inputs,
            "ElasticConv2d [{} -> {}] {:?}: expected {inputs} input channels, got {channels}",
            self.channels[0],
            self.channels[1],
            self.kernel_size,
        );
        let groups = match self.groups {
            Groups::Dense => 1,
            Groups::Depthwise => outputs,
        };
        let padding = self.padding_pairs([height, width]);
        let options = ConvOptions::new_with_padding(self.stride, padding, self.dilation, groups);
        let weight = active(&self.weight, self.weight_sizes(self.active));
        conv2d(input, weight, self.bias.as_ref().map(|bias| active(bias, [outputs])), options)
    }

    /// The padding before and behind each axis.
    fn padding_pairs(&self, size: [usize; 2]) -> [(usize, usize); 2] {
        match self.padding {
            PaddingConfig2d::Valid => [(0, 0); 2],
            PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
            // As Burn's layer, whose own function is private: dilation is not counted, an odd number goes behind.
            PaddingConfig2d::Same => from_fn(|axis| {
                let reach = (size[axis].div_ceil(self.stride[axis]).max(1) - 1) * self.stride[axis];
                let total = (reach + self.kernel_size[axis]).saturating_sub(size[axis]);
                (total / 2, total.div_ceil(2))
            }),
        }
    }

    /// The numbers of input and output channels of this view.
    pub fn active_channels(&self) -> [usize; 2] {
        self.active
    }

    fn weight_sizes(&self, [inputs, outputs]: [usize; 2]) -> [usize; 4] {
        let [height, width] = self.kernel_size;
        match self.groups {
            Groups::Dense => [outputs, inputs, height, width],
            Groups::Depthwise => [outputs, 1, height, width],
        }
    }
}

impl Elastic for ElasticConv2d {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        match adaptation {
            Adaptation::Select(architecture) => {
                let active = [self.channels[0].at(architecture), self.channels[1].at(architecture)];
                Self { active, ..self.clone() }
            }
            Adaptation::Materialize(architecture) => {
                let active = [self.channels[0].at(architecture), self.channels[1].at(architecture)];
                Self {
                    weight: materialize(&self.weight, self.weight_sizes(active)),
                    bias: self.bias.as_ref().map(|bias| materialize(bias, [active[1]])),
                    channels: active.map(Size::Fixed),
                    active,
                    ..self.clone()
                }
            }
            Adaptation::Statistics(_) => self.clone(),
        }
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        let [inputs, outputs] = self.channels.clone();
        let [height, width] = self.kernel_size.map(Size::Fixed);
        let inputs = match self.groups {
            Groups::Dense => inputs,
            Groups::Depthwise => Size::Fixed(1),
        };
        visitor.visit(&self.weight, [outputs.clone(), inputs, height, width]);
        if let Some(bias) = &self.bias {
            visitor.visit(bias, [outputs]);
        }
    }
}
