//! The trainings of a comparison, and their files.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, anyhow};
use burn::module::Module;
use elastic_layers::Architecture;
use nes_search::{Observer, Trainer, Training, evaluate};
use serde::{Deserialize, Serialize};

use super::directory::{ARCHITECTURE, TRAINING, WEIGHTS, read_json_if_there, write, write_json};
use super::job::Job;

/// Images in a batch of the final evaluation.
const TEST_BATCH: usize = 250;

/// A network to train, and where its files go.
#[derive(Clone, Debug)]
pub struct Network {
    pub name: &'static str,
    pub architecture: Architecture,
    pub directory: PathBuf,
}

/// The file of a network's trainings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
}

impl Job {
    /// Trains networks from scratch under every seed of the configuration, as far as their directories do not say how
    /// that ended; keeps the weights of the first seed. Equal architectures are trained once. Nothing, if interrupted.
    pub fn train(
        &self,
        networks: &[Network],
        observer: &mut (dyn Observer + Send),
    ) -> anyhow::Result<Option<Vec<TrainingFile>>> {
        let (mut files, mut trainings, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (index, network) in networks.iter().enumerate() {
            write_json(&network.directory.join(ARCHITECTURE), &network.architecture)?;
            let file: TrainingFile = read_json_if_there(&network.directory.join(TRAINING))?.unwrap_or_default();
            let done = |seed: &u64| file.runs.iter().any(|run| run.seed == *seed);
            let missing =
                self.config.training_seeds().filter(|seed| first_like(networks, index) == index && !done(seed));
            for seed in missing {
                let name = format!("{}, seed {seed}", network.name);
                trainings.push(Training { name, architecture: network.architecture.clone(), seed });
                places.push(index);
            }
            files.push(file);
        }
        let files = Mutex::new(files);
        let trainer = Trainer {
            blueprint: &self.blueprint,
            set: &self.data.train,
            normalization: &self.normalization,
            settings: &self.config.train,
            devices: &self.devices,
        };
        let finished = trainer.train_all("train", &trainings, observer, |training, trained| {
            let (network, seed) = (&networks[places[training]], trainings[training].seed);
            let device = &self.devices[0];
            let test = evaluate(&trained.model, &self.data.test, &self.normalization, TEST_BATCH, device)?;
            if seed == self.config.seed {
                let path = network.directory.join(WEIGHTS);
                let record = trained.model.into_record().into_bytes();
                write(&path, &record.map_err(|error| anyhow!("{}: {error}", path.display()))?)?;
            }
            let run = TrainingRun { seed, accuracy: test.accuracy, loss: test.loss, images: trained.images };
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            let file = &mut files[places[training]];
            file.runs.push(run);
            file.runs.sort_by_key(|run| run.seed);
            write_json(&network.directory.join(TRAINING), file)
        })?;
        if finished.is_none() {
            return Ok(None);
        }
        let mut files = files.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (index, network) in networks.iter().enumerate() {
            let first = first_like(networks, index);
            if first != index {
                let weights = networks[first].directory.join(WEIGHTS);
                let bytes = fs::read(&weights).with_context(|| weights.display().to_string())?;
                write(&network.directory.join(WEIGHTS), &bytes)?;
                files[index] = files[first].clone();
                write_json(&network.directory.join(TRAINING), &files[index])?;
            }
        }
        Ok(Some(files))
    }
}

/// The first network with the architecture of another.
fn first_like(networks: &[Network], index: usize) -> usize {
    let same = |network: &Network| network.architecture == networks[index].architecture;
    networks.iter().position(same).unwrap_or(index)
}
