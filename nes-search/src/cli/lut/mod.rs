//! The command `lut`: tables of the latency of fused blocks.

mod adjust;
mod build;
mod micro;
mod sample;
mod show;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use burn::tensor::Device;
use clap::{Args, Subcommand};
use elastic_layers::{Architecture, SearchSpace};
use exporters::runtime::{RuntimeKind, require};
use nes_search::latency::{LatencyModel, LatencyTable};
use nes_search::{AnyBackbone, BackboneName, Blueprint, Observer, Progress};
use onnx_bench::machine::Machine;
use onnx_bench::statistics::{mean_and_sd, spearman};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

pub use adjust::adjusted;
use build::{Builder, Plan};
use micro::{Bench, Measured};

use super::directory::read_architecture;
use super::job::built_for;
use super::progress::{Terminal, note};

/// Measures, shows, checks and imports tables of the latency of fused blocks, for `search --latency-table`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: nes-search lut build --backbone mobilenet-v2-small --size 28 --classes 10 --out latency.json
         nes-search search --budget 0.1ms --latency-table latency.json")]
pub struct Lut {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(Build),
    Show(show::Show),
    Check(Check),
    Import(Import),
}

/// The networks that a table is for.
#[derive(Args, Debug)]
struct Networks {
    /// The backbone.
    #[arg(long, value_enum, value_name = "NAME", default_value_t)]
    backbone: BackboneName,
    /// Height and width of the images, in pixels.
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(u16).range(1..=2048))]
    size: u16,
    /// Number of classes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    classes: u32,
    /// Channels of the images; by default 3, of a small MobileNet 1.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    image_channels: Option<u16>,
    /// Seconds of measurement for each whole network.
    #[arg(long, default_value_t = 0.3, value_parser = seconds)]
    network_seconds: f64,
    /// Decides what is drawn.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected 0.001 to 60".into()),
    }
}

impl Networks {
    fn image(&self) -> [usize; 3] {
        let channels = self.image_channels.map_or(self.backbone.image_channels(), usize::from);
        [channels, self.size.into(), self.size.into()]
    }

    fn blueprint(&self) -> anyhow::Result<Blueprint<AnyBackbone>> {
        let (backbone, classes, image) = (self.backbone, self.classes as usize, self.image());
        let build = move |space: &mut SearchSpace, device: &Device| backbone.init(image, classes, space, device);
        Ok(Blueprint::new(image, build)?)
    }

    fn describe(&self) -> String {
        built_for(&self.backbone, self.image(), self.classes as usize)
    }
}

/// Measures a table on this machine: lists the distinct blocks of a search space, measures a sample of them as small
/// ONNX files, the most uncertain ones first, and calibrates their sums on whole networks. Ctrl-C leaves what is
/// measured in the file, and the same command goes on with it.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: nes-search lut build --backbone mobilenet-v2 --size 96 --runtime onnx-runtime --out latency.json")]
struct Build {
    #[command(flatten)]
    networks: Networks,
    /// The runtime.
    #[arg(long, default_value_t = RuntimeKind::Rten)]
    runtime: RuntimeKind,
    /// Threads that it computes with.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Blocks to measure.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u32).range(64..=4000))]
    blocks: u32,
    /// Whole networks to calibrate on.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(2..=1000))]
    calibration: u32,
    /// Seconds of measurement for each small file; there are up to three for a block.
    #[arg(long, default_value_t = 0.02, value_parser = seconds)]
    seconds: f64,
    /// The table; one that is there and was not finished is gone on with.
    #[arg(long, value_name = "FILE", default_value = "latency.json")]
    out: PathBuf,
    /// Prints the table instead of a summary.
    #[arg(long)]
    json: bool,
}

impl Build {
    fn run(&self) -> anyhow::Result<()> {
        require(self.runtime)?;
        let blueprint = self.networks.blueprint()?;
        let mut terminal = Terminal::without_status()?;
        let plan = Plan {
            blocks: self.blocks as usize,
            networks: self.calibration as usize,
            block_time: Duration::from_secs_f64(self.seconds),
            network_time: Duration::from_secs_f64(self.networks.network_seconds),
            seed: self.networks.seed,
        };
        let old = self.old_table()?;
        let reference_ms = old.as_ref().and_then(|table| table.reference_ms);
        let bench = Bench::new(self.runtime, self.threads.into(), reference_ms)?;
        let table = self.table(old, &blueprint, &bench)?;
        let counts = sample::distinct_blocks(&blueprint, |done, total| {
            let message = "resolutions and depths".to_string();
            terminal.progress(Progress { phase: "listing", done, total, message });
            !terminal.interrupted()
        })?;
        let Some(counts) = counts else { return interrupted(&self.out) };
        let distinct: usize = counts.values().sum();
        note(&format!("{distinct} distinct blocks: {counts:?}"));
        let builder =
            Builder { blueprint: &blueprint, image: self.networks.image(), bench: &bench, plan, path: &self.out };
        let Some(table) = builder.run(table, &mut terminal)? else { return interrupted(&self.out) };
        if self.json {
            return super::print_json(&table);
        }
        super::print(&format!("{}{}: written\n", show::summary(&table), self.out.display()))
    }

