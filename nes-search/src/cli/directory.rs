//! Run directories: what is in them, and that nothing in them is half-written or overwritten.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use elastic_layers::{Architecture, ArchitectureFile, SearchSpace};
use nes_search::{Config, Preset};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::options::read_config;

/// The effective configuration.
pub const CONFIG: &str = "config.toml";
/// The found architecture.
pub const ARCHITECTURE: &str = "architecture.json";
/// One record for each NES iteration; there since the search began.
pub const HISTORY: &str = "history.jsonl";
/// What the search took, and the best uniform rescaling.
pub const SEARCH: &str = "search.json";
/// What the shared weights say of architectures, and what training them comes to; as numbers and as a plot.
pub const FIDELITY: &str = "fidelity.json";
pub const FIDELITY_PLOT: &str = "fidelity.svg";
/// The newest state of the search.
pub const CHECKPOINTS: &str = "checkpoints";
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
const FILES: [&str; 11] =
    [CONFIG, ARCHITECTURE, SEARCH, WEIGHTS, TRAINING, MODEL, BENCH, SUMMARY, HISTORY, FIDELITY, FIDELITY_PLOT];
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
        let is_empty = fs::read_dir(&path).with_context(at)?.next().is_none();
        if !is_empty && !overwrite {
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
            Ok(()) => Ok(Self { path, _lock: file }),
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

/// Writes a file beside, and renames it.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let at = || path.display().to_string();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(at)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(at)?;
    file.write_all(content).with_context(at)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are for their owner alone; results are not.
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).with_context(at)?;
    }
    file.persist(path).with_context(at)?;
    Ok(())
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
    let file: ArchitectureFile = read_json(path)?;
    space.check(&file).with_context(|| path.display().to_string())
}
