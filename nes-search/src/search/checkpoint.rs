//! All that a search needs to go on, bit for bit.
//!
//! A checkpoint is a directory `checkpoints/<steps>` of the run directory. The last two are kept: should the newest be
//! damaged, the one before it is whole.

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
use serde_json::Value;

use super::history::Mark;
use super::sealed::Kind;
use super::surface::Surface;
use super::{SearchSettings, SharedAccuracy, Trial};
use crate::data::{EpochSampler, Normalization};
use crate::files;
use crate::observer::Observer;
use crate::projection::Projection;
use crate::searchers::{NesSettings, Saved, Searcher};

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
    /// A file is of another version of its format.
    #[error(
        "{path}: expected version {expected}, found version {found}; a search goes on only in the version of nes-search \
         that it began with, because others take other steps"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What is read and written.
        expected: u32,
        /// What it is.
        found: u32,
    },
    /// Neither the newest checkpoint can be used, nor one before it.
    #[error("{newest}; the checkpoint before it cannot be used either: {earlier}")]
    All {
        /// What is wrong with the newest.
        newest: Box<Self>,
        /// What is wrong with the one before it.
        earlier: Box<Self>,
    },
}

impl CheckpointError {
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.into(), source }
    }

    pub(super) fn content(path: &Path, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Content { path: path.into(), expected: expected.into(), found: found.to_string() }
    }

    /// What was expected and found, wherever.
    fn reason(&self) -> Option<(String, String)> {
        match self {
            Self::Content { expected, found, .. } => Some((expected.clone(), found.clone())),
            Self::Version { expected, found, .. } => Some((expected.to_string(), found.to_string())),
            Self::Missing(_) | Self::File { .. } | Self::All { .. } => None,
        }
    }

    pub(super) fn unwritable(path: &Path, error: impl ToString) -> Self {
        Self::content(path, "a record that can be written", error)
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
    /// Of the training images, which it tells from others.
    pub normalization: Normalization,
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
    /// The best uniform rescaling of channels and resolution, once it is known.
    pub uniform_joint: Option<ArchitectureFile>,
    /// Where H started, if that was found by the search.
    pub start: Option<ArchitectureFile>,
    /// Views that the searcher asked for.
    pub asked: usize,
    /// Trials so far.
    pub trials: Vec<Trial>,
    /// What the trials correct the shared weights' losses by, in this outer iteration.
    pub correction: Option<Surface>,
    /// What the shared weights got right before H moved.
    pub accuracy_at_start: Option<SharedAccuracy>,
    /// Running mean of the training loss.
    pub training_loss: f64,
    pub images: u64,
    pub evaluations: u64,
    pub seconds: f64,
    /// How long the history is.
    pub history: Mark,
}

/// The content of a checkpoint's `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    identity: Identity,
    position: Position,
    searcher: Saved,
    /// The hash of every other file.
    blake3: BTreeMap<String, String>,
}

const KIND: Kind = Kind { format: "nes-search/checkpoint", version: 9 };
const STATE: &str = "state.json";
const SUPERNET: &str = "supernet.bpk";
const WEIGHT_OPTIMIZER: &str = "weight-optimizer.bpk";

/// The state of a search.
pub(super) struct State<M> {
    pub supernet: M,
    pub weight_optimizer: ModuleOptimizer,
    pub searcher: Box<dyn Searcher>,
    pub position: Position,
    /// The checkpoint that it was loaded from or last written to.
    pub saved: Option<PathBuf>,
}

impl<M: Module> State<M> {
    /// Writes a checkpoint into a run directory. It and the one before are kept.
    pub(super) fn save(&mut self, identity: &Identity, directory: &Path) -> Result<(), CheckpointError> {
        let parent = directory.join("checkpoints");
        fs::create_dir_all(&parent).map_err(CheckpointError::file(&parent))?;
        let path = parent.join(format!("{:08}", self.position.step));
        if self.saved.as_ref() == Some(&path) {
            // The same steps of the same search: what this one was resumed from.
            return Ok(());
        }
        let files = self.files(identity, &path)?;
        let remove = |path: &Path| files::remove_directory(path).map_err(CheckpointError::file(path));
        if path.exists() {
            // One that was refused.
            remove(&path)?;
        }
        files::write_directory(&path, &files).map_err(CheckpointError::file(&path))?;
        files::sync_directory(directory).map_err(CheckpointError::file(directory))?;
        for earlier in existing(&parent)? {
            if earlier != path && Some(&earlier) != self.saved.as_ref() {
                remove(&earlier)?;
            }
        }
        files::remove_unfinished(&parent).map_err(CheckpointError::file(&parent))?;
        self.saved = Some(path);
        Ok(())
    }

