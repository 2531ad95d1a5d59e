//! The latency of architectures, by a table of fused blocks: what is measured is looked up, the rest comes from a
//! Gaussian process on the logarithm of time over features of shapes, and a calibration against whole networks makes
//! times of networks of sums of blocks.

mod adjust;
mod features;
mod process;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use elastic_layers::blocks::{Block, BlockModel, BlocksError};
use elastic_layers::{Architecture, CostError};

use crate::resource::Resource;

pub use adjust::{Adjusted, adjust};
use features::log_work;
pub use features::{FEATURES, Family, features};
pub use process::{Hyperparameters, Process};
pub use table::{Calibration, LatencyTable, MeasuredNetwork, TABLE_VERSION, TableEntry, TableError};

/// Fewer measured blocks of a family than this say nothing about others.
pub const FEWEST_ENTRIES: usize = 3;

/// Blocks that hyperparameters are fitted to at most; the cost of a fit grows with the cube.
const FITTED_ENTRIES: usize = 160;

/// Why a time cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LatencyError {
    /// The blocks of the network cannot be listed.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The table knows nothing like a block.
    #[error("latency table: expected {block}, or at least {FEWEST_ENTRIES} of its family ({family:?}), found none")]
    Unknown {
        /// The block.
        block: Box<Block>,
        /// Its family.
        family: Family,
    },
}

/// The law of one family: the logarithm of time is a line over the logarithm of work, and a process on top.
#[derive(Clone, Debug)]
struct Law {
    intercept: f64,
    slope: f64,
    process: Process,
}

impl Law {
    /// The law of measured blocks; their logarithms of time are fitted to those of their work by least squares.
    fn of(entries: &[&TableEntry], hyperparameters: Option<&Hyperparameters>) -> Option<Self> {
        let work: Vec<f64> = entries.iter().map(|entry| log_work(&entry.block)).collect();
        let logs: Vec<f64> = entries.iter().map(|entry| entry.ms.ln()).collect();
        let count = entries.len() as f64;
        let [mean_work, mean_log] = [&work, &logs].map(|values| values.iter().sum::<f64>() / count);
        let squares: f64 = work.iter().map(|work| (work - mean_work).powi(2)).sum();
        let products: f64 = work.iter().zip(&logs).map(|(work, log)| (work - mean_work) * (log - mean_log)).sum();
        // Between no growth and growth in proportion, with a margin; where work does not vary, in proportion.
        let slope = if squares > 1e-9 { (products / squares).clamp(0.0, 1.2) } else { 1.0 };
        let intercept = mean_log - slope * mean_work;
        let inputs: Vec<Vec<f64>> = entries.iter().map(|entry| features(&entry.block).to_vec()).collect();
        let rest: Vec<f64> = work.iter().zip(&logs).map(|(work, log)| log - intercept - slope * work).collect();
        let hyperparameters = hyperparameters.cloned().unwrap_or_else(|| {
            let count = inputs.len().min(FITTED_ENTRIES);
            Process::fit(&inputs[..count], &rest[..count], &Hyperparameters::initial(FEATURES))
        });
        Some(Self { intercept, slope, process: Process::new(&inputs, &rest, hyperparameters)? })
    }

    fn log_ms(&self, block: &Block) -> f64 {
        self.intercept + self.slope * log_work(block) + self.process.at(&features(block)).0
    }
}

/// Times of blocks and networks, by a table.
#[derive(Debug)]
pub struct LatencyModel {
    laws: BTreeMap<Family, Law>,
    calibration: Calibration,
    /// Measured and predicted blocks, in ms.
    known: RwLock<HashMap<Block, f64>>,
}

impl LatencyModel {
    /// The model of a table. Families without hyperparameters are fitted, which takes some seconds.
    pub fn new(table: &LatencyTable) -> Self {
        let laws = Family::ALL
            .into_iter()
            .filter_map(|family| {
                let entries: Vec<&TableEntry> =
                    table.entries.iter().filter(|entry| Family::of(&entry.block) == family).collect();
                let enough = entries.len() >= FEWEST_ENTRIES;
                let law = enough.then(|| Law::of(&entries, table.processes.get(&family)))??;
                Some((family, law))
            })
            .collect();
        let known = table.entries.iter().map(|entry| (entry.block, entry.ms)).collect();
        Self { laws, calibration: table.calibration.clone(), known: RwLock::new(known) }
    }

    /// Hyperparameters fitted to the entries of a table, for [`LatencyTable::processes`].
    pub fn fit(entries: &[TableEntry]) -> BTreeMap<Family, Hyperparameters> {
        let of = |family: Family| {
            let entries: Vec<&TableEntry> = entries.iter().filter(|entry| Family::of(&entry.block) == family).collect();
            let law = (entries.len() >= FEWEST_ENTRIES).then(|| Law::of(&entries, None))??;
            Some((family, law.process.hyperparameters().clone()))
        };
        Family::ALL.into_iter().filter_map(of).collect()
    }

