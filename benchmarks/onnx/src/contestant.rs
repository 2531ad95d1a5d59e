//! One file on one runtime during a measurement.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use exporters::runtime::{Runtime, RuntimeKind};
use ndarray::{ArrayD, IxDyn};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::latency::{
    Amount, BenchError, BenchOptions, Listener, Loader, MAX_INPUT_ELEMENTS, MIN_ITERATIONS, Phase, Progress,
};
use crate::noise::{OtherLoad, noise};
use crate::report::BenchReport;
use crate::statistics::{Summary, milliseconds};

/// Runs the contestants in turn until each has enough runs.
pub(crate) fn measure_in_turn(
    contestants: &mut [Contestant],
    options: &BenchOptions,
    listener: &mut Listener<'_>,
) -> Result<(), BenchError> {
    let alone = contestants.len() == 1;
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    while contestants.iter().any(|contestant| contestant.share(options) < 1.0) {
        for &index in &order {
            if contestants[index].share(options) < 1.0 {
                contestants[index].block(options, alone)?;
                let shares = contestants.iter().map(|contestant| contestant.share(options).min(1.0));
                let done = shares.sum::<f64>() / contestants.len() as f64;
                contestants[index].tell(listener, Phase::Measure, done);
            }
        }
        order.reverse();
    }
    Ok(())
}

/// A loaded file and its samples.
pub(crate) struct Contestant {
    path: PathBuf,
    file_bytes: u64,
    runtime: Box<dyn Runtime>,
    input: ArrayD<f32>,
    first: Duration,
    samples: Vec<Duration>,
    elapsed: Duration,
}

impl Contestant {
    /// Loads the file, runs it once, and warms it up.
    pub(crate) fn prepare(
        path: &Path,
        kind: RuntimeKind,
        options: &BenchOptions,
        loader: Loader<'_>,
        listener: &mut Listener<'_>,
    ) -> Result<Self, BenchError> {
        if let Some(listener) = listener {
            listener(&Progress { path, runtime: kind, phase: Phase::Load, done: 0.0 });
        }
        let runtime = loader(kind, path, options.threads)?;
        let metadata = fs::metadata(path);
        let file_bytes = metadata.map_err(|source| BenchError::FileSize { path: path.to_owned(), source })?.len();
        let shape = input_shape(path, &runtime.input_shape(), options.batch)?;
        let mut contestant = Self {
            path: path.to_owned(),
            file_bytes,
            runtime,
            input: noise_input(&shape, options.seed),
            first: Duration::ZERO,
            samples: Vec::new(),
            elapsed: Duration::ZERO,
        };
        contestant.tell(listener, Phase::WarmUp, 0.0);
        contestant.first = contestant.run()?;
        let (mut elapsed, mut iterations) = (Duration::ZERO, 0);
        while options.warmup.share(elapsed, iterations) < 1.0 {
            elapsed += contestant.run()?;
            iterations += 1;
        }
        Ok(contestant)
    }

    fn run(&mut self) -> Result<Duration, BenchError> {
        let start = Instant::now();
        let output = self.runtime.run(&self.input)?;
        let duration = start.elapsed();
        std::hint::black_box(&output);
        Ok(duration)
    }

    /// Share of the measurement that is done, 1 or more when it is enough.
    fn share(&self, options: &BenchOptions) -> f64 {
        let share = options.measure.share(self.elapsed, self.samples.len());
        match options.measure {
            Amount::Time(_) => share.min(self.samples.len() as f64 / MIN_ITERATIONS as f64),
            Amount::Iterations(_) => share,
        }
    }

    fn block(&mut self, options: &BenchOptions, alone: bool) -> Result<(), BenchError> {
        if !alone {
            self.run()?;
        }
        let before = self.elapsed;
        loop {
            let duration = self.run()?;
            self.samples.push(duration);
            self.elapsed += duration;
            if self.elapsed - before >= options.turn || self.share(options) >= 1.0 {
                return Ok(());
            }
        }
    }

    fn tell(&self, listener: &mut Listener<'_>, phase: Phase, done: f64) {
        if let Some(listener) = listener {
            listener(&Progress { path: &self.path, runtime: self.runtime.kind(), phase, done });
        }
    }

