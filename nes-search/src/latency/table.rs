//! The file of a latency table.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use elastic_layers::blocks::{Block, BlockActivation, BlockKind, Pair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::features::Family;
use super::process::Hyperparameters;

/// The version of the file format.
pub const TABLE_VERSION: u32 = 1;

/// Longest time that a table may give a block, in milliseconds: more is a damaged file.
const LONGEST_MS: f64 = 1e6;

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is no table.
    #[error("{}: expected a latency table: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected and found, and where.
        reason: String,
    },
}

/// Milliseconds of fused blocks on one runtime and machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyTable {
    /// [`TABLE_VERSION`].
    pub version: u32,
    /// The runtime, such as `onnx-runtime`.
    pub runtime: String,
    /// The runtime's version.
    pub runtime_version: String,
    /// Threads that it computed with.
    pub threads: usize,
    /// What it was measured on.
    pub machine: serde_json::Value,
    /// The networks that it was built for, in words.
    pub built_for: String,
    /// The hash of their search space; empty for a table from elsewhere.
    pub space: String,
    /// The time of a convolution that was measured in turn with everything else, in ms: all times are those of the speed
    /// at which it takes this long, so that a machine that changes its speed meanwhile does not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_ms: Option<f64>,
    /// Whole networks, and what makes times of networks of sums of times of blocks.
    pub calibration: Calibration,
    /// What the process of each family was fitted to.
    pub processes: BTreeMap<Family, Hyperparameters>,
    /// The measured blocks.
    pub entries: Vec<TableEntry>,
}

/// A measured block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableEntry {
    /// The block.
    pub block: Block,
    /// What it adds to the time of a network, in ms.
    pub ms: f64,
}

/// The time of a network: `intercept_ms + scale * (sum of its blocks)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// What every network takes, in ms.
    pub intercept_ms: f64,
    /// How much longer blocks take in a network.
    pub scale: f64,
    /// The networks that this was fitted to.
    pub networks: Vec<MeasuredNetwork>,
}

impl Default for Calibration {
    /// Times of networks are sums of times of blocks.
    fn default() -> Self {
        Self { intercept_ms: 0.0, scale: 1.0, networks: Vec::new() }
    }
}

/// A whole network, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredNetwork {
    /// The values of its dimensions.
    pub architecture: Vec<usize>,
    /// The median of its time.
    pub ms: f64,
}

impl LatencyTable {
    /// A table without entries.
    pub fn new(runtime: &str, runtime_version: &str, threads: usize, machine: serde_json::Value) -> Self {
        Self {
            version: TABLE_VERSION,
            runtime: runtime.into(),
            runtime_version: runtime_version.into(),
            threads,
            machine,
            built_for: String::new(),
            space: String::new(),
            reference_ms: None,
            calibration: Calibration::default(),
            processes: BTreeMap::new(),
            entries: Vec::new(),
        }
    }

    /// Reads a table.
    ///
    /// # Errors
    /// If the file cannot be read, is of another version, or has a number that cannot be.
    pub fn read(path: &Path) -> Result<Self, TableError> {
        let text = read_text(path)?;
        let content = |reason: String| TableError::Content { path: path.to_owned(), reason };
        let table: Self = parse_json(&text).map_err(content)?;
        table.check().map_err(content)?;
        Ok(table)
    }

