//! The search history: one record for each NES iteration, as JSON Lines.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use elastic_layers::Macs;
use serde::{Deserialize, Serialize};

use super::SearchError;

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

/// The history's file.
#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    file: File,
}

impl History {
    /// Opens the history of a run directory with the first `records` records that are in it; later ones, of a run that
    /// ended without a checkpoint, are cut off.
    pub(super) fn open(directory: &Path, records: usize) -> Result<Self, SearchError> {
        let path = directory.join("history.jsonl");
        let error = |source| SearchError::File { path: path.clone(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(error)?;
        let mut lines = BufReader::new(&file);
        let (mut length, mut line) = (0, Vec::new());
        for found in 0..records {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(error)? == 0 || line.last() != Some(&b'\n') {
                return Err(SearchError::History { path, expected: records, found });
            }
            length += line.len() as u64;
        }
        file.set_len(length).map_err(error)?;
        Ok(Self { path, file })
    }

    pub(super) fn append(&mut self, iteration: &Iteration) -> Result<(), SearchError> {
        let error = |source| SearchError::File { path: self.path.clone(), source };
        let line = serde_json::to_string(iteration).map_err(|source| error(source.into()))? + "\n";
        self.file.write_all(line.as_bytes()).map_err(error)
    }
}
