//! Elastic 2-D convolution.

use std::array::from_fn;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use elastic_kernels::{Part, conv2d};

use super::channels::{Channels, elastic_convolution, same_padding};
use super::label::Label;
use crate::Size;

/// Configuration of an [`ElasticConv2d`]; mirrors [`Conv2dConfig`].
#[derive(Clone, Debug)]
pub struct ElasticConv2dConfig {
    channels: [Size; 2],
    kernel_size: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    groups: Size,
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
            groups: burn.groups.into(),
            padding: burn.padding,
            bias: burn.bias,
            initializer: burn.initializer,
        }
    }

    /// A depthwise convolution: one filter for each channel.
    pub fn depthwise(channels: Size, kernel_size: [usize; 2]) -> Self {
        Self::new([channels.clone(), channels.clone()], kernel_size).with_groups(channels)
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

    /// Sets the number of groups; every input and output channel belongs to one, and sees the others of it only.
    ///
    /// Both numbers of channels must be `groups` itself or a product `groups * channels`, unless they and the groups are
    /// fixed: so every group is cropped on its own. Either factor may be elastic.
    pub fn with_groups(mut self, groups: impl Into<Size>) -> Self {
        self.groups = groups.into();
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
    ///
    /// # Panics
    /// If the numbers of channels are not written as groups; see [`with_groups`](Self::with_groups).
    pub fn init(&self, device: &Device) -> ElasticConv2d {
        let conv = Conv2dConfig::new([self.channels[0].max(), self.channels[1].max()], self.kernel_size)
            .with_stride(self.stride)
            .with_dilation(self.dilation)
            .with_groups(self.groups.max())
            .with_padding(self.padding.clone())
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .init(device);
        self.take_over(conv)
    }

    /// The layer with the parameters and options of one of Burn's, which is the layer at its maximum sizes.
    ///
    /// # Panics
    /// If that has other sizes, or the numbers of channels are not written as groups.
    pub fn take_over(&self, conv: Conv2d) -> ElasticConv2d {
        let channels = Channels::new("ElasticConv2d", &self.channels, &self.groups);
        channels.check_layer("ElasticConv2d", &conv.weight, conv.groups);
        ElasticConv2d { channels, ..conv.into() }
    }
}

/// A 2-D convolution whose numbers of input and output channels are elastic.
///
/// Made by [`ElasticConv2dConfig`]. At full size it is [`burn::nn::conv::Conv2d`] with the same parameters.
#[derive(Module, Debug)]
pub struct ElasticConv2d {
    /// `[channels_out, channels_in / groups, kernel_height, kernel_width]`.
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
    padding: PaddingConfig2d,
    #[module(skip)]
    channels: Channels,
    #[module(skip)]
    label: Label,
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
        let Convolution { input, weight, bias, options } = self.convolution(input);
        conv2d(input, weight, bias, options)
    }

    /// What [`forward`](Self::forward) computes.
    pub(super) fn convolution(&self, input: Tensor<4>) -> Convolution {
        let [_, inputs, height, width] = input.dims();
        self.channels
            .check_input(inputs, || format!("ElasticConv2d {}[{}] {:?}", self.label, self.channels, self.kernel_size));
        let padding = self.padding_pairs([height, width]);
        let options = ConvOptions::new_with_padding(self.stride, padding, self.dilation, self.channels.groups());
        let (weight, bias) = self.channels.active(&self.weight, self.bias.as_ref());
        Convolution { input, weight, bias, options }
    }

    /// The padding before and behind each axis.
    fn padding_pairs(&self, size: [usize; 2]) -> [(usize, usize); 2] {
        match self.padding {
            PaddingConfig2d::Valid => [(0, 0); 2],
            PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
            PaddingConfig2d::Same => {
                from_fn(|axis| same_padding(size[axis], self.kernel_size[axis], self.stride[axis]))
            }
        }
    }
}

/// A convolution that is not computed yet.
pub(super) struct Convolution {
    pub input: Tensor<4>,
    pub weight: Part<4>,
    pub bias: Option<Tensor<1>>,
    pub options: ConvOptions<2>,
}

/// With the same parameters, and fixed sizes.
impl From<Conv2d> for ElasticConv2d {
    fn from(conv: Conv2d) -> Self {
        let Conv2d { weight, bias, stride, kernel_size, dilation, groups, padding } = conv;
        let [outputs, in_group, ..] = weight.lazy_shape().dims::<4>();
        let channels = Channels::new("Conv2d", &[in_group * groups, outputs].map(Size::Fixed), &groups.into());
        Self { weight, bias, stride, kernel_size, dilation, padding, channels, label: Label::default() }
    }
}

/// Burn's own layer with the parameters in use: of a view, a copy of its part.
impl From<ElasticConv2d> for Conv2d {
    fn from(conv: ElasticConv2d) -> Self {
        let ElasticConv2d { weight, bias, stride, kernel_size, dilation, padding, channels, .. } = conv;
        let (weight, bias) = channels.params_in_use(weight, bias);
        Self { weight, bias, stride, kernel_size, dilation, groups: channels.groups(), padding }
    }
}

elastic_convolution!(ElasticConv2d { stride, kernel_size, dilation, padding });
