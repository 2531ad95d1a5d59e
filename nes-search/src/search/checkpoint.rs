//! All that a search needs to go on, bit for bit.
//!
//! A checkpoint is a directory `checkpoints/<steps>` of the run directory. It is written beside and renamed, and its
//! predecessor is removed after that, so that there is a whole one at any time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use elastic_layers::ArchitectureFile;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::surface::Surface;
use super::{SearchSettings, Trial};
use crate::data::EpochSampler;
use crate::params::ArchParams;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is none.
    #[error("{0}: expected a checkpoint of a search in it (checkpoints/<steps>), found none")]
    Missing(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A file is damaged, or belongs to something else.
    #[error("{path}: expected {expected}, found {found}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What it has to hold.
        expected: String,
        /// What it holds.
        found: String,
    },
}

impl CheckpointError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.into(), source }
    }

    fn content(path: &Path, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Content { path: path.into(), expected: expected.into(), found: found.to_string() }
    }
}

/// What a checkpoint belongs to. A search with another one cannot go on from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub seed: u64,
    pub space: String,
    /// What is limited, and to how much: the budget first.
    pub limits: Vec<(String, f64)>,
    pub training_images: usize,
    pub evaluation_images: usize,
    pub settings: SearchSettings,
}

/// Where a search is: all of its state but weights, H and optimizers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Steps done.
    pub step: usize,
    pub training_order: EpochSampler,
    pub evaluation_order: EpochSampler,
    pub augmentation: ChaCha8Rng,
    pub views: ChaCha8Rng,
    pub perturbations: ChaCha8Rng,
    /// The best uniform rescaling of channels and resolution, once it is known.
    pub uniform_joint: Option<ArchitectureFile>,
    /// Where H started, if that was found by the search.
    pub start: Option<ArchitectureFile>,
    /// Trials so far.
    pub trials: Vec<Trial>,
    /// What the trials correct the shared weights' losses by, in this outer iteration.
    pub correction: Option<Surface>,
    /// Running mean of the training loss.
    pub training_loss: f64,
    pub images: u64,
    pub evaluations: u64,
    pub seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: String,
    version: u32,
    identity: Identity,
    position: Position,
    /// The hash of every other file.
    hashes: BTreeMap<String, String>,
}

const FORMAT: &str = "nes-search/checkpoint";
const VERSION: u32 = 6;
const STATE: &str = "state.json";
const SUPERNET: &str = "supernet.bpk";
const WEIGHT_OPTIMIZER: &str = "weight-optimizer.bpk";
const PARAMS: &str = "params.bpk";
const NES_OPTIMIZER: &str = "nes-optimizer.bpk";

/// The state of a search.
pub(super) struct State<M> {
    pub supernet: M,
    pub weight_optimizer: ModuleOptimizer,
    pub params: ArchParams,
    pub nes_optimizer: ModuleOptimizer,
    pub position: Position,
}

