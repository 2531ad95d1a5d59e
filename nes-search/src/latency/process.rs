//! Gaussian-process regression, by the crate `gprx`: C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine
//! Learning", MIT Press, 2006.

use gprx::kernel::{ConstantKernel, KernelSpec, MaternArdKernel, MaternNu};
use gprx::{
    FittedGpr, Fixed, GaussianLikelihood, Gpr, GprError, Interval, IntervalError, PredictOptions, VarianceKind,
};
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

/// Ranges of amplitude, noise and scales.
const AMPLITUDE: [f64; 2] = [0.02, 10.0];
const NOISE: [f64; 2] = [0.005, 0.5];
const SCALE: [f64; 2] = [0.01, 30.0];

/// How far beyond a range numbers may be: the ranges of a fit are open.
const MARGIN: f64 = 1e-3;

fn widened([low, high]: [f64; 2]) -> [f64; 2] {
    [low * (1.0 - MARGIN), high * (1.0 + MARGIN)]
}

impl Hyperparameters {
    /// Where a fit begins.
    pub fn initial(inputs: usize) -> Self {
        Self { amplitude: 0.5, noise: 0.05, scales: vec![0.5; inputs] }
    }

    /// Whether a process of so many inputs can have them.
    pub fn is_valid(&self, inputs: usize) -> bool {
        let within = |value: f64, range: [f64; 2]| {
            let [low, high] = widened(range);
            value > low && value < high
        };
        within(self.amplitude, AMPLITUDE)
            && within(self.noise, NOISE)
            && self.scales.len() == inputs
            && self.scales.iter().all(|&scale| within(scale, SCALE))
    }

    /// A Matern kernel with nu = 5/2 (equation 4.17) and a length scale for each input.
    fn process(&self) -> Result<Gpr, GprError> {
        let interval = |range: [f64; 2], of: fn(f64) -> f64| -> Result<Interval, IntervalError> {
            let [one, other] = widened(range).map(of);
            Interval::new(one.min(other), one.max(other))
        };
        let lengths: Vec<f64> = self.scales.iter().map(|scale| scale.recip()).collect();
        let amplitude =
            ConstantKernel::new(self.amplitude.powi(2))?.with_bounds(interval(AMPLITUDE, |x| x.powi(2))?)?;
        let matern = MaternArdKernel::new(&lengths, MaternNu::FiveHalves)?.with_bounds(interval(SCALE, f64::recip)?)?;
        let noise = GaussianLikelihood::new(self.noise.powi(2))?.with_bounds(interval(NOISE, |x| x.powi(2))?)?;
        Ok(Gpr::new(KernelSpec::from(amplitude) * KernelSpec::from(matern), noise))
    }

    /// Of the logarithms of amplitude and noise, squared, and of the length scales; within the ranges, at whose ends a fit
    /// may be.
    fn from_parameters(parameters: &[f64]) -> Option<Self> {
        let (amplitude, rest) = parameters.split_first()?;
        let (noise, lengths) = rest.split_last()?;
        let within = |logarithm: f64, [low, high]: [f64; 2]| logarithm.exp().clamp(low, high);
        Some(Self {
            amplitude: within(amplitude / 2.0, AMPLITUDE),
            noise: within(noise / 2.0, NOISE),
            scales: lengths.iter().map(|logarithm| within(-logarithm, SCALE)).collect(),
        })
    }
}

/// A process conditioned on measurements.
#[derive(Clone)]
pub struct Process {
    hyperparameters: Hyperparameters,
    mean: f64,
    fitted: FittedGpr<Fixed>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hyperparameters, mean, fitted } = self;
        formatter
            .debug_struct("Process")
            .field("hyperparameters", hyperparameters)
            .field("mean", mean)
            .field("measurements", &fitted.n())
            .finish()
    }
}

/// Inputs, column by column, with their number and that of the columns; and outputs around their mean.
struct Sample {
    inputs: Vec<f64>,
    sizes: [usize; 2],
    outputs: Vec<f64>,
    mean: f64,
}

impl Sample {
    fn new(inputs: &[Vec<f64>], outputs: &[f64]) -> Self {
        let columns = inputs.first().map_or(0, Vec::len);
        let mean = outputs.iter().sum::<f64>() / outputs.len() as f64;
        Self {
            inputs: (0..columns).flat_map(|column| inputs.iter().map(move |input| input[column])).collect(),
            sizes: [inputs.len(), columns],
            outputs: outputs.iter().map(|output| output - mean).collect(),
            mean,
        }
    }
}

