//! One file on one runtime during a measurement.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use exporters::runtime::{Input, Runtime, RuntimeKind};
use ndarray::{ArrayD, IxDyn};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::latency::{
    Amount, BenchError, BenchOptions, Listener, Loader, MAX_INPUT_ELEMENTS, MIN_ITERATIONS, Phase, Progress,
};
use crate::noise::{OtherLoad, noise};
use crate::report::{BenchReport, InputReport};
use crate::statistics::{Summary, milliseconds};

/// Runs the contestants in turn until each has enough runs, or has failed.
pub(crate) fn measure_in_turn(contestants: &mut [Contestant], options: &BenchOptions, listener: &mut Listener<'_>) {
    let alone = contestants.len() == 1;
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    while contestants.iter().any(|contestant| contestant.share(options) < 1.0) {
        for &index in &order {
            if contestants[index].share(options) < 1.0 {
                contestants[index].failure = contestants[index].block(options, alone).err();
                let shares = contestants.iter().map(|contestant| contestant.share(options).min(1.0));
                let done = shares.sum::<f64>() / contestants.len() as f64;
                contestants[index].tell(listener, Phase::Measure, done);
            }
        }
        order.reverse();
    }
}

/// A loaded file and its samples.
pub(crate) struct Contestant {
    path: PathBuf,
    file_bytes: u64,
    runtime: Box<dyn Runtime>,
    inputs: Vec<InputReport>,
    batch: usize,
    first: Duration,
    samples: Vec<Duration>,
    elapsed: Duration,
    failure: Option<BenchError>,
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
        let mut runtime = loader(kind, path, options.threads)?;
        let metadata = fs::metadata(path);
        let file_bytes = metadata.map_err(|source| BenchError::FileSize { path: path.to_owned(), source })?.len();
        let inputs = shapes(path, runtime.inputs(), options)?;
        let data: Vec<ArrayD<f32>> = inputs.iter().map(|input| data(input, options.seed)).collect();
        runtime.feed(&data.iter().collect::<Vec<_>>())?;
        let is_free = |input: &Input| input.shape.first() == Some(&None);
        let batch = runtime.inputs().iter().zip(&inputs).find(|(input, _)| is_free(input));
        let batch = batch.map(|(_, input)| input.shape[0]);
        let mut contestant = Self {
            path: path.to_owned(),
            file_bytes,
            runtime,
            // Of a file without a free axis, what its inputs begin with.
            batch: batch.or(inputs.first().and_then(|input| input.shape.first().copied())).unwrap_or(1),
            inputs,
            first: Duration::ZERO,
            samples: Vec::new(),
            elapsed: Duration::ZERO,
            failure: None,
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
        let output = self.runtime.compute()?;
        let duration = start.elapsed();
        std::hint::black_box(&output);
        Ok(duration)
    }

