//! Statistics: the one place where the project computes a mean, a deviation, a percentile or a correlation.
//!
//! Percentiles are type 7 of R. J. Hyndman and Y. Fan, "Sample Quantiles in Statistical Packages", The American
//! Statistician 50(4), 1996, pp. 361-365: linear interpolation between the order statistics around position `(n - 1)
//! p`, which is also the default of R and of NumPy. The standard deviation is the sample's, with divisor `n - 1`. Rank
//! correlations are those of C. Spearman, "The Proof and Measurement of Association between Two Things", The American
//! Journal of Psychology 15(1), 1904, and of M. G. Kendall, "The Treatment of Ties in Ranking Problems", Biometrika
//! 33(3), 1945 (tau-b).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why samples have no statistics.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// There is nothing to summarise.
    #[error("statistics of samples: expected at least 1 sample, found 0")]
    Empty,
    /// A sample is infinite or not a number.
    #[error("statistics of samples: expected finite numbers, found {value} at index {index}")]
    NotFinite {
        /// Its position.
        index: usize,
        /// Its value.
        value: f64,
    },
}

/// What a series of measurements comes to, in the unit of its samples.
///
/// ```
/// use onnx_bench::statistics::Summary;
///
/// let summary = Summary::from_samples(&[4.0, 1.0, 3.0, 2.0])?;
/// assert_eq!((summary.min, summary.p50, summary.max), (1.0, 2.5, 4.0));
/// # Ok::<(), onnx_bench::statistics::StatisticsError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of samples.
    pub count: usize,
    /// Smallest sample.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest sample.
    pub max: f64,
    /// Standard deviation of the sample; 0 for a single one.
    pub sd: f64,
}

impl Summary {
    /// Summarises samples of any unit, in any order.
    ///
    /// # Errors
    ///
    /// [`StatisticsError`] for no samples, and for one that is not finite.
    pub fn from_samples(samples: &[f64]) -> Result<Self, StatisticsError> {
        let not_finite = samples.iter().copied().enumerate().find(|(_, value)| !value.is_finite());
        if let Some((index, value)) = not_finite {
            return Err(StatisticsError::NotFinite { index, value });
        }
        let (mean, sd) = mean_and_sd(samples).ok_or(StatisticsError::Empty)?;
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Ok(Self {
            count: sorted.len(),
            min: sorted[0],
            mean,
            p50: percentile(&sorted, 0.50),
            p90: percentile(&sorted, 0.90),
            p95: percentile(&sorted, 0.95),
            p99: percentile(&sorted, 0.99),
            max: sorted[sorted.len() - 1],
            sd,
        })
    }

    /// Summarises durations, in milliseconds.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::Empty`] for no durations.
    pub fn from_durations(durations: &[Duration]) -> Result<Self, StatisticsError> {
        let samples: Vec<f64> = durations.iter().copied().map(milliseconds).collect();
        Self::from_samples(&samples)
    }
}

/// A duration in milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The quantile `p`, from 0 to 1, of samples in ascending order: `x[i] + (h - i) (x[i+1] - x[i])` with `h = (n - 1) p`
/// and `i = floor(h)`, counted from 0 (type 7 of the module's source).
///
/// # Panics
///
/// Where `sorted` is empty or `p` lies outside 0 to 1.
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    assert!(!sorted.is_empty(), "percentile: expected at least 1 sample, found 0");
    assert!((0.0..=1.0).contains(&p), "percentile: expected p in [0, 1], found {p}");
    let position = (sorted.len() - 1) as f64 * p;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

/// Mean and standard deviation (divisor `n - 1`; 0 for a single value), or `None` for no values.
///
/// ```
/// use onnx_bench::statistics::mean_and_sd;
///
/// assert_eq!(mean_and_sd(&[1.0, 3.0]), Some((2.0, 2.0f64.sqrt())));
/// assert_eq!(mean_and_sd(&[]), None);
/// ```
pub fn mean_and_sd(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len() as f64;
    match values {
        [] => None,
        &[value] => Some((value, 0.0)),
        _ => {
            let mean = values.iter().sum::<f64>() / count;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            Some((mean, (squares / (count - 1.0)).sqrt()))
        }
    }
}