    /// The files of a checkpoint.
    fn files(&self, identity: &Identity, path: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, CheckpointError> {
        let records = [
            (SUPERNET, self.supernet.valid().into_record().into_bytes().map_err(|error| error.to_string())),
            (WEIGHT_OPTIMIZER, self.weight_optimizer.to_record().into_bytes().map_err(|error| error.to_string())),
        ];
        let mut files = Vec::with_capacity(records.len() + 1);
        let mut blake3 = BTreeMap::new();
        for (name, bytes) in records {
            let bytes = bytes.map_err(|error| CheckpointError::unwritable(&path.join(name), error))?;
            blake3.insert(name.to_string(), blake3::hash(&bytes).to_string());
            files.push((name, bytes.to_vec()));
        }
        let searcher = self.searcher.saved().map_err(|error| CheckpointError::unwritable(&path.join(STATE), error))?;
        let state = StateFile { identity: identity.clone(), position: self.position.clone(), searcher, blake3 };
        let state = KIND.seal(state).map_err(|error| CheckpointError::unwritable(&path.join(STATE), error))?;
        files.push((STATE, state));
        Ok(files)
    }

    /// Brings a state to where the newest good checkpoint of a run directory was written. The observer is told of one
    /// that is not.
    pub(super) fn load(
        self,
        identity: &Identity,
        directory: &Path,
        settings: &NesSettings,
        projection: &Projection<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Self, CheckpointError> {
        let mut paths = existing(&directory.join("checkpoints"))?;
        paths.sort();
        let mut refused: Option<CheckpointError> = None;
        for path in paths.into_iter().rev() {
            match self.read(identity, directory, &path, settings, projection) {
                Ok(state) => {
                    if let Some(newest) = refused {
                        observer.warning(&format!("{newest}; going on from {}", path.display()));
                    }
                    return Ok(state);
                }
                Err(earlier) => {
                    refused = Some(match refused {
                        None => earlier,
                        Some(newest) if newest.reason().is_some() && newest.reason() == earlier.reason() => newest,
                        Some(newest) => CheckpointError::All { newest: Box::new(newest), earlier: Box::new(earlier) },
                    });
                }
            }
        }
        Err(refused.unwrap_or_else(|| CheckpointError::Missing(directory.into())))
    }

    fn read(
        &self,
        identity: &Identity,
        directory: &Path,
        path: &Path,
        settings: &NesSettings,
        projection: &Projection<'_>,
    ) -> Result<Self, CheckpointError> {
        let StateFile { position, searcher, blake3, .. } = read_state(&path.join(STATE), identity)?;
        let record = |name: &str| {
            let path = path.join(name);
            let bytes = fs::read(&path).map_err(CheckpointError::file(&path))?;
            let found = blake3::hash(&bytes).to_string();
            match blake3.get(name) {
                Some(expected) if *expected == found => Ok((path, Bytes::from_bytes_vec(bytes))),
                expected => {
                    let expected = expected.map_or("no such file", String::as_str);
                    Err(CheckpointError::content(&path, format!("a file of the hash {expected}"), found))
                }
            }
        };
        let state = Self {
            supernet: load_module(self.supernet.clone(), record(SUPERNET)?)?,
            weight_optimizer: load_optimizer(self.weight_optimizer.clone(), record(WEIGHT_OPTIMIZER)?)?,
            searcher: searcher
                .restore(settings, projection)
                .map_err(|error| CheckpointError::content(&path.join(STATE), "the state of the searcher", error))?,
            position,
            saved: Some(path.into()),
        };
        state.position.history.check(directory)?;
        Ok(state)
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
    let state: StateFile = KIND.read(path)?;
    expected.check(&state.identity, path)?;
    let steps = expected.settings.last_sure_step();
    if expected.settings.searcher.is_joint() && state.position.step > steps {
        return Err(CheckpointError::content(path, format!("at most {steps} steps"), state.position.step));
    }
    Ok(state)
}

impl Identity {
    /// Refuses the file of another search, and says in what that differs.
    pub(super) fn check(&self, found: &Self, path: &Path) -> Result<(), CheckpointError> {
        if found == self {
            return Ok(());
        }
        let value = |identity: &Self| serde_json::to_value(identity).unwrap_or_default();
        let (mut expected, mut others) = (Vec::new(), Vec::new());
        differences("", &value(self), &value(found), &mut expected, &mut others);
        Err(CheckpointError::content(path, format!("a search with {}", expected.join(", ")), others.join(", ")))
    }
}

/// Names and values of the fields in which two values differ.
fn differences(name: &str, one: &Value, other: &Value, of_one: &mut Vec<String>, of_other: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                let [one, other] = [one, other].map(|fields| fields.get(key).unwrap_or(&Value::Null));
                differences(&name, one, other, of_one, of_other);
            }
        }
        _ if one != other => {
            of_one.push(format!("{name} {one}"));
            of_other.push(format!("{name} {other}"));
        }
        _ => {}
    }
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
