//! A broken shape contract names the layer, its dimensions, what it expected and what it got.

mod common;

use burn::nn::conv::{Conv1dConfig, Conv2dConfig, ConvTranspose2dConfig};
use burn::nn::{BatchNormConfig, GroupNormConfig, LayerNormConfig, LinearConfig, PReluConfig};
use burn::tensor::{Device, Tensor};
use elastic_layers::{
    Architecture, Elastic, ElasticBatchNormConfig, ElasticConv1dConfig, ElasticConv2d, ElasticConv2dConfig,
    ElasticConvTranspose2dConfig, ElasticGroupNormConfig, ElasticLayerNormConfig, ElasticLinearConfig,
    ElasticPReluConfig, SearchSpace, Size,
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
#[should_panic(expected = "the architecture is of another search space: dimension \"width\" has")]
fn an_architecture_wider_than_the_supernet_is_refused() {
    let mut other = SearchSpace::new();
    other.channels("width", 9).range(4..=9).add().expect("a dimension");
    let _ = convolution().0.select(&other.largest());
}

#[test]
#[should_panic(expected = "ElasticConv2d: expected the channels of 2 groups, as a product 2 * channels, got width<=8")]
fn channels_that_are_not_written_as_groups_are_refused() {
    let (width, _) = width();
    ElasticConv2dConfig::new([width.clone(), width], [3, 3]).with_groups(2).init(&Device::default());
}

#[test]
#[should_panic(
    expected = "ElasticConv2d [width<=8 -> 5]: expected a weight of shape [5, 8] x kernel, got [5, 7, 3, 3]"
)]
fn a_convolution_of_other_channels_is_not_taken_over() {
    let burn = Conv2dConfig::new([7, 5], [3, 3]).init(&Device::default());
    ElasticConv2dConfig::new([width().0, 5.into()], [3, 3]).take_over(burn);
}

#[test]
#[should_panic(expected = "ElasticConv2d [4 -> 4]: expected 2 groups, got 1")]
fn a_convolution_of_other_groups_is_not_taken_over() {
    let burn = Conv2dConfig::new([2, 4], [3, 3]).init(&Device::default());
    ElasticConv2dConfig::new([4.into(), 4.into()], [3, 3]).with_groups(2).take_over(burn);
}

#[test]
#[should_panic(expected = "ElasticConv1d [width<=8 -> 5]: expected a weight of shape [5, 8] x kernel, got [5, 7, 3]")]
fn a_convolution_in_one_dimension_of_other_channels_is_not_taken_over() {
    ElasticConv1dConfig::new([width().0, 5.into()], 3).take_over(Conv1dConfig::new(7, 5, 3).init(&Device::default()));
}

#[test]
#[should_panic(
    expected = "ElasticConvTranspose2d [width<=8 -> 5]: expected a weight of shape [8, 5] x kernel, got [5, 8, 3, 3]"
)]
fn a_transposed_convolution_of_other_channels_is_not_taken_over() {
    let burn = ConvTranspose2dConfig::new([5, 8], [3, 3]).init(&Device::default());
    ElasticConvTranspose2dConfig::new([width().0, 5.into()], [3, 3]).take_over(burn);
}

#[test]
#[should_panic(expected = "ElasticLinear: expected a weight of shape [8, 10], got [6, 10]")]
fn a_linear_layer_of_other_features_is_not_taken_over() {
    ElasticLinearConfig::new(width().0, 10).take_over(LinearConfig::new(6, 10).init(&Device::default()));
}

#[test]
#[should_panic(expected = "ElasticBatchNorm [width<=8]: expected 8 features, got 6")]
fn a_batch_norm_of_other_features_is_not_taken_over() {
    ElasticBatchNormConfig::new(width().0).take_over(BatchNormConfig::new(6).init(&Device::default()));
}

#[test]
#[should_panic(expected = "ElasticGroupNorm [2 of width<=8]: expected groups and channels [2, 8], got [4, 8]")]
fn a_group_norm_of_other_groups_is_not_taken_over() {
    ElasticGroupNormConfig::new(2, width().0).take_over(GroupNormConfig::new(4, 8).init(&Device::default()));
}

#[test]
#[should_panic(expected = "ElasticLayerNorm [width<=8]: expected 8 features, got 6")]
fn a_layer_norm_of_other_features_is_not_taken_over() {
    ElasticLayerNormConfig::new(width().0).take_over(LayerNormConfig::new(6).init(&Device::default()));
}

#[test]
#[should_panic(expected = "ElasticPRelu [width<=8]: expected 8 slopes, got 6")]
fn a_prelu_of_other_channels_is_not_taken_over() {
    let burn = PReluConfig::new().with_num_parameters(6).init(&Device::default());
    ElasticPReluConfig::new().with_num_parameters(width().0).take_over(burn);
}