    /// Share of the measurement that is done, 1 or more when it is enough.
    fn share(&self, options: &BenchOptions) -> f64 {
        if self.failure.is_some() {
            return 1.0;
        }
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
        if let Some(failure) = self.failure {
            return Err(failure);
        }
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
            batch: self.batch,
            input_shape: self.inputs.first().map(|input| input.shape.clone()).unwrap_or_default(),
            inputs: self.inputs,
            first_ms: milliseconds(self.first),
            iterations: summary.count,
            min_ms: summary.min,
            mean_ms: summary.mean,
            p50_ms: summary.p50,
            p90_ms: summary.p90,
            p95_ms: summary.p95,
            p99_ms: summary.p99,
            sd_ms: summary.sd,
            throughput_per_s: self.batch as f64 * 1e3 / summary.mean,
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

/// The shapes of all inputs: those of the options, else the file's own with the batch on a free first axis.
fn shapes(path: &Path, inputs: &[Input], options: &BenchOptions) -> Result<Vec<InputReport>, BenchError> {
    let is_of = |name: &Option<String>, input: &Input| match name {
        Some(name) => *name == input.name,
        None => inputs.len() == 1,
    };
    if let Some((name, _)) = options.shapes.iter().find(|(name, _)| !inputs.iter().any(|input| is_of(name, input))) {
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        let found = name.as_ref().map_or("an input without a name".to_owned(), |name| format!("`{name}`"));
        return Err(BenchError::NoSuchInput { path: path.to_owned(), expected: names.join(", "), found });
    }
    let of = |input: &Input| {
        let given = options.shapes.iter().find(|(name, _)| is_of(name, input));
        let shape = given.map_or_else(|| own_shape(path, input, options.batch), |(_, shape)| Ok(shape.clone()))?;
        let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if elements.is_none_or(|elements| elements > MAX_INPUT_ELEMENTS) {
            return Err(BenchError::InputTooLarge { path: path.to_owned(), shape });
        }
        Ok(InputReport { name: input.name.clone(), element: input.element, shape })
    };
    inputs.iter().map(of).collect()
}

/// The file's own sizes, with `batch` on the first axis if that is free.
fn own_shape(path: &Path, input: &Input, batch: Option<usize>) -> Result<Vec<usize>, BenchError> {
    let Some((first, rest)) = input.shape.split_first() else { return Ok(Vec::new()) };
    let first = match (*first, batch) {
        // A shorter input has no batch, such as a single number.
        (Some(found), Some(expected)) if found != expected && input.shape.len() > 1 => {
            return Err(BenchError::FixedBatch { path: path.to_owned(), expected, found });
        }
        (Some(found), _) => found,
        (None, batch) => batch.unwrap_or(1),
    };
    if let Some(index) = rest.iter().position(Option::is_none) {
        let sizes = rest.iter().map(|size| size.map_or("N".into(), |size| size.to_string()));
        let sizes: Vec<String> = std::iter::once(first.to_string()).chain(sizes).collect();
        let (path, name) = (path.to_owned(), input.name.clone());
        let example = format!("{name}={}", sizes.join("x"));
        return Err(BenchError::FreeAxis { path, name, axis: index + 1, example });
    }
    Ok(std::iter::once(first).chain(rest.iter().copied().flatten()).collect())
}

/// Standard normal noise; of whole numbers 0 and 1, which are in every range of them.
fn data(input: &InputReport, seed: u64) -> ArrayD<f32> {
    let noise = noise_input(&input.shape, seed);
    if input.element.is_float() { noise } else { noise.mapv(|value| f32::from(u8::from(value > 0.0))) }
}

fn noise_input(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    ArrayD::from_shape_simple_fn(IxDyn(shape), || StandardNormal.sample(&mut generator))
}

#[cfg(test)]
mod tests {
    use exporters::runtime::Element;

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
        let all = |declared: &[Option<usize>], options: &BenchOptions| {
            let input = Input { name: "x".into(), element: Element::F32, shape: declared.to_vec() };
            let shapes = shapes(Path::new("m.onnx"), &[input], options)?;
            Ok::<_, BenchError>(shapes[0].shape.clone())
        };
        let two = BenchOptions { batch: Some(2), ..BenchOptions::default() };
        let shape = |declared: &[Option<usize>]| all(declared, &two);
        assert_eq!(shape(&[None, Some(3), Some(8)]).expect("symbolic batch"), [2, 3, 8]);
        assert_eq!(shape(&[Some(2), Some(3)]).expect("the same batch"), [2, 3]);
        assert_eq!(shape(&[]).expect("a number"), [0usize; 0]);
        assert_eq!(all(&[Some(5), Some(3)], &BenchOptions::default()).expect("the file's batch"), [5, 3]);
        let fixed = shape(&[Some(1), Some(3)]).expect_err("another batch").to_string();
        assert_eq!(fixed, "`m.onnx`: expected a symbolic batch or a batch of 2, found a fixed batch of 1");
        let free = shape(&[None, Some(1), None]).expect_err("free size").to_string();
        assert!(free.ends_with("found axis 2 of free size; give all sizes with --shape x=2x1xN"), "{free}");
        for name in [None, Some("x".to_owned())] {
            let given = BenchOptions { shapes: vec![(name, vec![1, 1, 7])], ..BenchOptions::default() };
            assert_eq!(all(&[None, Some(1), None], &given).expect("given"), [1, 1, 7]);
        }
        let given = BenchOptions { shapes: vec![(Some("y".into()), vec![1])], ..BenchOptions::default() };
        let other = all(&[None, Some(1)], &given).expect_err("no such input").to_string();
        assert_eq!(other, "shapes for `m.onnx`: expected those of its inputs (x), found one for `y`");
        assert!(matches!(shape(&[None, Some(usize::MAX)]), Err(BenchError::InputTooLarge { .. })));
        assert!(matches!(shape(&[None, Some(1 << 30)]), Err(BenchError::InputTooLarge { .. })));
    }
}