    pub(crate) fn report(self, options: &BenchOptions, load: &OtherLoad) -> Result<BenchReport, BenchError> {
        let summary = Summary::from_durations(&self.samples)?;
        let noisy_reason = noise(load, options.threads, &summary);
        let samples = if options.keep_samples { self.samples } else { Vec::new() };
        Ok(BenchReport {
            file: self.path.display().to_string(),
            file_bytes: self.file_bytes,
            runtime: self.runtime.kind(),
            runtime_version: self.runtime.version(),
            runtime_options: self.runtime.options().to_owned(),
            threads: options.threads,
            batch: options.batch,
            input_shape: self.input.shape().to_vec(),
            first_ms: milliseconds(self.first),
            iterations: summary.count,
            min_ms: summary.min,
            mean_ms: summary.mean,
            p50_ms: summary.p50,
            p90_ms: summary.p90,
            p95_ms: summary.p95,
            p99_ms: summary.p99,
            sd_ms: summary.sd,
            throughput_per_s: options.batch as f64 * 1e3 / summary.mean,
            load_before: load.load_average[0],
            load_after: load.load_average[1],
            other_busy_cores: load.busy_cores,
            noisy: noisy_reason.is_some(),
            noisy_reason,
            peak_memory_bytes: None,
            p50_ratio: None,
            samples_ms: samples.into_iter().map(milliseconds).collect(),
        })
    }
}

/// The file's own sizes, with `batch` on the first axis.
fn input_shape(path: &Path, declared: &[Option<usize>], batch: usize) -> Result<Vec<usize>, BenchError> {
    let axes = |found: String| BenchError::InputAxes { path: path.to_owned(), found };
    let (first, rest) = declared.split_first().ok_or_else(|| axes("no axes".to_owned()))?;
    if let Some(found) = first.filter(|&found| found != batch) {
        return Err(BenchError::FixedBatch { path: path.to_owned(), expected: batch, found });
    }
    let mut shape = vec![batch];
    for (index, size) in rest.iter().enumerate() {
        shape.push(size.ok_or_else(|| axes(format!("axis {} of free size", index + 1)))?);
    }
    let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    if elements.is_none_or(|elements| elements > MAX_INPUT_ELEMENTS) {
        return Err(BenchError::InputTooLarge { path: path.to_owned(), shape });
    }
    Ok(shape)
}

fn noise_input(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    ArrayD::from_shape_simple_fn(IxDyn(shape), || StandardNormal.sample(&mut generator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_standard_normal_and_repeatable() {
        let input = noise_input(&[2, 50, 100], 7);
        assert_eq!(input, noise_input(&[2, 50, 100], 7));
        assert_ne!(input, noise_input(&[2, 50, 100], 8));
        // 10,000 values: the mean is within 5 / sqrt(10,000), the variance within 5 sqrt(2 / 10,000), but for one case
        // in a million.
        let values: Vec<f64> = input.iter().map(|&value| f64::from(value)).collect();
        let (mean, sd) = crate::statistics::mean_and_sd(&values).expect("values");
        assert!(mean.abs() < 0.05, "{mean}");
        assert!((sd * sd - 1.0).abs() < 0.071, "{sd}");
    }

    #[test]
    fn shapes_that_the_options_do_not_determine_are_errors() {
        let shape = |declared: &[Option<usize>]| input_shape(Path::new("m.onnx"), declared, 2);
        assert_eq!(shape(&[None, Some(3), Some(8)]).expect("symbolic batch"), [2, 3, 8]);
        assert_eq!(shape(&[Some(2), Some(3)]).expect("the same batch"), [2, 3]);
        let fixed = shape(&[Some(1), Some(3)]).expect_err("another batch").to_string();
        assert_eq!(fixed, "`m.onnx`: expected a symbolic batch or a batch of 2, found a fixed batch of 1");
        let free = shape(&[None, Some(1), None]).expect_err("free size").to_string();
        assert!(free.ends_with("found axis 2 of free size"), "{free}");
        assert!(matches!(shape(&[]), Err(BenchError::InputAxes { .. })));
        assert!(matches!(shape(&[None, Some(usize::MAX)]), Err(BenchError::InputTooLarge { .. })));
        assert!(matches!(shape(&[None, Some(1 << 30)]), Err(BenchError::InputTooLarge { .. })));
    }
}