    fn old_table(&self) -> anyhow::Result<Option<LatencyTable>> {
        let there = self.out.try_exists().with_context(|| self.out.display().to_string())?;
        Ok(there.then(|| LatencyTable::read(&self.out)).transpose()?)
    }

    /// The table so far, or a new one.
    fn table(
        &self,
        old: Option<LatencyTable>,
        blueprint: &Blueprint<AnyBackbone>,
        bench: &Bench,
    ) -> anyhow::Result<LatencyTable> {
        let machine = serde_json::to_value(Machine::describe())?;
        let mut new = LatencyTable::new(bench.runtime.name(), &bench.version()?, bench.threads, machine);
        new.built_for = self.networks.describe();
        new.space = blueprint.space().hash();
        new.reference_ms = Some(bench.reference_ms);
        let Some(old) = old else { return Ok(new) };
        let of = |table: &LatencyTable| {
            let LatencyTable { runtime, runtime_version, threads, built_for, space, .. } = table;
            format!("{runtime} {runtime_version}, {threads} threads, {built_for}, space {space}")
        };
        if of(&old) != of(&new) {
            bail!("{}: expected a table of {}, found one of {}", self.out.display(), of(&new), of(&old));
        }
        Ok(old)
    }
}

fn interrupted(path: &Path) -> anyhow::Result<()> {
    bail!("interrupted; the same command goes on with {}", path.display())
}

/// Compares the table with networks that it was not calibrated on: mean absolute error in percent, and Spearman's
/// correlation.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: nes-search lut check latency.json --backbone mobilenet-v2 --size 96 --count 30")]
struct Check {
    /// The table.
    table: PathBuf,
    #[command(flatten)]
    networks: Networks,
    /// Random architectures to measure.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=1000))]
    count: u32,
    /// Architectures to measure instead, such as what a search found.
    #[arg(long, value_name = "FILE", conflicts_with = "count")]
    architecture: Vec<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What `lut check` prints.
#[derive(Serialize)]
struct CheckReport {
    runtime: String,
    threads: usize,
    /// Errors against what was measured, at the speed that the machine had when the table was built.
    mean_absolute_error_percent: f64,
    largest_error_percent: f64,
    /// The mean error against what was measured, whatever the machine's speed meanwhile.
    mean_absolute_error_percent_as_measured: f64,
    spearman: Option<f64>,
    /// Time of a prediction whose blocks were predicted before.
    prediction_us: f64,
    networks: Vec<CheckedNetwork>,
}

#[derive(Serialize)]
struct CheckedNetwork {
    architecture: Vec<usize>,
    predicted_ms: f64,
    /// As measured.
    measured_ms: f64,
    /// Speed of the machine meanwhile, over that when the table was built.
    speed: f64,
}

/// Predictions that are timed.
const PREDICTIONS: usize = 2000;

/// Distance of the seeds of held-out networks from those of calibration.
const HELD_OUT: u64 = 1 << 32;

impl Check {
    fn run(&self) -> anyhow::Result<()> {
        let table = LatencyTable::read(&self.table)?;
        let runtime: RuntimeKind = table.runtime.parse()?;
        require(runtime)?;
        let blueprint = self.networks.blueprint()?;
        let architectures = self.architectures(blueprint.space(), &table)?;
        let mut terminal = Terminal::without_status()?;
        let model = LatencyModel::new(&table);
        let bench = Bench::new(runtime, table.threads, table.reference_ms)?;
        let time = Duration::from_secs_f64(self.networks.network_seconds);
        let mut networks = Vec::new();
        for architecture in &architectures {
            if terminal.interrupted() {
                bail!("interrupted");
            }
            let predicted_ms = model.ms(blueprint.blocks(), architecture)?;
            let network = build::exported(&blueprint, self.networks.image(), architecture, self.networks.seed)?;
            let Measured { ms: measured_ms, speed } = bench.network(&network, time)?;
            let architecture = architecture.values().to_vec();
            networks.push(CheckedNetwork { architecture, predicted_ms, measured_ms, speed });
            let message = format!("{predicted_ms:.3} ms predicted, {measured_ms:.3} measured");
            let (done, total) = (networks.len(), architectures.len());
            terminal.progress(Progress { phase: "networks", done, total, message });
        }
        let start = Instant::now();
        for architecture in architectures.iter().cycle().take(PREDICTIONS) {
            std::hint::black_box(model.ms(blueprint.blocks(), architecture)?);
        }
        let prediction_us = start.elapsed().as_secs_f64() * 1e6 / PREDICTIONS as f64;
        let report = CheckReport::of(&table, prediction_us, networks);
        if self.json { super::print_json(&report) } else { super::print(&report.text()) }
    }

