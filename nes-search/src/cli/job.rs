//! What a configuration stands for: images, a backbone, a budget; and the steps that commands put together.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use elastic_layers::{Architecture, ArchitectureFile, Backbone, ElasticDim, Macs, SearchSpace};
use exporters::runtime::available;
use exporters::{OnnxExporter, OnnxModel, Tolerance, VerifyReport, reference};
use nes_search::data::{ImageData, ImageSet, Normalization, batch, batches};
use nes_search::latency::{Adjusted, LatencyTable, MeasuredNetwork};
use nes_search::search::{CheckpointError, HISTORY, SearchCost, SharedAccuracy, Trial};
use nes_search::{
    AnyBackbone, Blueprint, Budget, Config, Found, Limits, Observer, Projection, Room, Search, SearchError, Task,
};
use serde::{Deserialize, Serialize};

use super::directory::{ARCHITECTURE, MODEL, SEARCH, TASK, WEIGHTS, read_architecture, read_json_if_there, write_json};
use super::lut::adjusted;

/// How far a runtime's logits may be from Burn's. A logit that moves by the absolute part moves a probability by a
/// hundred-thousandth of itself, so it matters for no prediction, also where a dead network has logits of nearly 0.
const TOLERANCE: Tolerance = Tolerance { relative: 1e-4, absolute: 1e-5 };

/// A configuration with all that it names.
pub struct Job {
    pub config: Config,
    pub data: ImageData,
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
    /// The best uniform rescaling by the shared weights.
    pub uniform_joint: ArchitectureFile,
    /// The trials that decided where H started and what was found.
    pub trials: Vec<Trial>,
    /// What the shared weights got right on the evaluation split before H moved, and in the end.
    #[serde(default)]
    pub shared_weights: Option<SharedWeights>,
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

/// Whether the shared weights knew enough to compare architectures.
#[derive(Debug, Serialize, Deserialize)]
pub struct SharedWeights {
    /// Where H was before its first move.
    pub start: Option<SharedAccuracy>,
    /// At the found architecture.
    pub end: SharedAccuracy,
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
    /// NES iterations of the whole search.
    pub iterations: usize,
    /// The search space.
    pub dimensions: Vec<ElasticDim>,
}

impl Job {
    /// Reads the images, cuts the evaluation split, and builds the backbone.
    pub fn load(config: Config) -> anyhow::Result<Self> {
        if let Some(threads) = config.threads {
            // Only the first job of a process can choose.
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("threads")?;
        }
        let data = match &config.data {
            Some(directory) => ImageData::open(directory, config.image_size)?,
            None => ImageData::embedded().of_size(config.image_size)?,
        };
        let [_, channels, height, width] = data.train.shape();
        let (train, evaluation) = data.train.split_per_class(config.evaluation_per_class, config.seed)?;
        let (backbone, classes, image) = (config.backbone.clone(), data.class_names.len(), [channels, height, width]);
        let context = format!("backbone {backbone}");
        let build = move |space: &mut SearchSpace, device: &Device| backbone.init(image, classes, space, device);
        let blueprint = Blueprint::new(image, build).context(context)?;
        let table = config.latency_table.as_deref().map(LatencyTable::read).transpose()?;
        let limits = blueprint.limits_by(config.budget, &config.bounds, table.as_ref())?;
        let table = table.filter(|_| matches!(config.budget, Budget::Milliseconds(_)));
        let normalization = Normalization::of(&data.train)?;
        let threads = config.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
        let devices = vec![Device::default(); threads];
        let job = Self { config, data, blueprint, limits, table, train, evaluation, normalization, devices };
        job.projection()?;
        Ok(job)
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
            return Ok(Some(file));
        }
        if directory.join(ARCHITECTURE).exists() && !directory.join(HISTORY).exists() {
            // A search would replace the architecture that somebody trains here.
            return Err(anyhow!("{}: expected a directory of run or search, found one of train", directory.display()));
        }
        write_json(&directory.join(TASK), &self.task_file())?;
        let mut search = match self.new_search()?.resume(directory, observer) {
            // Interrupted before the first checkpoint, or new.
            Err(SearchError::Checkpoint(CheckpointError::Missing(_))) => self.new_search()?,
            resumed => resumed?,
        };
        let Some(found) = search.run(Some(directory), observer)? else { return Ok(None) };
        let Found { architecture, uniform_joint, trials, cost, accuracy_at_start: start, accuracy_at_end: end, .. } =
            found;
        let (architecture, measured) = self.measured(architecture)?;
        write_json(&directory.join(ARCHITECTURE), &architecture.to_file())?;
        let shared_weights = Some(SharedWeights { start, end });
        let file = SearchFile { cost, uniform_joint: uniform_joint.to_file(), trials, shared_weights, measured };
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

