//! Batches for a training, decoded ahead of it.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, sync_channel};

use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::batch::{self, Change};
use super::{Augment, Batch, DataError, EpochSampler, ImageSet, Normalization};

/// Batches that are decoded while others are trained on.
const AHEAD: usize = 3;

/// Hands out the batches of a training. Those of a set [on disk](ImageSet::is_on_disk) are decoded by threads of their own,
/// some batches ahead.
///
/// What a batch holds follows from the sampler and the random generator alone, which are those of the batches that were
/// handed out: the feed guesses the next ones from copies of both, and decodes again what it guessed wrongly. So neither
/// the number of threads nor an interruption changes a bit.
#[derive(Debug, Default)]
pub struct Feed {
    waiting: VecDeque<Waiting>,
    /// Sampler and generator as they will be behind the batches that wait.
    ahead: Option<(EpochSampler, ChaCha8Rng)>,
}

#[derive(Debug)]
struct Waiting {
    drawn: Drawn,
    pixels: Receiver<Result<Vec<f32>, DataError>>,
}

/// Which images a batch holds, and what is done to each.
#[derive(Clone, Debug, PartialEq)]
struct Drawn {
    indices: Vec<usize>,
    changes: Vec<Change>,
}

impl Drawn {
    fn new(order: &mut EpochSampler, size: usize, augment: &Augment, rng: &mut ChaCha8Rng) -> Self {
        let indices = order.next_batch(size).to_vec();
        let changes = indices.iter().map(|_| augment.draw(rng)).collect();
        Self { indices, changes }
    }
}

impl Feed {
    /// The next batch of a sampler, augmented and normalised.
    ///
    /// # Shapes
    ///
    /// - result: images `[size, channels, height, width]`, labels `[size]`; fewer, if the set is smaller
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is no image.
    ///
    /// # Panics
    ///
    /// As [`batch()`](super::batch()) and [`EpochSampler::next_batch`].
    pub fn next(
        &mut self,
        set: &ImageSet,
        (order, rng): (&mut EpochSampler, &mut ChaCha8Rng),
        size: usize,
        normalization: &Normalization,
        augment: &Augment,
        device: &Device,
    ) -> Result<Batch, DataError> {
        let drawn = Drawn::new(order, size, augment, rng);
        if !set.is_on_disk() {
            let pixels = batch::gather(set, &drawn.indices, &drawn.changes, normalization)?;
            return Ok(batch::to_device(set, &drawn.indices, pixels, device));
        }
        let pixels = match self.waiting.pop_front() {
            Some(waiting) if waiting.drawn == drawn => waiting.pixels.recv().ok(),
            _ => {
                *self = Self::default();
                None
            }
        };
        // Guessed wrongly, or the decoder died with the batch: this thread has it anyway.
        let pixels = pixels.unwrap_or_else(|| batch::gather(set, &drawn.indices, &drawn.changes, normalization))?;
        let (order, rng) = self.ahead.get_or_insert_with(|| (order.clone(), rng.clone()));
        while self.waiting.len() < AHEAD {
            let drawn = Drawn::new(order, size, augment, rng);
            self.waiting.push_back(Waiting { pixels: decode(set, &drawn, normalization), drawn });
        }
        Ok(batch::to_device(set, &drawn.indices, pixels, device))
    }
}

/// Starts to decode a batch.
fn decode(set: &ImageSet, drawn: &Drawn, normalization: &Normalization) -> Receiver<Result<Vec<f32>, DataError>> {
    let (sender, receiver) = sync_channel(1);
    let (set, drawn, normalization) = (set.clone(), drawn.clone(), normalization.clone());
    let work = move || {
        // Nobody waits any more, if the training has ended.
        let _ = sender.send(batch::gather(&set, &drawn.indices, &drawn.changes, &normalization));
    };
    match decoders() {
        Some(pool) => pool.spawn_fifo(work),
        None => work(),
    }
    receiver
}

/// Threads of their own: those of the kernels are busy with the training.
pub(super) fn decoders() -> Option<&'static ThreadPool> {
    static DECODERS: OnceLock<Option<ThreadPool>> = OnceLock::new();
    DECODERS
        .get_or_init(|| ThreadPoolBuilder::new().thread_name(|index| format!("decoder {index}")).build().ok())
        .as_ref()
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
