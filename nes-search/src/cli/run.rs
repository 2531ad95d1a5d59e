//! The main job and its parts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use exporters::runtime::{RuntimeKind, available};
use nes_search::{Observer, Progress, Projection, baselines};
use onnx_bench::latency::{Amount, BenchOptions, compare};
use onnx_bench::machine::Machine;
use onnx_bench::report::{BenchFile, BenchReport};

use super::directory::{BENCH, MODEL, RunDirectory, SUMMARY, read_architecture, write_json};
use super::job::{Job, SearchFile};
use super::options::ConfigOptions;
use super::progress::{Terminal, note};
use super::summary::{RUNTIME, Row, Summary, report_of};
use super::training::{Network, TrainingFile};

/// The main job: searches, trains what was found and two uniform rescalings of the same budget from scratch, exports
/// and measures them, and compares.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nes-search run                               the embedded images, a tenth of the backbone's MACs
  nes-search run --budget 250k --seeds 5       another budget; each network trained five times
  nes-search run --data DIR --out runs/mine    IDX files, CIFAR or folders of images
  nes-search run --resume runs/mine            goes on where it was interrupted")]
pub struct Run {
    #[command(flatten)]
    place: Place,
    /// Prints the content of summary.json instead of the table.
    #[arg(long)]
    json: bool,
}

/// Searches, and writes the found architecture.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nes-search search --budget 0.2 --out runs/fifth
  nes-search search --resume runs/fifth        goes on from the newest checkpoint")]
pub struct SearchCommand {
    #[command(flatten)]
    place: Place,
    /// Prints the content of architecture.json.
    #[arg(long)]
    json: bool,
}

/// Trains one architecture from scratch, and evaluates it on the test images.
#[derive(Args, Debug)]
#[command(
    after_help = "Example: nes-search train --architecture runs/fifth/architecture.json --out runs/fifth-trained"
)]
pub struct Train {
    /// The architecture to train.
    #[arg(long, value_name = "FILE", required_unless_present = "resume", conflicts_with = "resume")]
    architecture: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// Prints the content of training.json.
    #[arg(long)]
    json: bool,
}

/// Where results go, and what is done.
#[derive(Args, Debug)]
pub struct Place {
    /// The run directory; by default a dated one below runs/.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replaces an earlier run in the run directory.
    #[arg(long)]
    overwrite: bool,
    /// Goes on with the run of a directory, under its own configuration.
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["out", "overwrite", "preset", "config", "backbone", "data", "image_size", "budget", "latency_table", "bounds", "searcher", "seed", "seeds", "threads"]
    )]
    resume: Option<PathBuf>,
    #[command(flatten)]
    options: ConfigOptions,
}

impl Place {
    /// The directory, and the job to do in it. A new directory is made last, when nothing else can be wrong.
    fn open(self) -> anyhow::Result<(RunDirectory, Job)> {
        if let Some(path) = &self.resume {
            let (directory, config) = RunDirectory::resume(path)?;
            return Ok((directory, Job::load(config)?));
        }
        let job = Job::load(self.options.effective()?)?;
        let directory = RunDirectory::create(self.out, self.overwrite, &job.config)?;
        Ok((directory, job))
    }
}

/// The result of a part that can be interrupted.
fn finished<T>(part: Option<T>, command: &str, directory: &RunDirectory) -> anyhow::Result<T> {
    match part {
        Some(result) => Ok(result),
        None => bail!("interrupted; go on with: nes-search {command} --resume {}", directory.path().display()),
    }
}

