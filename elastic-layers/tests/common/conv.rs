//! Convolutions of every kind.

use std::array::from_fn;
use std::ops::RangeInclusive;

use burn::module::Param;
use burn::nn::conv::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::{PaddingConfig1d, PaddingConfig2d};
use burn::tensor::Tensor;
use elastic_layers::{
    ElasticConv1d, ElasticConv1dConfig, ElasticConv2d, ElasticConv2dConfig, ElasticConvTranspose2d,
    ElasticConvTranspose2dConfig, Size,
};
use proptest::prelude::*;

use super::device;
use super::subject::{FULL, Parts, Sizes, Subject, VIEW, Width, widths};

/// A convolution, what a view uses of it, and the images it sees.
#[derive(Clone, Debug)]
pub struct Case {
    pub groups: Width,
    /// Input and output channels of every group.
    pub each: [Width; 2],
    pub bias: bool,
    pub batch: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub padding: PaddingConfig2d,
    /// Of a transposed convolution: rows and columns behind the output.
    pub padding_out: [usize; 2],
    pub image: [usize; 2],
    pub seed: u64,
}

fn paddings() -> impl Strategy<Value = PaddingConfig2d> {
    prop_oneof![
        Just(PaddingConfig2d::Valid),
        Just(PaddingConfig2d::Same),
        Just(PaddingConfig2d::Explicit(1, 1, 1, 1)),
        (0..3usize, 0..3usize, 0..3usize, 0..3usize).prop_map(|(t, l, b, r)| PaddingConfig2d::Explicit(t, l, b, r)),
    ]
}

/// Groups, and the input and output channels of each: dense, of concatenations too; depthwise, with a multiplier too;
/// groups elastic in number, in width, or both.
fn channels() -> impl Strategy<Value = (Width, [Width; 2])> {
    let fixed = |max: usize| (1..=max).prop_map(Width::fixed);
    prop_oneof![
        2 => [widths(7), widths(7)].prop_map(|each| (Width::fixed(1), each)),
        1 => widths(7).prop_map(|groups| (groups, [Width::fixed(1), Width::fixed(1)])),
        1 => (widths(4), widths(3)).prop_map(|(groups, multiplier)| (groups, [Width::fixed(1), multiplier])),
        1 => (widths(4), [fixed(3), fixed(3)]),
        1 => (fixed(4), [widths(3), widths(3)]),
        1 => (widths(3), [widths(3), widths(3)]),
    ]
}

/// Any convolution that has an output. One channel, one pixel, one image and full size are among them.
pub fn cases() -> impl Strategy<Value = Case> {
    let pair = |range: RangeInclusive<usize>| [range.clone(), range];
    let layer = (channels(), any::<bool>(), pair(1..=3), pair(1..=3), pair(1..=2), [any::<bool>(), any::<bool>()]);
    (layer, paddings(), 1..=3usize, pair(1..=7), 0..1u64 << 50).prop_map(
        |(((groups, each), bias, kernel, stride, dilation, behind), padding, batch, image, seed)| {
            // What "same" pads with a dilation is Burn's own affair.
            let dilation = if padding == PaddingConfig2d::Same { [1, 1] } else { dilation };
            // Less than a stride, as of every framework.
            let padding_out = from_fn(|axis| usize::from(behind[axis] && stride[axis] > 1));
            Case { groups, each, bias, batch, kernel, stride, dilation, padding, padding_out, image, seed }
        },
    )
}

/// How a convolution connects pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    Forward,
    Transposed,
}

impl Case {
    /// The same with images large enough for an output.
    pub fn with_output(mut self, direction: Direction) -> Self {
        for axis in 0..2 {
            while self.output_size(axis, direction).is_none_or(|size| size == 0) {
                self.image[axis] += 1;
            }
        }
        self
    }

    /// The same along the width alone.
    pub fn one_dimensional(mut self) -> Self {
        [self.kernel[0], self.stride[0], self.dilation[0], self.image[0]] = [1; 4];
        if let PaddingConfig2d::Explicit(_, left, _, right) = self.padding {
            self.padding = PaddingConfig2d::Explicit(0, left, 0, right);
        }
        self.with_output(Direction::Forward)
    }

