//! Elastic 1-D convolution.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv1d, Conv1dConfig};
use burn::nn::{Initializer, PaddingConfig1d};
use burn::tensor::module::conv1d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use elastic_kernels::conv2d;

use super::channels::{Channels, elastic_convolution, same_padding};
use super::label::Label;
use crate::Size;

/// Configuration of an [`ElasticConv1d`]; mirrors [`Conv1dConfig`].
#[derive(Clone, Debug)]
pub struct ElasticConv1dConfig {
    channels: [Size; 2],
    kernel_size: usize,
    stride: usize,
    dilation: usize,
    groups: Size,
    padding: PaddingConfig1d,
    bias: bool,
    initializer: Initializer,
}

impl ElasticConv1dConfig {
    /// A dense convolution from the first to the second number of channels: stride 1, no padding, with bias, and
    /// Burn's initialiser.
    pub fn new(channels: [Size; 2], kernel_size: usize) -> Self {
        let burn = Conv1dConfig::new(1, 1, kernel_size);
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
    pub fn depthwise(channels: Size, kernel_size: usize) -> Self {
        Self::new([channels.clone(), channels.clone()], kernel_size).with_groups(channels)
    }

    /// Sets the stride.
    pub fn with_stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// Sets the spacing between kernel elements.
    pub fn with_dilation(mut self, dilation: usize) -> Self {
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
    pub fn with_padding(mut self, padding: PaddingConfig1d) -> Self {
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
    pub fn init(&self, device: &Device) -> ElasticConv1d {
        let conv = Conv1dConfig::new(self.channels[0].max(), self.channels[1].max(), self.kernel_size)
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
    pub fn take_over(&self, conv: Conv1d) -> ElasticConv1d {
        let channels = Channels::new("ElasticConv1d", &self.channels, &self.groups);
        channels.check_layer("ElasticConv1d", &conv.weight, conv.groups);
        ElasticConv1d { channels, ..conv.into() }
    }
}

/// A 1-D convolution whose numbers of input and output channels are elastic.
///
/// Made by [`ElasticConv1dConfig`]. At full size it is [`burn::nn::conv::Conv1d`] with the same parameters.
#[derive(Module, Debug)]
pub struct ElasticConv1d {
    /// `[channels_out, channels_in / groups, kernel]`.
    pub weight: Param<Tensor<3>>,
    /// `[channels_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Stride.
    pub stride: usize,
    /// Length of the kernel.
    pub kernel_size: usize,
    /// Spacing between kernel elements.
    pub dilation: usize,
    #[module(skip)]
    padding: PaddingConfig1d,
    #[module(skip)]
    channels: Channels,
    #[module(skip)]
    label: Label,
}

impl ElasticConv1d {
    /// Applies the convolution.
    ///
    /// # Shapes
    /// - `input`: `[batch, channels_in, length_in]`
    /// - output: `[batch, channels_out, length_out]`
    ///
    /// # Panics
    /// If the input has another number of channels than the layer at its architecture.
    pub fn forward(&self, input: Tensor<3>) -> Tensor<3> {
        let [_, inputs, length] = input.dims();
        self.channels
            .check_input(inputs, || format!("ElasticConv1d {}[{}] {:?}", self.label, self.channels, self.kernel_size));
        let padding = [self.padding_pair(length)];
        let options = ConvOptions::new_with_padding([self.stride], padding, [self.dilation], self.channels.groups());
        let (weight, bias) = self.channels.active(&self.weight, self.bias.as_ref());
        // Burn's gradient of a grouped and strided 1-D weight is wrong where the stride leaves a rest; that in 2-D is not.
        if self.channels.groups() > 1 && self.stride > 1 && input.device().is_autodiff() {
            let padding = [(0, 0), padding[0]];
            let options =
                ConvOptions::new_with_padding([1, self.stride], padding, [1, self.dilation], self.channels.groups());
            return conv2d(input.unsqueeze_dim(2), weight.into_tensor().unsqueeze_dim(2), bias, options).squeeze_dim(2);
        }
        conv1d(input, weight.into_tensor(), bias, options)
    }

    /// The padding before and behind.
    fn padding_pair(&self, length: usize) -> (usize, usize) {
        match self.padding {
            PaddingConfig1d::Valid => (0, 0),
            PaddingConfig1d::Explicit(before, behind) => (before, behind),
            PaddingConfig1d::Same => same_padding(length, self.kernel_size, self.stride),
        }
    }
}

/// With the same parameters, and fixed sizes.
impl From<Conv1d> for ElasticConv1d {
    fn from(conv: Conv1d) -> Self {
        let Conv1d { weight, bias, stride, kernel_size, dilation, groups, padding } = conv;
        let [outputs, in_group, ..] = weight.lazy_shape().dims::<3>();
        let channels = Channels::new("Conv1d", &[in_group * groups, outputs].map(Size::Fixed), &groups.into());
        Self { weight, bias, stride, kernel_size, dilation, padding, channels, label: Label::default() }
    }
}

/// Burn's own layer with the parameters in use: of a view, a copy of its part.
impl From<ElasticConv1d> for Conv1d {
    fn from(conv: ElasticConv1d) -> Self {
        let ElasticConv1d { weight, bias, stride, kernel_size, dilation, padding, channels, .. } = conv;
        let (weight, bias) = channels.params_in_use(weight, bias);
        Self { weight, bias, stride, kernel_size, dilation, groups: channels.groups(), padding }
    }
}

elastic_convolution!(ElasticConv1d { stride, kernel_size, dilation, padding });