impl<M: Module> State<M> {
    /// Writes a checkpoint into a run directory, and removes the one before.
    pub(super) fn save(&self, identity: &Identity, directory: &Path) -> Result<PathBuf, CheckpointError> {
        let parent = directory.join("checkpoints");
        fs::create_dir_all(&parent).map_err(CheckpointError::file(&parent))?;
        let path = parent.join(format!("{:08}", self.position.step));
        let earlier = existing(&parent)?;
        if earlier.contains(&path) {
            // The same steps of the same search: what this one was resumed from.
            return Ok(path);
        }
        let temporary =
            tempfile::Builder::new().prefix(".writing-").tempdir_in(&parent).map_err(CheckpointError::file(&parent))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = temporary.path().join(name);
            fs::write(&path, bytes).map_err(CheckpointError::file(&path))
        };
        let unwritable = |name: &str, error: String| {
            CheckpointError::content(&path.join(name), "a record that can be written", error)
        };
        let modules = [
            (SUPERNET, self.supernet.valid().into_record().into_bytes()),
            (PARAMS, self.params.valid().into_record().into_bytes()),
        ];
        let optimizers = [(WEIGHT_OPTIMIZER, &self.weight_optimizer), (NES_OPTIMIZER, &self.nes_optimizer)];
        let records = modules
            .map(|(name, bytes)| (name, bytes.map_err(|error| error.to_string())))
            .into_iter()
            .chain(optimizers.map(|(name, optimizer)| {
                (name, optimizer.to_record().into_bytes().map_err(|error| error.to_string()))
            }));
        let mut hashes = BTreeMap::new();
        for (name, bytes) in records {
            let bytes = bytes.map_err(|error| unwritable(name, error))?;
            write(name, &bytes)?;
            hashes.insert(name.to_string(), blake3::hash(&bytes).to_string());
        }
        let state = StateFile {
            format: FORMAT.into(),
            version: VERSION,
            identity: identity.clone(),
            position: self.position.clone(),
            hashes,
        };
        let state = serde_json::to_vec(&state).map_err(|error| unwritable(STATE, error.to_string()))?;
        write(STATE, &state)?;
        fs::rename(temporary.keep(), &path).map_err(CheckpointError::file(&path))?;
        for earlier in earlier {
            fs::remove_dir_all(&earlier).map_err(CheckpointError::file(&earlier))?;
        }
        Ok(path)
    }

    /// Brings a state to where the newest checkpoint of a run directory was written.
    pub(super) fn load(self, identity: &Identity, directory: &Path) -> Result<Self, CheckpointError> {
        let parent = directory.join("checkpoints");
        let newest = existing(&parent)?.into_iter().max();
        let path = newest.ok_or_else(|| CheckpointError::Missing(directory.into()))?;
        let StateFile { position, hashes, .. } = read_state(&path.join(STATE), identity)?;
        let record = |name: &str| {
            let path = path.join(name);
            let bytes = fs::read(&path).map_err(CheckpointError::file(&path))?;
            let found = blake3::hash(&bytes).to_string();
            match hashes.get(name) {
                Some(expected) if *expected == found => Ok((path, Bytes::from_bytes_vec(bytes))),
                expected => {
                    let expected = expected.map_or("no such file", String::as_str);
                    Err(CheckpointError::content(&path, format!("a file of the hash {expected}"), found))
                }
            }
        };
        Ok(Self {
            supernet: load_module(self.supernet, record(SUPERNET)?)?,
            weight_optimizer: load_optimizer(self.weight_optimizer, record(WEIGHT_OPTIMIZER)?)?,
            params: load_module(self.params, record(PARAMS)?)?,
            nes_optimizer: load_optimizer(self.nes_optimizer, record(NES_OPTIMIZER)?)?,
            position,
        })
    }
}

/// The whole checkpoints below a directory.
fn existing(parent: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(CheckpointError::file(parent))?,
    };
    let mut checkpoints = Vec::new();
    for entry in entries {
        let entry = entry.map_err(CheckpointError::file(parent))?;
        if entry.file_name().to_str().is_some_and(|name| name.len() == 8 && name.parse::<u64>().is_ok()) {
            checkpoints.push(entry.path());
        }
    }
    Ok(checkpoints)
}

fn read_state(path: &Path, expected: &Identity) -> Result<StateFile, CheckpointError> {
    #[derive(Deserialize)]
    struct Version {
        format: String,
        version: u32,
    }

    let text = fs::read_to_string(path).map_err(CheckpointError::file(path))?;
    let damaged = |error| CheckpointError::content(path, "the state of a search", error);
    let Version { format, version } = serde_json::from_str(&text).map_err(damaged)?;
    if (format.as_str(), version) != (FORMAT, VERSION) {
        return Err(CheckpointError::content(
            path,
            format!("{FORMAT} version {VERSION}"),
            format!("{format} {version}"),
        ));
    }
    let state: StateFile = serde_json::from_str(&text).map_err(damaged)?;
    if state.identity != *expected {
        let show = |identity: &Identity| serde_json::to_string(identity).unwrap_or_default();
        return Err(CheckpointError::content(path, format!("a search of {}", show(expected)), show(&state.identity)));
    }
    if state.position.step > expected.settings.total_steps() {
        let steps = expected.settings.total_steps();
        return Err(CheckpointError::content(path, format!("at most {steps} steps"), state.position.step));
    }
    Ok(state)
}

fn load_module<M: Module>(module: M, (path, bytes): (PathBuf, Bytes)) -> Result<M, CheckpointError> {
    ModuleRecord::from_bytes(bytes)
        .and_then(|record| module.try_load_record(record))
        .map_err(|error| CheckpointError::content(&path, "the record of such a module", error))
}

fn load_optimizer(
    optimizer: ModuleOptimizer,
    (path, bytes): (PathBuf, Bytes),
) -> Result<ModuleOptimizer, CheckpointError> {
    let record = OptimizerRecord::from_bytes(bytes)
        .map_err(|error| CheckpointError::content(&path, "the record of an optimizer", error))?;
    Ok(optimizer.load_record(record))
}
