//! One cell: an architecture, found and trained under one seed.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use burn::tensor::Device;
use elastic_layers::{Architecture, SearchSpace};
use nes_search::data::{ImageData, Normalization};
use nes_search::{Blueprint, Config, Preset, Search, Task, evaluate, train};
use serde::{Deserialize, Serialize};

use super::plan::{DataName, Row, Table};

/// Which network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub table: u8,
    pub data: DataName,
    /// Share of the backbone's MACs.
    pub budget: f64,
    pub row: Row,
    /// Of the search and of the training.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub cell: Cell,
    pub architecture: Architecture,
    pub macs: u64,
    /// Share of the test images classified rightly.
    pub accuracy: f64,
    /// Cross-entropy on the test images.
    pub loss: f64,
    /// MACs of the search over those of training the backbone.
    pub search_macs: f64,
    /// Seconds of the search, and of the training.
    pub search_seconds: f64,
    pub training_seconds: f64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, budget, row, seed, .. } = self;
        write!(f, "{data}, {budget} of the MACs, {row}, seed {seed}")
    }
}

impl Cell {
    fn config(&self) -> anyhow::Result<Config> {
        let table = match self.table {
            1 => Table::MobileNetV1,
            2 => Table::MobileNetV2,
            _ => Table::ResNet,
        };
        let text = format!(
            "budget = \"{}\"\nevaluation_per_class = {}\n[train]\nepochs = {}\n[search]\ntrial_length = {}\n[backbone]\n{}",
            self.budget,
            self.data.evaluation_per_class(),
            self.data.epochs(),
            // A pass over the images: what trains faster by then trains better in the end.
            1.0 / self.data.epochs(),
            table.backbone()
        );
        let mut config = Config::from_toml(Preset::Laptop, &text).context("the configuration of a cell")?;
        config.search.searcher = self.row.searcher();
        config.search.dimensions = self.row.kinds().to_vec();
        if !self.row.has_trials() {
            config.search.trials = 0.0;
        }
        Ok(config)
    }

    /// Finds and trains the network.
    pub fn compute(&self, folder: &Path) -> anyhow::Result<Outcome> {
        let config = self.config()?;
        let data = ImageData::open(folder, None)?;
        let [_, channels, height, width] = data.train.shape();
        let (backbone, classes, image) = (config.backbone.clone(), data.class_names.len(), [channels, height, width]);
        let build = move |space: &mut SearchSpace, device: &Device| backbone.init(image, classes, space, device);
        let blueprint = Blueprint::new(image, build)?;
        let limits = blueprint.limits(config.budget, &[])?;
        let normalization = Normalization::of(&data.train)?;
        let (train_set, evaluation) = data.train.split_per_class(config.evaluation_per_class, self.seed)?;
        let devices = [Device::default()];
        let task = Task {
            blueprint: &blueprint,
            train: &train_set,
            evaluation: &evaluation,
            normalization: &normalization,
            limits: &limits,
            recipe: &config.train,
            devices: &devices,
        };
        let found =
            Search::new(task, &config.search, self.seed)?.run(None, &mut ())?.context("nothing interrupts it")?;
        // What has to be chosen by short trainings is the pair of the surface; no walk improves it.
        let architecture = if self.row == Row::UniformJoint { found.uniform_joint } else { found.architecture };
        let begin = Instant::now();
        let network = blueprint.network(&architecture, self.seed, &devices[0].clone().autodiff())?;
        let trained = train(network, &data.train, &normalization, &config.train, self.seed, "train", &mut ())?;
        let model = trained.context("nothing interrupts it")?.model;
        let training_seconds = begin.elapsed().as_secs_f64();
        let test = evaluate(&model, &data.test, &normalization, 250, &devices[0])?;
        Ok(Outcome {
            cell: self.clone(),
            macs: blueprint.cost().cost(&architecture)?.macs.0,
            architecture,
            accuracy: test.accuracy,
            loss: test.loss,
            search_macs: found.cost.macs as f64 / task.training_macs()? as f64,
            search_seconds: found.cost.seconds,
            training_seconds,
        })
    }
}
