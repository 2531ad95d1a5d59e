//! A densely connected network: every layer sees all earlier ones of its block, concatenated.

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::pool::{AvgPool2d, AvgPool2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use elastic_layers::{
    Backbone, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv2d, ElasticConv2dConfig, ElasticLinear,
    ElasticLinearConfig, SearchSpace, Size, SpaceError,
};

use crate::case::Case;

const IMAGE: [usize; 3] = [2, 9, 8];

/// Norm, activation and convolution, without bias.
#[derive(Module, Elastic, Debug)]
struct NormConv {
    norm: ElasticBatchNorm,
    conv: ElasticConv2d,
}

impl NormConv {
    fn new(channels: [Size; 2], kernel: usize, device: &Device) -> Self {
        let pad = kernel / 2;
        let conv = ElasticConv2dConfig::new(channels.clone(), [kernel; 2])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_bias(false);
        let [inputs, _] = channels;
        Self { norm: ElasticBatchNormConfig::new(inputs).init(device), conv: conv.init(device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(relu(self.norm.forward(x)))
    }
}

/// A bottleneck and a 3x3 convolution, whose result is joined to the input.
#[derive(Module, Elastic, Debug)]
struct DenseLayer {
    bottleneck: NormConv,
    grow: NormConv,
}

impl DenseLayer {
    fn new(inputs: Size, growth: Size, device: &Device) -> Self {
        let middle = Size::from(2) * growth.clone();
        Self {
            bottleneck: NormConv::new([inputs, middle.clone()], 1, device),
            grow: NormConv::new([middle, growth], 3, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let new = self.grow.forward(self.bottleneck.forward(x.clone()));
        Tensor::cat(vec![x, new], 1)
    }
}

#[derive(Module, Elastic, Debug)]
pub struct DenseNet {
    stem: ElasticConv2d,
    first: Vec<DenseLayer>,
    transition: NormConv,
    pool: AvgPool2d,
    second: Vec<DenseLayer>,
    norm: ElasticBatchNorm,
    head: ElasticLinear,
}

/// Layers of elastic growth each, and the size of all they concatenate.
fn block(
    name: &str,
    layers: usize,
    inputs: Size,
    space: &mut SearchSpace,
    device: &Device,
) -> Result<(Vec<DenseLayer>, Size), SpaceError> {
    let (mut block, mut joined) = (vec![], inputs);
    for layer in 1..=layers {
        let growth = space.channels(format!("{name}.layer{layer}"), 3).range(1..=4).add()?;
        block.push(DenseLayer::new(joined.clone(), growth.clone(), device));
        joined = joined + growth;
    }
    Ok((block, joined))
}

impl DenseNet {
    fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, SpaceError> {
        let stem = space.channels("stem", 5).range(1..=7).step_by(2).add()?;
        let (first, joined) = block("first", 3, stem.clone(), space, device)?;
        let halved = space.channels("transition", 6).range(2..=8).add()?;
        let transition = NormConv::new([joined, halved.clone()], 1, device);
        let (second, joined) = block("second", 2, halved, space, device)?;
        let stem = ElasticConv2dConfig::new([IMAGE[0].into(), stem], [3, 3]);
        Ok(Self {
            stem: stem.with_padding(PaddingConfig2d::Same).with_bias(false).init(device),
            first,
            transition,
            pool: AvgPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            second,
            norm: ElasticBatchNormConfig::new(joined.clone()).init(device),
            head: ElasticLinearConfig::new(joined, 5).init(device),
        })
    }
}

impl Backbone for DenseNet {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.first.iter().fold(self.stem.forward(images), |x, layer| layer.forward(x));
        let x = self.pool.forward(self.transition.forward(x));
        let x = self.second.iter().fold(x, |x, layer| layer.forward(x));
        let x = relu(self.norm.forward(x));
        self.head.forward(x.mean_dims(&[2, 3]).flatten(1, 3))
    }
}

const CASE: Case<DenseNet, 4, 2> =
    Case { input: [1, IMAGE[0], IMAGE[1], IMAGE[2]], build: DenseNet::new, forward: Backbone::forward };

#[test]
fn views_are_the_materialised_networks() {
    CASE.views_are_the_materialised_networks();
}

#[test]
fn what_a_view_leaves_out_is_as_if_it_were_zero() {
    CASE.what_a_view_leaves_out_is_as_if_it_were_zero();
}

#[test]
fn a_step_on_a_view_is_the_step_of_its_network() {
    CASE.a_step_on_a_view_is_the_step_of_its_network();
}

#[test]
fn costs_and_shapes_are_those_of_the_materialised_network() {
    CASE.costs_and_shapes_are_those_of_the_materialised_network(IMAGE);
}

#[test]
fn files_compute_what_the_network_does() {
    // Norms before an activation and a convolution have nothing to be folded into.
    let onnx = CASE.files_compute_what_the_network_does(&["BatchNormalization"]);
    let count = |operator: &str| onnx.operators().get(operator).copied().unwrap_or_default();
    assert_eq!((count("Concat"), count("Conv"), count("Gemm")), (5, 12, 1));
    // Those behind a 1x1 convolution are folded.
    assert_eq!(count("BatchNormalization"), 12 - 5);
}
