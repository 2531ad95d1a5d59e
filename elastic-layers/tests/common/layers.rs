//! Layers other than convolutions, and a test of every layer.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, GroupNorm, GroupNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, PRelu,
    PReluConfig,
};
use burn::tensor::Tensor;
use burn::tensor::activation::{hard_sigmoid, relu, sigmoid};
use elastic_layers::{
    ElasticBatchNorm, ElasticBatchNormConfig, ElasticGroupNorm, ElasticGroupNormConfig, ElasticLayerNorm,
    ElasticLayerNormConfig, ElasticLinear, ElasticLinearConfig, ElasticPRelu, ElasticPReluConfig, ElasticSqueezeExcite,
    ElasticSqueezeExciteConfig, Gate,
};
use proptest::prelude::*;

use super::subject::{FULL, Parts, Sizes, Subject, VIEW, Width, widths};
use super::{device, eighths, fractions};

/// Sizes of a layer, and the maps it sees.
#[derive(Clone, Debug)]
pub struct Maps {
    /// Channels, features or groups.
    pub features: Width,
    /// The layer's second size.
    pub other: Width,
    /// Bias, affine, shared, gate: what the layer has.
    pub option: bool,
    pub batch: usize,
    pub map: [usize; 2],
    pub seed: u64,
}

pub fn maps() -> impl Strategy<Value = Maps> {
    (widths(5), widths(4), any::<bool>(), 1..=3usize, [1..=5usize, 1..=5usize], 0..1u64 << 50)
        .prop_map(|(features, other, option, batch, map, seed)| Maps { features, other, option, batch, map, seed })
}

impl Maps {
    fn images(&self, channels: impl Fn(usize) -> usize) -> [[usize; 4]; 2] {
        [VIEW, FULL].map(|which| [self.batch, channels(which), self.map[0], self.map[1]])
    }

    pub fn features(&self, which: usize) -> usize {
        [self.features.active(), self.features.max()][which]
    }

    pub fn other(&self, which: usize) -> usize {
        [self.other.active(), self.other.max()][which]
    }
}

/// A linear layer behind maps of `features` channels, flattened.
pub fn linear(maps: &Maps) -> Subject<ElasticLinear, Linear, 2> {
    let pixels = maps.map[0] * maps.map[1];
    let mut sizes = Sizes::default();
    let config = ElasticLinearConfig::new(sizes.add(&maps.features) * pixels, sizes.add(&maps.other));
    let inputs = maps.features.used_groups(&Width::fixed(pixels));
    let parts = Parts {
        used: vec![("weight", vec![inputs, maps.other.used()]), ("bias", vec![maps.other.used()])],
        architectures: sizes.architectures(),
        inputs: [VIEW, FULL].map(|which| [maps.batch, maps.features(which) * pixels]),
        forward: |layer: &ElasticLinear, x| layer.forward(x),
        forward_burn: |layer: &Linear, x| layer.forward(x),
    };
    let burn = |which| {
        LinearConfig::new(maps.features(which) * pixels, maps.other(which)).with_bias(maps.option).init(&device())
    };
    Subject::new(parts, burn, |linear| config.take_over(linear), eighths, maps.seed)
}

pub fn batch_norm(maps: &Maps) -> Subject<ElasticBatchNorm, BatchNorm, 4> {
    let mut sizes = Sizes::default();
    let config = ElasticBatchNormConfig::new(sizes.add(&maps.features));
    let of_features = |path| (path, vec![maps.features.used()]);
    let parts = Parts {
        used: ["gamma", "beta", "running_mean", "running_var"].map(of_features).into(),
        architectures: sizes.architectures(),
        inputs: maps.images(|which| maps.features(which)),
        forward: |layer: &ElasticBatchNorm, x| layer.forward(x),
        forward_burn: |layer: &BatchNorm, x| layer.forward(x),
    };
    let burn = |which| BatchNormConfig::new(maps.features(which)).with_momentum(0.3).with_epsilon(1e-3).init(&device());
    Subject::new(parts, burn, |norm| config.take_over(norm), fractions, maps.seed)
}

