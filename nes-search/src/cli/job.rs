//! What a configuration stands for: images, a backbone, a budget; and the steps that commands put together.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use burn::tensor::{Device, Tensor};
use elastic_layers::{Architecture, ElasticDim, Macs, SearchSpace};
use nes_search::data::{ImageData, ImageSet, Normalization, batch, batches};
use nes_search::latency::{Adjusted, LatencyTable, MeasuredNetwork};
use nes_search::search::{HISTORY, SearchCost, SharedAccuracy, Trial};
use nes_search::{
    AnyBackbone, Blueprint, Budget, Config, Found, LEAST_SHARE, Limits, Observer, Preset, Projection, Room, Search,
    SearchError, Task,
};
use serde::{Deserialize, Serialize};

use super::data_file::DataFile;
use super::directory::{
    ARCHITECTURE, CONFIG, SEARCH, TASK, config_of, read_architecture, read_json_if_there, write_json,
};
use super::lut::adjusted;
use super::networks::{Networks, blueprint};
use super::progress::note;

/// A configuration with all that it names.
pub struct Job {
    pub config: Config,
    pub data: ImageData,
    /// What tells the data from others.
    pub record: DataFile,
    pub blueprint: Blueprint<AnyBackbone>,
    pub limits: Limits,
    /// What times are predicted by, where the budget is one.
    pub table: Option<LatencyTable>,
    pub normalization: Normalization,
    /// The same device once for each thread.
    pub devices: Vec<Device>,
    /// What the search trains on, and what it compares architectures on: together all training images.
    pub train: ImageSet,
    pub evaluation: ImageSet,
}

/// The file of a finished search, beside the found architecture.
#[derive(Debug, Serialize, Deserialize)]
pub struct SearchFile {
    /// What the search took.
    pub cost: SearchCost,
    /// MACs of training the backbone from scratch.
    pub training_macs: u64,
    /// Seconds of the same on this machine, once they are measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_seconds: Option<f64>,
    /// Where H started.
    pub start: Architecture,
    /// The best uniform rescaling of channels and resolution.
    pub uniform_joint: Architecture,
    /// The short trainings from scratch.
    pub trials: Vec<Trial>,
    /// What the shared weights get right on the evaluation split in the end.
    pub shared_weights: Option<SharedAccuracy>,
    /// The found network's time, where the budget is one that this machine can measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredTime>,
}

/// How the found network was brought to a budget of milliseconds, as they are measured at the end of the search.
#[derive(Debug, Serialize, Deserialize)]
pub struct MeasuredTime {
    /// The found network's p50, in ms: the mean of its measurements.
    pub p50_ms: f64,
    /// What it is more than the budget, in percent of that.
    pub deviation_percent: f64,
    /// The p50 over what the table says.
    pub scale: f64,
    /// All measurements, in their order; the last are not always of the found network.
    pub measurements: Vec<MeasuredNetwork>,
    /// Why nothing nearer was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

impl MeasuredTime {
    /// The measured time against the budget, and what kept it from being nearer.
    pub fn line(&self, table: &LatencyTable) -> String {
        let Self { p50_ms, deviation_percent, scale, measurements, obstacle } = self;
        let (runtime, threads) = (&table.runtime, table.threads);
        let mut line = format!(
            "measured p50 {p50_ms:.4} ms on {runtime} with {threads} threads, {deviation_percent:+.1} % of the budget; \
             {scale:.3} of the table's; {} measurements\n",
            measurements.len()
        );
        if let Some(obstacle) = obstacle {
            line += &format!("nothing nearer: {obstacle}\n");
        }
        line
    }
}

/// The content of a `task.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// R_t in MACs, where that is what the budget is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_macs: Option<Macs>,
    /// R_t in milliseconds, where that is what the budget is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<f64>,
    /// The search space.
    pub dimensions: Vec<ElasticDim>,
}

/// The threads to compute with: far more than there are cores only take memory.
fn threads(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let asked = config.threads.unwrap_or(cores);
    let most = MOST_THREADS * cores;
    if asked > most {
        note(&format!("threads: {asked} were asked for, {most} are used: this machine has {cores} cores"));
    }
    asked.min(most)
}

/// Threads for each core at most.
const MOST_THREADS: usize = 4;