impl Process {
    /// Conditions a process on outputs at inputs.
    ///
    /// `None` if there is nothing, or the numbers are such that the covariance has no Cholesky factor.
    pub fn new(inputs: &[Vec<f64>], outputs: &[f64], hyperparameters: Hyperparameters) -> Option<Self> {
        let Sample { inputs, sizes: [rows, columns], outputs, mean } = Sample::new(inputs, outputs);
        let process = hyperparameters.process().ok()?.with_optimizer(Fixed);
        let fitted = process.factor(&inputs, rows, columns, &outputs).ok()?;
        Some(Self { hyperparameters, mean, fitted })
    }

    /// The hyperparameters.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// The hyperparameters of the largest marginal likelihood near a start (equation 5.8), by L-BFGS; the start, if there
    /// is nothing to fit to.
    pub fn fit(inputs: &[Vec<f64>], outputs: &[f64], start: &Hyperparameters) -> Hyperparameters {
        let Sample { inputs, sizes: [rows, columns], outputs, .. } = Sample::new(inputs, outputs);
        let fit = || {
            let fitted = start.process().ok()?.fit(&inputs, rows, columns, &outputs).ok()?;
            let mut parameters = vec![0.0; fitted.num_params()];
            fitted.get_params(&mut parameters).ok()?;
            Hyperparameters::from_parameters(&parameters)
        };
        fit().unwrap_or_else(|| start.clone())
    }

