//! What a configuration stands for: images, a backbone, a budget; and the steps that commands put together.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use elastic_layers::{Architecture, ArchitectureFile, Backbone, Macs};
use exporters::runtime::available;
use exporters::{OnnxExporter, reference, verify};
use nes_search::data::{ImageData, ImageSet, Normalization, batch, batches};
use nes_search::search::SearchCost;
use nes_search::{Blueprint, Config, Observer, Projection, Search, Task, evaluate, train};
use serde::{Deserialize, Serialize};

use super::directory::{
    ARCHITECTURE, HISTORY, MODEL, SEARCH, TRAINING, WEIGHTS, read_architecture, read_json_if_there, write, write_json,
};

/// Images in a batch of the final evaluation.
const TEST_BATCH: usize = 250;
/// How far a runtime's outputs may be from Burn's, relative to the largest.
const TOLERANCE: f32 = 1e-4;

/// A configuration with all that it names.
pub struct Job {
    pub config: Config,
    pub data: ImageData,
    pub blueprint: Blueprint<MobileNetV2>,
    pub budget: Macs,
    train: ImageSet,
    evaluation: ImageSet,
    normalization: Normalization,
    device: Device,
}

/// The file of a finished search, beside the found architecture.
#[derive(Debug, Serialize, Deserialize)]
pub struct SearchFile {
    /// What the search took.
    pub cost: SearchCost,
    /// The best uniform rescaling by the shared weights.
    pub uniform_joint: ArchitectureFile,
}

/// The file of a network's trainings.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct TrainingFile {
    /// One for each seed.
    pub runs: Vec<TrainingRun>,
}

/// One training from scratch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainingRun {
    pub seed: u64,
    /// Share of the test images whose class has the largest score.
    pub accuracy: f64,
    /// Mean cross-entropy on the test images.
    pub loss: f64,
    /// Training images processed.
    pub images: u64,
    pub seconds: f64,
}

impl Job {
    /// Reads the images, cuts the evaluation split, and builds the backbone.
    pub fn load(config: Config) -> anyhow::Result<Self> {
        if let Some(threads) = config.threads {
            // Only the first job of a process can choose.
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("threads")?;
        }
        let data = match &config.data {
            Some(directory) => ImageData::from_idx_dir(directory)?,
            None => ImageData::embedded(),
        };
        let [_, channels, height, width] = data.train.shape();
        if height != width {
            return Err(anyhow!("training images: expected square ones, found {height}x{width}"));
        }
        let (train, evaluation) = data.train.split_per_class(config.evaluation_per_class, config.seed)?;
        let backbone = MobileNetV2Config::small(channels, height, data.class_names.len());
        let blueprint = Blueprint::new([channels, height, width], move |space, device| backbone.init(space, device))?;
        let budget = config.budget.resolve(blueprint.cost().cost(&blueprint.space().base())?.macs);
        let normalization = Normalization::of(&data.train);
        let device = Device::default();
        let job = Self { config, data, blueprint, budget, train, evaluation, normalization, device };
        job.projection()?;
        Ok(job)
    }

