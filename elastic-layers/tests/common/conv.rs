//! Convolutions of every kind, and the naive loop.

use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::Device;
use elastic_layers::{Architecture, ElasticConv2d, ElasticConv2dConfig, SearchSpace};
use proptest::prelude::*;

use super::{cropped, param};

/// A convolution, the sizes of a view of it, and the images it sees.
#[derive(Clone, Debug)]
pub struct Case {
    pub depthwise: bool,
    pub bias: bool,
    pub batch: usize,
    /// Input and output channels of the supernet.
    pub max: [usize; 2],
    /// Input and output channels of the view.
    pub active: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub padding: PaddingConfig2d,
    pub image: [usize; 2],
    pub seed: u64,
}

fn padding() -> impl Strategy<Value = PaddingConfig2d> {
    prop_oneof![
        Just(PaddingConfig2d::Valid),
        Just(PaddingConfig2d::Same),
        Just(PaddingConfig2d::Explicit(1, 1, 1, 1)),
        (0..3usize, 0..3usize, 0..3usize, 0..3usize).prop_map(|(t, l, b, r)| PaddingConfig2d::Explicit(t, l, b, r)),
    ]
}

/// Any convolution that has an output. One channel, one pixel, one image and full size are among them.
pub fn cases() -> impl Strategy<Value = Case> {
    let channels = (1..=7usize).prop_flat_map(|max| (Just(max), 1..=max));
    let pair = |range: std::ops::RangeInclusive<usize>| [range.clone(), range];
    let layer = (any::<bool>(), any::<bool>(), [channels.clone(), channels], pair(1..=3), pair(1..=3), pair(1..=2));
    (layer, padding(), 1..=3usize, pair(1..=7), any::<u64>()).prop_map(
        |((depthwise, bias, [input, output], kernel, stride, dilation), padding, batch, image, seed)| {
            let input = if depthwise { output } else { input };
            // What "same" pads with a dilation is Burn's own affair.
            let dilation = if padding == PaddingConfig2d::Same { [1, 1] } else { dilation };
            let (max, active) = ([input.0, output.0], [input.1, output.1]);
            let mut case = Case { depthwise, bias, batch, max, active, kernel, stride, dilation, padding, image, seed };
            while case.output_size().is_none() {
                case.image = case.image.map(|size| size + 1);
            }
            case
        },
    )
}

impl Case {
    pub fn images(&self, inputs: usize) -> [usize; 4] {
        [self.batch, inputs, self.image[0], self.image[1]]
    }

    pub fn weight_shape(&self, [inputs, outputs]: [usize; 2]) -> [usize; 4] {
        [outputs, if self.depthwise { 1 } else { inputs }, self.kernel[0], self.kernel[1]]
    }

    /// The supernet's layer, and the architecture of the view.
    pub fn elastic(&self, weight: &[f32], bias: &[f32], device: &Device) -> (ElasticConv2d, SearchSpace, Architecture) {
        let mut space = SearchSpace::new();
        let mut channels = |name, max| space.channels(name, max).range(1..=max).add().expect("a dimension");
        let config = if self.depthwise {
            ElasticConv2dConfig::depthwise(channels("channels", self.max[1]), self.kernel)
        } else {
            ElasticConv2dConfig::new([channels("in", self.max[0]), channels("out", self.max[1])], self.kernel)
        };
        let mut layer = config
            .with_stride(self.stride)
            .with_dilation(self.dilation)
            .with_padding(self.padding.clone())
            .with_bias(self.bias)
            .init(device);
        layer.weight = param(weight, self.weight_shape(self.max), device);
        layer.bias = layer.bias.map(|_| param(bias, [self.max[1]], device));
        let values = if self.depthwise { vec![self.active[1]] } else { self.active.to_vec() };
        let architecture = space.architecture(values).expect("sizes in range");
        (layer, space, architecture)
    }

