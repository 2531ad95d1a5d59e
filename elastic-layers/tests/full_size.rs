//! At full size, as built, as a view and materialised, every layer is Burn's own, bit for bit, where the kernels do not
//! apply: output, all gradients, running statistics. The kernels' results are held against Burn's by tests of their own.

mod common;

use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::Tensor;
use common::layers::{linear, maps};
use common::subject::{FULL, Subject};
use common::{Run, assert_same_bits, entry, fractions, gradient, param, tensor, values};
use elastic_layers::{Elastic, ElasticBatchNorm, ElasticBatchNormConfig, SearchSpace, Statistics, kernels};
use proptest::prelude::*;

/// The device of every test here, on which layers compute with Burn's own operations.
fn device() -> burn::tensor::Device {
    kernels::set_enabled(false);
    common::device()
}

fn check<E: Elastic, B: Module, const D: usize>(subject: &Subject<E, B, D>) {
    kernels::set_enabled(false);
    subject.check_full_size();
}

every_layer!(at_full_size, 48, check);

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
    fn a_linear_layer_takes_any_number_of_leading_axes(maps in maps()) {
        kernels::set_enabled(false);
        let subject = linear(&maps);
        let [batch, inputs] = subject.inputs[FULL];
        let deep = tensor(&subject.input(FULL), [batch, 1, inputs], &device());
        let view = subject.supernet.select(&subject.architectures[FULL]);
        let expected = values(subject.burn[FULL].forward(deep.clone()));
        assert_same_bits("three axes", &values(view.forward(deep)), &expected);
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
