//! Loss and accuracy of a network on a set of images.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::Device;
use elastic_layers::Backbone;
use serde::{Deserialize, Serialize};

use crate::data::{Batch, DataError, Feed, ImageSet, Normalization, Plan, batches};

/// How well a network does on a set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of images whose class has the largest score.
    pub accuracy: f64,
}

/// The mean cross-entropy of one batch. `model` must not be in training.
pub fn batch_loss<M: Backbone>(model: &M, batch: Batch) -> f64 {
    let loss = CrossEntropyLossConfig::new().init(&batch.images.device());
    loss.forward(model.forward(batch.images), batch.labels).into_scalar::<f32>().into()
}

/// Evaluates a network that is not in training on all images of a set.
///
/// # Errors
/// If an image file cannot be read or decoded.
pub fn evaluate<M: Backbone>(
    model: &M,
    set: &ImageSet,
    normalization: &Normalization,
    batch_size: usize,
    device: &Device,
) -> Result<Evaluation, DataError> {
    let (mut loss, mut correct) = (0.0, 0.0);
    let plans = batches(set, batch_size).map(|indices| Plan::new(&indices, None));
    for batch in Feed::new(set, plans, normalization, device) {
        let Batch { images, labels } = batch?;
        let count = labels.dims()[0] as f64;
        let logits = model.forward(images);
        let cross_entropy = CrossEntropyLossConfig::new().init(device);
        let hits = logits.clone().argmax(1).flatten::<1>(0, 1).equal(labels.clone()).int().sum();
        correct += hits.into_scalar::<i64>() as f64;
        loss += f64::from(cross_entropy.forward(logits, labels).into_scalar::<f32>()) * count;
    }
    Ok(Evaluation { loss: loss / set.len() as f64, accuracy: correct / set.len() as f64 })
}