/// Spearman's rank correlation of pairs, ties at the mean of their ranks: -1 to 1. Nothing for less than two pairs, and
/// where all values of one side are equal. Infinite values are the largest.
///
/// ```
/// use onnx_bench::statistics::spearman;
///
/// assert_eq!(spearman(&[(1.0, 2.0), (2.0, 8.0), (3.0, f64::INFINITY)]), Some(1.0));
/// ```
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let ranks = [ranks(pairs.iter().map(|pair| pair.0)), ranks(pairs.iter().map(|pair| pair.1))];
    // The mean of all ranks, with ties or without.
    let mean = (pairs.len() + 1) as f64 / 2.0;
    let product = |one: &[f64], other: &[f64]| -> f64 {
        one.iter().zip(other).map(|(one, other)| (one - mean) * (other - mean)).sum()
    };
    let [one, other] = &ranks;
    let spread = (product(one, one) * product(other, other)).sqrt();
    (spread > 0.0).then(|| product(one, other) / spread)
}

/// Ranks from 1 on, ties at their mean.
fn ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&one, &other| values[one].total_cmp(&values[other]));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for tied in order.chunk_by(|&one, &other| values[one] == values[other]) {
        for &index in tied {
            ranks[index] = below as f64 + (tied.len() + 1) as f64 / 2.0;
        }
        below += tied.len();
    }
    ranks
}