    fn task_file(&self) -> TaskFile {
        let (search, dims) = (&self.config.search, self.blueprint.space().dims());
        let iterations = search.outer_iterations * search.nes_iterations;
        let (budget_macs, budget_ms) = self.budget();
        TaskFile { budget_macs, budget_ms, iterations, dimensions: dims.iter().map(|dim| (*dim).clone()).collect() }
    }

    /// The search of the configuration, not begun.
    pub fn new_search(&self) -> anyhow::Result<Search<'_, AnyBackbone>> {
        let task = Task {
            blueprint: &self.blueprint,
            train: &self.train,
            evaluation: &self.evaluation,
            normalization: &self.normalization,
            limits: &self.limits,
            devices: &self.devices,
        };
        Ok(Search::new(task, &self.config.search, self.config.seed)?)
    }

    /// The network in a directory: its architecture with its weights.
    pub fn network(&self, directory: &Path) -> anyhow::Result<(Architecture, AnyBackbone)> {
        let architecture = read_architecture(self.blueprint.space(), &directory.join(ARCHITECTURE))?;
        let path = directory.join(WEIGHTS);
        let network = self.blueprint.network(&architecture, self.config.seed, &self.devices[0])?;
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let network = ModuleRecord::from_bytes(burn::tensor::Bytes::from_bytes_vec(bytes))
            .and_then(|record| network.try_load_record(record))
            .map_err(|error| anyhow!("{}: expected weights of {architecture}: {error}", path.display()))?;
        Ok((architecture, network))
    }

    /// A network as ONNX.
    pub fn onnx(&self, architecture: &Architecture, network: &AnyBackbone) -> anyhow::Result<OnnxModel> {
        let [_, channels, height, width] = self.data.train.shape();
        let forward = |model: &AnyBackbone, images| model.forward(images);
        let model = OnnxExporter::new([2, channels, height, width])
            .with_names(["images"], ["logits"])
            .with_metadata("architecture", serde_json::to_string(&architecture.to_file())?)
            .with_metadata("classes", serde_json::to_string(&self.data.class_names)?)
            .with_metadata("normalization", serde_json::to_string(&self.normalization)?)
            .with_doc("Images are bytes / 255, less the mean, over the standard deviation of their channel.")
            .export(network, forward)?;
        Ok(model)
    }

    /// Writes a network as ONNX, and runs the file in every runtime on images of the evaluation split. A file that does not
    /// agree with Burn does not take its place.
    pub fn export(
        &self,
        architecture: &Architecture,
        network: &AnyBackbone,
        path: &Path,
    ) -> anyhow::Result<(OnnxModel, VerifyReport)> {
        let model = self.onnx(architecture, network)?;
        let sizes = [1, 7];
        let references = sizes
            .iter()
            .flat_map(|&size| batches(&self.evaluation, size).take(21 / size))
            .map(|indices| {
                let images = batch(&self.evaluation, &indices, &self.normalization, None, &self.devices[0])?.images;
                Ok(reference(images.clone(), network.forward(images)))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let report = model.save_checked(path, |beside| {
            let report = model.verify(beside, &references, &available(), TOLERANCE);
            ensure!(report.passed(), "{}: does not agree with Burn, and is not written:\n{report}", path.display());
            Ok(report)
        })?;
        Ok((model, report))
    }

    /// Exports the trained network of a directory, beside its weights if no other file is named.
    pub fn export_directory(&self, directory: &Path, out: Option<&Path>) -> anyhow::Result<(OnnxModel, VerifyReport)> {
        let (architecture, network) = self.network(directory)?;
        let beside = directory.join(MODEL);
        self.export(&architecture, &network, out.unwrap_or(&beside))
    }

    /// Exports an architecture with initial weights.
    pub fn export_untrained(&self, architecture: &Architecture, path: &Path) -> anyhow::Result<()> {
        let network = self.blueprint.network(architecture, self.config.seed, &self.devices[0])?;
        self.export(architecture, &network, path).map(drop)
    }

    /// The architecture that a finished search put into a directory.
    pub fn found(&self, directory: &Path) -> anyhow::Result<Architecture> {
        read_architecture(self.blueprint.space(), &directory.join(ARCHITECTURE))
    }
}
