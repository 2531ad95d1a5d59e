//! The search history: one record for each round of the searcher, as JSON Lines.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use elastic_layers::{Architecture, Macs};
use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointError;
use crate::nes::NesStep;

/// One round of the searcher: for NES, an iteration. Two runs with the same seed have the same records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Iteration {
    /// Counted from 1.
    pub iteration: usize,
    /// Share of the searcher's allowance that was spent before the round.
    pub done: f64,
    /// The budget in the round over the final one.
    pub budget: f64,
    /// H before the round, in steps above each dimension's smallest value; of other searchers, the centre of the best.
    pub h: Vec<f64>,
    /// H's architecture: each dimension rounded down.
    pub architecture: Architecture,
    /// MACs of that architecture.
    pub macs: Macs,
    /// Its share of the final budget, R / R_t.
    pub ratio: f64,
    /// Mean of the candidates' losses; nothing, if none was finite.
    pub loss: Option<f64>,
    /// Losses of the candidates; nothing for one that was not finite.
    pub losses: Vec<Option<f64>>,
    /// The step of H, by NES.
    #[serde(flatten)]
    pub step: Option<NesStep>,
    /// MACs that the search has processed so far.
    pub processed: u64,
}

/// The history of a run directory.
pub const HISTORY: &str = "history.jsonl";

/// The whole records of a run directory's history, while it is written or after that; none, if there is no history yet.
///
/// # Errors
/// If the file cannot be read, or a line of it is no record of the iteration whose turn it is.
pub fn read_history(directory: &Path) -> Result<Vec<Iteration>, CheckpointError> {
    let path = directory.join(HISTORY);
    let content = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        content => content.map_err(CheckpointError::file(&path))?,
    };
    let mut records: Vec<Iteration> = Vec::new();
    // What has no end of a line is being written, or was when the process was killed.
    for line in content.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let number = records.len() + 1;
        let error = |found: &dyn Display| {
            let expected = format!("the record of NES iteration {number} in line {number}");
            CheckpointError::content(&path, expected, found)
        };
        let record: Iteration = serde_json::from_slice(line).map_err(|damage| error(&damage))?;
        if record.iteration != number {
            return Err(error(&format!("that of {}", record.iteration)));
        }
        records.push(record);
    }
    Ok(records)
}

/// How long a history is at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    pub records: usize,
    bytes: u64,
}

impl Mark {
    /// Refuses a run directory whose history is shorter.
    pub(super) fn check(self, directory: &Path) -> Result<(), CheckpointError> {
        let path = directory.join(HISTORY);
        let bytes = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            metadata => metadata.map_err(CheckpointError::file(&path))?.len(),
        };
        if bytes >= self.bytes {
            return Ok(());
        }
        let expected = format!("the {} records of {} bytes that a checkpoint speaks of", self.records, self.bytes);
        Err(CheckpointError::content(&path, expected, format!("{bytes} bytes")))
    }
}

/// The history's file.
#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    file: File,
}

impl History {
    /// Opens the history of a run directory as it was at a moment; what came later, in a run that ended without a
    /// checkpoint, is cut off.
    pub(super) fn open(directory: &Path, mark: Mark) -> Result<Self, CheckpointError> {
        mark.check(directory)?;
        let path = directory.join(HISTORY);
        let open = || {
            let file = OpenOptions::new().append(true).create(true).open(&path)?;
            file.set_len(mark.bytes)?;
            Ok(file)
        };
        let file = open().map_err(CheckpointError::file(&path))?;
        Ok(Self { path, file })
    }

    /// Adds a record, and moves the mark behind it.
    pub(super) fn append(&mut self, iteration: &Iteration, mark: &mut Mark) -> Result<(), CheckpointError> {
        let unwritable = |error| CheckpointError::content(&self.path, "a record that JSON can hold", error);
        let line = serde_json::to_string(iteration).map_err(unwritable)? + "\n";
        self.file.write_all(line.as_bytes()).map_err(CheckpointError::file(&self.path))?;
        *mark = Mark { records: mark.records + 1, bytes: mark.bytes + line.len() as u64 };
        Ok(())
    }

    /// Makes all records survive a power cut.
    pub(super) fn sync(&self) -> Result<(), CheckpointError> {
        self.file.sync_data().map_err(CheckpointError::file(&self.path))
    }
}