    /// The projection onto the budget.
    pub fn projection(&self) -> anyhow::Result<Projection<'_>> {
        Ok(Projection::new(self.blueprint.space(), self.blueprint.cost(), self.budget)?)
    }

    /// The architecture that a directory's search found; searches, or goes on searching, if it has not yet. Nothing, if
    /// interrupted.
    pub fn search(&self, directory: &Path, observer: &mut dyn Observer) -> anyhow::Result<Option<SearchFile>> {
        if let Some(file) = read_json_if_there(&directory.join(SEARCH))? {
            return Ok(Some(file));
        }
        if directory.join(ARCHITECTURE).exists() && !directory.join(HISTORY).exists() {
            // A search would replace the architecture that somebody trains here.
            return Err(anyhow!("{}: expected a directory of run or search, found one of train", directory.display()));
        }
        let devices = [self.device.clone()];
        let task = Task {
            blueprint: &self.blueprint,
            train: &self.train,
            evaluation: &self.evaluation,
            normalization: &self.normalization,
            budget: self.budget,
            devices: &devices,
        };
        let mut search = Search::new(task, &self.config.search, self.config.seed)?;
        if directory.join("checkpoints").is_dir() {
            search = search.resume(directory)?;
        }
        let Some(found) = search.run(Some(directory), observer)? else { return Ok(None) };
        write_json(&directory.join(ARCHITECTURE), &found.architecture.to_file())?;
        let file = SearchFile { cost: found.cost, uniform_joint: found.uniform_joint.to_file() };
        // Last, because it says that the search is over.
        write_json(&directory.join(SEARCH), &file)?;
        Ok(Some(file))
    }

    /// Trains an architecture from scratch under every seed of the configuration, as far as its directory does not say
    /// how that ended; keeps the weights of the first. Nothing, if interrupted.
    pub fn train(
        &self,
        name: &str,
        architecture: &Architecture,
        directory: &Path,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<Option<TrainingFile>> {
        write_json(&directory.join(ARCHITECTURE), &architecture.to_file())?;
        let path = directory.join(TRAINING);
        let mut file: TrainingFile = read_json_if_there(&path)?.unwrap_or_default();
        for seed in self.config.training_seeds() {
            if file.runs.iter().any(|run| run.seed == seed) {
                continue;
            }
            let begin = Instant::now();
            let network = self.blueprint.network(architecture, seed, &self.device.clone().autodiff())?;
            let phase = format!("train {name}, seed {seed}");
            let trained =
                train(network, &self.data.train, &self.normalization, &self.config.train, seed, &phase, observer);
            let Some(trained) = trained else { return Ok(None) };
            let seconds = begin.elapsed().as_secs_f64();
            let test = evaluate(&trained.model, &self.data.test, &self.normalization, TEST_BATCH, &self.device);
            if file.runs.is_empty() {
                let record = trained.model.into_record().into_bytes();
                let bytes = record.map_err(|error| anyhow!("{}: {error}", directory.join(WEIGHTS).display()))?;
                write(&directory.join(WEIGHTS), &bytes)?;
            }
            let (accuracy, loss, images) = (test.accuracy, test.loss, trained.images);
            file.runs.push(TrainingRun { seed, accuracy, loss, images, seconds });
            write_json(&path, &file)?;
        }
        Ok(Some(file))
    }

    /// The network in a directory: its architecture with its weights.
    pub fn network(&self, directory: &Path) -> anyhow::Result<(Architecture, MobileNetV2)> {
        let architecture = read_architecture(self.blueprint.space(), &directory.join(ARCHITECTURE))?;
        let path = directory.join(WEIGHTS);
        let network = self.blueprint.network(&architecture, self.config.seed, &self.device)?;
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let network = ModuleRecord::from_bytes(burn::tensor::Bytes::from_bytes_vec(bytes))
            .and_then(|record| network.try_load_record(record))
            .map_err(|error| anyhow!("{}: expected weights of {architecture}: {error}", path.display()))?;
        Ok((architecture, network))
    }

    /// Writes a network as ONNX, and runs the file in every runtime on images of the evaluation split.
    pub fn export(&self, architecture: &Architecture, network: &MobileNetV2, path: &Path) -> anyhow::Result<()> {
        let [_, channels, height, width] = self.data.train.shape();
        let forward = |model: &MobileNetV2, images| model.forward(images);
        let model = OnnxExporter::new([2, channels, height, width])
            .with_symbolic_batch(true)
            .with_names("images", "logits")
            .with_metadata("architecture", serde_json::to_string(&architecture.to_file())?)
            .with_metadata("classes", serde_json::to_string(&self.data.class_names)?)
            .with_metadata("normalization", serde_json::to_string(&self.normalization)?)
            .with_doc("Images are bytes / 255, less the mean, over the standard deviation of their channel.")
            .export(network, forward)?;
        model.save(path)?;
        let sizes = [1, 7];
        let references: Vec<_> = sizes
            .iter()
            .flat_map(|&size| batches(&self.evaluation, size).take(21 / size))
            .map(|indices| {
                let images = batch(&self.evaluation, &indices, &self.normalization, None, &self.device).images;
                reference(images.clone(), network.forward(images))
            })
            .collect();
        let report = verify(path, &references, &available(), TOLERANCE);
        match report.entries.iter().find(|entry| !entry.passed) {
            None => Ok(()),
            Some(entry) => Err(anyhow!(
                "{}: {} does not agree with Burn: expected a difference of at most {TOLERANCE} of the largest logit and \
                 the same classes, found {}",
                path.display(),
                entry.runtime,
                match (&entry.error, entry.max_relative_difference, entry.top1_agreement) {
                    (Some(error), ..) => error.clone(),
                    (None, difference, agreement) => format!(
                        "{:e}, and {:.1} % of the classes",
                        difference.unwrap_or(f32::NAN),
                        agreement.unwrap_or(f64::NAN) * 100.0
                    ),
                }
            )),
        }
    }

    /// Exports the trained network of a directory, beside its weights if no other file is named.
    pub fn export_directory(&self, directory: &Path, out: Option<&Path>) -> anyhow::Result<()> {
        let (architecture, network) = self.network(directory)?;
        let beside = directory.join(MODEL);
        self.export(&architecture, &network, out.unwrap_or(&beside))
    }

    /// The backbone at full size with initial weights.
    pub fn untrained_backbone(&self) -> anyhow::Result<(Architecture, MobileNetV2)> {
        let base = self.blueprint.space().base();
        let network = self.blueprint.network(&base, self.config.seed, &self.device)?;
        Ok((base, network))
    }

    /// The architecture that a finished search put into a directory.
    pub fn found(&self, directory: &Path) -> anyhow::Result<Architecture> {
        read_architecture(self.blueprint.space(), &directory.join(ARCHITECTURE))
    }
}