    /// What a block adds to the time of a network before calibration, in ms: measured, else predicted.
    ///
    /// # Errors
    /// If there are too few blocks of its family in the table.
    pub fn block_ms(&self, block: &Block) -> Result<f64, LatencyError> {
        if let Some(&ms) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(block) {
            return Ok(ms);
        }
        let family = Family::of(block);
        let law = self.laws.get(&family).ok_or(LatencyError::Unknown { block: Box::new(*block), family })?;
        let ms = law.log_ms(block).exp();
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(*block, ms);
        Ok(ms)
    }

    /// The deviation of the logarithm of a block's predicted time; nothing where the family is not known.
    pub fn log_deviation(&self, block: &Block) -> Option<f64> {
        Some(self.laws.get(&Family::of(block))?.process.at(&features(block)).1.sqrt())
    }

    /// The sum of the times of blocks, in ms, before calibration.
    ///
    /// # Errors
    /// As [`block_ms`](Self::block_ms).
    pub fn sum_ms<'a>(&self, blocks: impl IntoIterator<Item = &'a Block>) -> Result<f64, LatencyError> {
        blocks.into_iter().map(|block| self.block_ms(block)).sum()
    }

    /// The time of an architecture, in ms.
    ///
    /// # Errors
    /// If its blocks cannot be listed, or one is of a family that is not known.
    pub fn ms(&self, blocks: &BlockModel, architecture: &Architecture) -> Result<f64, LatencyError> {
        let elastic = blocks.elastic_blocks(architecture)?;
        let sum: Result<f64, _> = elastic.iter().map(|block| self.block_ms(&block.at(architecture))).sum();
        Ok(self.calibration.intercept_ms + self.calibration.scale * sum?)
    }
}

/// The latency of architectures, as a resource.
#[derive(Debug)]
pub struct Latency {
    blocks: Arc<BlockModel>,
    model: LatencyModel,
}

impl Latency {
    /// The latency of what consists of `blocks`, by a model.
    pub fn new(blocks: Arc<BlockModel>, model: LatencyModel) -> Self {
        Self { blocks, model }
    }
}

impl Resource for Latency {
    fn name(&self) -> &str {
        "latency"
    }

    fn unit(&self) -> &str {
        "ms"
    }

    fn of(&self, architecture: &Architecture) -> Result<f64, CostError> {
        self.model.ms(&self.blocks, architecture).map_err(|error| CostError::Other(error.to_string()))
    }
}

impl Calibration {
    /// The line through measured times over sums of blocks whose relative errors have the least sum, with an intercept of
    /// at least 0: a network that was measured while the machine was slow pulls less at it than at a line of least
    /// squares. `sums` has a sum for each network.
    ///
    /// # Panics
    /// If there is not one sum for each network.
    pub fn fit(networks: Vec<MeasuredNetwork>, sums: &[f64]) -> Self {
        assert_eq!(networks.len(), sums.len(), "a sum for each network");
        let rows: Vec<[f64; 2]> =
            networks.iter().zip(sums).map(|(network, sum)| [1.0 / network.ms, sum / network.ms]).collect();
        let mut line = [0.0, 1.0];
        let mut weights = vec![1.0; rows.len()];
        // Least squares, each weighted with one over its error the time before.
        for _ in 0..50 {
            line = relative_line(&rows, &weights);
            let error = |[a, b]: &[f64; 2]| (line[0] * a + line[1] * b - 1.0).abs();
            weights = rows.iter().map(|row| 1.0 / error(row).max(1e-3)).collect();
        }
        Self { intercept_ms: line[0], scale: line[1].clamp(1e-3, 1e3), networks }
    }
}

/// The intercept, at least 0, and the slope of weighted least squares of `intercept * a + slope * b` against 1.
fn relative_line(rows: &[[f64; 2]], weights: &[f64]) -> [f64; 2] {
    let total =
        |of: &dyn Fn(&[f64; 2]) -> f64| rows.iter().zip(weights).map(|(row, weight)| weight * of(row)).sum::<f64>();
    let (aa, ab, bb) = (total(&|[a, _]| a * a), total(&|[a, b]| a * b), total(&|[_, b]| b * b));
    let (a1, b1) = (total(&|[a, _]| *a), total(&|[_, b]| *b));
    let determinant = aa * bb - ab * ab;
    let line = [(a1 * bb - b1 * ab) / determinant, (b1 * aa - a1 * ab) / determinant];
    let proportional = if bb > 0.0 { b1 / bb } else { 1.0 };
    if determinant > 1e-9 * aa * bb && line[0] >= 0.0 && line[1] > 0.0 { line } else { [0.0, proportional] }
}