/// Fits numbers of images that are a preset's own to a set that has fewer.
fn fit_to(config: &mut Config, train: &ImageSet) {
    let presets = [Preset::Laptop, Preset::Paper, Preset::Smoke].map(Config::preset);
    let is_default = |number: fn(&Config) -> usize, found| presets.iter().any(|preset| number(preset) == found);
    let say = |name: &str, number: &mut usize, most: usize| {
        if *number > most {
            note(&format!("{name}: {most} instead of {number}, as the data set is small"));
            *number = most;
        }
    };
    let classes = train.class_sizes().into_iter().filter(|&size| size > 0);
    let (smallest, count) = classes.fold((usize::MAX, 0), |(least, count), size| (least.min(size), count + 1));
    if is_default(|config| config.evaluation_per_class, config.evaluation_per_class) {
        say("evaluation_per_class", &mut config.evaluation_per_class, (smallest / 5).max(1));
    }
    let evaluation = config.evaluation_per_class.saturating_mul(count);
    if is_default(|config| config.search.evaluation_batch, config.search.evaluation_batch) {
        say("search.evaluation_batch", &mut config.search.evaluation_batch, evaluation.max(1));
    }
    if is_default(|config| config.search.sgd.batch_size, config.search.sgd.batch_size) {
        say("search.sgd.batch_size", &mut config.search.sgd.batch_size, train.len().saturating_sub(evaluation).max(2));
    }
}

/// Says so where a latency table was built for other networks: times of blocks that it does not have are predicted.
fn check_table(table: &LatencyTable, config: &Config, record: &DataFile, space: &SearchSpace) {
    let ours = built_for(&config.backbone, record.image, record.classes.len());
    if !table.space.is_empty() && (table.built_for != ours || table.space != space.hash()) {
        note(&format!(
            "warning: the latency table is for {}; here it predicts the times of {ours}, whose blocks it may not have",
            table.built_for
        ));
    }
}

/// The networks that a table is built for, in words.
pub fn built_for(backbone: &dyn std::fmt::Display, [channels, height, width]: [usize; 3], classes: usize) -> String {
    format!("{backbone}, images of {channels}x{height}x{width}, {classes} classes")
}

impl Job {
    /// Reads the images and looks at all of them, cuts the evaluation split, and builds the backbone. Numbers of images that
    /// the preset has and the user did not choose are fitted to a small data set.
    pub fn load(mut config: Config) -> anyhow::Result<Self> {
        let threads = threads(&config);
        if config.threads.is_some() {
            // Only the first job of a process can choose.
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("threads")?;
        }
        let data = match &config.data {
            Some(directory) => ImageData::open(directory, config.image_size)?,
            None => ImageData::embedded().of_size(config.image_size)?,
        };
        let inspected = [data.train.inspect()?, data.test.inspect()?];
        for (split, inspection) in ["training", "test"].iter().zip(&inspected) {
            inspection.notes.iter().for_each(|found| note(&format!("{split} images: {found}")));
        }
        fit_to(&mut config, &data.train);
        let (train, evaluation) = data.train.split_per_class(config.evaluation_per_class, config.seed)?;
        let normalization = Normalization::of(&data.train)?;
        let record = DataFile::new(&data, &normalization, inspected);
        let blueprint = blueprint(&config, &record)?;
        let table = config.latency_table.as_deref().map(LatencyTable::read).transpose()?;
        if let Some(table) = &table {
            check_table(table, &config, &record, blueprint.space());
        }
        let limits = blueprint.limits_by(config.budget, &config.bounds, table.as_ref())?;
        let table = table.filter(|_| matches!(config.budget, Budget::Milliseconds(_)));
        let devices = vec![Device::default(); threads];
        let job = Self { config, data, record, blueprint, limits, table, train, evaluation, normalization, devices };
        job.projection()?;
        Ok(job)
    }

    /// The job of a run directory, on the data that its networks were trained on.
    pub fn of_directory(directory: &Path) -> anyhow::Result<Self> {
        let job = Self::load(config_of(directory)?)?;
        DataFile::of(directory)?.check(&job.record)?;
        Ok(job)
    }

    /// Checks what the steps of a command need that are not begun yet, before the first long one.
    pub fn check_steps(&self) -> anyhow::Result<()> {
        self.new_search().map(drop)
    }

    /// R_t in MACs or in milliseconds.
    pub fn budget(&self) -> (Option<Macs>, Option<f64>) {
        let most = self.limits.budget().most();
        match self.config.budget {
            Budget::Milliseconds(_) => (None, Some(most)),
            Budget::Fraction(_) | Budget::Macs(_) => (Some(Macs(most as u64)), None),
        }
    }

    /// What the smallest networks take of the budget.
    pub fn room(&self) -> anyhow::Result<Room> {
        Ok(Room::new(self.blueprint.space(), self.limits.budget())?)
    }