    /// Writes the table: beside the file, then renamed.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TableError> {
        let file = |source| TableError::File { path: path.to_owned(), source };
        let text = serde_json::to_string_pretty(self).map_err(|error| file(error.into()))?;
        crate::files::write_quickly(path, (text + "\n").as_bytes()).map_err(file)
    }

    /// Whether all numbers are in range.
    fn check(&self) -> Result<(), String> {
        if self.version != TABLE_VERSION {
            return Err(format!("expected version {TABLE_VERSION}, found {}", self.version));
        }
        if self.threads == 0 {
            return Err("expected at least 1 thread, found 0".into());
        }
        let time = |ms: f64| ms > 0.0 && ms <= LONGEST_MS;
        if let Some(ms) = self.reference_ms.filter(|&ms| !time(ms)) {
            return Err(format!("reference_ms: expected a time above 0, found {ms}"));
        }
        let mut seen = HashSet::new();
        for (index, TableEntry { block, ms }) in self.entries.iter().enumerate() {
            block.check().map_err(|reason| format!("entry {index}: {reason}"))?;
            if !time(*ms) {
                return Err(format!("entry {index}: expected ms above 0 and up to {LONGEST_MS}, found {ms}"));
            }
            if !seen.insert(block) {
                return Err(format!("entry {index}: expected every block once, found {block} again"));
            }
        }
        let Calibration { intercept_ms, scale, networks } = &self.calibration;
        if !(0.0..=LONGEST_MS).contains(intercept_ms) || !(1e-3..=1e3).contains(scale) {
            return Err(format!(
                "calibration: expected an intercept from 0 on and a scale of 0.001 to 1000, found {intercept_ms} and {scale}"
            ));
        }
        if let Some(index) = networks.iter().position(|network| !time(network.ms)) {
            return Err(format!("calibration: network {index}: expected ms above 0, found {}", networks[index].ms));
        }
        match self.processes.iter().find(|(_, parameters)| !parameters.is_valid(super::features::FEATURES)) {
            Some((family, _)) => Err(format!("process {family:?}: expected hyperparameters in their ranges")),
            None => Ok(()),
        }
    }

    /// The measured blocks as CSV, with the header of [`read_csv`](Self::read_csv).
    pub fn to_csv(&self) -> String {
        let row = |entry: &TableEntry| {
            let Block { kind, activation, inputs, outputs, groups, size, output, kernel, stride, padding } =
                entry.block;
            let [before, behind] = padding;
            let (kind, activation) = (name_of(&kind), name_of(&activation));
            format!(
                "{kind},{activation},{inputs},{outputs},{groups},{size},{output},{kernel},{stride},{before},{behind},{}\n",
                entry.ms
            )
        };
        std::iter::once(HEADER.join(",") + "\n").chain(self.entries.iter().map(row)).collect()
    }

    /// Adds the rows of a CSV file to the entries: `kind,activation,inputs,outputs,groups,size,output,kernel,stride,
    /// padding_before,padding_behind,ms`, pairs as `28x28`.
    ///
    /// # Errors
    /// If the file cannot be read, has another header, or a row that is no block with a time.
    pub fn read_csv(&mut self, path: &Path) -> Result<(), TableError> {
        let text = read_text(path)?;
        let content = |reason: String| TableError::Content { path: path.to_owned(), reason };
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some(&HEADER.join(",")) {
            return Err(content(format!("expected the header {}", HEADER.join(","))));
        }
        for (index, line) in lines.enumerate() {
            let entry = entry_of(line.trim_end()).map_err(|reason| content(format!("line {}: {reason}", index + 2)))?;
            self.entries.push(entry);
        }
        if self.entries.is_empty() {
            return Err(content("expected at least one row, found none".into()));
        }
        self.check().map_err(content)
    }
}

const HEADER: [&str; 12] = [
    "kind",
    "activation",
    "inputs",
    "outputs",
    "groups",
    "size",
    "output",
    "kernel",
    "stride",
    "padding_before",
    "padding_behind",
    "ms",
];

fn read_text(path: &Path) -> Result<String, TableError> {
    let text = std::fs::read_to_string(path).map_err(|source| TableError::File { path: path.to_owned(), source })?;
    // A mark of its byte order is none of its content.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The name of a variant, as files have it.
fn name_of(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The variant of a name.
fn named<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(|error| error.to_string())
}

fn entry_of(line: &str) -> Result<TableEntry, String> {
    let fields: Vec<&str> = line.split(',').collect();
    let &[kind, activation, inputs, outputs, groups, size, output, kernel, stride, before, behind, ms] = &fields[..]
    else {
        return Err(format!("expected {} fields, found {}", HEADER.len(), fields.len()));
    };
    let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{error}: {text:?}"));
    let pair = |text: &str| text.parse::<Pair>();
    let block = Block {
        kind: named::<BlockKind>(kind)?,
        activation: named::<BlockActivation>(activation)?,
        inputs: number(inputs)?,
        outputs: number(outputs)?,
        groups: number(groups)?,
        size: pair(size)?,
        output: pair(output)?,
        kernel: pair(kernel)?,
        stride: pair(stride)?,
        padding: [pair(before)?, pair(behind)?],
    };
    Ok(TableEntry { block, ms: ms.parse().map_err(|error| format!("{error}: {ms:?}"))? })
}