    /// Input and output channels.
    pub fn channels(&self, which: usize) -> [usize; 2] {
        self.each.each_ref().map(|each| self.groups_in(which) * [each.active(), each.max()][which])
    }

    pub fn groups_in(&self, which: usize) -> usize {
        [self.groups.active(), self.groups.max()][which]
    }

    /// The sizes of input and output channels and of groups, and the architectures.
    fn sizes(&self) -> ([Size; 2], Size, Sizes) {
        let mut sizes = Sizes::default();
        let groups = sizes.add(&self.groups);
        let channels = self.each.each_ref().map(|each| groups.clone() * sizes.add(each));
        (channels, groups, sizes)
    }

    /// What is used of the weight's first two axes.
    fn used(&self, direction: Direction) -> [Vec<usize>; 2] {
        let [inputs, outputs] = &self.each;
        match direction {
            Direction::Forward => [self.groups.used_groups(outputs), inputs.used()],
            Direction::Transposed => [self.groups.used_groups(inputs), outputs.used()],
        }
    }

    /// Rows and columns added before and behind the image; of a transposed convolution, cut off.
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

    /// Of a transposed convolution, the same on both sides.
    fn cut(&self, axis: usize) -> usize {
        if self.padding == PaddingConfig2d::Same { 0 } else { self.padding(axis)[0] }
    }

    fn reach(&self, axis: usize) -> usize {
        self.dilation[axis] * (self.kernel[axis] - 1) + 1
    }

    pub fn output_size(&self, axis: usize, direction: Direction) -> Option<usize> {
        match direction {
            Direction::Forward => {
                let room = self.image[axis] + self.padding(axis).iter().sum::<usize>();
                Some(room.checked_sub(self.reach(axis))? / self.stride[axis] + 1)
            }
            Direction::Transposed => {
                let full = (self.image[axis] - 1) * self.stride[axis] + self.reach(axis) + self.padding_out[axis];
                full.checked_sub(2 * self.cut(axis))
            }
        }
    }

    /// All triples of an input pixel, an output pixel and a kernel element that join along an axis.
    pub fn joints(&self, axis: usize, direction: Direction) -> Vec<[usize; 3]> {
        let output = self.output_size(axis, direction).expect("an output");
        let (many, few, offset) = match direction {
            Direction::Forward => (self.image[axis], output, self.padding(axis)[0]),
            Direction::Transposed => (output, self.image[axis], self.cut(axis)),
        };
        let mut joints = Vec::new();
        for (place, kernel) in (0..few).flat_map(|place| (0..self.kernel[axis]).map(move |kernel| (place, kernel))) {
            let other = (place * self.stride[axis] + kernel * self.dilation[axis]).checked_sub(offset);
            if let Some(other) = other.filter(|&other| other < many) {
                joints.push(match direction {
                    Direction::Forward => [other, place, kernel],
                    Direction::Transposed => [place, other, kernel],
                });
            }
        }
        joints
    }

    fn inputs(&self) -> [[usize; 4]; 2] {
        [VIEW, FULL].map(|which| [self.batch, self.channels(which)[0], self.image[0], self.image[1]])
    }
}

/// What is used of a weight with these kernel axes, and of a bias.
fn used(first: [Vec<usize>; 2], kernel: &[usize], outputs: Vec<usize>) -> super::subject::Used {
    let weight = first.into_iter().chain(kernel.iter().map(|&size| (0..size).collect())).collect();
    vec![("weight", weight), ("bias", vec![outputs])]
}

pub fn conv2d(case: &Case, numbers: fn(u64, usize) -> Vec<f32>) -> Subject<ElasticConv2d, Conv2d, 4> {
    let (channels, groups, sizes) = case.sizes();
    let config = ElasticConv2dConfig::new(channels, case.kernel).with_groups(groups);
    let parts = Parts {
        used: used(case.used(Direction::Forward), &case.kernel, case.groups.used_groups(&case.each[1])),
        architectures: sizes.architectures(),
        inputs: case.inputs(),
        forward: ElasticConv2d::forward,
        forward_burn: Conv2d::forward,
    };
    let burn = |which| {
        Conv2dConfig::new(case.channels(which), case.kernel)
            .with_stride(case.stride)
            .with_dilation(case.dilation)
            .with_padding(case.padding.clone())
            .with_groups(case.groups_in(which))
            .with_bias(case.bias)
            .init(&device())
    };
    Subject::new(parts, burn, |conv| config.take_over(conv), numbers, case.seed)
}

