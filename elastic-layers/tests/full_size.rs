//! A view at full size is Burn's own layer, bit for bit, where the kernels do not apply: output, all gradients, running
//! statistics. The kernels' results are held against Burn's by tests of their own.

mod common;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, BatchNormConfig, LinearConfig};
use burn::tensor::Tensor;
use common::conv::{Case, cases};
use common::{Run, assert_same_bits, entry, fractions, gradient, param, tensor, values};
use elastic_layers::{
    Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv2d, ElasticLinearConfig, SearchSpace, Statistics,
    kernels,
};
use proptest::prelude::*;

/// The device of every test here, on which layers compute with Burn's own operations.
fn device() -> burn::tensor::Device {
    kernels::set_enabled(false);
    common::device()
}

fn compare_convolutions(case: &Case, elastic: &ElasticConv2d, burn: &Conv2d, what: &str) {
    let shape = case.images(case.max[0]);
    let images = fractions(case.seed + 2, shape.iter().product());
    let upstream = |count| fractions(case.seed + 3, count);
    let ours = Run::new(&images, shape, upstream, |x| elastic.forward(x));
    let theirs = Run::new(&images, shape, upstream, |x| burn.forward(x));
    assert_eq!(ours.output_shape, theirs.output_shape);
    assert_same_bits(&format!("{what} output"), &ours.output, &theirs.output);
    assert_same_bits(&format!("{what} input gradient"), &ours.input_gradient, &theirs.input_gradient);
    assert_same_bits(
        &format!("{what} weight gradient"),
        &gradient(&elastic.weight, &ours.gradients),
        &gradient(&burn.weight, &theirs.gradients),
    );
    assert_eq!(elastic.bias.is_some(), burn.bias.is_some());
    if let (Some(ours_bias), Some(theirs_bias)) = (&elastic.bias, &burn.bias) {
        let bias = gradient(ours_bias, &ours.gradients);
        assert_same_bits(&format!("{what} bias gradient"), &bias, &gradient(theirs_bias, &theirs.gradients));
    }
}

/// Features, batch and map of a batch norm.
fn norms() -> impl Strategy<Value = (usize, usize, [usize; 2], u64)> {
    (1..=9usize, 1..=4usize, [1..=5usize, 1..=5usize], any::<u64>())
}

fn norm_pair(features: usize, seed: u64) -> (ElasticBatchNorm, BatchNorm, SearchSpace) {
    let mut space = SearchSpace::new();
    let size = space.channels("features", features).range(1..=features).add().expect("a dimension");
    let mut elastic = ElasticBatchNormConfig::new(size).with_momentum(0.3).with_epsilon(1e-3).init(&device());
    let mut burn = BatchNormConfig::new(features).with_momentum(0.3).with_epsilon(1e-3).init(&device());
    let (gamma, beta) = (fractions(seed, features), fractions(seed + 1, features));
    (elastic.gamma, burn.gamma) = (param(&gamma, [features], &device()), param(&gamma, [features], &device()));
    (elastic.beta, burn.beta) = (param(&beta, [features], &device()), param(&beta, [features], &device()));
    (elastic, burn, space)
}

