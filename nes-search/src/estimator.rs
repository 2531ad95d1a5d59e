//! The NES gradient of a loss with respect to H (equations 6 and 7 of the paper).
//!
//! Losses are minimised: [`Nes`](crate::Nes) steps against the gradient.

use ndarray::{Array1, Array2, Axis};
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
}

impl Estimator {
    /// The paper's: independent directions, plain differences.
    pub fn paper(samples: usize) -> Self {
        Self { samples, sampling: Sampling::Independent, shaping: Shaping::Difference }
    }

    /// Antithetic pairs and standardised losses.
    pub fn antithetic(samples: usize) -> Self {
        Self { samples, sampling: Sampling::Antithetic, shaping: Shaping::Standardized }
    }

    /// Whether the gradient needs the loss at H itself.
    pub fn needs_centre(&self) -> bool {
        self.shaping == Shaping::Difference
    }

    /// Draws the directions n ~ N(0, sigma) of one NES iteration: `[samples, dimensions]`.
    ///
    /// With antithetic sampling, row `2i + 1` is the opposite of row `2i`.
    pub fn directions(&self, dimensions: usize, sigma: f64, rng: &mut ChaCha8Rng) -> Array2<f64> {
        let mut directions = Array2::zeros((self.samples, dimensions));
        for row in 0..self.samples {
            match self.sampling {
                Sampling::Antithetic if row % 2 == 1 => {
                    let opposite = directions.row(row - 1).mapv(|value: f64| -value);
                    directions.row_mut(row).assign(&opposite);
                }
                _ => directions.row_mut(row).mapv_inplace(|_| sigma * normal(rng)),
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
    pub fn gradient(&self, directions: &Array2<f64>, losses: &[f64], centre: f64, sigma: f64) -> Array1<f64> {
        assert_eq!(losses.len(), directions.nrows(), "one loss per direction");
        let weights = self.weights(losses, centre);
        let used = weights.iter().flatten().count();
        if used < 2 || sigma <= 0.0 {
            return Array1::zeros(directions.ncols());
        }
        let weights: Array1<f64> = weights.into_iter().map(Option::unwrap_or_default).collect();
        let weighted = directions * &weights.insert_axis(Axis(1));
        weighted.sum_axis(Axis(0)) / (sigma * used as f64)
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

/// A number from N(0, 1).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Stream, stream};

    const SIGMA: f64 = 1.25;

    /// Mean and standard error, per dimension, of `runs` gradients of `loss` at `centre`.
    fn statistics(estimator: Estimator, centre: &[f64], runs: usize, loss: impl Fn(&[f64]) -> f64) -> Vec<(f64, f64)> {
        let mut rng = stream(7, Stream::Perturbations);
        let gradients: Vec<Array1<f64>> = (0..runs)
            .map(|_| {
                let directions = estimator.directions(centre.len(), SIGMA, &mut rng);
                let losses: Vec<f64> = directions
                    .rows()
                    .into_iter()
                    .map(|row| loss(&row.iter().zip(centre).map(|(n, h)| n + h).collect::<Vec<_>>()))
                    .collect();
                estimator.gradient(&directions, &losses, loss(centre), SIGMA)
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
        let directions = estimator.directions(5, SIGMA, &mut stream(1, Stream::Perturbations));
        let losses: Vec<f64> = directions.rows().into_iter().map(|row| row.sum().sin()).collect();
        let moved: Vec<f64> = losses.iter().map(|loss| 1e3 * loss - 77.0).collect();
        let [one, two] = [&losses, &moved].map(|losses| estimator.gradient(&directions, losses, 0.0, SIGMA));
        assert!((&one - &two).iter().all(|difference| difference.abs() < 1e-9));
        assert!(one.iter().any(|value| value.abs() > 1e-3));
    }

    #[test]
    fn antithetic_directions_come_in_opposite_pairs() {
        let directions = Estimator::antithetic(6).directions(3, SIGMA, &mut stream(1, Stream::Perturbations));
        for pair in 0..3 {
            assert_eq!(directions.row(2 * pair).mapv(|n| -n), directions.row(2 * pair + 1));
        }
        assert_ne!(directions.row(0), directions.row(2));
    }

    #[test]
    fn a_loss_that_is_not_finite_has_no_part() {
        for estimator in [Estimator::paper(5), Estimator { samples: 5, ..Estimator::antithetic(4) }] {
            let directions = Estimator::paper(5).directions(3, SIGMA, &mut stream(2, Stream::Perturbations));
            let finite = directions.select(Axis(0), &[0, 2, 4]);
            let expected = estimator.gradient(&finite, &[1.0, 2.0, 4.0], 0.5, SIGMA);
            let got = estimator.gradient(&directions, &[1.0, f64::NAN, 2.0, f64::INFINITY, 4.0], 0.5, SIGMA);
            assert_eq!(got, expected);
            let none = estimator.gradient(&directions, &[f64::NAN; 5], 0.5, SIGMA);
            assert_eq!(none, Array1::<f64>::zeros(3));
        }
    }

    #[test]
    fn equal_losses_give_no_gradient_when_standardized() {
        let estimator = Estimator::antithetic(8);
        let directions = estimator.directions(3, SIGMA, &mut stream(2, Stream::Perturbations));
        assert_eq!(estimator.gradient(&directions, &[0.3; 8], 0.0, SIGMA), Array1::<f64>::zeros(3));
    }
}
