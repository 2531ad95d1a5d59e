//! A network for sequences, on `[batch, channels, length]`: 1-D convolutions, norms of every kind, parametric ReLU.

use burn::module::Module;
use burn::nn::pool::{MaxPool1d, MaxPool1dConfig};
use burn::nn::{Gelu, PaddingConfig1d};
use burn::tensor::{Device, Tensor};
use elastic_layers::{
    Backbone, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv1d, ElasticConv1dConfig, ElasticGroupNorm,
    ElasticGroupNormConfig, ElasticLayerNorm, ElasticLayerNormConfig, ElasticLinear, ElasticLinearConfig, ElasticPRelu,
    ElasticPReluConfig, SearchSpace, Size, SpaceError,
};

use crate::case::Case;

const CHANNELS: usize = 2;
const LENGTH: usize = 21;

#[derive(Module, Elastic, Debug)]
pub struct Sequence {
    stem: ElasticConv1d,
    stem_norm: ElasticBatchNorm,
    stem_activation: ElasticPRelu,
    depthwise: ElasticConv1d,
    mix: ElasticConv1d,
    group_norm: ElasticGroupNorm,
    activation: ElasticPRelu,
    pool: MaxPool1d,
    dilated: ElasticConv1d,
    layer_norm: ElasticLayerNorm,
    hidden: ElasticLinear,
    gelu: Gelu,
    head: ElasticLinear,
}

impl Sequence {
    fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, SpaceError> {
        let mut dim = |name: &str, base: usize| space.channels(name, base).range(1..=base + 2).add();
        let (stem, groups, each, wide, hidden) =
            (dim("stem", 4)?, dim("groups", 2)?, dim("each", 2)?, dim("wide", 5)?, dim("hidden", 6)?);
        let mixed: Size = groups.clone() * each;
        Ok(Self {
            stem: ElasticConv1dConfig::new([CHANNELS.into(), stem.clone()], 5)
                .with_padding(PaddingConfig1d::Explicit(2, 2))
                .with_bias(false)
                .init(device),
            stem_norm: ElasticBatchNormConfig::new(stem.clone()).init(device),
            stem_activation: ElasticPReluConfig::new().with_num_parameters(stem.clone()).init(device),
            depthwise: ElasticConv1dConfig::depthwise(stem.clone(), 3)
                .with_stride(2)
                .with_padding(PaddingConfig1d::Explicit(1, 1))
                .init(device),
            mix: ElasticConv1dConfig::new([stem, mixed.clone()], 1).init(device),
            group_norm: ElasticGroupNormConfig::new(groups, mixed.clone()).init(device),
            activation: ElasticPReluConfig::new().init(device),
            pool: MaxPool1dConfig::new(2).with_stride(1).init(),
            dilated: ElasticConv1dConfig::new([mixed, wide.clone()], 3).with_dilation(2).init(device),
            layer_norm: ElasticLayerNormConfig::new(wide.clone()).init(device),
            hidden: ElasticLinearConfig::new(wide, hidden.clone()).init(device),
            gelu: Gelu::new(),
            head: ElasticLinearConfig::new(hidden, 4).init(device),
        })
    }

    /// The class scores `[batch, classes]` of sequences `[batch, channels, length]`.
    fn scores(&self, x: Tensor<3>) -> Tensor<2> {
        let x = self.stem_activation.forward(self.stem_norm.forward(self.stem.forward(x)));
        let x = self.mix.forward(self.depthwise.forward(x));
        let x = self.pool.forward(self.activation.forward(self.group_norm.forward(x)));
        let x = self.layer_norm.forward(self.dilated.forward(x).swap_dims(1, 2));
        let x = self.gelu.forward(self.hidden.forward(x));
        self.head.forward(x.mean_dim(1).flatten(1, 2))
    }
}

/// A sequence is an image of height 1.
impl Backbone for Sequence {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.scores(images.flatten(2, 3))
    }
}

const CASE: Case<Sequence, 3, 2> =
    Case { input: [1, CHANNELS, LENGTH], build: Sequence::new, forward: Sequence::scores };

#[test]
fn views_are_the_materialised_networks() {
    CASE.views_are_the_materialised_networks();
}

#[test]
fn a_step_on_a_view_is_the_step_of_its_network() {
    CASE.a_step_on_a_view_is_the_step_of_its_network();
}

#[test]
fn costs_and_shapes_are_those_of_the_materialised_network() {
    CASE.costs_and_shapes_are_those_of_the_materialised_network([CHANNELS, 1, LENGTH]);
}

#[test]
fn files_compute_what_the_network_does() {
    let onnx = CASE.files_compute_what_the_network_does(&[]);
    let count = |operator: &str| onnx.operators().get(operator).copied().unwrap_or_default();
    assert_eq!((count("Conv"), count("MaxPool"), count("PRelu"), count("LayerNormalization")), (4, 1, 2, 1));
    assert_eq!(count("BatchNormalization"), 0);
}

#[test]
fn as_a_backbone_it_is_exported_too() {
    let case: Case<Sequence, 4, 2> =
        Case { input: [1, CHANNELS, 1, LENGTH], build: Sequence::new, forward: Backbone::forward };
    case.files_compute_what_the_network_does(&[]);
}