/// Of `features` groups of `other` channels.
pub fn group_norm(maps: &Maps) -> Subject<ElasticGroupNorm, GroupNorm, 4> {
    let mut sizes = Sizes::default();
    let groups = sizes.add(&maps.features);
    let config = ElasticGroupNormConfig::new(groups.clone(), groups * sizes.add(&maps.other));
    let channels = |which| maps.features(which) * maps.other(which);
    let used = maps.features.used_groups(&maps.other);
    // Burn's layer refuses inputs of one or two numbers.
    let is_small = maps.batch * channels(VIEW) * maps.map[0] * maps.map[1] <= 2;
    let maps = &Maps { batch: if is_small { 3 } else { maps.batch }, ..maps.clone() };
    let parts = Parts {
        used: vec![("gamma", vec![used.clone()]), ("beta", vec![used])],
        architectures: sizes.architectures(),
        inputs: maps.images(channels),
        forward: |layer: &ElasticGroupNorm, x| layer.forward(x),
        forward_burn: |layer: &GroupNorm, x| layer.forward(x),
    };
    let burn = |which| {
        let config = GroupNormConfig::new(maps.features(which), channels(which));
        config.with_epsilon(1e-3).with_affine(maps.option).init(&device())
    };
    Subject::new(parts, burn, |norm| config.take_over(norm), fractions, maps.seed)
}

pub fn layer_norm(maps: &Maps) -> Subject<ElasticLayerNorm, LayerNorm, 3> {
    let mut sizes = Sizes::default();
    let config = ElasticLayerNormConfig::new(sizes.add(&maps.features)).with_epsilon(1e-3);
    let parts = Parts {
        used: vec![("gamma", vec![maps.features.used()]), ("beta", vec![maps.features.used()])],
        architectures: sizes.architectures(),
        inputs: [VIEW, FULL].map(|which| [maps.batch, maps.map[0], maps.features(which)]),
        forward: |layer: &ElasticLayerNorm, x| layer.forward(x),
        forward_burn: |layer: &LayerNorm, x| layer.forward(x),
    };
    let burn =
        |which| LayerNormConfig::new(maps.features(which)).with_epsilon(1e-3).with_bias(maps.option).init(&device());
    Subject::new(parts, burn, |norm| config.take_over(norm), fractions, maps.seed)
}

/// Of one slope for all channels, or of one for each.
pub fn prelu(maps: &Maps) -> Subject<ElasticPRelu, PRelu, 4> {
    let mut sizes = Sizes::default();
    let width = if maps.option { Width::fixed(1) } else { maps.features.clone() };
    let config = ElasticPReluConfig::new().with_num_parameters(sizes.add(&width));
    let slopes = [width.active(), width.max()];
    let parts = Parts {
        used: vec![("alpha", vec![width.used()])],
        architectures: sizes.architectures(),
        inputs: maps.images(|which| maps.features(which)),
        forward: |layer: &ElasticPRelu, x| layer.forward(x),
        forward_burn: |layer: &PRelu, x| layer.forward(x),
    };
    let burn = |which: usize| PReluConfig::new().with_num_parameters(slopes[which]).init(&device());
    Subject::new(parts, burn, |prelu| config.take_over(prelu), fractions, maps.seed)
}

/// The two convolutions of a squeeze-and-excite block, as Burn's.
#[derive(Module, Debug)]
pub struct SqueezeExcite {
    pub reduce: Conv2d,
    pub expand: Conv2d,
}

impl SqueezeExcite {
    fn excited(&self, x: &Tensor<4>) -> Tensor<4> {
        self.expand.forward(relu(self.reduce.forward(x.clone().mean_dims(&[2, 3]))))
    }
}

impl From<ElasticSqueezeExcite> for SqueezeExcite {
    fn from(block: ElasticSqueezeExcite) -> Self {
        Self { reduce: block.reduce.into(), expand: block.expand.into() }
    }
}