    /// Burn's layer of these sizes.
    pub fn burn(&self, channels: [usize; 2], weight: &[f32], bias: &[f32], device: &Device) -> Conv2d {
        let mut layer = Conv2dConfig::new(channels, self.kernel)
            .with_stride(self.stride)
            .with_dilation(self.dilation)
            .with_padding(self.padding.clone())
            .with_groups(if self.depthwise { channels[1] } else { 1 })
            .with_bias(self.bias)
            .init(device);
        layer.weight = param(weight, self.weight_shape(channels), device);
        layer.bias = layer.bias.map(|_| param(bias, [channels[1]], device));
        layer
    }

    /// The view's part of the supernet's weight and bias.
    pub fn active_values(&self, weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let weight = cropped(weight, &self.weight_shape(self.max), &self.weight_shape(self.active));
        (weight, bias[..self.active[1]].to_vec())
    }

    /// Rows and columns added before and after the image.
    fn padding(&self, axis: usize) -> [usize; 2] {
        match self.padding {
            PaddingConfig2d::Valid => [0, 0],
            PaddingConfig2d::Explicit(top, left, bottom, right) => [[top, bottom], [left, right]][axis],
            PaddingConfig2d::Same => {
                let (stride, image) = (self.stride[axis], self.image[axis]);
                let needed = ((image.div_ceil(stride) - 1) * stride + self.kernel[axis]).saturating_sub(image);
                [needed / 2, needed - needed / 2]
            }
        }
    }

    pub fn output_size(&self) -> Option<[usize; 2]> {
        let size = |axis: usize| {
            let room = self.image[axis] + self.padding(axis).iter().sum::<usize>();
            let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            Some(room.checked_sub(reach)? / self.stride[axis] + 1)
        };
        Some([size(0)?, size(1)?])
    }

    /// The pixel that a kernel element sees at an output position, unless it lies in the padding.
    fn pixel(&self, axis: usize, output: usize, kernel: usize) -> Option<usize> {
        let padded = output * self.stride[axis] + kernel * self.dilation[axis];
        padded.checked_sub(self.padding(axis)[0]).filter(|&pixel| pixel < self.image[axis])
    }
}

/// Output and gradients of a convolution.
pub struct Naive {
    pub output: Vec<f64>,
    pub input: Vec<f64>,
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
}

impl Naive {
    /// One loop per axis: the definition of a convolution, and of its gradients for the output's gradient `upstream`.
    pub fn new(case: &Case, channels: [usize; 2], x: &[f32], weight: &[f32], bias: &[f32], upstream: &[f32]) -> Self {
        let [inputs, outputs] = channels;
        let [rows, columns] = case.output_size().expect("an output");
        let [height, width] = case.image;
        let [_, depth, kernel_rows, kernel_columns] = case.weight_shape(channels);
        let mut naive = Self {
            output: vec![0.0; case.batch * outputs * rows * columns],
            input: vec![0.0; x.len()],
            weight: vec![0.0; weight.len()],
            bias: vec![0.0; outputs],
        };
        for (position, gradient) in upstream.iter().map(|&gradient| gradient as f64).enumerate() {
            let (column, row) = (position % columns, position / columns % rows);
            let (output, image) = (position / columns / rows % outputs, position / columns / rows / outputs);
            if case.bias {
                naive.output[position] = bias[output] as f64;
                naive.bias[output] += gradient;
            }
            for channel in 0..depth {
                for kernel in 0..kernel_rows * kernel_columns {
                    let (kernel_row, kernel_column) = (kernel / kernel_columns, kernel % kernel_columns);
                    let (Some(y), Some(z)) = (case.pixel(0, row, kernel_row), case.pixel(1, column, kernel_column))
                    else {
                        continue;
                    };
                    let input = if case.depthwise { output } else { channel };
                    let from = ((image * inputs + input) * height + y) * width + z;
                    let by = (output * depth + channel) * kernel_rows * kernel_columns + kernel;
                    naive.output[position] += x[from] as f64 * weight[by] as f64;
                    naive.input[from] += gradient * weight[by] as f64;
                    naive.weight[by] += gradient * x[from] as f64;
                }
            }
        }
        naive
    }
}
