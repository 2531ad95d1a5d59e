//! Elastic layers against Burn's own.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use elastic_layers::{
    Architecture, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, SearchSpace, Statistics, recalibrate,
};

/// Two batches of one channel: means 2 and 6, variances 1 and 4.
const BATCHES: [[f32; 2]; 2] = [[1.0, 3.0], [4.0, 8.0]];

fn batch(values: [f32; 2]) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.to_vec(), [2, 1, 1, 1]), &Device::default())
}

#[test]
fn recalibrated_statistics_are_the_mean_over_all_batches_and_inference_uses_them() {
    let norm = ElasticBatchNormConfig::new(1).init(&Device::default());
    let calibrated = recalibrate(&norm, BATCHES.map(batch), |norm, images| drop(norm.forward(images)));
    let output = calibrated.forward(batch([4.0, 4.0 + 2.5f32.sqrt()]));
    output
        .into_data()
        .assert_approx_eq::<f32>(&TensorData::new(vec![0.0f32, 1.0], [2, 1, 1, 1]), Tolerance::absolute(1e-4));
    assert_eq!(norm.num_params(), calibrated.num_params());
}

#[test]
fn a_recalibrated_view_can_be_selected_at_a_larger_size() {
    let mut space = SearchSpace::new();
    let features = space.channels("features", 2).range(1..=2).add().expect("a new name");
    let norm = ElasticBatchNormConfig::new(features).init(&Device::default());
    let [small, large] = [space.smallest(), space.largest()];
    let narrow = recalibrate(&norm.select(&small), BATCHES.map(batch), |norm, images| drop(norm.forward(images)));

    // The first feature keeps its statistics, mean 4 and variance 2.5; the second has Burn's initial ones, 0 and 1.
    let both =
        |values: [f32; 4]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [2, 2, 1, 1]), &Device::default());
    let input = both([4.0, 0.0, 4.0 + 2.5f32.sqrt(), 3.0]);
    let expected = TensorData::new(vec![0.0f32, 0.0, 1.0, 3.0], [2, 2, 1, 1]);
    let selected = narrow.select(&large).with_statistics(Statistics::Running).forward(input.clone());
    selected.into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
    let materialized = narrow.materialize_at(&large).forward(input.clone());
    materialized.into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));

    // Recalibrated once more, nothing is left of the first time.
    let again = |norm: &ElasticBatchNorm| {
        recalibrate(norm, [both([1.0, 2.0, 3.0, 6.0])], |norm, images| drop(norm.forward(images)))
    };
    let output = again(&narrow.select(&large)).forward(input.clone()).into_data();
    assert_eq!(output, again(&norm.select(&large)).forward(input).into_data());
}

/// A batch norm over a concatenation of 3 and 2 features, recalibrated at 1 and 2 of them: features 0, 3 and 4 of the
/// supernet.
#[test]
fn a_concatenation_keeps_the_statistics_of_every_part() {
    let mut space = SearchSpace::new();
    let mut part = |name, max| space.channels(name, max).range(1..=max).add().expect("a new name");
    let joined = part("left", 3) + part("right", 2);
    let norm = ElasticBatchNormConfig::new(joined).init(&Device::default());
    let at = |values: [usize; 2]| space.architecture(values).expect("sizes in range");
    let batches = || {
        // Means 2, 20 and 200; variances 1, 4 and 16.
        let batch = vec![1.0f32, 18.0, 196.0, 3.0, 22.0, 204.0];
        [Tensor::<4>::from_data(TensorData::new(batch, [2, 3, 1, 1]), &Device::default())]
    };
    let narrow = recalibrate(&norm.select(&at([1, 2])), batches(), |norm, images| drop(norm.forward(images)));

    // An input of the given means plus deviations is normalised to ones.
    let assert_statistics = |norm: &ElasticBatchNorm, means: &[f32], variances: &[f32]| {
        let input: Vec<f32> = means.iter().zip(variances).map(|(mean, variance)| mean + variance.sqrt()).collect();
        let shape = [1, means.len(), 1, 1];
        let output = norm.forward(Tensor::<4>::from_data(TensorData::new(input, shape), &Device::default()));
        let ones = TensorData::new(vec![1.0f32; means.len()], shape);
        output.into_data().assert_approx_eq::<f32>(&ones, Tolerance::absolute(1e-3));
    };
    let check = |architecture: &Architecture, means: &[f32], variances: &[f32]| {
        assert_statistics(&narrow.materialize_at(architecture), means, variances);
        assert_statistics(&narrow.select(architecture).with_statistics(Statistics::Running), means, variances);
        assert_statistics(&narrow.select(architecture).materialize_at(architecture), means, variances);
    };
    check(&at([1, 2]), &[2.0, 20.0, 200.0], &[1.0, 4.0, 16.0]);
    // As many features, of which one has Burn's initial statistics.
    check(&at([2, 1]), &[2.0, 0.0, 20.0], &[1.0, 1.0, 4.0]);
    check(&at([3, 2]), &[2.0, 0.0, 0.0, 20.0, 200.0], &[1.0, 1.0, 1.0, 4.0, 16.0]);
    check(&at([1, 1]), &[2.0, 20.0], &[1.0, 4.0]);
    // Selected at a larger size and recalibrated, all statistics are new, and the narrow one keeps its own.
    let five: Vec<f32> =
        (0..5).map(|feature| feature as f32 - 1.0).chain((0..5).map(|feature| feature as f32 + 1.0)).collect();
    let batch = Tensor::<4>::from_data(TensorData::new(five, [2, 5, 1, 1]), &Device::default());
    let wide = recalibrate(&narrow.select(&at([3, 2])), [batch], |norm, images| drop(norm.forward(images)));
    assert_statistics(&wide, &[0.0, 1.0, 2.0, 3.0, 4.0], &[1.0; 5]);
    check(&at([1, 2]), &[2.0, 20.0, 200.0], &[1.0, 4.0, 16.0]);
    assert_statistics(&norm.materialize_at(&at([1, 2])), &[0.0; 3], &[1.0; 3]);
}
