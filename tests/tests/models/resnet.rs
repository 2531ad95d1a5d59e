//! A residual network: shortcuts share a dimension, or are projected; max pooling, elastic depth and resolution.

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use elastic_layers::{
    Backbone, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv2d, ElasticConv2dConfig, ElasticLinear,
    ElasticLinearConfig, ElasticResize, ElasticStack, SearchSpace, Size, SpaceError,
};

use crate::case::Case;

const IMAGE: [usize; 3] = [3, 14, 14];

#[derive(Module, Elastic, Debug)]
struct ConvNorm {
    conv: ElasticConv2d,
    norm: ElasticBatchNorm,
}

impl ConvNorm {
    fn new([from, to]: [Size; 2], kernel: usize, stride: usize, device: &Device) -> Self {
        let pad = kernel / 2;
        let conv = ElasticConv2dConfig::new([from, to.clone()], [kernel; 2])
            .with_stride([stride; 2])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_bias(false);
        Self { conv: conv.init(device), norm: ElasticBatchNormConfig::new(to).init(device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x))
    }
}

/// Two 3x3 convolutions beside a shortcut.
#[derive(Module, Elastic, Debug)]
struct Block {
    first: ConvNorm,
    second: ConvNorm,
    /// Where the shortcut changes channels or size.
    projection: Option<ConvNorm>,
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.projection {
            Some(projection) => projection.forward(x.clone()),
            None => x.clone(),
        };
        relu(shortcut + self.second.forward(relu(self.first.forward(x))))
    }
}

#[derive(Module, Elastic, Debug)]
pub struct ResNet {
    resize: ElasticResize,
    stem: ConvNorm,
    pool: MaxPool2d,
    stages: Vec<ElasticStack<Block>>,
    head: ElasticLinear,
}

impl ResNet {
    fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, SpaceError> {
        let resolution = space.resolution("resolution", 14).range(9..=14).add()?;
        let depth = space.depth("depth", 4).range(2..=4).add()?;
        let stem = space.channels("stem", 4).range(1..=6).add()?;
        let mut stages = vec![];
        let mut inputs = stem.clone();
        for (stage, base) in [(1, 4), (2, 7)] {
            // The first stage keeps the stem's channels, as its shortcuts do.
            let width = match stage {
                1 => stem.clone(),
                _ => space.channels(format!("stage{stage}"), base).range(1..=base + 2).add()?,
            };
            let mut blocks = vec![];
            for block in 1..=2 {
                let changes = stage > 1 && block == 1;
                let stride = if changes { 2 } else { 1 };
                let middle = space.channels(format!("stage{stage}.block{block}"), base).range(1..=base + 1).add()?;
                let conv = |from: &Size, to: &Size, kernel, stride| {
                    ConvNorm::new([from.clone(), to.clone()], kernel, stride, device)
                };
                blocks.push(Block {
                    first: conv(&inputs, &middle, 3, stride),
                    second: conv(&middle, &width, 3, 1),
                    projection: changes.then(|| conv(&inputs, &width, 1, stride)),
                });
                inputs = width.clone();
            }
            // One block of each stage is always there; the last stage loses its second block first.
            stages.push(ElasticStack::new(blocks).with_depth(depth.clone(), stage - 1, 1));
        }
        Ok(Self {
            resize: ElasticResize::new(resolution),
            stem: ConvNorm::new([IMAGE[0].into(), stem], 3, 1, device),
            pool: MaxPool2dConfig::new([3, 3])
                .with_strides([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(),
            stages,
            head: ElasticLinearConfig::new(inputs, 4).init(device),
        })
    }
}

impl Backbone for ResNet {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.pool.forward(relu(self.stem.forward(self.resize.forward(images))));
        let blocks = self.stages.iter().flat_map(ElasticStack::iter);
        let x = blocks.fold(x, |x, block| block.forward(x));
        self.head.forward(x.mean_dims(&[2, 3]).flatten(1, 3))
    }
}

const CASE: Case<ResNet, 4, 2> =
    Case { input: [1, IMAGE[0], IMAGE[1], IMAGE[2]], build: ResNet::new, forward: Backbone::forward };

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
    let onnx = CASE.files_compute_what_the_network_does(&[]);
    let operators: Vec<_> = onnx.operators().iter().map(|(operator, count)| (*operator, *count)).collect();
    assert_eq!(
        operators,
        [("Add", 4), ("Conv", 10), ("Gemm", 1), ("GlobalAveragePool", 1), ("MaxPool", 1), ("Relu", 9), ("Reshape", 1)]
    );
}
