//! The search history: one record for each NES iteration, as JSON Lines.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use blake3::Hasher;
use elastic_layers::Macs;
use serde::{Deserialize, Serialize};

use super::checkpoint::CheckpointError;

/// One NES iteration. It holds nothing that differs between two runs with the same seed and number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Iteration {
    /// Counted from 1.
    pub iteration: usize,
    /// H before the iteration, in steps above each dimension's smallest value.
    pub h: Vec<f64>,
    /// The values of H's architecture.
    pub architecture: Vec<usize>,
    /// R: what that architecture takes.
    pub macs: Macs,
    /// R / R_t.
    pub ratio: f64,
    /// The shared weights' loss at H's architecture on the iteration's evaluation batch; nothing, if it was not finite.
    pub loss: Option<f64>,
    /// Losses of the candidates, corrected by trials and with the penalty; nothing for one that was not finite.
    pub losses: Vec<Option<f64>>,
    /// sigma, in steps.
    pub sigma: f64,
    /// The learning rate of H.
    pub learning_rate: f64,
    /// Euclidean norm of the gradient.
    pub gradient_norm: f64,
    /// Images processed by the search so far, trained on and evaluated.
    pub images: u64,
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

/// How much of a history there is at some moment, and what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    records: usize,
    bytes: u64,
    /// Of these bytes.
    blake3: String,
}

impl Default for Mark {
    fn default() -> Self {
        Self { records: 0, bytes: 0, blake3: Hasher::new().finalize().to_string() }
    }
}

impl Mark {
    /// Whether the history of a run directory begins with what it was at that moment; gives the hasher that has seen it.
    pub(super) fn check(&self, directory: &Path) -> Result<Hasher, CheckpointError> {
        let path = directory.join(HISTORY);
        let expected = || format!("the {} records that a checkpoint speaks of", self.records);
        let mut hasher = Hasher::new();
        if self.bytes > 0 {
            let mut head = File::open(&path).map_err(CheckpointError::file(&path))?.take(self.bytes);
            let bytes = io::copy(&mut head, &mut hasher).map_err(CheckpointError::file(&path))?;
            if bytes < self.bytes {
                return Err(CheckpointError::content(
                    &path,
                    expected(),
                    format!("{bytes} of their {} bytes", self.bytes),
                ));
            }
        }
        if hasher.finalize().to_string() != self.blake3 {
            return Err(CheckpointError::content(&path, expected(), "records that were changed"));
        }
        Ok(hasher)
    }
}

/// The history's file.
#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    file: File,
    hasher: Hasher,
}

impl History {
    /// Opens the history of a run directory as it was at a moment; what came later, in a run that ended without a
    /// checkpoint, is cut off.
    pub(super) fn open(directory: &Path, mark: &Mark) -> Result<Self, CheckpointError> {
        let hasher = mark.check(directory)?;
        let path = directory.join(HISTORY);
        let open = || {
            let file = OpenOptions::new().append(true).create(true).open(&path)?;
            file.set_len(mark.bytes)?;
            Ok(file)
        };
        let file = open().map_err(CheckpointError::file(&path))?;
        Ok(Self { path, file, hasher })
    }

    /// Adds a record, and moves the mark behind it.
    pub(super) fn append(&mut self, iteration: &Iteration, mark: &mut Mark) -> Result<(), CheckpointError> {
        let line =
            serde_json::to_string(iteration).map_err(|error| CheckpointError::unwritable(&self.path, error))? + "\n";
        self.file.write_all(line.as_bytes()).map_err(CheckpointError::file(&self.path))?;
        self.hasher.update(line.as_bytes());
        *mark = Mark {
            records: mark.records + 1,
            bytes: mark.bytes + line.len() as u64,
            blake3: self.hasher.finalize().to_string(),
        };
        Ok(())
    }

    /// Makes all records survive a power cut.
    pub(super) fn sync(&self) -> Result<(), CheckpointError> {
        self.file.sync_data().map_err(CheckpointError::file(&self.path))
    }
}
