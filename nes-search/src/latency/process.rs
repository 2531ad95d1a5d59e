//! Gaussian-process regression: C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", MIT
//! Press, 2006; the equations named below are that book's.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use serde::{Deserialize, Serialize};

/// What a process was fitted to. All numbers are above 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hyperparameters {
    /// Deviation of the outputs from their mean.
    pub amplitude: f64,
    /// Deviation of what was measured from the truth.
    pub noise: f64,
    /// One over the length scale of each input.
    pub scales: Vec<f64>,
}

/// Ranges of the logarithms of amplitude, noise and scales.
const AMPLITUDE: [f64; 2] = [0.02, 10.0];
const NOISE: [f64; 2] = [0.005, 0.5];
const SCALE: [f64; 2] = [0.01, 30.0];

impl Hyperparameters {
    /// Where a fit begins.
    pub fn initial(inputs: usize) -> Self {
        Self { amplitude: 0.5, noise: 0.05, scales: vec![0.5; inputs] }
    }

    /// Whether a process of so many inputs can have them.
    pub fn is_valid(&self, inputs: usize) -> bool {
        let within = |value: f64, [low, high]: [f64; 2]| (low * 0.999..=high * 1.001).contains(&value);
        within(self.amplitude, AMPLITUDE)
            && within(self.noise, NOISE)
            && self.scales.len() == inputs
            && self.scales.iter().all(|&scale| within(scale, SCALE))
    }

    fn logarithms(&self) -> Vec<f64> {
        [self.amplitude, self.noise].iter().chain(&self.scales).map(|value| value.ln()).collect()
    }

    /// The hyperparameters nearest to logarithms, within their ranges.
    fn from_logarithms(logarithms: &[f64]) -> Self {
        let within = |value: f64, [low, high]: [f64; 2]| value.exp().clamp(low, high);
        Self {
            amplitude: within(logarithms[0], AMPLITUDE),
            noise: within(logarithms[1], NOISE),
            scales: logarithms[2..].iter().map(|&value| within(value, SCALE)).collect(),
        }
    }
}

/// Steps of the ascent of the likelihood.
const STEPS: usize = 50;

/// A process conditioned on measurements.
#[derive(Clone, Debug)]
pub struct Process {
    hyperparameters: Hyperparameters,
    inputs: Vec<Vec<f64>>,
    mean: f64,
    /// `K^-1 (y - mean)`.
    weights: DVector<f64>,
    cholesky: Cholesky<f64, Dyn>,
}

/// Matern 5/2 of a scaled distance (equation 4.17).
fn matern(distance: f64) -> f64 {
    let z = 5f64.sqrt() * distance;
    (1.0 + z + z * z / 3.0) * (-z).exp()
}

impl Process {
    /// Conditions a process on outputs at inputs.
    ///
    /// `None` if there is nothing, or the numbers are such that the covariance has no Cholesky factor.
    pub fn new(inputs: Vec<Vec<f64>>, outputs: &[f64], hyperparameters: Hyperparameters) -> Option<Self> {
        let mean = outputs.iter().sum::<f64>() / outputs.len() as f64;
        let cholesky = Cholesky::new(covariance(&inputs, &hyperparameters))?;
        let centred = DVector::from_iterator(outputs.len(), outputs.iter().map(|output| output - mean));
        let weights = cholesky.solve(&centred);
        let fine = mean.is_finite() && weights.iter().all(|weight| weight.is_finite());
        fine.then_some(Self { hyperparameters, inputs, mean, weights, cholesky })
    }

