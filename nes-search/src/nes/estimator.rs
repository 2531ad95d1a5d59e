//! The NES gradient of a loss with respect to H (equations 6 and 7 of the paper).
//!
//! Losses are minimised: the optimizer [`Nes`](super::Nes) steps against the gradient.

use ndarray::{Array1, Array2};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// How the directions of one NES iteration are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// Independently (the paper).
    Independent,
    /// In pairs of opposite directions, which cancels all even terms of the loss.
    Antithetic,
}

/// What stands for the loss of a candidate in the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shaping {
    /// Its difference from the loss at H (equation 6).
    Difference,
    /// Its distance from the mean of the candidates' losses, in standard deviations: the gradient's scale no longer
    /// depends on the loss's.
    Standardized,
}

/// Which move of H a candidate's loss belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moves {
    /// The direction that was drawn (the paper). The gradient is then an unbiased estimate of that of the smoothed loss.
    Drawn,
    /// The step from H to the architecture that was scored, after rounding and projection. The estimate has less noise, but
    /// a bias: rounding makes the gradient of a linear loss longer by the share `1 / (12 sigma^2)`.
    Realized,
}

/// The estimator of the NES gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimator {
    /// M: how many candidates one gradient takes; even if the sampling is antithetic.
    pub samples: usize,
    /// How directions are drawn.
    pub sampling: Sampling,
    /// What stands for a loss.
    pub shaping: Shaping,
    /// Which move of H a loss belongs to.
    pub moves: Moves,
}

/// A gradient of H.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// G: one number for each dimension.
    pub values: Array1<f64>,
    /// The squared length of the true gradient over the variance of its estimate, as far as the spread of the samples'
    /// (with antithetic sampling, the pairs') parts tells; 0 if they are no longer than chance makes them.
    pub signal_to_noise: f64,
}

impl Estimator {
    /// The paper's: independent directions, plain differences.
    pub fn paper(samples: usize) -> Self {
        Self { samples, sampling: Sampling::Independent, shaping: Shaping::Difference, moves: Moves::Drawn }
    }

    /// Antithetic pairs and standardised losses of the steps that were made.
    pub fn antithetic(samples: usize) -> Self {
        let (sampling, shaping) = (Sampling::Antithetic, Shaping::Standardized);
        Self { samples, sampling, shaping, moves: Moves::Realized }
    }

    /// Whether the gradient needs the loss at H itself.
    pub fn needs_centre(&self) -> bool {
        self.shaping == Shaping::Difference
    }

    /// Draws the directions n ~ N(0, sigma) of one NES iteration, one sigma for each dimension: `[samples, dimensions]`.
    ///
    /// With antithetic sampling, row `2i + 1` is the opposite of row `2i`.
    pub fn directions(&self, sigmas: &[f64], rng: &mut ChaCha8Rng) -> Array2<f64> {
        let mut directions = Array2::zeros((self.samples, sigmas.len()));
        for row in 0..self.samples {
            match self.sampling {
                Sampling::Antithetic if row % 2 == 1 => {
                    let opposite = directions.row(row - 1).mapv(|value: f64| -value);
                    directions.row_mut(row).assign(&opposite);
                }
                _ => directions
                    .row_mut(row)
                    .assign(&sigmas.iter().map(|sigma| sigma * normal(rng)).collect::<Array1<_>>()),
            }
        }
        directions
    }

    /// The gradient `G = 1 / (sigma M) * sum_i loss_i n_i` (equation 7) from directions `[samples, dimensions]` and
    /// one loss for each.
    ///
    /// With n ~ N(0, sigma) this is sigma times the gradient of the loss smoothed by N(0, sigma), as in the paper. A
    /// candidate whose loss is not finite has no part in it; without at least two that have, the gradient is zero. So
    /// it is if `centre`, the loss at H, is needed and not finite.
    ///
    /// # Panics
    /// If there is not one loss for each direction.
    pub fn gradient(&self, directions: &Array2<f64>, losses: &[f64], centre: f64, sigma: f64) -> Gradient {
        assert_eq!(losses.len(), directions.nrows(), "one loss per direction");
        let weights = self.weights(losses, centre);
        let used = weights.iter().flatten().count();
        if used < 2 || sigma <= 0.0 {
            return Gradient { values: Array1::zeros(directions.ncols()), signal_to_noise: 0.0 };
        }
        let group = if self.sampling == Sampling::Antithetic { 2 } else { 1 };
        let mut parts: Vec<Array1<f64>> = Vec::new();
        for (start, weights) in (0..).step_by(group).zip(weights.chunks(group)) {
            if weights.iter().all(Option::is_none) {
                continue;
            }
            let mut part = Array1::zeros(directions.ncols());
            for (row, weight) in (start..).zip(weights) {
                part.scaled_add(weight.unwrap_or(0.0) / (sigma * used as f64), &directions.row(row));
            }
            parts.push(part);
        }
        let values = parts.iter().fold(Array1::zeros(directions.ncols()), |sum, part| sum + part);
        Gradient { signal_to_noise: signal_to_noise(&parts, &values), values }
    }

