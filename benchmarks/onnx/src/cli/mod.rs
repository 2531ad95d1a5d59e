//! The flags and the output of the commands `onnx-bench` and `nes-search bench`.

mod memory;
mod output;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use exporters::runtime::{Runtime, RuntimeError, RuntimeKind, available};
use thiserror::Error;

use crate::latency::{Amount, BenchError, BenchOptions, compare_each, compare_with};
use crate::machine::Machine;
use crate::report::{BenchFailure, BenchFile};

/// Measures ONNX files, by any exporter, on every runtime that this machine has.
#[derive(Args, Debug)]
pub struct BenchArguments {
    /// The files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Runtimes, instead of all that this machine has; can be given several times.
    #[arg(long)]
    runtime: Vec<RuntimeName>,
    /// Threads that a runtime computes with.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Images in one run; by default 1, or as many as the file has built in.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch: Option<u32>,
    /// The shape of an input with axes of free size, such as images=1x3x224x224; several times for several inputs. The name
    /// can be left out where there is one input.
    #[arg(long = "shape", value_name = "NAME=AxBxC", value_parser = shape)]
    shapes: Vec<(Option<String>, Vec<usize>)>,
    /// Seconds of measurement for each file and runtime.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Counted runs of each file and runtime, instead of a time.
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u32).range(1..))]
    iterations: Option<u32>,
    /// Seconds of runs before the measurement that are not counted.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3, value_parser = warmup)]
    warmup: f64,
    /// Runs files and runtimes in turn, and prints the ratio of each median to the first one's.
    #[arg(long)]
    compare: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Prints CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Every single time in the JSON.
    #[arg(long, requires = "json")]
    samples: bool,
    /// Prints the peak memory of this process after some runs.
    #[arg(long, hide = true)]
    only_memory: bool,
}

/// A runtime on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RuntimeName {
    Rten,
    OnnxRuntime,
    /// If it is compiled in (feature `tract`).
    Tract,
    /// The network of a run directory that the file stands in.
    BurnFlex,
}

impl From<RuntimeName> for RuntimeKind {
    fn from(name: RuntimeName) -> Self {
        match name {
            RuntimeName::Rten => Self::Rten,
            RuntimeName::OnnxRuntime => Self::OnnxRuntime,
            RuntimeName::Tract => Self::Tract,
            RuntimeName::BurnFlex => Self::BurnFlex,
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected 0.01 to 3600".into()),
    }
}

fn warmup(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected 0 to 3600".into()),
    }
}

fn shape(text: &str) -> Result<(Option<String>, Vec<usize>), String> {
    let (name, sizes) = text.rsplit_once('=').map_or((None, text), |(name, sizes)| (Some(name.to_owned()), sizes));
    let size = |text: &str| text.parse().ok().filter(|size| *size > 0);
    let shape: Option<Vec<usize>> = sizes.split('x').map(size).collect();
    Ok((name, shape.ok_or("expected sizes from 1 on, such as 1x3x224x224")?))
}

/// Why there is no result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CliError {
    /// A file was not measured.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Some figures are missing; the others are printed.
    #[error("{0}")]
    Incomplete(String),
    /// The figures have no JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The program that measures.
pub trait Host {
    /// What comes before the flags on its command line, such as `bench`.
    fn prefix(&self) -> &[&str];

    /// Whether there is a Burn network for a file.
    fn has_network(&self, path: &Path) -> bool;

    /// Loads a file, or the Burn network that it was exported from.
    ///
    /// # Errors
    /// If that cannot be done.
    fn load(&mut self, kind: RuntimeKind, path: &Path, threads: usize) -> Result<Box<dyn Runtime>, RuntimeError>;
}

/// What a command prints.
#[derive(Debug)]
pub struct Output {
    /// The figures.
    pub text: String,
    /// What is missing among them, if anything: the command fails.
    pub incomplete: Option<CliError>,
}

impl BenchArguments {
    /// Measures, and gives what is to be printed. A file that a runtime cannot measure is a row with the reason.
    ///
    /// # Errors
    /// If there is nothing to measure, or the figures have no JSON.
    pub fn run(&self, host: &mut dyn Host) -> Result<Output, CliError> {
        let entries = self.entries(host);
        let options = self.options();
        let mut load = |kind, path: &Path, threads| host.load(kind, path, threads);
        if self.only_memory {
            compare_with(&entries, &options, &mut load, None)?;
            let text = memory::own_peak().map(|bytes| bytes.to_string()).unwrap_or_default();
            return Ok(Output { text, incomplete: None });
        }
        let mut results = Vec::with_capacity(entries.len());
        for entries in entries.chunks(if self.compare { entries.len().max(1) } else { 1 }) {
            results.extend(compare_each(entries, &options, &mut load, None)?);
        }
        let mut file = BenchFile { machine: Machine::describe(), reports: Vec::new(), failures: Vec::new() };
        for (result, &(path, kind)) in results.into_iter().zip(&entries) {
            match result {
                Ok(mut report) => {
                    let first = file.reports.first().map_or(report.p50_ms, |first| first.p50_ms);
                    report.peak_memory_bytes = memory::peak_of(host.prefix(), path, kind, &options);
                    report.p50_ratio = self.compare.then(|| report.p50_ms / first);
                    file.reports.push(report);
                }
                Err(error) => file.failures.push(BenchFailure::new(path, kind, &error)),
            }
        }
        Ok(Output { text: self.print(&file)?, incomplete: self.incomplete(&file) })
    }

    /// What is missing among the figures: files that no runtime measured, and runtimes that were asked for.
    fn incomplete(&self, file: &BenchFile) -> Option<CliError> {
        let measured = |name: &str| file.reports.iter().any(|report| report.file == name);
        let missing = file.failures.iter().find(|failure| !self.runtime.is_empty() || !measured(&failure.file));
        missing.map(|failure| CliError::Incomplete(failure.reason.clone()))
    }

    fn print(&self, file: &BenchFile) -> Result<String, CliError> {
        match (self.json, self.csv) {
            (true, _) => Ok(serde_json::to_string_pretty(file)? + "\n"),
            (_, true) => Ok(output::csv(file)),
            _ => Ok(output::table(file)),
        }
    }

    /// Every file on every runtime; on Burn only where there is a network, unless it was asked for.
    fn entries(&self, host: &dyn Host) -> Vec<(&Path, RuntimeKind)> {
        let named: Vec<RuntimeKind> = self.runtime.iter().map(|&name| name.into()).collect();
        let found = if named.is_empty() { available() } else { Vec::new() };
        let of = |path: &Path| -> Vec<RuntimeKind> {
            let network = named.is_empty() && host.has_network(path);
            named.iter().chain(&found).copied().chain(network.then_some(RuntimeKind::BurnFlex)).collect()
        };
        self.files.iter().flat_map(|file| of(file).into_iter().map(move |kind| (file.as_path(), kind))).collect()
    }

    fn options(&self) -> BenchOptions {
        let measure = match (self.only_memory, self.iterations) {
            (true, _) => Amount::Iterations(3),
            (_, Some(count)) => Amount::Iterations(count as usize),
            _ => Amount::Time(Duration::from_secs_f64(self.seconds)),
        };
        let warmup = if self.only_memory { 0.0 } else { self.warmup };
        BenchOptions {
            threads: self.threads.into(),
            batch: self.batch.map(|batch| batch as usize),
            shapes: self.shapes.clone(),
            measure,
            warmup: Amount::Time(Duration::from_secs_f64(warmup)),
            keep_samples: self.samples,
            ..BenchOptions::default()
        }
    }
}
