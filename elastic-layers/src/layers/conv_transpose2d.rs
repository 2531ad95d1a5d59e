//! Elastic transposed 2-D convolution.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::nn::conv::{ConvTranspose2d, ConvTranspose2dConfig};
use burn::tensor::module::conv_transpose2d;
use burn::tensor::ops::ConvTransposeOptions;
use burn::tensor::{Device, Tensor};

use super::channels::{Channels, elastic_convolution};
use super::label::Label;
use crate::Size;

/// Configuration of an [`ElasticConvTranspose2d`]; mirrors [`ConvTranspose2dConfig`].
#[derive(Clone, Debug)]
pub struct ElasticConvTranspose2dConfig {
    channels: [Size; 2],
    kernel_size: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    groups: Size,
    padding: [usize; 2],
    padding_out: [usize; 2],
    bias: bool,
    initializer: Initializer,
}

impl ElasticConvTranspose2dConfig {
    /// A dense transposed convolution from the first to the second number of channels: stride 1, no padding, with bias, and
    /// Burn's initialiser.
    pub fn new(channels: [Size; 2], kernel_size: [usize; 2]) -> Self {
        let burn = ConvTranspose2dConfig::new([1, 1], kernel_size);
        Self {
            channels,
            kernel_size,
            stride: burn.stride,
            dilation: burn.dilation,
            groups: burn.groups.into(),
            padding: burn.padding,
            padding_out: burn.padding_out,
            bias: burn.bias,
            initializer: burn.initializer,
        }
    }

    /// A depthwise transposed convolution: one filter for each channel.
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

    /// Sets how much is cut off every side of the output.
    pub fn with_padding(mut self, padding: [usize; 2]) -> Self {
        self.padding = padding;
        self
    }

    /// Sets how much is added behind the output.
    pub fn with_padding_out(mut self, padding_out: [usize; 2]) -> Self {
        self.padding_out = padding_out;
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
    pub fn init(&self, device: &Device) -> ElasticConvTranspose2d {
        let conv = ConvTranspose2dConfig::new([self.channels[0].max(), self.channels[1].max()], self.kernel_size)
            .with_stride(self.stride)
            .with_dilation(self.dilation)
            .with_groups(self.groups.max())
            .with_padding(self.padding)
            .with_padding_out(self.padding_out)
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .init(device);
        self.take_over(conv)
    }

    /// The layer with the parameters and options of one of Burn's, which is the layer at its maximum sizes.
    ///
    /// # Panics
    /// If that has other sizes, or the numbers of channels are not written as groups.
    pub fn take_over(&self, conv: ConvTranspose2d) -> ElasticConvTranspose2d {
        let channels = Channels::transposed("ElasticConvTranspose2d", &self.channels, &self.groups);
        channels.check_layer("ElasticConvTranspose2d", &conv.weight, conv.groups);
        ElasticConvTranspose2d { channels, ..conv.into() }
    }
}

/// A transposed 2-D convolution whose numbers of input and output channels are elastic.
///
/// Made by [`ElasticConvTranspose2dConfig`]. At full size it is [`burn::nn::conv::ConvTranspose2d`] with the same parameters.
#[derive(Module, Debug)]
pub struct ElasticConvTranspose2d {
    /// `[channels_in, channels_out / groups, kernel_height, kernel_width]`.
    pub weight: Param<Tensor<4>>,
    /// `[channels_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Stride, vertical and horizontal.
    pub stride: [usize; 2],
    /// Height and width of the kernel.
    pub kernel_size: [usize; 2],
    /// Spacing between kernel elements.
    pub dilation: [usize; 2],
    /// Rows and columns of zeros around the input, in the output's coordinates: what is cut off the output.
    pub padding: [usize; 2],
    /// Rows and columns added behind the output.
    pub padding_out: [usize; 2],
    #[module(skip)]
    channels: Channels,
    #[module(skip)]
    label: Label,
}

impl ElasticConvTranspose2d {
    /// Applies the convolution.
    ///
    /// # Shapes
    /// - `input`: `[batch, channels_in, height_in, width_in]`
    /// - output: `[batch, channels_out, height_out, width_out]`
    ///
    /// # Panics
    /// If the input has another number of channels than the layer at its architecture.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let layer = || format!("ElasticConvTranspose2d {}[{}] {:?}", self.label, self.channels, self.kernel_size);
        self.channels.check_input(input.dims()[1], layer);
        let groups = self.channels.groups();
        let options = ConvTransposeOptions::new(self.stride, self.padding, self.padding_out, self.dilation, groups);
        let (weight, bias) = self.channels.active(&self.weight, self.bias.as_ref());
        conv_transpose2d(input, weight.into_tensor(), bias, options)
    }
}

/// With the same parameters, and fixed sizes.
impl From<ConvTranspose2d> for ElasticConvTranspose2d {
    fn from(conv: ConvTranspose2d) -> Self {
        let ConvTranspose2d { weight, bias, stride, kernel_size, dilation, groups, padding, padding_out, channels } =
            conv;
        let channels = Channels::transposed("ConvTranspose2d", &channels.map(Size::Fixed), &groups.into());
        Self { weight, bias, stride, kernel_size, dilation, padding, padding_out, channels, label: Label::default() }
    }
}

/// Burn's own layer with the parameters in use: of a view, a copy of its part.
impl From<ElasticConvTranspose2d> for ConvTranspose2d {
    fn from(conv: ElasticConvTranspose2d) -> Self {
        let ElasticConvTranspose2d {
            weight, bias, stride, kernel_size, dilation, padding, padding_out, channels, ..
        } = conv;
        let (weight, bias) = channels.params_in_use(weight, bias);
        let (groups, channels) = (channels.groups(), channels.in_use());
        Self { weight, bias, stride, kernel_size, dilation, groups, padding, padding_out, channels }
    }
}

elastic_convolution!(ElasticConvTranspose2d { stride, kernel_size, dilation, padding, padding_out });
