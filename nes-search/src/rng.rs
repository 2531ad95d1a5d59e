//! Random streams: one seed, one independent generator for each purpose.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What random numbers are drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The split of the training images.
    Split = 1,
    /// The order of training images.
    TrainingOrder = 2,
    /// The order of evaluation images.
    EvaluationOrder = 3,
    /// The augmentation of training images.
    Augmentation = 4,
    /// The architectures whose weights are trained.
    Views = 5,
    /// The perturbations of the NES gradient.
    Perturbations = 6,
    /// Initial weights.
    Weights = 7,
    /// Short trainings from scratch in the search.
    Trials = 8,
    /// The architectures that the shared weights are judged by.
    Fidelity = 9,
}

/// The generator of one stream of a seed.
pub fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream as u64);
    rng
}

/// A seed for a generator that is not ours, from one stream of a seed.
pub fn derived_seed(seed: u64, purpose: Stream) -> u64 {
    rand::Rng::next_u64(&mut stream(seed, purpose))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_seeds_differ() {
        let seeds = [(0, Stream::Views), (0, Stream::Weights), (1, Stream::Views)].map(|(s, p)| derived_seed(s, p));
        assert!(seeds[0] != seeds[1] && seeds[0] != seeds[2] && seeds[1] != seeds[2]);
        assert_eq!(seeds[0], derived_seed(0, Stream::Views));
    }
}
