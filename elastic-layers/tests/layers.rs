//! Elastic layers against Burn's own.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use elastic_layers::{Elastic, ElasticBatchNorm, ElasticBatchNormConfig, SearchSpace, Statistics, recalibrate};

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