fn compare_norms(what: &str, elastic: &ElasticBatchNorm, burn: &BatchNorm, shape: [usize; 4], seed: u64) {
    let images: Vec<_> = fractions(seed + 2, shape.iter().product()).iter().map(|x| 3.0 * x + 1.0).collect();
    let upstream = |count| fractions(seed + 3, count);
    let ours = Run::new(&images, shape, upstream, |x| elastic.forward(x));
    let theirs = Run::new(&images, shape, upstream, |x| burn.forward(x));
    assert_same_bits(&format!("{what} output"), &ours.output, &theirs.output);
    assert_same_bits(&format!("{what} input gradient"), &ours.input_gradient, &theirs.input_gradient);
    let gradients = |param, run: &Run| gradient(param, &run.gradients);
    assert_same_bits(&format!("{what} gamma"), &gradients(&elastic.gamma, &ours), &gradients(&burn.gamma, &theirs));
    assert_same_bits(&format!("{what} beta"), &gradients(&elastic.beta, &ours), &gradients(&burn.beta, &theirs));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_convolution(mut case in cases()) {
        case.active = case.max;
        case.seed >>= 8;
        let weight = fractions(case.seed, case.weight_shape(case.max).iter().product());
        let bias = fractions(case.seed + 1, case.max[1]);
        let (elastic, space, _) = case.elastic(&weight, &bias, &device());
        let burn = case.burn(case.max, &weight, &bias, &device());
        compare_convolutions(&case, &elastic, &burn, "as built:");
        compare_convolutions(&case, &elastic.select(&space.largest()), &burn, "view:");
        compare_convolutions(&case, &elastic.materialize_at(&space.largest()), &burn, "materialised:");
    }

    #[test]
    fn a_linear_layer(inputs in 1..=9usize, outputs in 1..=9usize, batch in 1..=4usize, bias: bool, seed in 0..1u64 << 50) {
        let mut space = SearchSpace::new();
        let mut size = |name, max| space.channels(name, max).range(1..=max).add().expect("a dimension");
        let mut supernet =
            ElasticLinearConfig::new(size("in", inputs), size("out", outputs)).with_bias(bias).init(&device());
        let mut burn = LinearConfig::new(inputs, outputs).with_bias(bias).init(&device());
        let (weight, shift) = (fractions(seed, inputs * outputs), fractions(seed + 1, outputs));
        supernet.weight = param(&weight, [inputs, outputs], &device());
        burn.weight = param(&weight, [inputs, outputs], &device());
        supernet.bias = supernet.bias.map(|_| param(&shift, [outputs], &device()));
        burn.bias = burn.bias.map(|_| param(&shift, [outputs], &device()));
        prop_assert_eq!((supernet.bias.is_some(), burn.bias.is_some()), (bias, bias));

        let input = fractions(seed + 2, batch * inputs);
        let upstream = |count| fractions(seed + 3, count);
        let view = supernet.select(&space.largest());
        let ours = Run::new(&input, [batch, inputs], upstream, |x| view.forward(x));
        let theirs = Run::new(&input, [batch, inputs], upstream, |x| burn.forward(x));
        assert_same_bits("output", &ours.output, &theirs.output);
        assert_same_bits("input gradient", &ours.input_gradient, &theirs.input_gradient);
        let of_weight = gradient(&supernet.weight, &ours.gradients);
        assert_same_bits("weight gradient", &of_weight, &gradient(&burn.weight, &theirs.gradients));
        if let (Some(ours_bias), Some(theirs_bias)) = (&supernet.bias, &burn.bias) {
            let of_bias = gradient(ours_bias, &ours.gradients);
            assert_same_bits("bias gradient", &of_bias, &gradient(theirs_bias, &theirs.gradients));
        }
        // Any number of leading axes.
        let deep = tensor(&input, [batch, 1, inputs], &device());
        assert_same_bits("three axes", &values(view.forward(deep.clone())), &values(burn.forward(deep)));
    }

    #[test]
    fn a_batch_norm_in_training_and_evaluation((features, batch, [height, width], seed) in norms()) {
        let seed = seed >> 8;
        let (elastic, burn, space) = norm_pair(features, seed);
        let shape = [batch, features, height, width];
        for step in 0..3 {
            compare_norms(&format!("step {step}:"), &elastic, &burn, shape, seed + 10 * step);
        }
        for statistic in ["running_mean", "running_var"] {
            assert_same_bits(statistic, &entry(&elastic, statistic), &entry(&burn, statistic));
        }
        let trained = entry(&burn, "running_var");
        prop_assert_ne!(&trained, &vec![1.0; features]);

        let images = || tensor(&fractions(seed + 60, shape.iter().product()), shape, &device().inner());
        let expected = values(burn.valid().forward(images()));
        assert_same_bits("evaluation", &values(elastic.valid().forward(images())), &expected);
        let materialised = elastic.materialize_at(&space.largest());
        assert_same_bits("materialised", &values(materialised.valid().forward(images())), &expected);
        let (_, untrained, _) = norm_pair(features, seed);
        prop_assert_ne!(values(untrained.valid().forward(images())), expected, "the running statistics are read");

        // A view normalises with the batch, as Burn does in training, but leaves the running statistics alone.
        compare_norms("view:", &elastic.select(&space.largest()), &burn, shape, seed + 50);
        assert_same_bits("running variance", &entry(&elastic, "running_var"), &trained);
    }
}

#[test]
fn a_batch_norm_without_spatial_axes() {
    let (elastic, burn, space) = norm_pair(5, 3);
    let images: Tensor<2> = tensor(&fractions(9, 20), [4, 5], &device());
    let view = elastic.select(&space.largest());
    assert_same_bits("output", &values(view.forward(images.clone())), &values(burn.forward(images)));
}

#[test]
fn statistics_of_the_batch_are_used_in_evaluation_too() {
    let (elastic, burn, space) = norm_pair(3, 4);
    let input = fractions(1, 2 * 3 * 4);
    let in_training = burn.forward(tensor(&input, [2, 3, 2, 2], &device()));
    let images = || tensor(&input, [2, 3, 2, 2], &device().inner());
    let view = elastic.select(&space.largest()).valid();
    assert_same_bits("view", &values(view.forward(images())), &values(in_training.clone()));
    let asked = elastic.with_statistics(Statistics::Batch).valid();
    assert_same_bits("asked for", &values(asked.forward(images())), &values(in_training));
}
