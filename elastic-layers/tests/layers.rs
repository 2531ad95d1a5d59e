//! Elastic layers against Burn's own.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use elastic_layers::{ElasticBatchNormConfig, recalibrate};

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