    /// The expected output at an input, and its variance, noise not counted (equations 2.25 and 2.26).
    ///
    /// # Panics
    /// If the input has not as many finite numbers as those that the process was conditioned on.
    pub fn at(&self, input: &[f64]) -> (f64, f64) {
        let options = PredictOptions { variance_kind: VarianceKind::Latent };
        let found = self.fitted.predict_with(input, 1, input.len(), options).expect("an input like the others");
        (self.mean + found.mean[0], found.variance[0].max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::{DMatrix, DVector};
    use proptest::prelude::*;

    fn sample() -> (Vec<Vec<f64>>, Vec<f64>) {
        let inputs: Vec<Vec<f64>> = (0..25).map(|i| vec![f64::from(i % 5), f64::from(i / 5) * 0.7]).collect();
        let outputs = inputs.iter().map(|x| (x[0] * 0.8).sin() + 0.3 * x[1]).collect();
        (inputs, outputs)
    }

    fn hyperparameters() -> Hyperparameters {
        Hyperparameters { amplitude: 0.9, noise: 0.05, scales: vec![0.6, 0.4] }
    }

    /// Three outputs, by hand: the normal distribution of a fourth, given these (equations 2.25 and 2.26).
    #[test]
    fn predictions_are_those_of_the_textbook() {
        let hyperparameters = Hyperparameters { amplitude: 1.3, noise: 0.2, scales: vec![0.8, 0.3] };
        let inputs = [vec![0.0, 1.0], vec![1.0, -2.0], vec![2.5, 0.5]];
        let outputs = [1.0, -0.5, 0.7];
        let matern = |one: &[f64], other: &[f64]| {
            let squares: f64 =
                (0..2).map(|axis| ((one[axis] - other[axis]) * hyperparameters.scales[axis]).powi(2)).sum();
            let z = (5.0 * squares).sqrt();
            1.3 * 1.3 * (1.0 + z + z * z / 3.0) * (-z).exp()
        };
        let at = [1.5, 0.2];
        let covariance = DMatrix::from_fn(3, 3, |row, column| {
            matern(&inputs[row], &inputs[column]) + if row == column { 0.2 * 0.2 } else { 0.0 }
        });
        let inverse = covariance.try_inverse().unwrap();
        let with = DVector::from_fn(3, |row, _| matern(&inputs[row], &at));
        let mean = outputs.iter().sum::<f64>() / 3.0;
        let centred = DVector::from_fn(3, |row, _| outputs[row] - mean);
        let expected = mean + (with.transpose() * &inverse * centred)[0];
        let variance = matern(&at, &at) - (with.transpose() * inverse * &with)[0];
        let found = Process::new(&inputs, &outputs, hyperparameters.clone()).unwrap().at(&at);
        assert!(
            (found.0 - expected).abs() < 1e-12 && (found.1 - variance).abs() < 1e-12,
            "{found:?}, {expected}, {variance}"
        );
    }

    /// No hyperparameters nearby are more likely: by the density of the outputs, computed from the determinant.
    #[test]
    fn a_fit_is_the_most_likely_nearby() {
        let inputs: Vec<Vec<f64>> = (0..49).map(|i| vec![f64::from(i % 7), f64::from(i / 7)]).collect();
        let rough = (0..49).map(|i| f64::from(i * 29 % 49 - 24) / 150.0);
        let outputs: Vec<f64> =
            inputs.iter().zip(rough).map(|(x, rough)| (x[0] * 1.5).sin() + (x[1] * 0.8).cos() + rough).collect();
        let mean = outputs.iter().sum::<f64>() / outputs.len() as f64;
        let count = outputs.len();
        let log_density = |Hyperparameters { amplitude, noise, scales }: &Hyperparameters| {
            let covariance = DMatrix::from_fn(count, count, |row, column| {
                let squares: f64 =
                    (0..2).map(|axis| ((inputs[row][axis] - inputs[column][axis]) * scales[axis]).powi(2)).sum();
                let z = (5.0 * squares).sqrt();
                let noise = if row == column { noise * noise } else { 0.0 };
                amplitude * amplitude * (1.0 + z + z * z / 3.0) * (-z).exp() + noise
            });
            let factor = covariance.cholesky().unwrap();
            let centred = DVector::from_fn(count, |row, _| outputs[row] - mean);
            let determinant: f64 = factor.l().diagonal().iter().map(|number| 2.0 * number.ln()).sum();
            -0.5 * (centred.dot(&factor.solve(&centred)) + determinant)
        };
        let fitted = Process::fit(&inputs, &outputs, &Hyperparameters::initial(2));
        assert!(fitted.is_valid(2), "{fitted:?}");
        let best = log_density(&fitted);
        for factor in [0.9, 1.1] {
            let Hyperparameters { amplitude, noise, scales } = fitted.clone();
            let others = [
                Hyperparameters { amplitude: amplitude * factor, ..fitted.clone() },
                Hyperparameters { noise: noise * factor, ..fitted.clone() },
                Hyperparameters { scales: vec![scales[0] * factor, scales[1]], ..fitted.clone() },
                Hyperparameters { scales: vec![scales[0], scales[1] * factor], ..fitted.clone() },
            ];
            for other in others {
                assert!(log_density(&other) < best, "{other:?} is more likely than {fitted:?}");
            }
        }
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
        let process = Process::new(&inputs, &outputs, fitted).unwrap();
        assert!((process.at(&[3.33, 2.0]).0 - 3.33f64.sin()).abs() < 0.03);
    }

    /// Where the outputs are a line and have no noise, a fit ends at the ends of its ranges.
    #[test]
    fn a_process_can_have_what_a_fit_ends_at() {
        let inputs: Vec<Vec<f64>> = (0..30).map(|i| vec![f64::from(i), f64::from(i % 3)]).collect();
        let outputs: Vec<f64> = inputs.iter().map(|x| 0.2 * x[0]).collect();
        let fitted = Process::fit(&inputs, &outputs, &Hyperparameters::initial(2));
        assert!(fitted.is_valid(2) && fitted.noise == NOISE[0] && fitted.scales[1] == SCALE[0], "{fitted:?}");
        let process = Process::new(&inputs, &outputs, fitted).unwrap();
        assert!((process.at(&[7.5, 1.0]).0 - 1.5).abs() < 0.01);
    }

    proptest! {
        /// At a measured input the output is nearly the measured one and certain; far away it is the mean and as
        /// uncertain as it gets.
        #[test]
        fn certainty_is_where_measurements_are(index in 0usize..25) {
            let (inputs, outputs) = sample();
            let process = Process::new(&inputs, &outputs, hyperparameters()).unwrap();
            let (output, variance) = process.at(&inputs[index]);
            prop_assert!((output - outputs[index]).abs() < 0.1);
            prop_assert!(variance < 0.05f64.powi(2));
            let (output, variance) = process.at(&[1e4, 1e4]);
            prop_assert!((output - process.mean).abs() < 1e-9);
            prop_assert!((variance - 0.81).abs() < 1e-9);
        }
    }
}