    /// The gradient of the logarithms of the sigmas that directions were drawn with:
    /// `1 / M * sum_i loss_i ((n_i / sigma)^2 - 1)`, as separable NES (SNES) has it. Negative where larger steps were the
    /// better ones.
    ///
    /// # Panics
    /// If there is not one loss for each direction, and one sigma for each dimension.
    pub fn sigma_gradient(&self, directions: &Array2<f64>, losses: &[f64], centre: f64, sigmas: &[f64]) -> Array1<f64> {
        assert_eq!(losses.len(), directions.nrows(), "one loss per direction");
        assert_eq!(sigmas.len(), directions.ncols(), "one sigma per dimension");
        let weights = self.weights(losses, centre);
        let used = weights.iter().flatten().count();
        let mut gradient = Array1::zeros(sigmas.len());
        for (direction, weight) in directions.rows().into_iter().zip(&weights) {
            let Some(weight) = weight else { continue };
            for ((sum, n), sigma) in gradient.iter_mut().zip(direction).zip(sigmas) {
                *sum += weight * ((n / sigma).powi(2) - 1.0) / used as f64;
            }
        }
        gradient
    }

    /// What stands for each loss; nothing for one that is not finite.
    fn weights(&self, losses: &[f64], centre: f64) -> Vec<Option<f64>> {
        let finite: Array1<f64> = losses.iter().copied().filter(|loss| loss.is_finite()).collect();
        let (offset, scale) = match self.shaping {
            Shaping::Difference => (centre, 1.0),
            Shaping::Standardized => {
                let deviation = finite.std(0.0);
                (finite.mean().unwrap_or(0.0), if deviation > 0.0 { deviation } else { f64::INFINITY })
            }
        };
        let weight = |loss: f64| ((loss - offset) / scale).is_finite().then(|| (loss - offset) / scale);
        losses.iter().map(|&loss| weight(loss)).collect()
    }
}

/// The squared length of the expected sum of independent parts over the variance of the sum.
fn signal_to_noise(parts: &[Array1<f64>], sum: &Array1<f64>) -> f64 {
    let count = parts.len() as f64;
    let mean = sum / count;
    let spread: f64 = parts.iter().map(|part| (part - &mean).mapv(|difference| difference * difference).sum()).sum();
    let variance = spread * count / (count - 1.0);
    let ratio = sum.dot(sum) / variance - 1.0;
    if ratio.is_finite() { ratio.max(0.0) } else { 0.0 }
}

/// A number from N(0, 1).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

#[cfg(test)]
mod tests {
    use ndarray::Axis;

    use super::*;
    use crate::rng::{Stream, stream};

    const SIGMA: f64 = 1.25;

    /// Mean and standard error, per dimension, of `runs` gradients of `loss` at `centre`.
    fn statistics(estimator: Estimator, centre: &[f64], runs: usize, loss: impl Fn(&[f64]) -> f64) -> Vec<(f64, f64)> {
        let mut rng = stream(7, Stream::Perturbations);
        let gradients: Vec<Array1<f64>> = (0..runs)
            .map(|_| {
                let directions = estimator.directions(&vec![SIGMA; centre.len()], &mut rng);
                let losses: Vec<f64> = directions
                    .rows()
                    .into_iter()
                    .map(|row| loss(&row.iter().zip(centre).map(|(n, h)| n + h).collect::<Vec<_>>()))
                    .collect();
                estimator.gradient(&directions, &losses, loss(centre), SIGMA).values
            })
            .collect();
        (0..centre.len())
            .map(|dim| {
                let values: Array1<f64> = gradients.iter().map(|gradient| gradient[dim]).collect();
                (values.mean().unwrap(), values.std(1.0) / (runs as f64).sqrt())
            })
            .collect()
    }

    fn assert_within(statistics: &[(f64, f64)], expected: &[f64]) {
        for ((mean, error), expected) in statistics.iter().zip(expected) {
            // Five standard errors of the mean: a false alarm in 1.7 million.
            assert!((mean - expected).abs() < 5.0 * error, "expected {expected}, got {mean} +- {error}");
            assert!(error / SIGMA < 0.05, "the sample is too small to tell anything: +- {error}");
        }
    }