    /// The projection onto the budget.
    pub fn projection(&self) -> anyhow::Result<Projection<'_>> {
        Ok(Projection::new(self.blueprint.space(), &self.limits)?)
    }

    /// The architecture that a directory's search found; searches, or goes on searching, if it has not yet. Nothing, if
    /// interrupted.
    pub fn search(&self, directory: &Path, observer: &mut (dyn Observer + Send)) -> anyhow::Result<Option<SearchFile>> {
        if let Some(file) = read_json_if_there(&directory.join(SEARCH))? {
            self.check_task(directory)?;
            return Ok(Some(file));
        }
        if directory.join(ARCHITECTURE).exists() && !directory.join(HISTORY).exists() {
            // A search would replace the architecture that somebody trains here.
            return Err(anyhow!("{}: expected a directory of run or search, found one of train", directory.display()));
        }
        self.check_task(directory)?;
        write_json(&directory.join(TASK), &self.task_file())?;
        let mut search = match self.new_search()?.resume(directory, observer) {
            // Interrupted before the first checkpoint, or new.
            Err(SearchError::NoCheckpoint(_)) => self.new_search()?,
            resumed => resumed?,
        };
        if search.least_share() < LEAST_SHARE {
            observer.warning(&format!(
                "the search space is too coarse for the {}: the nearest architecture below takes {:.4} of the budget",
                self.limits,
                search.least_share()
            ));
        }
        let Some(found) = search.run(Some(directory), observer)? else { return Ok(None) };
        let Found { architecture, uniform_joint, start, trials, cost, accuracy: shared_weights } = found;
        let (architecture, measured) = self.measured(architecture)?;
        write_json(&directory.join(ARCHITECTURE), &architecture)?;
        let training_macs = self.task().training_macs()?;
        let file = SearchFile {
            cost,
            training_macs,
            training_seconds: None,
            start,
            uniform_joint,
            trials,
            shared_weights,
            measured,
        };
        // Last, because it says that the search is over.
        write_json(&directory.join(SEARCH), &file)?;
        Ok(Some(file))
    }

    /// An architecture that takes the budget of time as this machine takes it now, where there is such a budget.
    fn measured(&self, found: Architecture) -> anyhow::Result<(Architecture, Option<MeasuredTime>)> {
        let Some(Adjusted { architecture, ms, scale, measurements, obstacle }) = adjusted(self, &found)? else {
            return Ok((found, None));
        };
        let measured = MeasuredTime {
            p50_ms: ms,
            deviation_percent: 100.0 * (ms / self.limits.budget().most() - 1.0),
            scale,
            measurements,
            obstacle: obstacle.map(|error| error.to_string()),
        };
        Ok((architecture, Some(measured)))
    }

    /// The limits that a finished search's network keeps to: where its time was measured, those of times as measured then.
    pub fn limits_of(&self, search: &SearchFile) -> Limits {
        match &search.measured {
            Some(measured) => self.limits.at_scale(measured.scale),
            None => self.limits.clone(),
        }
    }

    /// Refuses a directory whose search had another budget or another space: its configuration was changed.
    fn check_task(&self, directory: &Path) -> anyhow::Result<()> {
        let path = directory.join(TASK);
        let Some(found) = read_json_if_there::<TaskFile>(&path)? else { return Ok(()) };
        let expected = self.task_file();
        let budget = |task: &TaskFile| match (task.budget_macs, task.budget_ms) {
            (Some(macs), _) => format!("a budget of {} MACs", macs.0),
            (None, ms) => format!("a budget of {} ms", ms.unwrap_or(f64::NAN)),
        };
        let (ours, began) = (budget(&expected), budget(&found));
        ensure!(ours == began, "{}: expected {ours}, as {CONFIG} says, found a search with {began}", path.display());
        ensure!(
            expected.dimensions == found.dimensions,
            "{}: expected the search space of {CONFIG} and the data, found another one",
            path.display()
        );
        Ok(())
    }

    fn task_file(&self) -> TaskFile {
        let (budget_macs, budget_ms) = self.budget();
        let dimensions = self.blueprint.space().dims().iter().map(|dim| (*dim).clone()).collect();
        TaskFile { budget_macs, budget_ms, dimensions }
    }

    /// What the configuration's search is of.
    pub fn task(&self) -> Task<'_, AnyBackbone> {
        Task {
            blueprint: &self.blueprint,
            train: &self.train,
            evaluation: &self.evaluation,
            normalization: &self.normalization,
            limits: &self.limits,
            recipe: &self.config.train,
            devices: &self.devices,
        }
    }

    /// The search of the configuration, not begun.
    pub fn new_search(&self) -> anyhow::Result<Search<'_, AnyBackbone>> {
        Ok(Search::new(self.task(), &self.config.search, self.config.seed)?)
    }

    /// The networks of this job.
    pub fn networks(&self) -> Networks {
        let (config, record) = (self.config.clone(), self.record.clone());
        Networks { config, record, blueprint: self.blueprint.clone() }
    }

    /// Images of the evaluation split in batches of 1 and 7.
    pub fn samples(&self) -> anyhow::Result<Vec<Tensor<4>>> {
        let sizes = [1, 7].into_iter();
        let places = sizes.flat_map(|size| batches(&self.evaluation, size).take(21 / size));
        let images = |places: Vec<usize>| {
            Ok(batch(&self.evaluation, &places, &self.normalization, None, &self.devices[0])?.images)
        };
        places.map(images).collect()
    }

    /// The architecture that a finished search put into a directory.
    pub fn found(&self, directory: &Path) -> anyhow::Result<Architecture> {
        read_architecture(self.blueprint.space(), &directory.join(ARCHITECTURE))
    }
}
