//! The main job and its parts.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use nes_search::{Projection, baselines};

use super::comparison::{Compared, complete, export_and_measure, summary};
use super::data_file::DataFile;
use super::directory::{ARCHITECTURE, DATA, RunDirectory, SEARCH, SUMMARY, read_architecture, write_json};
use super::job::{Job, SearchFile};
use super::options::ConfigOptions;
use super::progress::{Terminal, complain_of_runtimes, note};
use super::training::{Network, TrainingRun, kept};

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
    /// The directory, and the job to do in it. A new directory is made last, when nothing else can be wrong; `check` says
    /// what else that is.
    fn open(self, check: impl FnOnce(&Job) -> anyhow::Result<()>) -> anyhow::Result<(RunDirectory, Job)> {
        if let Some(path) = &self.resume {
            let (directory, config) = RunDirectory::resume(path)?;
            let job = Job::load(config)?;
            if path.join(DATA).exists() {
                DataFile::of(path)?.check(&job.record)?;
            } else {
                write_json(&path.join(DATA), &job.record)?;
            }
            return Ok((directory, job));
        }
        if let Some(out) = &self.out {
            RunDirectory::check(out, self.overwrite)?;
        }
        let job = Job::load(self.options.effective()?)?;
        check(&job)?;
        let directory = RunDirectory::create(self.out, self.overwrite, &job.config, Some(&job.record))?;
        Ok((directory, job))
    }
}

/// The result of a part that can be interrupted.
fn finished<T>(part: Option<T>, kept: &str, command: &str, path: &Path) -> anyhow::Result<T> {
    match part {
        Some(result) => Ok(result),
        None => bail!("interrupted; go on with: nes-search {command} --resume {}; kept: {kept}", path.display()),
    }
}

impl Run {
    pub fn run(self) -> anyhow::Result<()> {
        let (directory, job) = self.place.open(Job::check_steps)?;
        let path = directory.path();
        complain_of_runtimes();
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
        let search = match search.training_seconds {
            Some(_) => search,
            None => {
                let training_seconds = job.task().training_seconds(terminal)?;
                let search = SearchFile { training_seconds, ..search };
                write_json(&path.join(SEARCH), &search)?;
                search
            }
        };
        let networks = networks(&job, path, &search)?;
        let trainings = job.train(&networks, terminal)?;
        let trainings = finished(trainings, &kept(&networks)?, "run", path)?;
        let backbone = untrained_backbone(&job, path);
        let networks: Vec<_> = networks.into_iter().chain([backbone]).collect();
        let trainings = trainings.into_iter().map(Some).chain([None]);
        let mut compared: Vec<Compared> = networks.into_iter().zip(trainings).map(Compared::new).collect();
        let bench = export_and_measure(&job, path, &mut compared, terminal)?;
        let bench = finished(bench, "all trainings", "run", path)?;
        let summary = summary(&job, &search, &compared, &bench)?;
        write_json(&path.join(SUMMARY), &summary)?;
        if self.json {
            super::print_json(&summary)?;
            return complete(&compared);
        }
        let measured = match (&search.measured, &job.table) {
            (Some(measured), Some(table)) => format!("found, at the end of its search: {}", measured.line(table)),
            _ => String::new(),
        };
        super::print(&format!("{}\n{measured}results in {}\n", summary.table(&bench)?, path.display()))?;
        complete(&compared)
    }
}

impl SearchCommand {
    pub fn run(self) -> anyhow::Result<()> {
        let (directory, job) = self.place.open(Job::check_steps)?;
        let path = directory.path();
        note(&format!("{}: {}\n{}", path.display(), job.limits, job.room()?));
        let search = job.search(path, &mut Terminal::new(path)?)?;
        let search = finished(search, "the state of the search", "search", path)?;
        let found = job.found(path)?;
        if self.json {
            return super::print_json(&found);
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
        text += &format!(
            "search: {:.3} of the MACs of training the backbone, {:.0} s, {} views scored\n",
            took.macs as f64 / search.training_macs as f64,
            took.seconds,
            took.evaluations
        );
        text += &format!("train it with: nes-search train --architecture {}/architecture.json\n", path.display());
        super::print(&text)
    }
}

impl Train {
    pub fn run(self) -> anyhow::Result<()> {
        // Read before a directory is made for it.
        let mut architecture = None;
        let (directory, job) = self.place.open(|job| {
            let file = self.architecture.as_deref();
            architecture = file.map(|file| read_architecture(job.blueprint.space(), file)).transpose()?;
            Ok(())
        })?;
        let path = directory.path();
        if let Some(architecture) = architecture {
            write_json(&path.join(ARCHITECTURE), &architecture)?;
        }
        let networks = [Network { name: "network", architecture: job.found(path)?, directory: path.into() }];
        let files = job.train(&networks, &mut Terminal::new(path)?)?;
        let files = finished(files, &kept(&networks)?, "train", path)?;
        if self.json {
            super::print_json(&files[0])?;
        } else {
            let lines: String = files[0].runs.iter().map(TrainingRun::line).collect();
            super::print(&format!("{lines}results in {}\n", path.display()))?;
        }
        match files[0].runs.iter().find(|run| run.failed()) {
            Some(run) => bail!("{}", run.line().trim_end()),
            None => Ok(()),
        }
    }
}

/// The networks that are compared after training.
fn networks(job: &Job, path: &Path, search: &SearchFile) -> anyhow::Result<Vec<Network>> {
    let space = job.blueprint.space();
    let below = |name, architecture| Network { name, architecture, directory: path.join(name) };
    // The rescalings take what the found network takes: where that was measured, they are moved as it was.
    let limits = job.limits_of(search);
    let projection = Projection::new(space, &limits)?;
    space.check(&search.uniform_joint)?;
    let joint = search.uniform_joint.clone();
    let joint = if search.measured.is_some() { projection.nearest(&joint.params())? } else { joint };
    Ok(vec![
        below("uniform-channel", baselines::uniform_channel(&projection)?),
        below("uniform-joint", joint),
        Network { directory: path.into(), ..below("found", job.found(path)?) },
    ])
}

/// The backbone at full size, of which only the cost and the latency are compared.
fn untrained_backbone(job: &Job, path: &Path) -> Network {
    let name = "backbone";
    Network { name, architecture: job.blueprint.space().base(), directory: path.join(name) }
}
