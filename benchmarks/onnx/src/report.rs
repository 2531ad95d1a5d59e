//! The figures of a benchmark, as they are written to a file. Names and units of the fields are stable.

use std::path::Path;

use exporters::runtime::{Element, RuntimeKind};
use serde::{Deserialize, Serialize};

use crate::latency::BenchError;
use crate::machine::Machine;

/// What a file costs on a runtime. Times are of one run, that is of a whole batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// The file, as it was named.
    pub file: String,
    /// Its size in bytes, external data not counted.
    pub file_bytes: u64,
    /// The runtime.
    pub runtime: RuntimeKind,
    /// The runtime's version.
    pub runtime_version: String,
    /// What the runtime was told besides the number of threads.
    #[serde(default)]
    pub runtime_options: String,
    /// Threads that the runtime computed with.
    pub threads: usize,
    /// Images in one run.
    pub batch: usize,
    /// Shape of the first input.
    pub input_shape: Vec<usize>,
    /// All inputs.
    #[serde(default)]
    pub inputs: Vec<InputReport>,
    /// Time of the very first run, in ms; loading the file is not part of it.
    pub first_ms: f64,
    /// Number of runs that the figures below are of.
    pub iterations: usize,
    /// Shortest run, in ms.
    pub min_ms: f64,
    /// Mean, in ms.
    pub mean_ms: f64,
    /// Median, in ms.
    pub p50_ms: f64,
    /// 90th percentile, in ms.
    pub p90_ms: f64,
    /// 95th percentile, in ms.
    pub p95_ms: f64,
    /// 99th percentile, in ms.
    pub p99_ms: f64,
    /// Standard deviation, in ms.
    pub sd_ms: f64,
    /// Images per second: batch over mean.
    pub throughput_per_s: f64,
    /// One-minute load average at the beginning of the measurement; includes what this process did before.
    pub load_before: Option<f64>,
    /// One-minute load average at the end; includes this measurement.
    pub load_after: Option<f64>,
    /// Cores that other processes kept busy, on average over the measurement.
    pub other_busy_cores: Option<f64>,
    /// Whether the figures should not be relied on; see [`crate::latency`].
    pub noisy: bool,
    /// Why.
    pub noisy_reason: Option<String>,
    /// Largest resident memory of a process of its own that loads the file and runs it a few times, its program and the
    /// runtime's library included; `None` where it was not measured.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    /// Median over that of the first report of a comparison.
    #[serde(default)]
    pub p50_ratio: Option<f64>,
    /// Every sample in ms, in the order in which they were taken, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples_ms: Vec<f64>,
}

/// An input as it was measured with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputReport {
    /// Its name.
    pub name: String,
    /// Its numbers.
    pub element: Element,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// A file that was not measured on a runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchFailure {
    /// The file, as it was named.
    pub file: String,
    /// The runtime.
    pub runtime: RuntimeKind,
    /// Why.
    pub reason: String,
}

impl BenchFailure {
    /// A failure of a file.
    pub fn new(file: &Path, runtime: RuntimeKind, error: &BenchError) -> Self {
        Self { file: file.display().to_string(), runtime, reason: error.to_string() }
    }
}

/// The content of a `bench.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchFile {
    /// Where it was measured.
    pub machine: Machine,
    /// One report per file and runtime.
    pub reports: Vec<BenchReport>,
    /// The files that a runtime could not measure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<BenchFailure>,
}
