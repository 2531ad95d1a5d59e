//! The networks of a comparison after their training: exported, measured, and put into a table.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use burn::tensor::Tensor;
use exporters::runtime::{self, RuntimeKind, available};
use nes_search::{Observer, Progress};
use onnx_bench::latency::{Amount, BenchOptions, compare_each};
use onnx_bench::machine::Machine;
use onnx_bench::report::{BenchFailure, BenchFile};

use super::directory::{BENCH, MODEL, write_json};
use super::job::{Job, SearchFile};
use super::networks::Networks;
use super::progress::{Terminal, note};
use super::summary::{RUNTIME, Row, Summary, report_of};
use super::training::{Network, TrainingFile, TrainingRun};

/// A network of the table, and what became of it.
pub struct Compared {
    network: Network,
    /// None, if it is not trained.
    training: Option<TrainingFile>,
    /// Why there is no file.
    unexported: Option<String>,
    /// Why the file was not measured.
    unmeasured: Option<String>,
}

impl Compared {
    pub fn new((network, training): (Network, Option<TrainingFile>)) -> Self {
        Self { network, training, unexported: None, unmeasured: None }
    }

    fn model(&self) -> PathBuf {
        self.network.directory.join(MODEL)
    }

    fn runs(&self) -> &[TrainingRun] {
        self.training.as_ref().map_or(&[], |training| &training.runs)
    }

    /// What is wrong with it, in words.
    fn problem(&self) -> Option<String> {
        let of_run = |run: &TrainingRun| Some(format!("seed {}: {}", run.seed, run.problem.as_ref()?));
        let problems = self.runs().iter().filter_map(of_run);
        let problems: Vec<String> = problems.chain(self.unexported.clone()).chain(self.unmeasured.clone()).collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    fn failed(&self) -> bool {
        self.unexported.is_some() || self.unmeasured.is_some() || self.runs().iter().any(TrainingRun::failed)
    }
}

/// An error that names the networks that failed, if some did. The others are in the table.
pub fn complete(compared: &[Compared]) -> anyhow::Result<()> {
    let failed = compared.iter().filter(|compared| compared.failed());
    let lines: Vec<String> =
        failed.map(|one| format!("{}: {}", one.network.name, one.problem().unwrap_or_default())).collect();
    ensure!(lines.is_empty(), "not all networks could be compared: {}", lines.join("; "));
    Ok(())
}

/// Exports and verifies every network, and measures the files in turn. A network that cannot be exported or measured keeps
/// no other from it. Returns `None` if interrupted.
pub fn export_and_measure(
    job: &Job,
    path: &Path,
    compared: &mut [Compared],
    terminal: &mut Terminal,
) -> anyhow::Result<Option<BenchFile>> {
    let (networks, images, total) = (job.networks(), job.samples()?, compared.len());
    for (index, one) in compared.iter_mut().enumerate() {
        if terminal.interrupted() {
            return Ok(None);
        }
        let message = match export(&networks, one, job.config.seed, &images) {
            Ok(()) => "verified".into(),
            Err(error) => {
                let text = super::words(&error);
                note(&format!("{}: {text}", one.network.name));
                one.unexported = Some(format!("not exported: {}", text.lines().next().unwrap_or_default()));
                "not exported".into()
            }
        };
        terminal.progress(Progress { phase: "export", done: index + 1, total, message });
    }
    let options = BenchOptions {
        threads: job.config.bench.threads,
        measure: Amount::Time(Duration::from_secs_f64(job.config.bench.seconds)),
        ..BenchOptions::default()
    };
    let mut bench = BenchFile { machine: Machine::describe(), reports: Vec::new(), failures: Vec::new() };
    let runtimes = available();
    for (index, &runtime) in runtimes.iter().enumerate() {
        if terminal.interrupted() {
            return Ok(None);
        }
        measure(compared, runtime, &options, &mut bench)?;
        let (done, total) = (index + 1, runtimes.len());
        terminal.progress(Progress { phase: "bench", done, total, message: runtime.to_string() });
    }
    let reports = bench.reports.iter_mut().map(|report| &mut report.file);
    for file in reports.chain(bench.failures.iter_mut().map(|failure| &mut failure.file)) {
        // Named from the run directory, which may be moved.
        if let Ok(name) = Path::new(file.as_str()).strip_prefix(path) {
            *file = name.to_string_lossy().replace('\\', "/");
        }
    }
    write_json(&path.join(BENCH), &bench)?;
    Ok(Some(bench))
}

/// Writes the file of a network, with the weights of the first seed if it is trained.
fn export(networks: &Networks, one: &Compared, seed: u64, images: &[Tensor<4>]) -> anyhow::Result<()> {
    let Network { architecture, directory, .. } = &one.network;
    if one.training.is_none() {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        return networks.export_untrained(architecture, images, &one.model());
    }
    if let Some(run) = one.runs().iter().find(|run| run.seed == seed && run.failed()) {
        bail!("there is no network: {}", run.problem.as_deref().unwrap_or_default());
    }
    networks.export_directory(directory, images, None).map(drop)
}

/// Measures the files that there are on a runtime.
fn measure(
    compared: &mut [Compared],
    runtime: RuntimeKind,
    options: &BenchOptions,
    bench: &mut BenchFile,
) -> anyhow::Result<()> {
    let mut compared: Vec<&mut Compared> = compared.iter_mut().filter(|one| one.unexported.is_none()).collect();
    let files: Vec<PathBuf> = compared.iter().map(|one| one.model()).collect();
    let entries: Vec<(&Path, RuntimeKind)> = files.iter().map(|file| (file.as_path(), runtime)).collect();
    if entries.is_empty() {
        return Ok(());
    }
    let results = compare_each(&entries, options, &mut runtime::load_any, None)?;
    for ((one, file), result) in compared.iter_mut().zip(&files).zip(results) {
        match result {
            Ok(report) => bench.reports.push(report),
            Err(error) => {
                one.unmeasured = Some(format!("not measured: {error}"));
                bench.failures.push(BenchFailure::new(file, runtime, &error));
            }
        }
    }
    Ok(())
}

/// The table.
pub fn summary(job: &Job, search: &SearchFile, compared: &[Compared], bench: &BenchFile) -> anyhow::Result<Summary> {
    let seeds: Vec<u64> = job.config.training_seeds().collect();
    let limits = job.limits_of(search);
    let mut rows = Vec::new();
    for one in compared {
        let network = &one.network;
        let cost = job.blueprint.cost().cost(&network.architecture)?;
        let report = report_of(bench, network.name, RUNTIME);
        let of_seed = |seed: &u64| one.runs().iter().find(|run| run.seed == *seed).map(|run| run.accuracy);
        rows.push(Row {
            name: network.name.into(),
            macs: cost.macs,
            of_budget: limits.budget().ratio(&network.architecture)?,
            parameters: cost.parameters,
            accuracy: seeds.iter().filter_map(of_seed).collect(),
            onnx_p50_ms: report.map(|report| report.p50_ms),
            onnx_p90_ms: report.map(|report| report.p90_ms),
            problem: one.problem(),
        });
    }
    let (budget_macs, budget_ms) = job.budget();
    let training_images = job.config.train.images(job.data.train.len());
    Ok(Summary {
        budget_macs,
        budget_ms,
        seeds,
        search: search.cost,
        training_images,
        training_macs: search.training_macs,
        training_seconds: search.training_seconds,
        onnx_runtime: RUNTIME,
        rows,
    })
}