/// Kendall's rank correlation tau-b of pairs: -1 to 1. Nothing where there is no [`spearman`].
///
/// ```
/// use onnx_bench::statistics::kendall;
///
/// assert_eq!(kendall(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]), Some(-1.0));
/// ```
pub fn kendall(pairs: &[(f64, f64)]) -> Option<f64> {
    let (one, other): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (tau, _) = kendalls::tau_b_with_comparator(&one, &other, f64::total_cmp).ok()?;
    tau.is_finite().then_some(tau)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "expected {expected}, found {found}");
    }

    /// Worked by hand: n = 8, sum 40, squared deviations 9 + 1 + 1 + 1 + 0 + 0 + 4 + 16 = 32.
    #[test]
    fn mean_and_deviation_of_a_textbook_sample() {
        let (mean, sd) = mean_and_sd(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).expect("not empty");
        close(mean, 5.0);
        close(sd, (32.0f64 / 7.0).sqrt());
        assert_eq!(mean_and_sd(&[3.5]), Some((3.5, 0.0)));
    }

    /// Positions 4.5, 8.1, 8.55 and 8.91 among 10 samples, interpolated by hand; `numpy.percentile` gives the same.
    #[test]
    fn percentiles_are_type_7() {
        let samples = [90.0, 10.0, 20.0, 30.0, 100.0, 40.0, 50.0, 60.0, 70.0, 80.0];
        let summary = Summary::from_samples(&samples).expect("finite");
        assert_eq!((summary.count, summary.min, summary.max), (10, 10.0, 100.0));
        close(summary.p50, 55.0);
        close(summary.p90, 91.0);
        close(summary.p95, 95.5);
        close(summary.p99, 99.1);
    }

    #[test]
    fn durations_are_in_milliseconds() {
        let summary =
            Summary::from_durations(&[Duration::from_micros(1500), Duration::from_micros(2500)]).expect("two");
        close(summary.mean, 2.0);
        close(summary.p50, 2.0);
        close(summary.sd, 0.5f64.sqrt());
    }

    #[test]
    fn one_sample_is_all_of_its_percentiles() {
        let summary = Summary::from_samples(&[7.0]).expect("one");
        assert_eq!((summary.min, summary.p50, summary.p99, summary.max, summary.sd), (7.0, 7.0, 7.0, 7.0, 0.0));
    }

    #[test]
    fn bad_samples_are_named() {
        assert_eq!(Summary::from_samples(&[]), Err(StatisticsError::Empty));
        let error = Summary::from_samples(&[1.0, f64::INFINITY]).expect_err("infinite");
        assert_eq!(error.to_string(), "statistics of samples: expected finite numbers, found inf at index 1");
    }

    /// Scores of two judges with ties; by hand, and by `scipy.stats` (`spearmanr`, `kendalltau`).
    #[test]
    fn rank_correlations_share_ties() {
        let pairs = [(1.0, 2.0), (2.0, 1.0), (2.0, 4.0), (4.0, 3.0), (5.0, 5.0)];
        // Ranks 1, 2.5, 2.5, 4, 5 and 2, 1, 4, 3, 5: products of deviations 6.5, squares 9.5 and 10.
        close(spearman(&pairs).expect("spread"), 6.5 / 95.0f64.sqrt());
        // Of ten pairs of pairs 7 agree, 2 do not, and 1 is tied.
        close(kendall(&pairs).expect("spread"), 5.0 / 90.0f64.sqrt());
        for pairs in [&[][..], &[(1.0, 2.0)], &[(1.0, 2.0), (1.0, 3.0)]] {
            assert_eq!((spearman(pairs), kendall(pairs)), (None, None), "{pairs:?}");
        }
    }

    proptest! {
        /// Against a count over all pairs of pairs; order and monotone changes do not matter.
        #[test]
        fn correlations_are_of_ranks(pairs in prop::collection::vec((-9i32..9, -9i32..9), 2..20)) {
            let pairs: Vec<(f64, f64)> = pairs.into_iter().map(|(x, y)| (x.into(), y.into())).collect();
            let (mut sum, mut x_ties, mut y_ties, mut all) = (0.0, 0.0, 0.0, 0.0);
            for (index, one) in pairs.iter().enumerate() {
                for other in &pairs[..index] {
                    let [x, y] = [one.0 - other.0, one.1 - other.1];
                    sum += if x * y == 0.0 { 0.0 } else { (x * y).signum() };
                    x_ties += f64::from(u8::from(x == 0.0));
                    y_ties += f64::from(u8::from(y == 0.0));
                    all += 1.0;
                }
            }
            let spread = ((all - x_ties) * (all - y_ties)).sqrt();
            let changed: Vec<(f64, f64)> = pairs.iter().rev().map(|(x, y)| (x.exp(), y.powi(3))).collect();
            match (kendall(&pairs), spearman(&pairs)) {
                (Some(tau), Some(rho)) => {
                    prop_assert!((tau - sum / spread).abs() < 1e-12, "{tau}, not {}", sum / spread);
                    prop_assert!((kendall(&changed).expect("as before") - tau).abs() < 1e-12);
                    prop_assert!((spearman(&changed).expect("as before") - rho).abs() < 1e-12);
                    prop_assert!((-1.0 - 1e-12..=1.0 + 1e-12).contains(&rho));
                }
                (tau, rho) => prop_assert!(spread == 0.0 && tau.is_none() && rho.is_none(), "{tau:?} {rho:?}"),
            }
        }

        /// By counting: at least the share p of the samples is not above the quantile's upper neighbour, and order
        /// never matters.
        #[test]
        fn percentiles_split_the_samples(mut samples in prop::collection::vec(-1e6f64..1e6, 1..60), p in 0.0f64..=1.0) {
            let reversed: Vec<f64> = samples.iter().rev().copied().collect();
            prop_assert_eq!(Summary::from_samples(&samples)?.p90, Summary::from_samples(&reversed)?.p90);
            samples.sort_by(f64::total_cmp);
            let quantile = percentile(&samples, p);
            let below = samples.iter().filter(|&&sample| sample < quantile).count() as f64;
            let above = samples.iter().filter(|&&sample| sample > quantile).count() as f64;
            let last = (samples.len() - 1) as f64;
            prop_assert!(below <= (last * p).floor() + 1.0, "{below} samples below the {p} quantile");
            prop_assert!(above <= last - (last * p).floor(), "{above} samples above the {p} quantile");
            prop_assert!(samples[0] <= quantile && quantile <= samples[samples.len() - 1]);
        }
    }
}
