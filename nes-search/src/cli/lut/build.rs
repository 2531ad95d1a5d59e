//! Measuring a table, as far as it is not measured yet.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use burn::tensor::Device;
use elastic_layers::blocks::Block;
use elastic_layers::{Architecture, Backbone};
use exporters::{OnnxExporter, OnnxModel};
use nes_search::latency::{Calibration, Family, LatencyModel, LatencyTable, MeasuredNetwork, TableEntry};
use nes_search::{AnyBackbone, Blueprint, Observer, Progress};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::micro::Bench;
use super::sample::{blocks_of_random_architectures, random_architecture};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Blocks.
    pub blocks: usize,
    /// Whole networks that calibrate the sum of blocks.
    pub networks: usize,
    /// Time of each small network.
    pub block_time: Duration,
    /// Time of each whole network.
    pub network_time: Duration,
    /// Decides what is drawn.
    pub seed: u64,
}

/// Blocks of each family that are measured before a process says which ones come next.
const FIRST: usize = 8;
/// Candidates that the next blocks are chosen from, and how many are chosen at once.
const CANDIDATES: usize = 240;
const CHOSEN: usize = 8;

/// A table that is being measured.
pub struct Builder<'a> {
    pub blueprint: &'a Blueprint<AnyBackbone>,
    pub image: [usize; 3],
    pub bench: &'a Bench,
    pub plan: Plan,
    pub path: &'a Path,
}

impl Builder<'_> {
    /// Measures what a table lacks, and keeps the file up to date. Nothing, if interrupted; the file then has what was
    /// measured. Networks are measured in between blocks, so that a machine that changes its speed meanwhile does so for
    /// both.
    pub fn run(&self, mut table: LatencyTable, observer: &mut dyn Observer) -> anyhow::Result<Option<LatencyTable>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.plan.seed ^ table.entries.len() as u64);
        let pool = blocks_of_random_architectures(self.blueprint, 8 * self.plan.blocks, &mut rng)?;
        let measured: HashSet<Block> = table.entries.iter().map(|entry| entry.block).collect();
        let mut pool: Vec<Block> = pool.into_iter().filter(|block| !measured.contains(block)).collect();
        let networks = self.networks();
        // Hyperparameters are fitted anew whenever the table has grown by half.
        let mut fitted = 0;
        loop {
            let lacking = if pool.is_empty() { 0 } else { self.plan.blocks.saturating_sub(table.entries.len()) };
            // As large a share of the networks as of the blocks.
            let due = networks.len() * (self.plan.blocks - lacking) / self.plan.blocks;
            if let Some(architecture) = networks[..due].get(table.calibration.networks.len()) {
                let ms = self.network_ms(architecture)?;
                let architecture = architecture.values().to_vec();
                table.calibration.networks.push(MeasuredNetwork { architecture, ms });
            } else if lacking > 0 {
                if table.entries.len() >= fitted + fitted / 2 {
                    table.processes = LatencyModel::fit(&table.entries);
                    fitted = table.entries.len().max(4 * FIRST);
                }
                for block in self.next(&table, &mut pool, &mut rng).into_iter().take(lacking) {
                    let ms = self.bench.block_ms(&block, self.plan.block_time)?;
                    table.entries.push(TableEntry { block, ms });
                    let (done, total) = (table.entries.len(), self.plan.blocks);
                    observer.progress(Progress { phase: "blocks", done, total, message: block.to_string() });
                }
            } else {
                break;
            }
            table.write(self.path)?;
            if observer.interrupted() {
                return Ok(None);
            }
        }
        table.processes = LatencyModel::fit(&table.entries);
        self.calibrate(&mut table)?;
        table.write(self.path)?;
        Ok(Some(table))
    }

    /// The blocks to measure next, taken out of the pool: the first ones of each family, then those whose predicted
    /// share in a network is the most uncertain.
    fn next(&self, table: &LatencyTable, pool: &mut Vec<Block>, rng: &mut ChaCha8Rng) -> Vec<Block> {
        pool.shuffle(rng);
        let count = |family: Family| table.entries.iter().filter(|entry| Family::of(&entry.block) == family).count();
        for family in Family::ALL {
            let lacking = FIRST.saturating_sub(count(family));
            let of_family = |block: &Block| Family::of(block) == family;
            let first: Vec<Block> = pool.iter().copied().filter(of_family).take(lacking).collect();
            if !first.is_empty() {
                pool.retain(|block| !first.contains(block));
                return first;
            }
        }
        let model = LatencyModel::new(table);
        let uncertain_ms =
            |block: &Block| model.log_deviation(block).unwrap_or(1.0) * model.block_ms(block).unwrap_or(f64::INFINITY);
        let from = pool.len().saturating_sub(CANDIDATES);
        let mut candidates: Vec<(f64, Block)> =
            pool.split_off(from).into_iter().map(|block| (uncertain_ms(&block), block)).collect();
        candidates.sort_by(|one, other| other.0.total_cmp(&one.0));
        pool.extend(candidates.iter().skip(CHOSEN).map(|(_, block)| *block));
        candidates.into_iter().take(CHOSEN).map(|(_, block)| block).collect()
    }

    /// The architectures to calibrate on.
    fn networks(&self) -> Vec<Architecture> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.plan.seed.wrapping_add(1));
        let draw = |index| random_architecture(self.blueprint.space(), index % 2 == 1, &mut rng);
        (0..self.plan.networks).map(draw).collect()
    }

    /// Fits the calibration to the measured networks.
    fn calibrate(&self, table: &mut LatencyTable) -> anyhow::Result<()> {
        let model = LatencyModel::new(table);
        let mut sums = Vec::new();
        for network in &table.calibration.networks {
            let architecture = self.blueprint.space().architecture(network.architecture.clone())?;
            sums.push(model.sum_ms(&self.blueprint.blocks().blocks(&architecture)?)?);
        }
        table.calibration = Calibration::fit(std::mem::take(&mut table.calibration.networks), &sums);
        Ok(())
    }

    /// The measured time of an architecture with random weights, in ms, at the reference's speed.
    pub fn network_ms(&self, architecture: &Architecture) -> anyhow::Result<f64> {
        let model = exported(self.blueprint, self.image, architecture, self.plan.seed)?;
        let measured = self.bench.network(&model, self.plan.network_time)?;
        Ok(measured.ms * measured.speed)
    }
}

/// An architecture with random weights as an ONNX file.
pub fn exported(
    blueprint: &Blueprint<AnyBackbone>,
    [channels, height, width]: [usize; 3],
    architecture: &Architecture,
    seed: u64,
) -> anyhow::Result<OnnxModel> {
    let network = blueprint.network(architecture, seed, &Device::default())?;
    let exporter = OnnxExporter::new([1, channels, height, width]);
    Ok(exporter.export(&network, |model: &AnyBackbone, images| model.forward(images))?)
}