impl Run {
    pub fn run(self) -> anyhow::Result<()> {
        let (directory, job) = self.place.open()?;
        let path = directory.path();
        note(&format!("{}: {}\n{}", path.display(), job.limits, job.room()?));
        let terminal = &mut Terminal::new(path)?;
        let search = match job.search(path, terminal)? {
            Some(search) => search,
            None => bail!(
                "interrupted; go on with: nes-search run --resume {0}, or with the search alone: \
                 nes-search search --resume {0}",
                path.display()
            ),
        };
        let networks = networks(&job, path, &search)?;
        let trainings = finished(job.train(&networks, terminal)?, "run", &directory)?;
        let backbone = untrained_backbone(&job, path);
        let bench = export_and_measure(&job, path, &networks, &backbone, terminal)?;
        let bench = finished(bench, "run", &directory)?;
        let trainings = trainings.into_iter().chain([TrainingFile::default()]);
        let networks: Vec<_> = networks.into_iter().chain([backbone]).zip(trainings).collect();
        let summary = summary(&job, &search, &networks, &bench)?;
        write_json(&path.join(SUMMARY), &summary)?;
        if self.json {
            return super::print_json(&summary);
        }
        let measured = match (&search.measured, &job.table) {
            (Some(measured), Some(table)) => format!("found, at the end of its search: {}", measured.line(table)),
            _ => String::new(),
        };
        super::print(&format!("{}\n{measured}results in {}\n", summary.table(&bench)?, path.display()))
    }
}

impl SearchCommand {
    pub fn run(self) -> anyhow::Result<()> {
        let (directory, job) = self.place.open()?;
        let path = directory.path();
        note(&format!("{}: {}\n{}", path.display(), job.limits, job.room()?));
        let search = finished(job.search(path, &mut Terminal::new(path)?)?, "search", &directory)?;
        let found = job.found(path)?;
        if self.json {
            return super::print_json(&found.to_file());
        }
        let cost = job.blueprint.cost().cost(&found)?;
        let mut text = format!("{found}\n\n");
        let budget = job.limits.budget();
        let share =
            format!("{:.3} of the budget of {} {}", budget.ratio(&found)?, budget.most(), budget.resource().unit());
        let by_table = if job.table.is_some() { " by the table" } else { "" };
        text += &format!("MACs {}, {share}{by_table}, ", cost.macs.0);
        text += &format!("parameters {}\n", cost.parameters);
        if let (Some(measured), Some(table)) = (&search.measured, &job.table) {
            text += &measured.line(table);
        }
        let took = search.cost;
        text += &format!("search: {} images, {:.0} s, {} views scored\n", took.images, took.seconds, took.evaluations);
        text += &format!("train it with: nes-search train --architecture {}/architecture.json\n", path.display());
        super::print(&text)
    }
}

impl Train {
    pub fn run(self) -> anyhow::Result<()> {
        let (directory, job) = match &self.architecture {
            // Read before a directory is made for it.
            Some(file) => {
                let job = Job::load(self.place.options.effective()?)?;
                let architecture = read_architecture(job.blueprint.space(), file)?;
                let directory = RunDirectory::create(self.place.out, self.place.overwrite, &job.config)?;
                write_json(&directory.path().join(super::directory::ARCHITECTURE), &architecture.to_file())?;
                (directory, job)
            }
            None => self.place.open()?,
        };
        let path = directory.path();
        let network = Network { name: "network", architecture: job.found(path)?, directory: path.into() };
        let files = finished(job.train(&[network], &mut Terminal::new(path)?)?, "train", &directory)?;
        if self.json {
            return super::print_json(&files[0]);
        }
        let mut text = String::new();
        for run in &files[0].runs {
            text += &format!("seed {}: test accuracy {:.2} %, loss {:.4}\n", run.seed, run.accuracy * 100.0, run.loss);
        }
        super::print(&format!("{text}results in {}\n", path.display()))
    }
}

/// The networks that are compared after training.
fn networks(job: &Job, path: &Path, search: &SearchFile) -> anyhow::Result<Vec<Network>> {
    let space = job.blueprint.space();
    let below = |name, architecture| Network { name, architecture, directory: path.join(name) };
    // The rescalings take what the found network takes: where that was measured, they are moved as it was.
    let limits = job.limits_of(search);
    let projection = Projection::new(space, &limits)?;
    let joint = space.check(&search.uniform_joint)?;
    let joint = if search.measured.is_some() { projection.nearest(&joint.params())? } else { joint };
    Ok(vec![
        below("uniform-channel", baselines::uniform_channel(space, &projection)?),
        below("uniform-joint", joint),
        Network { directory: path.into(), ..below("found", job.found(path)?) },
    ])
}