    /// The named architectures, or random ones that the table was not calibrated on.
    fn architectures(&self, space: &SearchSpace, table: &LatencyTable) -> anyhow::Result<Vec<Architecture>> {
        if !self.architecture.is_empty() {
            return self.architecture.iter().map(|path| read_architecture(space, path)).collect();
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.networks.seed.wrapping_add(HELD_OUT));
        let known = |architecture: &Architecture| {
            table.calibration.networks.iter().any(|network| network.architecture == architecture.values())
        };
        let draws = (0..100 * self.count).map(|index| sample::random_architecture(space, index % 2 == 1, &mut rng));
        Ok(draws.filter(|architecture| !known(architecture)).take(self.count as usize).collect())
    }
}

impl CheckReport {
    fn of(table: &LatencyTable, prediction_us: f64, networks: Vec<CheckedNetwork>) -> Self {
        let errors = |at_speed: bool| -> Vec<f64> {
            let measured = |network: &CheckedNetwork| network.measured_ms * if at_speed { network.speed } else { 1.0 };
            networks.iter().map(|network| 100.0 * (network.predicted_ms / measured(network) - 1.0).abs()).collect()
        };
        let mean = |errors: &[f64]| mean_and_sd(errors).map_or(f64::NAN, |(mean, _)| mean);
        let pairs: Vec<(f64, f64)> =
            networks.iter().map(|network| (network.predicted_ms, network.measured_ms * network.speed)).collect();
        Self {
            runtime: table.runtime.clone(),
            threads: table.threads,
            mean_absolute_error_percent: mean(&errors(true)),
            largest_error_percent: errors(true).into_iter().fold(0.0, f64::max),
            mean_absolute_error_percent_as_measured: mean(&errors(false)),
            spearman: spearman(&pairs),
            prediction_us,
            networks,
        }
    }

    fn text(&self) -> String {
        let row = |network: &CheckedNetwork| {
            let CheckedNetwork { predicted_ms, measured_ms, speed, .. } = network;
            format!("{predicted_ms:>12.4} {measured_ms:>12.4} {speed:>7.3} {:>12.4}\n", measured_ms * speed)
        };
        let rows: String = self.networks.iter().map(row).collect();
        let spearman = self.spearman.map_or("none".into(), |spearman| format!("{spearman:.3}"));
        format!(
            "predicted ms  measured ms   speed  at speed 1\n{rows}\n{} networks on {}, {} threads: mean absolute error {:.1} \
             %, at most {:.1} % ({:.1} % as measured); Spearman {spearman}; {:.1} us for a prediction\n",
            self.networks.len(),
            self.runtime,
            self.threads,
            self.mean_absolute_error_percent,
            self.largest_error_percent,
            self.mean_absolute_error_percent_as_measured,
            self.prediction_us,
        )
    }
}

/// Makes a table of measurements from elsewhere: a CSV file of blocks, as `lut show --csv` prints it.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: nes-search lut import blocks.csv --runtime onnx-runtime --machine \"Raspberry Pi 5\" --out pi.json")]
struct Import {
    /// The CSV file.
    csv: PathBuf,
    /// The runtime that it was measured on.
    #[arg(long)]
    runtime: RuntimeKind,
    /// The runtime's version.
    #[arg(long, default_value = "unknown")]
    runtime_version: String,
    /// Threads that it computed with.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// The machine, in words.
    #[arg(long)]
    machine: String,
    /// What every network takes besides its blocks, in ms.
    #[arg(long, default_value_t = 0.0)]
    intercept_ms: f64,
    /// How much longer blocks take in a network.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The table to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Import {
    fn run(&self) -> anyhow::Result<()> {
        let machine = serde_json::Value::String(self.machine.clone());
        let mut table = LatencyTable::new(self.runtime.name(), &self.runtime_version, self.threads.into(), machine);
        table.built_for = format!("imported from {}", self.csv.display());
        table.calibration.intercept_ms = self.intercept_ms;
        table.calibration.scale = self.scale;
        table.read_csv(&self.csv)?;
        table.processes = LatencyModel::fit(&table.entries);
        table.write(&self.out)?;
        super::print(&format!("{}{}: written\n", show::summary(&table), self.out.display()))
    }
}

impl Lut {
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Build(build) => build.run(),
            Command::Show(show) => show.run(),
            Command::Check(check) => check.run(),
            Command::Import(import) => import.run(),
        }
    }
}
