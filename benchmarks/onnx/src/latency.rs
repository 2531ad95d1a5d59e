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

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use exporters::runtime::{self, Runtime, RuntimeError, RuntimeKind};
use thiserror::Error;

use crate::contestant::{Contestant, measure_in_turn};
use crate::noise::Watch;
pub use crate::report::{BenchFile, BenchReport};
use crate::statistics::StatisticsError;

/// A measurement by time goes on until it has this many runs, however slow they are: percentiles of fewer say little.
pub const MIN_ITERATIONS: usize = 10;

/// More elements than this in an input are a damaged file or a mistyped batch; 4 GiB.
pub(crate) const MAX_INPUT_ELEMENTS: usize = 1 << 30;

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
    pub(crate) fn share(self, elapsed: Duration, iterations: usize) -> f64 {
        let share = match self {
            Self::Time(time) => elapsed.as_secs_f64() / time.as_secs_f64(),
            Self::Iterations(count) => iterations as f64 / count as f64,
        };
        if share.is_nan() { 1.0 } else { share }
    }
}

/// How to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// Threads that a runtime computes with.
    pub threads: usize,
    /// Images in one run: the size of free first axes. `None` for 1, or what the file has.
    pub batch: Option<usize>,
    /// Sizes of inputs with free axes, by their names; without a name, of the only input.
    pub shapes: Vec<(Option<String>, Vec<usize>)>,
    /// Runs before the measurement that are not counted, after the first one; may be none.
    pub warmup: Amount,
    /// Runs that are counted. By time: at least [`MIN_ITERATIONS`] runs.
    pub measure: Amount,
    /// How long one of several files runs before it is the next one's turn.
    pub turn: Duration,
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
            batch: None,
            shapes: Vec::new(),
            warmup: Amount::Time(Duration::from_millis(300)),
            measure: Amount::Time(Duration::from_secs(2)),
            turn: Duration::from_millis(100),
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
    /// The input has a free axis besides its batch.
    #[error(
        "input `{name}` of `{}`: expected axes of fixed size after the batch, found axis {axis} of free size; give all sizes \
         with --shape {example}",
        path.display()
    )]
    FreeAxis {
        /// The file.
        path: PathBuf,
        /// The input.
        name: String,
        /// The axis, counted from 0.
        axis: usize,
        /// What could be given, such as `x=1x3x224x224`.
        example: String,
    },
    /// A shape that was given is of no input.
    #[error("shapes for `{}`: expected those of its inputs ({expected}), found one for {found}", path.display())]
    NoSuchInput {
        /// The file.
        path: PathBuf,
        /// The names of the inputs.
        expected: String,
        /// The name of the shape.
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

/// Makes a runtime of a file, or of what stands beside it: the runtime, the file, the number of threads. Files alone are
/// for [`runtime::load_any`].
pub type Loader<'a> = &'a mut dyn FnMut(RuntimeKind, &Path, usize) -> Result<Box<dyn Runtime>, RuntimeError>;

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
/// [`BenchError::Runtime`] for a file that does not load or run, [`BenchError::FixedBatch`], [`BenchError::FreeAxis`],
/// [`BenchError::NoSuchInput`] and [`BenchError::InputTooLarge`] for inputs that `options` do not determine, and
/// [`BenchError::Nothing`] where there are no entries, no images or no runs to measure.
pub fn compare(
    entries: &[(&Path, RuntimeKind)],
    options: &BenchOptions,
    listener: Listener<'_>,
) -> Result<Vec<BenchReport>, BenchError> {
    compare_with(entries, options, &mut runtime::load_any, listener)
}

/// As [`compare`], with another way to make a runtime of an entry.
///
/// # Errors
///
/// Those of [`compare`].
pub fn compare_with(
    entries: &[(&Path, RuntimeKind)],
    options: &BenchOptions,
    loader: Loader<'_>,
    listener: Listener<'_>,
) -> Result<Vec<BenchReport>, BenchError> {
    compare_each(entries, options, loader, listener)?.into_iter().collect()
}

/// As [`compare_with`], with a report or an error for each entry: one that cannot be measured keeps no other from it.
///
/// # Errors
///
/// [`BenchError::Nothing`] where there are no entries, no images or no runs to measure.
pub fn compare_each(
    entries: &[(&Path, RuntimeKind)],
    options: &BenchOptions,
    loader: Loader<'_>,
    mut listener: Listener<'_>,
) -> Result<Vec<Result<BenchReport, BenchError>>, BenchError> {
    let nothing = [
        ("files", entries.is_empty()),
        ("batch", options.batch == Some(0)),
        ("iterations", options.measure == Amount::Iterations(0)),
    ];
    if let Some(&(what, _)) = nothing.iter().find(|(_, nothing)| *nothing) {
        return Err(BenchError::Nothing { what });
    }
    let mut prepare =
        |(path, kind): &(&Path, RuntimeKind)| Contestant::prepare(path, *kind, options, loader, &mut listener);
    let prepared: Vec<Result<Contestant, BenchError>> = entries.iter().map(&mut prepare).collect();
    let mut failures: Vec<Option<BenchError>> = Vec::new();
    let mut contestants = Vec::new();
    for result in prepared {
        let failure = result.map(|contestant| contestants.push(contestant)).err();
        failures.push(failure);
    }
    let watch = Watch::start();
    let start = Instant::now();
    measure_in_turn(&mut contestants, options, &mut listener);
    let load = watch.stop(start.elapsed());
    let mut reports = contestants.into_iter().map(|contestant| contestant.report(options, &load));
    let result = |failure: Option<BenchError>| match failure {
        Some(error) => Some(Err(error)),
        None => reports.next(),
    };
    Ok(failures.into_iter().filter_map(result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_done_by_time_or_by_count() {
        let second = Duration::from_secs(1);
        assert_eq!(Amount::Time(4 * second).share(second, 99), 0.25);
        assert_eq!(Amount::Iterations(4).share(second, 1), 0.25);
        assert!(Amount::Time(Duration::ZERO).share(Duration::ZERO, 0) >= 1.0);
        assert!(Amount::Iterations(0).share(Duration::ZERO, 0) >= 1.0);
    }
}