/// The backbone at full size, of which only the cost and the latency are compared.
fn untrained_backbone(job: &Job, path: &Path) -> Network {
    let name = "backbone";
    Network { name, architecture: job.blueprint.space().base(), directory: path.join(name) }
}

/// Exports and verifies every network, and measures the files in turn; nothing, if interrupted.
fn export_and_measure(
    job: &Job,
    path: &Path,
    networks: &[Network],
    backbone: &Network,
    terminal: &mut Terminal,
) -> anyhow::Result<Option<BenchFile>> {
    let total = networks.len() + 1;
    for (index, network) in networks.iter().enumerate() {
        if terminal.interrupted() {
            return Ok(None);
        }
        job.export_directory(&network.directory, None)?;
        terminal.progress(Progress { phase: "export", done: index + 1, total, message: "verified".into() });
    }
    std::fs::create_dir_all(&backbone.directory).with_context(|| backbone.directory.display().to_string())?;
    job.export_untrained(&backbone.architecture, &backbone.directory.join(MODEL))?;
    terminal.progress(Progress { phase: "export", done: total, total, message: "verified".into() });
    let options = BenchOptions {
        threads: job.config.bench.threads,
        measure: Amount::Time(Duration::from_secs_f64(job.config.bench.seconds)),
        ..BenchOptions::default()
    };
    let files: Vec<PathBuf> = networks.iter().chain([backbone]).map(|network| network.directory.join(MODEL)).collect();
    let runtimes = available();
    let mut reports: Vec<BenchReport> = Vec::new();
    for (index, &runtime) in runtimes.iter().enumerate() {
        if terminal.interrupted() {
            return Ok(None);
        }
        let entries: Vec<(&Path, RuntimeKind)> = files.iter().map(|file| (file.as_path(), runtime)).collect();
        reports.extend(compare(&entries, &options, None)?);
        let (done, total) = (index + 1, runtimes.len());
        terminal.progress(Progress { phase: "bench", done, total, message: runtime.to_string() });
    }
    for report in &mut reports {
        // Named from the run directory, which may be moved.
        if let Ok(name) = Path::new(&report.file).strip_prefix(path) {
            report.file = name.to_string_lossy().replace('\\', "/");
        }
    }
    let bench = BenchFile { machine: Machine::describe(), reports };
    write_json(&path.join(BENCH), &bench)?;
    Ok(Some(bench))
}

fn summary(
    job: &Job,
    search: &SearchFile,
    networks: &[(Network, TrainingFile)],
    bench: &BenchFile,
) -> anyhow::Result<Summary> {
    let seeds: Vec<u64> = job.config.training_seeds().collect();
    let limits = job.limits_of(search);
    let mut rows = Vec::new();
    for (network, training) in networks {
        let cost = job.blueprint.cost().cost(&network.architecture)?;
        let Some(report) = report_of(bench, network.name, RUNTIME) else {
            bail!("bench.json: expected a report of {} on {RUNTIME}, found none", network.name)
        };
        let of_seed = |seed: &u64| training.runs.iter().find(|run| run.seed == *seed).map(|run| run.accuracy);
        rows.push(Row {
            name: network.name.into(),
            macs: cost.macs,
            of_budget: limits.budget().ratio(&network.architecture)?,
            parameters: cost.parameters,
            accuracy: seeds.iter().filter_map(of_seed).collect(),
            onnx_p50_ms: report.p50_ms,
            onnx_p90_ms: report.p90_ms,
        });
    }
    let (budget_macs, budget_ms) = job.budget();
    let training_images = job.config.train.images(job.data.train.len());
    Ok(Summary { budget_macs, budget_ms, seeds, search: search.cost, training_images, onnx_runtime: RUNTIME, rows })
}
