//! The state of a search, and its checkpoints.

use std::path::Path;

use burn::module::Module;
use elastic_layers::Architecture;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::history::Mark;
use super::phase::{Phase, Trial};
use super::weights::Weights;
use super::{SearchCost, SearchError, SearchSettings, SharedAccuracy, Task};
use crate::checkpoint::{
    self, CheckpointError, Files, check_identity, load_module, load_optimizer, module_bytes, optimizer_bytes, take,
};
use crate::data::{EpochSampler, Normalization};
use crate::observer::Observer;
use crate::train::TrainSettings;

const KIND: &str = "search 1";
const CHECKPOINTS: &str = "checkpoints";
const SUPERNET: &str = "supernet.bpk";
const OPTIMIZER: &str = "weight-optimizer.bpk";

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
    pub recipe: TrainSettings,
}

impl Identity {
    pub fn new<M: elastic_layers::Backbone + 'static>(
        task: &Task<'_, M>,
        settings: &SearchSettings,
        seed: u64,
    ) -> Self {
        Self {
            seed,
            space: task.blueprint.space().hash(),
            limits: task.limits.named(),
            training_images: task.train.len(),
            evaluation_images: task.evaluation.len(),
            normalization: task.normalization.clone(),
            settings: settings.without_checkpoints(),
            recipe: task.recipe.clone(),
        }
    }
}

/// The random streams and orders that steps draw from.
#[derive(Serialize, Deserialize)]
pub(super) struct Streams {
    pub training_order: EpochSampler,
    pub evaluation_order: EpochSampler,
    pub augmentation: ChaCha8Rng,
    pub views: ChaCha8Rng,
}

/// All of a search but the shared weights and their optimizer.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    pub phase: Phase,
    /// Steps that are done.
    pub steps: usize,
    pub streams: Streams,
    /// Where H starts.
    pub start: Architecture,
    pub uniform_joint: Option<Architecture>,
    pub found: Option<Architecture>,
    pub accuracy: Option<SharedAccuracy>,
    pub trials: Vec<Trial>,
    /// Running mean of the training loss.
    pub training_loss: f64,
    pub cost: SearchCost,
    /// How long the history is.
    pub history: Mark,
}

#[derive(Serialize)]
struct WrittenState<'a> {
    identity: &'a Identity,
    state: &'a State,
}

#[derive(Deserialize)]
struct ReadState {
    identity: Identity,
    state: State,
}

/// Writes a checkpoint into a run directory.
pub(super) fn write<M: Module>(
    state: &State,
    weights: &Weights<M>,
    identity: &Identity,
    directory: &Path,
) -> Result<(), CheckpointError> {
    let parent = directory.join(CHECKPOINTS);
    let files = Files::from([
        (SUPERNET.into(), module_bytes(weights.supernet(), &parent)?),
        (OPTIMIZER.into(), optimizer_bytes(&weights.optimizer, &parent)?),
    ]);
    checkpoint::write(&parent, state.steps, KIND, &WrittenState { identity, state }, files)
}

/// The state and the weights of the newest good checkpoint of a run directory, if there is any. `weights` gives their form.
pub(super) fn read<M: Module>(
    weights: &Weights<M>,
    identity: &Identity,
    directory: &Path,
    observer: &mut dyn Observer,
) -> Result<Option<(State, Weights<M>)>, SearchError> {
    let accept = |path: &Path, ReadState { identity: found, state }: ReadState, mut files: Files| {
        check_identity(identity, &found, path)?;
        state.history.check(directory)?;
        let supernet = load_module(weights.supernet().clone(), take(&mut files, SUPERNET, path)?, path)?;
        let optimizer = load_optimizer(weights.optimizer.clone(), take(&mut files, OPTIMIZER, path)?, path)?;
        Ok((state, Weights::new(supernet, optimizer)))
    };
    let parent = directory.join(CHECKPOINTS);
    Ok(checkpoint::read_latest(&parent, KIND, accept, &mut |warning| observer.warning(warning))?)
}