    #[test]
    fn a_linear_loss_has_its_slope_times_sigma_as_gradient() {
        let slope = [0.5, -2.0, 0.0, 1.0];
        let loss = |h: &[f64]| h.iter().zip(slope).map(|(h, a)| a * h).sum();
        for estimator in [Estimator::paper(100), Estimator { sampling: Sampling::Antithetic, ..Estimator::paper(100) }]
        {
            assert_within(&statistics(estimator, &[1.0; 4], 400, loss), &slope.map(|a| SIGMA * a));
        }
    }

    #[test]
    fn a_quadratic_loss_has_its_slope_times_sigma_as_gradient() {
        let centre = [1.0, -0.5, 0.25];
        let loss = |h: &[f64]| h.iter().map(|h| h * h).sum();
        let expected = centre.map(|h| SIGMA * 2.0 * h);
        for estimator in [Estimator::paper(100), Estimator { sampling: Sampling::Antithetic, ..Estimator::paper(100) }]
        {
            assert_within(&statistics(estimator, &centre, 2000, loss), &expected);
        }
    }

    #[test]
    fn standardized_losses_of_a_linear_loss_give_its_direction() {
        let slope = [3.0, -4.0];
        let loss = |h: &[f64]| h.iter().zip(slope).map(|(h, a)| a * h).sum();
        // z = a.n / (sigma |a|), so E[G] = a / |a|, up to the spread of the sample deviation, which is O(1 / M).
        let statistics = statistics(Estimator::antithetic(200), &[0.0; 2], 2000, loss);
        for ((mean, _), expected) in statistics.iter().zip([0.6, -0.8]) {
            assert!((mean - expected).abs() < 0.01, "expected {expected}, got {mean}");
        }
    }

    #[test]
    fn standardized_losses_do_not_see_shift_and_scale() {
        let estimator = Estimator::antithetic(16);
        let directions = estimator.directions(&[SIGMA; 5], &mut stream(1, Stream::Perturbations));
        let losses: Vec<f64> = directions.rows().into_iter().map(|row| row.sum().sin()).collect();
        let moved: Vec<f64> = losses.iter().map(|loss| 1e3 * loss - 77.0).collect();
        let [one, two] = [&losses, &moved].map(|losses| estimator.gradient(&directions, losses, 0.0, SIGMA).values);
        assert!((&one - &two).iter().all(|difference| difference.abs() < 1e-9));
        assert!(one.iter().any(|value| value.abs() > 1e-3));
    }

    #[test]
    fn antithetic_directions_come_in_opposite_pairs() {
        let directions = Estimator::antithetic(6).directions(&[SIGMA; 3], &mut stream(1, Stream::Perturbations));
        for pair in 0..3 {
            assert_eq!(directions.row(2 * pair).mapv(|n| -n), directions.row(2 * pair + 1));
        }
        assert_ne!(directions.row(0), directions.row(2));
    }

    #[test]
    fn a_loss_that_is_not_finite_has_no_part() {
        for shaping in [Shaping::Difference, Shaping::Standardized] {
            let estimator = Estimator { shaping, ..Estimator::paper(5) };
            let directions = Estimator::paper(5).directions(&[SIGMA; 3], &mut stream(2, Stream::Perturbations));
            let finite = directions.select(Axis(0), &[0, 2, 4]);
            let expected = estimator.gradient(&finite, &[1.0, 2.0, 4.0], 0.5, SIGMA);
            let got = estimator.gradient(&directions, &[1.0, f64::NAN, 2.0, f64::INFINITY, 4.0], 0.5, SIGMA);
            assert_eq!(got, expected);
            let none = estimator.gradient(&directions, &[f64::NAN; 5], 0.5, SIGMA);
            assert_eq!(none.values, Array1::<f64>::zeros(3));
        }
    }

    #[test]
    fn equal_losses_give_no_gradient_when_standardized() {
        let estimator = Estimator::antithetic(8);
        let directions = estimator.directions(&[SIGMA; 3], &mut stream(2, Stream::Perturbations));
        assert_eq!(estimator.gradient(&directions, &[0.3; 8], 0.0, SIGMA).values, Array1::<f64>::zeros(3));
    }

    #[test]
    fn every_dimension_has_a_sigma_of_its_own() {
        let sigmas = [0.5, 4.0];
        let directions = Estimator::paper(4000).directions(&sigmas, &mut stream(3, Stream::Perturbations));
        for (column, sigma) in directions.columns().into_iter().zip(sigmas) {
            // The deviation of a sample of N has a standard error of sigma / sqrt(2 N).
            assert!((column.std(0.0) - sigma).abs() < 5.0 * sigma / 8000f64.sqrt(), "{}", column.std(0.0));
        }
    }

