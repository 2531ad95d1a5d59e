//! From bytes to numbers around zero.

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::{Deserialize, Serialize};

use super::{DataError, ImageSet};

/// Mean and standard deviation of each channel, of pixels scaled to the range 0 to 1.
///
/// A byte `p` of channel `c` becomes `(p / 255 - mean[c]) / std[c]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Normalization {
    /// Mean of each channel: `[channels]`.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, above 0: `[channels]`.
    pub std: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    mean: Vec<f32>,
    std: Vec<f32>,
}

/// Number of values of a byte.
const LEVELS: usize = 256;
/// Images that are looked at if they have to be decoded.
const DECODED: usize = 1024;

impl Normalization {
    /// The given means and standard deviations, one of each for every channel.
    ///
    /// # Errors
    ///
    /// When there is no channel, the lengths differ, a number is not finite, or a standard deviation is not above 0.
    pub fn new(mean: Vec<f32>, std: Vec<f32>) -> Result<Self, DataError> {
        let error = |expected, found| Err(DataError::Normalization { expected, found });
        if mean.is_empty() || mean.len() != std.len() {
            return error(
                "as many means as standard deviations, at least one",
                format!("{} and {}", mean.len(), std.len()),
            );
        }
        if let Some(value) = mean.iter().find(|value| !value.is_finite()) {
            return error("finite means", value.to_string());
        }
        if let Some(value) = std.iter().find(|value| !value.is_finite() || **value <= 0.0) {
            return error("finite standard deviations above 0", value.to_string());
        }
        Ok(Self { mean, std })
    }

    /// The mean and the (population) standard deviation over all images and pixels of a set, for each channel.
    ///
    /// Of image files, which take long to decode, it is over 1,024 images at equal distances in the set, as they are seen
    /// in evaluation; a deviation is known to a few percent by them. The pixels are counted by value first, so the result
    /// does not depend on the order of the images. A channel of one value only gets the standard deviation 1/255, one
    /// step of a byte.
    ///
    /// # Errors
    ///
    /// When an image file cannot be read or decoded.
    pub fn of(set: &ImageSet) -> Result<Self, DataError> {
        let [_, channels, height, width] = set.shape();
        let images = if set.is_lazy() { set.len().min(DECODED) } else { set.len() };
        let none = || vec![[0u64; LEVELS]; channels];
        let counts = (0..images)
            .into_par_iter()
            .try_fold(none, |mut counts, image| {
                let pixels = set.pixels(image * set.len() / images)?;
                for (counts, plane) in counts.iter_mut().zip(pixels.chunks_exact(height * width)) {
                    for &byte in plane {
                        counts[usize::from(byte)] += 1;
                    }
                }
                Ok::<_, DataError>(counts)
            })
            .try_reduce(none, |mut counts, others| {
                for (count, other) in counts.iter_mut().flatten().zip(others.iter().flatten()) {
                    *count += other;
                }
                Ok(counts)
            })?;
        let (mean, std) = counts.iter().map(mean_and_std).unzip();
        Ok(Self { mean, std })
    }

    /// Normalised value of every byte, one table for each channel.
    pub(super) fn tables(&self) -> Vec<[f32; LEVELS]> {
        let table = |(&mean, &std): (&f32, &f32)| std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std);
        self.mean.iter().zip(&self.std).map(table).collect()
    }
}

fn mean_and_std(counts: &[u64; LEVELS]) -> (f32, f32) {
    let total = counts.iter().sum::<u64>() as f64;
    let average = |value: &dyn Fn(f64) -> f64| {
        let weighted = |(byte, &count): (usize, &u64)| value(byte as f64 / 255.0) * count as f64;
        counts.iter().enumerate().map(weighted).sum::<f64>() / total
    };
    let mean = average(&|pixel| pixel);
    let std = average(&|pixel| (pixel - mean).powi(2)).sqrt();
    (mean as f32, std.max(1.0 / 255.0) as f32)
}

impl TryFrom<Unchecked> for Normalization {
    type Error = DataError;

    fn try_from(unchecked: Unchecked) -> Result<Self, DataError> {
        Self::new(unchecked.mean, unchecked.std)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pixels: Vec<u8>, shape: [usize; 4]) -> ImageSet {
        ImageSet::new(pixels, shape, vec![0; shape[0]], vec!["only".into()]).expect("a good set")
    }

    #[test]
    fn statistics_are_those_of_each_channel() {
        // Two images of two channels of two pixels; channel 0 holds 0, 255, 255, 0 and channel 1 holds 51 four times.
        let set = set(vec![0, 255, 51, 51, 255, 0, 51, 51], [2, 2, 1, 2]);
        let normalization = Normalization::of(&set).expect("in memory");
        assert_eq!(normalization, Normalization { mean: vec![0.5, 0.2], std: vec![0.5, 1.0 / 255.0] });
    }

    #[test]
    fn statistics_agree_with_two_passes_over_the_pixels() {
        let pixels: Vec<u8> = (0..600u32).map(|i| (i * i % 251) as u8).collect();
        let scaled: Vec<f64> = pixels.iter().map(|&byte| f64::from(byte) / 255.0).collect();
        let mean = scaled.iter().sum::<f64>() / 600.0;
        let variance = scaled.iter().map(|pixel| (pixel - mean).powi(2)).sum::<f64>() / 600.0;
        let normalization = Normalization::of(&set(pixels, [6, 1, 10, 10])).expect("in memory");
        assert!((f64::from(normalization.mean[0]) - mean).abs() < 1e-7);
        assert!((f64::from(normalization.std[0]) - variance.sqrt()).abs() < 1e-7);
    }

    #[test]
    fn a_subset_counts_its_own_images_only() {
        let whole = set(vec![0, 255, 255, 255], [4, 1, 1, 1]);
        let part = whole.subset(&[3, 1]).expect("in range");
        assert_eq!(Normalization::of(&part).expect("in memory").mean, [1.0]);
    }

    #[test]
    fn serde_round_trip_is_exact_and_checked() {
        let normalization = Normalization::new(vec![0.1, 0.3], vec![0.7, 1.0 / 3.0]).expect("valid");
        let text = serde_json::to_string(&normalization).expect("serialisable");
        assert_eq!(serde_json::from_str::<Normalization>(&text).expect("valid"), normalization);

        let error = serde_json::from_str::<Normalization>(r#"{"mean":[0.5],"std":[0]}"#).expect_err("zero");
        let expected = "normalization: expected finite standard deviations above 0, found 0";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(Normalization::new(vec![0.5], vec![]).is_err());
        assert!(Normalization::new(vec![f32::NAN], vec![1.0]).is_err());
        assert!(Normalization::new(vec![], vec![]).is_err());
    }
}
