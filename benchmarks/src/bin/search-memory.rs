//! Resident memory of a search over time: many iterations of a small one, with its history and checkpoints.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use elastic_layers::backbones::MobileNetV2Config;
use nes_search::data::{ImageData, Normalization};
use nes_search::search::Length;
use nes_search::{
    Blueprint, Budget, Config, NesSettings, Observer, Preset, Progress, Search, SearchSettings, SgdSettings, Task,
};
use serde::Serialize;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prints the resident memory of a search while it runs, and its slope over the last three quarters of the time.
#[derive(Parser)]
#[command(after_help = "Example: cargo run --release -p benchmarks --bin search-memory -- --minutes 5 --json")]
struct Arguments {
    /// How long to search.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    seconds: f64,
    /// Weight steps and NES iterations.
    steps: usize,
    /// Seconds since the search began, and resident memory in MiB.
    samples: Vec<(f64, f64)>,
    /// Of a line through the samples after the first quarter of the time.
    slope_mib_per_hour: f64,
    /// Its standard error, if the samples' distances from the line are independent.
    slope_error_mib_per_hour: f64,
}

/// Looks at the memory every second, and ends the search in time.
struct Watch {
    system: System,
    begin: Instant,
    duration: Duration,
    samples: Vec<(f64, f64)>,
}

impl Observer for Watch {
    fn progress(&mut self, _progress: Progress<'_>) {
        let seconds = self.begin.elapsed().as_secs_f64();
        if self.samples.last().is_some_and(|(last, _)| seconds - last < 1.0) {
            return;
        }
        let Ok(pid) = get_current_pid() else { return };
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[pid]),
            false,
            ProcessRefreshKind::nothing().with_memory(),
        );
        if let Some(process) = self.system.process(pid) {
            self.samples.push((seconds, process.memory() as f64 / f64::from(1 << 20)));
        }
    }

    fn interrupted(&self) -> bool {
        self.begin.elapsed() >= self.duration
    }
}

/// The slope of the least-squares line through points, and its standard error.
fn slope(points: &[(f64, f64)]) -> anyhow::Result<(f64, f64)> {
    let count = points.len() as f64;
    if points.len() < 3 {
        bail!("expected at least 3 samples, found {}; search for longer", points.len());
    }
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let square = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / square;
    let residual = points.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum::<f64>();
    Ok((slope, (residual / (count - 2.0) / square).sqrt()))
}

fn measure(duration: Duration) -> anyhow::Result<Report> {
    let config = MobileNetV2Config::small(1, 28, 10);
    let blueprint = Blueprint::new([1, 28, 28], move |space, device| config.init(space, device))?;
    let data = ImageData::embedded();
    let (_, few) = data.train.split_per_class(40, 1)?;
    let (train, evaluation) = few.split_per_class(10, 1)?;
    let normalization = Normalization::of(&train)?;
    let limits = blueprint.limits(Budget::Fraction(0.1), &[])?;
    let Config { search: laptop, train: recipe, .. } = Config::preset(Preset::Laptop);
    let settings = SearchSettings {
        length: Length::Iterations(1_000_000),
        trials: 0.0,
        weight_steps: 4,
        evaluation_batch: 32,
        checkpoint_seconds: 2.0,
        nes: NesSettings { samples: 4, ..NesSettings::default() },
        sgd: SgdSettings { batch_size: 16, ..laptop.sgd },
        ..laptop
    };
    let devices = vec![burn::tensor::Device::default(); 2];
    let task = Task {
        blueprint: &blueprint,
        train: &train,
        evaluation: &evaluation,
        normalization: &normalization,
        limits: &limits,
        recipe: &recipe,
        devices: &devices,
    };
    let directory = tempfile::tempdir()?;
    let mut watch = Watch { system: System::new()?, begin: Instant::now(), duration, samples: Vec::new() };
    let mut search = Search::new(task, &settings, 1)?;
    search.run(Some(directory.path()), &mut watch)?;
    let steps = std::fs::read_to_string(directory.path().join("history.jsonl")).context("history")?.lines().count() * 3;
    let seconds = watch.begin.elapsed().as_secs_f64();
    let settled = watch.samples.iter().copied().filter(|(at, _)| *at >= 0.25 * seconds);
    let (slope, error) = slope(&settled.collect::<Vec<_>>())?;
    Ok(Report {
        seconds,
        steps,
        samples: watch.samples,
        slope_mib_per_hour: slope * 3600.0,
        slope_error_mib_per_hour: error * 3600.0,
    })
}

fn main() -> anyhow::Result<()> {
    let Arguments { minutes, json } = Arguments::parse();
    let report = measure(Duration::from_secs_f64((minutes * 60.0).clamp(5.0, 86_400.0)))?;
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        return Ok(());
    }
    use std::io::Write;
    let every = report.samples.len().div_ceil(20);
    for (seconds, mib) in report.samples.iter().step_by(every) {
        writeln!(out, "{seconds:7.0} s  {mib:8.2} MiB")?;
    }
    let Report { seconds, steps, slope_mib_per_hour: slope, slope_error_mib_per_hour: error, .. } = report;
    writeln!(out, "{steps} steps in {seconds:.0} s; slope {slope:.3} ± {error:.3} MiB per hour")?;
    Ok(())
}