    #[test]
    fn sigma_shrinks_along_what_bends_up_and_grows_along_what_bends_down() {
        // Of a n^2 the expectation of n^2 ((n / sigma)^2 - 1) is 2 sigma^2 a; of one dimension nothing is another's.
        let (bend, sigmas) = ([0.5, -1.0, 0.0], [1.25, 0.5, 2.0]);
        let estimator = Estimator::paper(200);
        let mut rng = stream(5, Stream::Perturbations);
        let gradients: Vec<Array1<f64>> = (0..400)
            .map(|_| {
                let directions = estimator.directions(&sigmas, &mut rng);
                let loss = |n: ndarray::ArrayView1<f64>| n.iter().zip(bend).map(|(n, a)| a * n * n).sum();
                let losses: Vec<f64> = directions.rows().into_iter().map(loss).collect();
                estimator.sigma_gradient(&directions, &losses, 0.0, &sigmas)
            })
            .collect();
        for dim in 0..3 {
            let values: Array1<f64> = gradients.iter().map(|gradient| gradient[dim]).collect();
            let (mean, error) = (values.mean().unwrap(), values.std(1.0) / 20.0);
            let expected = 2.0 * sigmas[dim] * sigmas[dim] * bend[dim];
            assert!((mean - expected).abs() < 5.0 * error, "{dim}: expected {expected}, got {mean} +- {error}");
            assert!(error < 0.05, "the sample is too small to tell anything: +- {error}");
        }
    }

    /// A loss that is linear in the architecture, as rounded down from H + n.
    #[test]
    fn drawn_moves_are_without_bias_and_realized_ones_have_the_documented_one() {
        let (slope, h) = (0.7, 20.3);
        let cell = |n: f64| (h + n).floor() + 0.5;
        for (moves, expected) in
            [(Moves::Drawn, slope * SIGMA), (Moves::Realized, slope * SIGMA * (1.0 + 1.0 / (12.0 * SIGMA * SIGMA)))]
        {
            let estimator = Estimator { moves, sampling: Sampling::Antithetic, ..Estimator::paper(100) };
            let mut rng = stream(11, Stream::Perturbations);
            let gradients: Array1<f64> = (0..4000)
                .map(|_| {
                    let drawn = estimator.directions(&[SIGMA], &mut rng);
                    let losses: Vec<f64> = drawn.iter().map(|&n| slope * (cell(n) - h)).collect();
                    let moved = match moves {
                        Moves::Drawn => drawn,
                        Moves::Realized => drawn.mapv(|n| cell(n) - h),
                    };
                    estimator.gradient(&moved, &losses, 0.0, SIGMA).values[0]
                })
                .collect();
            let (mean, error) = (gradients.mean().unwrap(), gradients.std(1.0) / 4000f64.sqrt());
            assert!((mean - expected).abs() < 5.0 * error, "{moves:?}: expected {expected}, got {mean} +- {error}");
            assert!(error < 0.2 * slope * SIGMA / (12.0 * SIGMA * SIGMA), "too few samples to see the bias: {error}");
        }
    }

    #[test]
    fn the_signal_to_noise_ratio_is_that_of_a_linear_loss_with_noise() {
        // Independent losses a.n + e with e ~ N(0, s) over d dimensions. A part is n (a.n + e) / (sigma M): the mean is
        // sigma a, the variance of the sum (|a|^2 sigma^2 (d + 1) + s^2 d) / M, so the ratio is known.
        let (d, samples, noise, slope) = (8, 400, 2.0, 0.5);
        let norm = slope * slope * d as f64;
        let variance = (norm * SIGMA * SIGMA * (d as f64 + 1.0) + noise * noise * d as f64) / samples as f64;
        let expected = norm * SIGMA * SIGMA / variance;
        let estimator = Estimator::paper(samples);
        let mut rng = stream(13, Stream::Perturbations);
        let ratios: Array1<f64> = (0..200)
            .map(|_| {
                let directions = estimator.directions(&vec![SIGMA; d], &mut rng);
                let losses: Vec<f64> =
                    directions.rows().into_iter().map(|row| slope * row.sum() + noise * normal(&mut rng)).collect();
                estimator.gradient(&directions, &losses, 0.0, SIGMA).signal_to_noise
            })
            .collect();
        let (mean, error) = (ratios.mean().unwrap(), ratios.std(1.0) / 200f64.sqrt());
        // A ratio of estimates is off by a part of the order of 1 / M besides.
        assert!((mean - expected).abs() < 5.0 * error + 0.02 * expected, "expected {expected}, got {mean} +- {error}");
        let none = estimator.gradient(&Array2::zeros((samples, d)), &vec![1.0; samples], 1.0, SIGMA);
        assert_eq!(none.signal_to_noise, 0.0);
    }
}
