//! Run directories: what is in them, and that nothing in them is half-written or overwritten.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use elastic_layers::{Architecture, SearchSpace};
use nes_search::search::HISTORY;
use nes_search::{Config, Preset, files};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::options::read_config;

/// The effective configuration.
pub const CONFIG: &str = "config.toml";
/// The found architecture.
pub const ARCHITECTURE: &str = "architecture.json";
/// What the search took, and the best uniform rescaling.
pub const SEARCH: &str = "search.json";
/// What the shared weights say of architectures, and what training them comes to; as numbers and as a plot.
pub const FIDELITY: &str = "fidelity.json";
pub const FIDELITY_PLOT: &str = "fidelity.svg";
/// The newest state of the search, and the one before it.
const CHECKPOINTS: &str = "checkpoints";
/// What is searched, for those who watch it.
pub const TASK: &str = "task.json";
/// Where a command is.
pub const STATUS: &str = "status.json";
/// Trained weights of the first seed.
pub const WEIGHTS: &str = "weights.bpk";
/// Accuracies of all seeds.
pub const TRAINING: &str = "training.json";
/// The exported network.
pub const MODEL: &str = "model.onnx";
/// Latencies.
pub const BENCH: &str = "bench.json";
/// The table for programs.
pub const SUMMARY: &str = "summary.json";
/// Held while a command writes into the directory.
const LOCK: &str = ".lock";

/// All that commands write into a directory.
const FILES: [&str; 13] = [
    CONFIG,
    ARCHITECTURE,
    SEARCH,
    TASK,
    STATUS,
    WEIGHTS,
    TRAINING,
    MODEL,
    BENCH,
    SUMMARY,
    HISTORY,
    FIDELITY,
    FIDELITY_PLOT,
];
/// Directories of a run directory.
const FOLDERS: [&str; 4] = [CHECKPOINTS, "uniform-channel", "uniform-joint", "backbone"];

/// A directory that this process alone writes into.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    _lock: File,
}

impl RunDirectory {
    /// A new directory, by default a dated one below `runs/`. One with anything in it is refused, unless it is to be
    /// overwritten; then the files of an earlier run in it go.
    pub fn create(out: Option<PathBuf>, overwrite: bool, config: &Config) -> anyhow::Result<Self> {
        let path =
            out.unwrap_or_else(|| Path::new("runs").join(jiff::Zoned::now().strftime("%Y-%m-%d-%H%M%S").to_string()));
        let at = || path.display().to_string();
        fs::create_dir_all(&path).with_context(at)?;
        if !overwrite && !is_empty(&path).with_context(at)? {
            bail!(
                "{}: expected a new or an empty directory, found files in it; --overwrite replaces an earlier run, \
                 --resume goes on with it",
                at()
            );
        }
        let directory = Self::lock(path)?;
        for name in FILES {
            directory.remove(name, |path| fs::remove_file(path))?;
        }
        for name in FOLDERS {
            directory.remove(name, |path| fs::remove_dir_all(path))?;
        }
        write(&directory.path.join(CONFIG), config.to_toml().as_bytes())?;
        Ok(directory)
    }

    /// A directory that [`create`](Self::create) made, and its configuration.
    pub fn resume(path: &Path) -> anyhow::Result<(Self, Config)> {
        let config = config_of(path)?;
        Ok((Self::lock(path.to_path_buf())?, config))
    }

    fn lock(path: PathBuf) -> anyhow::Result<Self> {
        let name = path.join(LOCK);
        let file = File::create(&name).with_context(|| name.display().to_string())?;
        match file.try_lock() {
            Ok(()) => {
                for folder in
                    FOLDERS.iter().map(|name| path.join(name)).chain([path.clone()]).filter(|path| path.is_dir())
                {
                    files::remove_unfinished(&folder).with_context(|| folder.display().to_string())?;
                }
                Ok(Self { path, _lock: file })
            }
            Err(TryLockError::WouldBlock) => {
                bail!("{}: expected a directory of no running command, found one that is in use", path.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| name.display().to_string()),
        }
    }

    fn remove(&self, name: &str, remove: impl Fn(&Path) -> io::Result<()>) -> anyhow::Result<()> {
        let path = self.path.join(name);
        match remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(path.display().to_string()),
            _ => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The configuration that the networks of a directory were made with.
pub fn config_of(directory: &Path) -> anyhow::Result<Config> {
    let parent = directory.parent().map(|parent| parent.join(CONFIG)).filter(|path| path.is_file());
    let own = directory.join(CONFIG);
    let path = if own.is_file() { own } else { parent.unwrap_or(own) };
    read_config(Preset::Laptop, &path)
}

/// Whether a directory has nothing in it, or only what a command leaves that was killed before it wrote anything.
fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != LOCK && !name.to_string_lossy().starts_with(files::UNFINISHED) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes a file, which is whole or as it was whatever happens.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    files::write(path, content).with_context(|| path.display().to_string())
}

/// Writes a value as JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    write(path, (serde_json::to_string_pretty(value)? + "\n").as_bytes())
}

/// Reads a value from JSON.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let at = || path.display().to_string();
    serde_json::from_str(&fs::read_to_string(path).with_context(at)?).with_context(at)
}

/// Reads a value from JSON; nothing, if there is no such file.
pub fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    if path.try_exists().with_context(|| path.display().to_string())? { read_json(path).map(Some) } else { Ok(None) }
}

/// Reads an architecture of a space.
pub fn read_architecture(space: &SearchSpace, path: &Path) -> anyhow::Result<Architecture> {
    let architecture: Architecture = read_json(path)?;
    space.check(&architecture).with_context(|| path.display().to_string())?;
    Ok(architecture)
}
