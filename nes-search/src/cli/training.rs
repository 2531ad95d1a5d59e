//! The trainings of a comparison, and their files.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use burn::module::Module;
use elastic_layers::Architecture;
use nes_search::data::ImageSet;
use nes_search::{AnyBackbone, Checkpoints, Evaluation, Observer, Trained, Trainer, Training, checkpoint, evaluate};
use serde::{Deserialize, Serialize};

use super::directory::{ARCHITECTURE, STATES, TRAINING, WEIGHTS, read_json_if_there, write, write_json};
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

impl Network {
    /// Where the state of a training is kept until its result is.
    fn states(&self, seed: u64) -> PathBuf {
        self.directory.join(STATES).join(seed.to_string())
    }
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
    /// Share of the test images whose class has the largest score; none, if the training diverged.
    pub accuracy: Option<f64>,
    /// Mean cross-entropy on the test images; none, if it is not finite.
    pub loss: Option<f64>,
    /// Training images processed.
    pub images: u64,
    /// What is wrong with the network, such as "diverged at step 12" or "at chance".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl TrainingRun {
    /// A training that ended at a loss that was not finite.
    fn diverged(seed: u64, images: u64, step: usize) -> Self {
        Self { seed, accuracy: None, loss: None, images, problem: Some(format!("diverged at step {step}")) }
    }

    /// A training to the end, with what its network is worth on test images.
    fn evaluated(seed: u64, images: u64, Evaluation { accuracy, loss }: Evaluation, test: &ImageSet) -> Self {
        let problem = match loss.is_finite() {
            false => Some("loss not finite".to_owned()),
            true => at_chance(accuracy, test).then(|| "at chance".to_owned()),
        };
        Self { seed, accuracy: Some(accuracy), loss: loss.is_finite().then_some(loss), images, problem }
    }

    /// Whether the network is of use.
    pub fn failed(&self) -> bool {
        self.loss.is_none()
    }

    /// The result in words.
    pub fn line(&self) -> String {
        let accuracy = self.accuracy.map(|accuracy| format!("test accuracy {:.2} %", accuracy * 100.0));
        let loss = self.loss.map(|loss| format!("loss {loss:.4}"));
        let parts: Vec<String> = accuracy.into_iter().chain(loss).chain(self.problem.clone()).collect();
        format!("seed {}: {}\n", self.seed, parts.join(", "))
    }
}

/// Whether an accuracy is less than two standard deviations above that of always saying the most frequent class.
fn at_chance(accuracy: f64, test: &ImageSet) -> bool {
    let images = test.len() as f64;
    let chance = test.class_sizes().into_iter().max().unwrap_or(0) as f64 / images;
    accuracy <= chance + 2.0 * (chance * (1.0 - chance) / images).sqrt()
}

/// What an interrupted command keeps of trainings that are not over, in words.
pub fn kept(networks: &[Network]) -> anyhow::Result<String> {
    let mut parts = Vec::new();
    for network in networks {
        let states = network.directory.join(STATES);
        let entries = fs::read_dir(&states).into_iter().flatten().flatten();
        for entry in entries {
            if let Some(step) = checkpoint::steps_in(&entry.path())?.into_iter().max() {
                parts.push(format!("{}, seed {}, {step} steps", network.name, entry.file_name().to_string_lossy()));
            }
        }
    }
    parts.sort();
    Ok(if parts.is_empty() { "no training was begun".into() } else { parts.join("; ") })
}

impl Job {
    /// Trains networks from scratch under every seed of the configuration, as far as their directories do not say how
    /// that ended; keeps the weights of the first seed. Equal architectures are trained once. Returns `None` if
    /// interrupted.
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
            for run in &file.runs {
                // As of a process that was killed before it could.
                remove_states(network, run.seed)?;
            }
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
        let every = Duration::from_secs_f64(self.config.search.checkpoint_seconds);
        let states = |training: usize| networks[places[training]].states(trainings[training].seed);
        let checkpoints = |training| Checkpoints { directory: states(training), every };
        let finished = trainer.train_all_kept("train", &trainings, &checkpoints, observer, |training, trained| {
            let network = &networks[places[training]];
            let run = self.concluded(network, trainings[training].seed, trained)?;
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            let file = &mut files[places[training]];
            file.runs.push(run);
            file.runs.sort_by_key(|run| run.seed);
            write_json(&network.directory.join(TRAINING), file)?;
            remove_states(network, trainings[training].seed)
        })?;
        if finished.is_none() {
            return Ok(None);
        }
        let mut files = files.into_inner().unwrap_or_else(PoisonError::into_inner);
        copy_equal(networks, &mut files)?;
        Ok(Some(files))
    }

    /// Keeps what a training came to, and then evaluates it.
    fn concluded(&self, network: &Network, seed: u64, trained: Trained<AnyBackbone>) -> anyhow::Result<TrainingRun> {
        let Trained { model, images, diverged, .. } = trained;
        if let Some(step) = diverged {
            return Ok(TrainingRun::diverged(seed, images, step));
        }
        if seed == self.config.seed {
            let path = network.directory.join(WEIGHTS);
            let record = model.clone().into_record().into_bytes();
            write(&path, &record.map_err(|error| anyhow!("{}: {error}", path.display()))?)?;
        }
        let device = &self.devices[0];
        let test = evaluate(&model, &self.data.test, &self.normalization, TEST_BATCH, device)?;
        Ok(TrainingRun::evaluated(seed, images, test, &self.data.test))
    }
}

/// Removes the state of a training whose result is written.
fn remove_states(network: &Network, seed: u64) -> anyhow::Result<()> {
    let states = network.states(seed);
    match fs::remove_dir_all(&states) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context(states.display().to_string()),
        _ => {}
    }
    // It holds the states of other seeds, or is not there.
    let _ = fs::remove_dir(network.directory.join(STATES));
    Ok(())
}

/// Gives every network the files of the first one with the same architecture.
fn copy_equal(networks: &[Network], files: &mut [TrainingFile]) -> anyhow::Result<()> {
    for (index, network) in networks.iter().enumerate() {
        let first = first_like(networks, index);
        if first != index {
            let weights = networks[first].directory.join(WEIGHTS);
            // A training that diverged has none.
            if weights.try_exists().with_context(|| weights.display().to_string())? {
                let bytes = fs::read(&weights).with_context(|| weights.display().to_string())?;
                write(&network.directory.join(WEIGHTS), &bytes)?;
            }
            files[index] = files[first].clone();
            write_json(&network.directory.join(TRAINING), &files[index])?;
        }
    }
    Ok(())
}

/// The first network with the architecture of another.
fn first_like(networks: &[Network], index: usize) -> usize {
    let same = |network: &Network| network.architecture == networks[index].architecture;
    networks.iter().position(same).unwrap_or(index)
}
