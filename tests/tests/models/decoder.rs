//! A network with a score for every pixel: down, up again by transposed convolutions, and joined with what was there.

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use elastic_layers::{
    Backbone, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv2d, ElasticConv2dConfig,
    ElasticConvTranspose2d, ElasticConvTranspose2dConfig, ElasticGroupNorm, ElasticGroupNormConfig, SearchSpace, Size,
    SpaceError,
};

use crate::case::Case;

const IMAGE: [usize; 3] = [2, 8, 6];

#[derive(Module, Elastic, Debug)]
pub struct Decoder {
    encode: ElasticConv2d,
    encode_norm: ElasticBatchNorm,
    down: ElasticConv2d,
    down_norm: ElasticGroupNorm,
    /// Of the groups of the channels below, one by one.
    up: ElasticConvTranspose2d,
    up_norm: ElasticBatchNorm,
    smooth: ElasticConvTranspose2d,
    smooth_norm: ElasticBatchNorm,
    head: ElasticConv2d,
}

impl Decoder {
    fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, SpaceError> {
        let mut dim = |name: &str, base: usize| space.channels(name, base).range(1..=base + 1).add();
        let (shallow, groups, wide) = (dim("shallow", 3)?, dim("groups", 2)?, dim("wide", 4)?);
        let deep: Size = groups.clone() * 3;
        let up: Size = groups.clone() * 2;
        let conv = |from: Size, to: Size, stride: usize| {
            ElasticConv2dConfig::new([from, to], [3, 3])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        };
        Ok(Self {
            encode: conv(IMAGE[0].into(), shallow.clone(), 1).init(device),
            encode_norm: ElasticBatchNormConfig::new(shallow.clone()).init(device),
            down: conv(shallow.clone(), deep.clone(), 2).init(device),
            down_norm: ElasticGroupNormConfig::new(groups.clone(), deep.clone()).init(device),
            up: ElasticConvTranspose2dConfig::new([deep, up.clone()], [3, 3])
                .with_groups(groups)
                .with_stride([2, 2])
                .with_padding([1, 1])
                .with_padding_out([1, 1])
                .with_bias(false)
                .init(device),
            up_norm: ElasticBatchNormConfig::new(up.clone()).init(device),
            smooth: ElasticConvTranspose2dConfig::new([up + shallow, wide.clone()], [3, 2])
                .with_padding([1, 0])
                .init(device),
            smooth_norm: ElasticBatchNormConfig::new(wide.clone()).init(device),
            head: ElasticConv2dConfig::new([wide, 3.into()], [1, 1]).init(device),
        })
    }

    /// The scores `[batch, height, width, classes]` of the pixels of images `[batch, channels, height, width]`.
    fn pixels(&self, images: Tensor<4>) -> Tensor<4> {
        let shallow = relu(self.encode_norm.forward(self.encode.forward(images)));
        let deep = relu(self.down_norm.forward(self.down.forward(shallow.clone())));
        let up = relu(self.up_norm.forward(self.up.forward(deep)));
        let x = relu(self.smooth_norm.forward(self.smooth.forward(Tensor::cat(vec![up, shallow], 1))));
        self.head.forward(x).permute([0, 2, 3, 1])
    }
}

/// What a search sees: the scores of all pixels in a row.
impl Backbone for Decoder {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.pixels(images).flatten(1, 3)
    }
}

const CASE: Case<Decoder, 4, 4> =
    Case { input: [1, IMAGE[0], IMAGE[1], IMAGE[2]], build: Decoder::new, forward: Decoder::pixels };

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
    let count = |operator: &str| onnx.operators().get(operator).copied().unwrap_or_default();
    assert_eq!((count("Conv"), count("ConvTranspose"), count("Concat"), count("Transpose")), (3, 2, 1, 1));
}