/// Burn's convolution in one dimension, of groups as one in two dimensions: Burn's gradient of the weight of a grouped
/// 1-D convolution is wrong where the stride leaves a rest.
fn strided_conv1d(layer: &Conv1d, x: Tensor<3>) -> Tensor<3> {
    if layer.groups == 1 {
        return layer.forward(x);
    }
    let padding = match layer.padding {
        PaddingConfig1d::Valid => PaddingConfig2d::Valid,
        PaddingConfig1d::Same => PaddingConfig2d::Same,
        PaddingConfig1d::Explicit(left, right) => PaddingConfig2d::Explicit(0, left, 0, right),
    };
    let flat = Conv2d {
        // Not `from_tensor`, which would make it a leaf of its own.
        weight: Param::initialized(layer.weight.id, layer.weight.val().unsqueeze_dim(2)),
        bias: layer.bias.clone(),
        stride: [1, layer.stride],
        kernel_size: [1, layer.kernel_size],
        dilation: [1, layer.dilation],
        groups: layer.groups,
        padding,
    };
    flat.forward(x.unsqueeze_dim(2)).squeeze_dim(2)
}

/// Of a [one-dimensional](Case::one_dimensional) case.
pub fn conv1d(case: &Case, numbers: fn(u64, usize) -> Vec<f32>) -> Subject<ElasticConv1d, Conv1d, 3> {
    let (channels, groups, sizes) = case.sizes();
    let config = ElasticConv1dConfig::new(channels, case.kernel[1]).with_groups(groups);
    let parts = Parts {
        used: used(case.used(Direction::Forward), &case.kernel[1..], case.groups.used_groups(&case.each[1])),
        architectures: sizes.architectures(),
        inputs: case.inputs().map(|[batch, channels, _, length]| [batch, channels, length]),
        forward: ElasticConv1d::forward,
        forward_burn: if case.stride[1] > 1 { strided_conv1d } else { Conv1d::forward },
    };
    let padding = match case.padding {
        PaddingConfig2d::Valid => PaddingConfig1d::Valid,
        PaddingConfig2d::Same => PaddingConfig1d::Same,
        PaddingConfig2d::Explicit(_, left, _, right) => PaddingConfig1d::Explicit(left, right),
    };
    let burn = |which| {
        let [inputs, outputs] = case.channels(which);
        Conv1dConfig::new(inputs, outputs, case.kernel[1])
            .with_stride(case.stride[1])
            .with_dilation(case.dilation[1])
            .with_padding(padding.clone())
            .with_groups(case.groups_in(which))
            .with_bias(case.bias)
            .init(&device())
    };
    Subject::new(parts, burn, |conv| config.take_over(conv), numbers, case.seed)
}

pub fn conv_transpose2d(
    case: &Case,
    numbers: fn(u64, usize) -> Vec<f32>,
) -> Subject<ElasticConvTranspose2d, ConvTranspose2d, 4> {
    let (channels, groups, sizes) = case.sizes();
    let config = ElasticConvTranspose2dConfig::new(channels, case.kernel).with_groups(groups);
    let parts = Parts {
        used: used(case.used(Direction::Transposed), &case.kernel, case.groups.used_groups(&case.each[1])),
        architectures: sizes.architectures(),
        inputs: case.inputs(),
        forward: ElasticConvTranspose2d::forward,
        forward_burn: ConvTranspose2d::forward,
    };
    let burn = |which| {
        ConvTranspose2dConfig::new(case.channels(which), case.kernel)
            .with_stride(case.stride)
            .with_dilation(case.dilation)
            .with_padding(from_fn(|axis| case.cut(axis)))
            .with_padding_out(case.padding_out)
            .with_groups(case.groups_in(which))
            .with_bias(case.bias)
            .init(&device())
    };
    Subject::new(parts, burn, |conv| config.take_over(conv), numbers, case.seed)
}
