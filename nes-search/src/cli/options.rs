//! Flags of several commands.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use nes_search::searchers::SearcherName;
use nes_search::{BackboneName, Bound, Budget, Config, Preset};

use super::directory::read_text;

/// Where the configuration comes from: a preset, a file over it, flags over that.
#[derive(Args, Debug)]
pub struct ConfigOptions {
    /// The configuration that the file and the flags change.
    #[arg(long, value_enum, default_value_t)]
    preset: Preset,
    /// A TOML file; `nes-search config` prints one with all fields.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The network whose dimensions are searched, unchanged; a file can change it (the table backbone).
    #[arg(long, value_enum, value_name = "NAME")]
    backbone: Option<BackboneName>,
    /// A data set instead of the embedded images: the IDX files of an MNIST-like set, the binary files of CIFAR-10 or
    /// CIFAR-100, or folders of JPEG and PNG images (train/CLASS/*.jpg, and val or test).
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Pixels that images in folders are scaled to, in height and width; by default 224.
    #[arg(long, value_name = "N")]
    image_size: Option<usize>,
    /// What the found network may cost: a fraction of the backbone's MACs (0.1), or MACs (250k, 2.5M).
    #[arg(long, value_name = "BUDGET")]
    budget: Option<Budget>,
    /// A table of `lut build`, for a budget in milliseconds.
    #[arg(long, value_name = "FILE")]
    latency_table: Option<PathBuf>,
    /// What else it may take at most: parameters=5k, or activation-memory=64k (bytes for the input and output of one
    /// layer); several times for several bounds, which replace those of the configuration.
    #[arg(long = "bound", value_name = "NAME=N")]
    bounds: Vec<Bound>,
    /// What decides which architectures are scored; nes, unless others are compared with it.
    #[arg(long, value_enum, value_name = "NAME")]
    searcher: Option<SearcherName>,
    /// The seed of the search and of the first training.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Trainings of each network, under consecutive seeds.
    #[arg(long, value_name = "N")]
    seeds: Option<usize>,
    /// Threads that Burn computes with; by default one for each core.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl ConfigOptions {
    /// The effective configuration.
    pub fn effective(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => read_config(self.preset, path)?,
            None => Config::preset(self.preset),
        };
        if let Some(data) = &self.data {
            config.data = Some(data.clone());
        }
        if let Some(data) = &mut config.data {
            // A run may be resumed from another working directory.
            *data = absolute("data", data)?;
        }
        if let Some(name) = self.backbone {
            config.backbone = name.into();
        }
        config.image_size = self.image_size.or(config.image_size);
        config.budget = self.budget.unwrap_or(config.budget);
        if let Some(table) = &self.latency_table {
            config.latency_table = Some(table.clone());
        }
        if let Some(table) = &mut config.latency_table {
            *table = absolute("latency_table", table)?;
        }
        if !self.bounds.is_empty() {
            config.bounds.clone_from(&self.bounds);
        }
        config.search.searcher = self.searcher.unwrap_or(config.search.searcher);
        config.seed = self.seed.unwrap_or(config.seed);
        config.seeds = self.seeds.unwrap_or(config.seeds);
        config.threads = self.threads.or(config.threads);
        config.check()?;
        Ok(config)
    }
}

/// The whole path of something that is there. A configuration can hold no path but in UTF-8.
fn absolute(name: &str, path: &Path) -> anyhow::Result<PathBuf> {
    let path = fs::canonicalize(path).with_context(|| path.display().to_string())?;
    ensure!(path.to_str().is_some(), "{name}: expected a path in UTF-8, found {}", path.display());
    Ok(path)
}

/// Reads a configuration file.
pub fn read_config(preset: Preset, path: &Path) -> anyhow::Result<Config> {
    let at = || path.display().to_string();
    let text = read_text(path).with_context(at)?;
    // The parser's message has lines of its own.
    Config::from_toml(preset, &text).map_err(|error| anyhow!("{}: {error}", at()))
}