pub fn squeeze_excite(maps: &Maps) -> Subject<ElasticSqueezeExcite, SqueezeExcite, 4> {
    let mut sizes = Sizes::default();
    let (channels, squeezed) = (sizes.add(&maps.features), sizes.add(&maps.other));
    let gate = if maps.option { Gate::Sigmoid } else { Gate::HardSigmoid };
    let config = ElasticSqueezeExciteConfig::new(channels, squeezed).with_gate(gate);
    let ([channels, squeezed], kernel) = ([maps.features.used(), maps.other.used()], vec![0]);
    let weight =
        |outputs: &[usize], inputs: &[usize]| vec![outputs.to_vec(), inputs.to_vec(), kernel.clone(), kernel.clone()];
    let parts = Parts {
        used: vec![
            ("reduce.weight", weight(&squeezed, &channels)),
            ("reduce.bias", vec![squeezed.clone()]),
            ("expand.weight", weight(&channels, &squeezed)),
            ("expand.bias", vec![channels.clone()]),
        ],
        architectures: sizes.architectures(),
        inputs: maps.images(|which| maps.features(which)),
        forward: ElasticSqueezeExcite::forward,
        forward_burn: match gate {
            Gate::Sigmoid => |block: &SqueezeExcite, x| x.clone() * sigmoid(block.excited(&x)),
            Gate::HardSigmoid => |block: &SqueezeExcite, x| x.clone() * hard_sigmoid(block.excited(&x), 1.0 / 6.0, 0.5),
        },
    };
    let burn = |which| {
        let conv = |from, to| Conv2dConfig::new([from, to], [1, 1]).init(&device());
        let (channels, squeezed) = (maps.features(which), maps.other(which));
        SqueezeExcite { reduce: conv(channels, squeezed), expand: conv(squeezed, channels) }
    };
    let take_over = |burn: SqueezeExcite| {
        let mut block = config.init(&device());
        (block.reduce.weight, block.reduce.bias) = (burn.reduce.weight, burn.reduce.bias);
        (block.expand.weight, block.expand.bias) = (burn.expand.weight, burn.expand.bias);
        block
    };
    Subject::new(parts, burn, take_over, fractions, maps.seed)
}

/// A property test of that name for every layer, of a check that is generic in it.
#[macro_export]
macro_rules! every_layer {
    ($name:ident, $cases:expr, $check:expr) => {
        mod $name {
            use super::*;
            use $crate::common::conv::{Direction, cases, conv_transpose2d, conv1d, conv2d};
            use $crate::common::{fractions, layers};

            proptest! {
                #![proptest_config(ProptestConfig::with_cases($cases))]

                #[test]
                fn a_convolution(case in cases()) {
                    $check(&conv2d(&case.with_output(Direction::Forward), fractions));
                }

                #[test]
                fn a_convolution_in_one_dimension(case in cases()) {
                    $check(&conv1d(&case.one_dimensional(), fractions));
                }

                #[test]
                fn a_transposed_convolution(case in cases()) {
                    $check(&conv_transpose2d(&case.with_output(Direction::Transposed), fractions));
                }

                #[test]
                fn a_linear_layer(maps in layers::maps()) {
                    $check(&layers::linear(&maps));
                }

                #[test]
                fn a_batch_norm(maps in layers::maps()) {
                    $check(&layers::batch_norm(&maps));
                }

                #[test]
                fn a_group_norm(maps in layers::maps()) {
                    $check(&layers::group_norm(&maps));
                }

                #[test]
                fn a_layer_norm(maps in layers::maps()) {
                    $check(&layers::layer_norm(&maps));
                }

                #[test]
                fn a_prelu(maps in layers::maps()) {
                    $check(&layers::prelu(&maps));
                }

                #[test]
                fn a_squeeze_excite_block(maps in layers::maps()) {
                    $check(&layers::squeeze_excite(&maps));
                }
            }
        }
    };
}
