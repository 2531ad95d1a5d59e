//! The trials that have been made, on the disk as soon as each is over: an interruption takes only those at work.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use elastic_layers::Backbone;
use serde::{Deserialize, Serialize};

use super::checkpoint::{CheckpointError, Identity};
use super::sealed::Kind;
use super::{Search, Trial};
use crate::observer::Observer;

/// The file of a run directory.
const TRIALS: &str = "trials.json";
const KIND: Kind = Kind { format: "nes-search/trials", version: 1 };

/// A trial that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Made {
    pub trial: Trial,
    /// Training images processed.
    pub images: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    identity: Identity,
    /// What the search had taken when the last of them was over.
    seconds: f64,
    made: Vec<Made>,
}

/// All trials that are over, those among them that no checkpoint knows yet. It decides nothing: a trial comes to the same
/// whenever it is made.
#[derive(Debug, Default)]
pub(super) struct TrialLog {
    file: Option<(PathBuf, Mutex<Content>)>,
}

impl TrialLog {
    /// The trials that have been made.
    pub(super) fn made(&self) -> Vec<Made> {
        self.file.as_ref().map_or_else(Vec::new, |(_, content)| lock(content).made.clone())
    }

    /// Adds one to the file.
    pub(super) fn add(&self, made: Made, seconds: f64) -> Result<(), CheckpointError> {
        let Some((path, content)) = &self.file else { return Ok(()) };
        let mut content = lock(content);
        content.made.push(made);
        content.seconds = seconds;
        KIND.write(path, &*content)
    }
}

impl<M: Backbone + 'static> Search<'_, M> {
    /// Reads what a run directory has. A damaged file, and one of another search, costs the trials in it, and a warning.
    pub(super) fn open_trial_log(
        &mut self,
        directory: &Path,
        observer: &mut dyn Observer,
    ) -> Result<(), CheckpointError> {
        let path = directory.join(TRIALS);
        let mut content = Content { identity: self.identity.clone(), seconds: 0.0, made: Vec::new() };
        if path.try_exists().map_err(CheckpointError::file(&path))? {
            let read = KIND.read::<Content>(&path);
            match read.and_then(|found| content.identity.check(&found.identity, &path).map(|()| found)) {
                Ok(found) => content = found,
                Err(error) => observer.warning(&format!("{error}; these trials are made again")),
            }
        }
        self.state.position.seconds = self.state.position.seconds.max(content.seconds);
        self.trial_log.file = Some((path, Mutex::new(content)));
        Ok(())
    }
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}
