//! Which images come next.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{DataError, ImageSet};

/// Endless shuffled mini-batches of positions in a set.
///
/// Each epoch is a fresh permutation of all positions. A batch never straddles two epochs: when fewer positions are left
/// than asked for, those are dropped and a new epoch begins ("drop last"). So no image comes twice in a batch, or twice in an
/// epoch, and with a batch size that divides the set each comes exactly once.
///
/// The state is all there is: after saving and loading it with serde, the batches are those that would have come anyway. The
/// format must hold 128-bit integers (JSON does), for the place in the random stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "State")]
pub struct EpochSampler {
    rng: ChaCha8Rng,
    permutation: Vec<usize>,
    /// How much of the permutation has been handed out or dropped.
    position: usize,
    epoch: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    rng: ChaCha8Rng,
    permutation: Vec<usize>,
    position: usize,
    epoch: u64,
}

impl EpochSampler {
    /// A sampler of the positions below `len`; the seed decides all that follows.
    ///
    /// # Panics
    ///
    /// When `len` is 0.
    pub fn new(len: usize, seed: u64) -> Self {
        assert!(len > 0, "EpochSampler: expected at least 1 position, got 0");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut permutation: Vec<usize> = (0..len).collect();
        permutation.shuffle(&mut rng);
        Self { rng, permutation, position: 0, epoch: 0 }
    }

    /// The next `n` positions, or all of them if `n` is larger than the set.
    ///
    /// # Panics
    ///
    /// When `n` is 0.
    pub fn next_batch(&mut self, n: usize) -> &[usize] {
        assert!(n > 0, "EpochSampler: expected a batch of at least 1 position, got 0");
        let n = n.min(self.permutation.len());
        if self.permutation.len() - self.position < n {
            self.permutation.shuffle(&mut self.rng);
            self.position = 0;
            self.epoch += 1;
        }
        let start = self.position;
        self.position += n;
        &self.permutation[start..self.position]
    }

    /// Number of positions, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "a sampler is never empty")]
    pub fn len(&self) -> usize {
        self.permutation.len()
    }

    /// How many epochs are over: 0 until a batch of the second is handed out.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl TryFrom<State> for EpochSampler {
    type Error = DataError;

    fn try_from(state: State) -> Result<Self, DataError> {
        let State { rng, permutation, position, epoch } = state;
        let len = permutation.len();
        let error = |expected, found| Err(DataError::SamplerState { expected, found });
        if len == 0 {
            return error("at least 1 position", "none".into());
        }
        if position > len {
            return error("a place inside the permutation or at its end", format!("{position} of {len}"));
        }
        let mut seen = vec![false; len];
        for &value in &permutation {
            match seen.get_mut(value) {
                Some(seen) if !*seen => *seen = true,
                _ => return error("each position once", format!("{value}, out of range or a second time")),
            }
        }
        Ok(Self { rng, permutation, position, epoch })
    }
}

/// All positions of a set in order, in batches of `size`; the last one may be smaller. For evaluation.
///
/// # Panics
///
/// When `size` is 0.
pub fn batches(set: &ImageSet, size: usize) -> impl Iterator<Item = Vec<usize>> + use<> {
    assert!(size > 0, "batches: expected a size of at least 1, got 0");
    let len = set.len();
    (0..len).step_by(size).map(move |start| (start..len.min(start.saturating_add(size))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(mut positions: Vec<usize>) -> Vec<usize> {
        positions.sort_unstable();
        positions
    }

    proptest! {
        #[test]
        fn an_epoch_covers_each_position_once(size in 1usize..9, count in 1usize..9, seed: u64) {
            let len = size * count;
            let mut sampler = EpochSampler::new(len, seed);
            for epoch in 0..3 {
                let mut covered = Vec::new();
                for _ in 0..count {
                    covered.extend_from_slice(sampler.next_batch(size));
                    prop_assert_eq!(sampler.epoch(), epoch);
                }
                prop_assert_eq!(sorted(covered), (0..len).collect::<Vec<_>>());
            }
        }

        #[test]
        fn what_is_left_of_an_epoch_is_dropped(len in 1usize..40, size in 1usize..40, seed: u64) {
            let mut sampler = EpochSampler::new(len, seed);
            for epoch in 0..3 {
                let mut covered = Vec::new();
                for _ in 0..(len / size).max(1) {
                    let batch = sampler.next_batch(size);
                    prop_assert_eq!(batch.len(), size.min(len));
                    covered.extend_from_slice(batch);
                }
                prop_assert_eq!(sampler.epoch(), epoch);
                let covered = sorted(covered);
                prop_assert!(covered.windows(2).all(|pair| pair[0] < pair[1]), "{covered:?}");
                prop_assert!(covered.iter().all(|&position| position < len));
            }
        }

        #[test]
        fn resuming_changes_nothing(len in 1usize..40, sizes in prop::collection::vec(1usize..12, 1..30), seed: u64) {
            let mut whole = EpochSampler::new(len, seed);
            let mut resumed = EpochSampler::new(len, seed);
            for size in sizes {
                let text = serde_json::to_string(&resumed).expect("serialisable");
                resumed = serde_json::from_str(&text).expect("valid");
                prop_assert_eq!(&resumed, &whole);
                prop_assert_eq!(resumed.next_batch(size), whole.next_batch(size));
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let mut sampler = EpochSampler::new(100, 1);
        let first = sampler.next_batch(100).to_vec();
        assert_ne!(first, sampler.next_batch(100));
        assert_ne!(first, EpochSampler::new(100, 2).next_batch(100));
        assert_eq!(first, EpochSampler::new(100, 1).next_batch(100));
    }

    #[test]
    fn a_contradictory_state_is_refused() {
        let good = serde_json::to_value(EpochSampler::new(3, 1)).expect("serialisable");
        for (field, value, expected) in [
            ("permutation", serde_json::json!([0, 1, 1]), "each position once, found 1, out of range or a second time"),
            ("permutation", serde_json::json!([0, 1, 3]), "each position once, found 3, out of range or a second time"),
            ("permutation", serde_json::json!([]), "at least 1 position, found none"),
            ("position", serde_json::json!(4), "a place inside the permutation or at its end, found 4 of 3"),
        ] {
            let mut state = good.clone();
            state[field] = value;
            let error = serde_json::from_str::<EpochSampler>(&state.to_string()).expect_err("contradictory");
            let message = format!("saved state of an epoch sampler: expected {expected}");
            assert!(error.to_string().starts_with(&message), "{error}");
        }
    }

    #[test]
    fn evaluation_batches_are_in_order_and_complete() {
        let set = ImageSet::new(vec![0; 7], [7, 1, 1, 1], vec![0; 7], vec!["only".into()]).expect("a good set");
        let chunks: Vec<_> = batches(&set, 3).collect();
        assert_eq!(chunks, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!(batches(&set, usize::MAX).collect::<Vec<_>>(), [vec![0, 1, 2, 3, 4, 5, 6]]);
    }
}