    /// The hyperparameters.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// The hyperparameters of the largest marginal likelihood near a start (equation 5.8), by steps of resilient
    /// propagation (M. Riedmiller and H. Braun, 1993) on their logarithms.
    pub fn fit(inputs: &[Vec<f64>], outputs: &[f64], start: &Hyperparameters) -> Hyperparameters {
        let mut at = start.logarithms();
        let mut best = (f64::NEG_INFINITY, start.clone());
        let mut steps = vec![0.3f64; at.len()];
        let mut before = vec![0.0f64; at.len()];
        for _ in 0..STEPS {
            let hyperparameters = Hyperparameters::from_logarithms(&at);
            let Some(process) = Self::new(inputs.to_vec(), outputs, hyperparameters.clone()) else { break };
            let (likelihood, gradient) = process.likelihood(outputs);
            if likelihood > best.0 {
                best = (likelihood, hyperparameters.clone());
            }
            // Where a range ends, the ascent goes on from there.
            at = hyperparameters.logarithms();
            for (index, &slope) in gradient.iter().enumerate() {
                let factor = match (slope * before[index]).partial_cmp(&0.0) {
                    Some(std::cmp::Ordering::Greater) => 1.2,
                    Some(std::cmp::Ordering::Less) => 0.5,
                    _ => 1.0,
                };
                steps[index] = (steps[index] * factor).clamp(1e-3, 1.0);
                at[index] += steps[index] * if slope == 0.0 { 0.0 } else { slope.signum() };
            }
            before = gradient;
        }
        best.1
    }

    /// The logarithm of the marginal likelihood (equation 5.8), and its gradient with respect to the logarithms of
    /// amplitude, noise and scales (equation 5.9).
    fn likelihood(&self, outputs: &[f64]) -> (f64, Vec<f64>) {
        let Hyperparameters { amplitude, noise, scales } = &self.hyperparameters;
        let count = self.inputs.len();
        let fit: f64 = self.weights.iter().zip(outputs).map(|(weight, output)| weight * (output - self.mean)).sum();
        let log_determinant: f64 = (0..count).map(|row| 2.0 * self.cholesky.l_dirty()[(row, row)].ln()).sum();
        let likelihood = -0.5 * (fit + log_determinant + count as f64 * std::f64::consts::TAU.ln());

        let inverse = self.cholesky.inverse();
        let mut gradient = vec![0.0; 2 + scales.len()];
        for row in 0..count {
            for column in 0..=row {
                // Of the symmetric matrix alpha alpha^T - K^-1, each element off the diagonal counts twice.
                let weight = self.weights[row] * self.weights[column] - inverse[(row, column)];
                if row == column {
                    gradient[0] += weight * amplitude * amplitude;
                    gradient[1] += weight * noise * noise;
                    continue;
                }
                let distance = distance(&self.inputs[row], &self.inputs[column], scales);
                gradient[0] += 2.0 * weight * amplitude * amplitude * matern(distance);
                let z = 5f64.sqrt() * distance;
                let slope = 2.0 * weight * amplitude * amplitude * 5.0 / 6.0 * (1.0 + z) * (-z).exp();
                for (index, scale) in scales.iter().enumerate() {
                    let difference = (self.inputs[row][index] - self.inputs[column][index]) * scale;
                    gradient[2 + index] -= slope * difference * difference;
                }
            }
        }
        (likelihood, gradient)
    }

    fn covariances(&self, input: &[f64]) -> DVector<f64> {
        let Hyperparameters { amplitude, scales, .. } = &self.hyperparameters;
        let of = |other: &Vec<f64>| amplitude * amplitude * matern(distance(other, input, scales));
        DVector::from_iterator(self.inputs.len(), self.inputs.iter().map(of))
    }

    /// The expected output at an input (equation 2.25).
    pub fn mean(&self, input: &[f64]) -> f64 {
        self.mean + self.covariances(input).dot(&self.weights)
    }

    /// The variance of the output at an input, noise not counted (equation 2.26).
    pub fn variance(&self, input: &[f64]) -> f64 {
        let covariances = self.covariances(input);
        let prior = self.hyperparameters.amplitude.powi(2);
        (prior - covariances.dot(&self.cholesky.solve(&covariances))).max(0.0)
    }
}

fn distance(one: &[f64], other: &[f64], scales: &[f64]) -> f64 {
    let squares = one.iter().zip(other).zip(scales).map(|((one, other), scale)| ((one - other) * scale).powi(2));
    squares.sum::<f64>().sqrt()
}

