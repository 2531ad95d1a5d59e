//! How long a file takes on a runtime.
//!
//! Each file is loaded, run once (`first_ms`) and warmed up; then every run is timed by itself on the monotonic clock.
//! Several files are measured in turn, a block of runs of one after a block of the next, and in the opposite order
//! every other round, so that a machine that slows down while the table is made slows all rows alike. After another
//! file ran, a block begins with one run that is not counted, because caches are full of the other's weights.
//!
//! # Noisy measurements
//!
//! A report is flagged ([`BenchReport::noisy`]) when other processes used more than half of the cores that its threads
//! leave idle, and a tenth of a core, while it was measured: CPU time of the machine less that of this process, from
//! `/proc`. Where there is no `/proc`, the load average at the beginning stands in for it. It is flagged as well when
//! p90 is above 1.25 times p50.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use exporters::runtime::{self, Runtime, RuntimeError, RuntimeKind};
use ndarray::{ArrayD, IxDyn};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use thiserror::Error;

use crate::noise::{OtherLoad, Watch, noise};
pub use crate::report::{BenchFile, BenchReport};
use crate::statistics::{StatisticsError, Summary, milliseconds};

/// A measurement by time goes on until it has this many runs, however slow they are: percentiles of fewer say little.
pub const MIN_ITERATIONS: usize = 10;

/// How long one file runs before it is the next one's turn.
const BLOCK: Duration = Duration::from_millis(100);

/// More elements than this in an input are a damaged file or a mistyped batch; 4 GiB.
const MAX_INPUT_ELEMENTS: usize = 1 << 30;

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Until the runs took this long, all together.
    Time(Duration),
    /// This many runs.
    Iterations(usize),
}

impl Amount {
    /// The share that is done, 1 or more when it is enough.
    fn share(self, elapsed: Duration, iterations: usize) -> f64 {
        let share = match self {
            Self::Time(time) => elapsed.as_secs_f64() / time.as_secs_f64(),
            Self::Iterations(count) => iterations as f64 / count as f64,
        };
        if share.is_nan() { 1.0 } else { share }
    }
}

/// How to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// Threads that a runtime computes with.
    pub threads: usize,
    /// Images in one run.
    pub batch: usize,
    /// Runs before the measurement that are not counted, after the first one; may be none.
    pub warmup: Amount,
    /// Runs that are counted. By time: at least [`MIN_ITERATIONS`] runs.
    pub measure: Amount,
    /// Seed of the input, which is standard normal noise.
    pub seed: u64,
    /// Whether reports keep every sample.
    pub keep_samples: bool,
}

impl Default for BenchOptions {
    /// One thread, one image, 0.3 s of warm-up, 2 s of measurement.
    fn default() -> Self {
        Self {
            threads: 1,
            batch: 1,
            warmup: Amount::Time(Duration::from_millis(300)),
            measure: Amount::Time(Duration::from_secs(2)),
            seed: 0,
            keep_samples: false,
        }
    }
}

/// Why a file was not measured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The file cannot be loaded or run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The file's size cannot be read.
    #[error("cannot read the size of `{}`: {source}", path.display())]
    FileSize {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// There is nothing to measure.
    #[error("{what} of a benchmark: expected at least 1, found 0")]
    Nothing {
        /// `files`, `batch` or `iterations`.
        what: &'static str,
    },
    /// The file has another batch size built in.
    #[error("`{}`: expected a symbolic batch or a batch of {expected}, found a fixed batch of {found}", path.display())]
    FixedBatch {
        /// The file.
        path: PathBuf,
        /// The batch of [`BenchOptions`].
        expected: usize,
        /// The file's.
        found: usize,
    },
    /// The input has no fixed size besides its batch.
    #[error("input of `{}`: expected batch first, then axes of fixed size, found {found}", path.display())]
    InputAxes {
        /// The file.
        path: PathBuf,
        /// The axis that is free, or that there are no axes.
        found: String,
    },
    /// The input does not fit in memory.
    #[error("input of `{}`: expected at most {MAX_INPUT_ELEMENTS} elements, found shape {shape:?}", path.display())]
    InputTooLarge {
        /// The file.
        path: PathBuf,
        /// The input's shape.
        shape: Vec<usize>,
    },
    /// The samples have no statistics.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

/// What a benchmark is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Loading the file.
    Load,
    /// First run and warm-up.
    WarmUp,
    /// Timed runs.
    Measure,
}

