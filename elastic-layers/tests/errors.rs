//! A broken shape contract names the layer, its dimensions, what it expected and what it got.

mod common;

use burn::tensor::{Device, Tensor};
use elastic_layers::{
    Architecture, Elastic, ElasticBatchNormConfig, ElasticConv2d, ElasticConv2dConfig, ElasticLinearConfig,
    SearchSpace, Size,
};

/// A space of one width of 4 to 8, and its architecture of 6.
fn width() -> (Size, Architecture) {
    let mut space = SearchSpace::new();
    let size = space.channels("width", 8).range(4..=8).add().expect("a dimension");
    let architecture = space.architecture([6]).expect("a width");
    (size, architecture)
}

fn images(channels: usize) -> Tensor<4> {
    Tensor::zeros([1, channels, 4, 4], &Device::default())
}

fn convolution() -> (ElasticConv2d, Architecture) {
    let (width, architecture) = width();
    (ElasticConv2dConfig::new([width, 5.into()], [3, 3]).init(&Device::default()), architecture)
}

#[test]
#[should_panic(expected = "ElasticConv2d [width<=8 -> 5] [3, 3]: expected 6 input channels, got 8")]
fn a_convolutions_view_refuses_the_supernets_channels() {
    let (layer, architecture) = convolution();
    layer.select(&architecture).forward(images(8));
}

#[test]
#[should_panic(expected = "ElasticConv2d [width<=8 -> 5] [3, 3]: expected 8 input channels, got 6")]
fn the_supernets_convolution_refuses_a_views_channels() {
    convolution().0.forward(images(6));
}

#[test]
#[should_panic(expected = "ElasticConv2d [6 -> 5] [3, 3]: expected 6 input channels, got 7")]
fn a_materialised_convolution_refuses_other_channels() {
    let (layer, architecture) = convolution();
    layer.materialize_at(&architecture).forward(images(7));
}

#[test]
#[should_panic(expected = "ElasticConv2d [width<=8 -> width<=8] [3, 3]: expected 6 input channels, got 1")]
fn a_depthwise_convolution_refuses_other_channels() {
    let (width, architecture) = width();
    let layer = ElasticConv2dConfig::depthwise(width, [3, 3]).init(&Device::default());
    layer.select(&architecture).forward(images(1));
}

#[test]
#[should_panic(expected = "ElasticBatchNorm [width<=8]: expected 6 features, got 8")]
fn a_batch_norm_refuses_other_channels() {
    let (width, architecture) = width();
    let layer = ElasticBatchNormConfig::new(width).init(&Device::default());
    layer.select(&architecture).forward(images(8));
}

#[test]
#[should_panic(expected = "ElasticLinear [width<=8 -> 10]: expected 6 input features, got 5")]
fn a_linear_layer_refuses_other_features() {
    let (width, architecture) = width();
    let layer = ElasticLinearConfig::new(width, 10).init(&Device::default());
    layer.select(&architecture).forward(Tensor::<2>::zeros([1, 5], &Device::default()));
}

#[test]
#[should_panic(expected = "the architecture is of another search space: dimension 0 expected \"width\", got \"depth\"")]
fn a_view_of_another_spaces_architecture_is_refused() {
    let mut other = SearchSpace::new();
    other.depth("depth", 4).add().expect("a dimension");
    let _ = convolution().0.select(&other.base());
}

#[test]
#[should_panic(expected = "the architecture is of another search space: dimension 0 expected \"width\", got none")]
fn a_materialised_model_of_another_spaces_architecture_is_refused() {
    let _ = convolution().0.materialize_at(&SearchSpace::new().base());
}

#[test]
#[should_panic(expected = "the architecture is of another search space: dimension \"width\" holds up to 8, got 9")]
fn an_architecture_wider_than_the_supernet_is_refused() {
    let mut other = SearchSpace::new();
    other.channels("width", 9).range(4..=9).add().expect("a dimension");
    let _ = convolution().0.select(&other.largest());
}