fn covariance(inputs: &[Vec<f64>], Hyperparameters { amplitude, noise, scales }: &Hyperparameters) -> DMatrix<f64> {
    let mut covariance = DMatrix::zeros(inputs.len(), inputs.len());
    for row in 0..inputs.len() {
        for column in 0..=row {
            let value = amplitude * amplitude * matern(distance(&inputs[row], &inputs[column], scales));
            covariance[(row, column)] = value;
            covariance[(column, row)] = value;
        }
        covariance[(row, row)] += noise * noise;
    }
    covariance
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> (Vec<Vec<f64>>, Vec<f64>) {
        let inputs: Vec<Vec<f64>> = (0..25).map(|i| vec![f64::from(i % 5), f64::from(i / 5) * 0.7]).collect();
        let outputs = inputs.iter().map(|x| (x[0] * 0.8).sin() + 0.3 * x[1]).collect();
        (inputs, outputs)
    }

    fn hyperparameters() -> Hyperparameters {
        Hyperparameters { amplitude: 0.9, noise: 0.05, scales: vec![0.6, 0.4] }
    }

    /// Against differences of the likelihood, which is itself held against the textbook's density below.
    #[test]
    fn the_gradient_is_that_of_the_likelihood() {
        let (inputs, outputs) = sample();
        let at = hyperparameters().logarithms();
        let likelihood = |at: &[f64]| {
            let process = Process::new(inputs.clone(), &outputs, Hyperparameters::from_logarithms(at)).unwrap();
            process.likelihood(&outputs)
        };
        let (_, gradient) = likelihood(&at);
        for index in 0..at.len() {
            let [mut above, mut below] = [at.clone(), at.clone()];
            above[index] += 1e-5;
            below[index] -= 1e-5;
            let slope = (likelihood(&above).0 - likelihood(&below).0) / 2e-5;
            let close = (slope - gradient[index]).abs() < 1e-4 * slope.abs().max(1.0);
            assert!(close, "{index}: expected {slope}, found {}", gradient[index]);
        }
    }

    /// Two outputs, by hand: the density of a normal distribution of two dimensions.
    #[test]
    fn the_likelihood_is_the_density_of_the_outputs() {
        let hyperparameters = Hyperparameters { amplitude: 1.0, noise: 0.5, scales: vec![1.0] };
        let process = Process::new(vec![vec![0.0], vec![1.0]], &[1.0, -1.0], hyperparameters).unwrap();
        let (variance, covariance) = (1.25f64, matern(1.0));
        let determinant = variance * variance - covariance * covariance;
        // (1, -1) K^-1 (1, -1)^T = 2 (variance + covariance) / determinant.
        let exponent = 2.0 * (variance + covariance) / determinant;
        let expected = -0.5 * (exponent + determinant.ln() + 2.0 * std::f64::consts::TAU.ln());
        assert!((process.likelihood(&[1.0, -1.0]).0 - expected).abs() < 1e-12);
    }

    #[test]
    fn a_fit_finds_what_matters() {
        let inputs: Vec<Vec<f64>> = (0..80).map(|i| vec![f64::from(i) * 0.1, f64::from(i * 37 % 80) * 0.1]).collect();
        let outputs: Vec<f64> = inputs.iter().map(|x| x[0].sin()).collect();
        let start = Hyperparameters::initial(2);
        let fitted = Process::fit(&inputs, &outputs, &start);
        assert!(fitted.is_valid(2), "{fitted:?}");
        // The second input has no part in the outputs.
        assert!(fitted.scales[0] > 5.0 * fitted.scales[1] && fitted.noise < 0.02, "{fitted:?}");
        let process = Process::new(inputs, &outputs, fitted).unwrap();
        assert!((process.mean(&[3.33, 2.0]) - 3.33f64.sin()).abs() < 0.03);
    }

    proptest! {
        /// At a measured input the output is nearly the measured one and certain; far away it is the mean and as
        /// uncertain as it gets.
        #[test]
        fn certainty_is_where_measurements_are(index in 0usize..25) {
            let (inputs, outputs) = sample();
            let process = Process::new(inputs.clone(), &outputs, hyperparameters()).unwrap();
            prop_assert!((process.mean(&inputs[index]) - outputs[index]).abs() < 0.1);
            prop_assert!(process.variance(&inputs[index]) < 0.05f64.powi(2));
            let far = [1e4, 1e4];
            prop_assert!((process.mean(&far) - process.mean).abs() < 1e-9);
            prop_assert!((process.variance(&far) - 0.81).abs() < 1e-9);
        }
    }
}