/// News of a running benchmark, given between runs, never during one.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file at hand.
    pub path: &'a Path,
    /// The runtime at hand.
    pub runtime: RuntimeKind,
    /// What is being done.
    pub phase: Phase,
    /// Share of the timed runs of all files that is done, from 0 to 1.
    pub done: f64,
}

/// Whom to tell about [`Progress`], if anyone.
pub type Listener<'a> = Option<&'a mut dyn FnMut(&Progress<'_>)>;

/// Measures one file on one runtime.
///
/// The input has the file's own sizes and the batch of `options`; its values are standard normal noise.
///
/// ```no_run
/// use onnx_bench::latency::{BenchOptions, bench_file};
/// use exporters::runtime::RuntimeKind;
///
/// let report = bench_file("model.onnx".as_ref(), RuntimeKind::Rten, &BenchOptions::default(), None)?;
/// assert!(report.min_ms <= report.p50_ms);
/// # Ok::<(), onnx_bench::latency::BenchError>(())
/// ```
///
/// # Errors
///
/// Those of [`compare`].
pub fn bench_file(
    path: &Path,
    kind: RuntimeKind,
    options: &BenchOptions,
    listener: Listener<'_>,
) -> Result<BenchReport, BenchError> {
    let reports = compare(&[(path, kind)], options, listener)?;
    reports.into_iter().next().ok_or(BenchError::Nothing { what: "files" })
}

/// Measures several files, or one on several runtimes, in turn, so that the figures can be compared; the reports are in
/// the order of `entries`. The load of the machine is that over the whole comparison.
///
/// # Errors
///
/// [`BenchError::Runtime`] for a file that does not load or run, [`BenchError::FixedBatch`], [`BenchError::InputAxes`]
/// and [`BenchError::InputTooLarge`] for an input that `options` do not determine, and [`BenchError::Nothing`] where
/// there are no entries, no images or no runs to measure.
pub fn compare(
    entries: &[(&Path, RuntimeKind)],
    options: &BenchOptions,
    mut listener: Listener<'_>,
) -> Result<Vec<BenchReport>, BenchError> {
    let nothing = [
        ("files", entries.is_empty()),
        ("batch", options.batch == 0),
        ("iterations", options.measure == Amount::Iterations(0)),
    ];
    if let Some(&(what, _)) = nothing.iter().find(|(_, nothing)| *nothing) {
        return Err(BenchError::Nothing { what });
    }
    let mut contestants = Vec::with_capacity(entries.len());
    for &(path, kind) in entries {
        contestants.push(Contestant::prepare(path, kind, options, &mut listener)?);
    }
    let watch = Watch::start();
    let start = Instant::now();
    measure_in_turn(&mut contestants, options, &mut listener)?;
    let load = watch.stop(start.elapsed());
    contestants.into_iter().map(|contestant| contestant.report(options, &load)).collect()
}

fn measure_in_turn(
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
struct Contestant {
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
    fn prepare(
        path: &Path,
        kind: RuntimeKind,
        options: &BenchOptions,
        listener: &mut Listener<'_>,
    ) -> Result<Self, BenchError> {
        if let Some(listener) = listener {
            listener(&Progress { path, runtime: kind, phase: Phase::Load, done: 0.0 });
        }
        let runtime = runtime::load(kind, path, options.threads)?;
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
            if self.elapsed - before >= BLOCK || self.share(options) >= 1.0 {
                return Ok(());
            }
        }
    }

    fn tell(&self, listener: &mut Listener<'_>, phase: Phase, done: f64) {
        if let Some(listener) = listener {
            listener(&Progress { path: &self.path, runtime: self.runtime.kind(), phase, done });
        }
    }

    fn report(self, options: &BenchOptions, load: &OtherLoad) -> Result<BenchReport, BenchError> {
        let summary = Summary::from_durations(&self.samples)?;
        let noisy_reason = noise(load, options.threads, &summary);
        let samples = if options.keep_samples { self.samples } else { Vec::new() };
        Ok(BenchReport {
            file: self.path.display().to_string(),
            file_bytes: self.file_bytes,
            runtime: self.runtime.kind(),
            runtime_version: self.runtime.version(),
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

    #[test]
    fn an_amount_is_done_by_time_or_by_count() {
        let second = Duration::from_secs(1);
        assert_eq!(Amount::Time(4 * second).share(second, 99), 0.25);
        assert_eq!(Amount::Iterations(4).share(second, 1), 0.25);
        assert!(Amount::Time(Duration::ZERO).share(Duration::ZERO, 0) >= 1.0);
        assert!(Amount::Iterations(0).share(Duration::ZERO, 0) >= 1.0);
    }
}
