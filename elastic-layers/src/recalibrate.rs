//! Batch-norm statistics of one network.

use crate::{Elastic, Statistics};

/// Gives a view or a materialised model batch-norm running statistics of its own: the mean over the given batches of
/// each batch's mean and (biased) variance. The model it was made from is not changed.
///
/// `forward` is to run the model on one batch; the result is not used. Without a batch the statistics stay.
#[must_use]
pub fn recalibrate<E: Elastic, B>(model: &E, batches: impl IntoIterator<Item = B>, forward: impl Fn(&E, B)) -> E {
    let mut model = model.clone();
    for (seen, batch) in batches.into_iter().enumerate() {
        model = model.with_statistics(Statistics::Calibrate { seen });
        forward(&model, batch);
    }
    model.with_statistics(Statistics::Running)
}
