//! Run directories: what is in them, and that nothing in them is half-written or overwritten.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use elastic_layers::{Architecture, SearchSpace};
use nes_search::search::HISTORY;
use nes_search::{Config, Preset, files};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::data_file::DataFile;
use super::options::read_config;

/// The effective configuration.
pub const CONFIG: &str = "config.toml";
/// What the networks were trained on: classes, normalisation, and what tells the images from others.
pub const DATA: &str = "data.json";
/// The found architecture.
pub const ARCHITECTURE: &str = "architecture.json";
/// What the search took, and the best uniform rescaling.
pub const SEARCH: &str = "search.json";
/// What the shared weights say of architectures, and what training them comes to; as numbers and as a plot.
pub const FIDELITY: &str = "fidelity.json";
pub const FIDELITY_PLOT: &str = "fidelity.svg";
/// The newest state of the search, and the one before it.
const CHECKPOINTS: &str = "checkpoints";
/// The states of the trainings that are not over, by their seeds.
pub const STATES: &str = "trainings";
/// What is searched, for those who watch it.
pub const TASK: &str = "task.json";
/// Where a command is.
pub const STATUS: &str = "status.json";
/// Trained weights of the first seed.
pub const WEIGHTS: &str = "weights.bpk";
/// Accuracies of all seeds.
pub const TRAINING: &str = "training.json";
/// The exported network, and the same in 8 bits.
pub const MODEL: &str = "model.onnx";
const INT8_MODEL: &str = "model.int8.onnx";
/// Latencies.
pub const BENCH: &str = "bench.json";
/// The table for programs.
pub const SUMMARY: &str = "summary.json";
/// Held while a command writes into the directory. It also says that a command made the directory.
const LOCK: &str = ".lock";

/// All that commands write into a directory but the configuration, which is replaced and never removed.
const FILES: [&str; 14] = [
    DATA,
    ARCHITECTURE,
    SEARCH,
    TASK,
    STATUS,
    WEIGHTS,
    TRAINING,
    MODEL,
    INT8_MODEL,
    BENCH,
    SUMMARY,
    HISTORY,
    FIDELITY,
    FIDELITY_PLOT,
];
/// The other networks' directories in a run directory.
const NETWORKS: [&str; 3] = ["uniform-channel", "uniform-joint", "backbone"];

/// A directory that this process alone writes into.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    _lock: File,
}

impl RunDirectory {
    /// A new directory, by default a dated one below `runs/`. One with anything in it is refused, unless an earlier run is
    /// to be overwritten; then the files that commands wrote into it go, and no others.
    pub fn create(
        out: Option<PathBuf>,
        overwrite: bool,
        config: &Config,
        data: Option<&DataFile>,
    ) -> anyhow::Result<Self> {
        let config = config.to_toml();
        let is_new = out.as_ref().is_none_or(|path| !path.exists());
        let path = out.map_or_else(dated, Ok)?;
        let made = Self::make(path.clone(), overwrite).and_then(|directory| {
            data.map_or(Ok(()), |data| write_json(&path.join(DATA), data))?;
            // Last, because it says that the directory is a run's.
            write(&path.join(CONFIG), config.as_bytes())?;
            Ok(directory)
        });
        if made.is_err() && is_new {
            // Nothing else has been written into it, or it stays.
            let _ = fs::remove_file(path.join(LOCK));
            let _ = fs::remove_dir(&path);
        }
        made
    }

    /// Refuses a directory that [`create`](Self::create) would refuse, before anything else is done.
    pub fn check(path: &Path, overwrite: bool) -> anyhow::Result<()> {
        let at = || path.display().to_string();
        if !path.try_exists().with_context(at)? {
            return Ok(());
        }
        if let Some(name) = content(path).with_context(at)? {
            if !overwrite {
                bail!(
                    "{}: expected a new or an empty directory, found files in it; --overwrite replaces an earlier run, \
                     --resume goes on with it",
                    at()
                );
            }
            if !is_run(path) {
                bail!(
                    "{}: expected the directory of an earlier run to overwrite, found others' files in it, such as {name}",
                    at()
                );
            }
        }
        Ok(())
    }

    fn make(path: PathBuf, overwrite: bool) -> anyhow::Result<Self> {
        Self::check(&path, overwrite)?;
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        let directory = Self::lock(path)?;
        directory.clear().with_context(|| directory.path.display().to_string())?;
        Ok(directory)
    }

    /// A directory that [`create`](Self::create) made, and its configuration.
    pub fn resume(path: &Path) -> anyhow::Result<(Self, Config)> {
        let config = config_of(path)?;
        Ok((Self::lock(path.to_path_buf())?, config))
    }

    fn lock(path: PathBuf) -> anyhow::Result<Self> {
        let name = path.join(LOCK);
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&name);
        let file = open.with_context(|| name.display().to_string())?;
        match file.try_lock() {
            Ok(()) => {
                for folder in folders(&path) {
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

    /// Removes the files of an earlier run.
    fn clear(&self) -> io::Result<()> {
        let networks = NETWORKS.map(|name| self.path.join(name));
        for folder in networks.iter().chain([&self.path]) {
            for name in FILES {
                remove_file(&folder.join(name))?;
            }
            remove_steps(&folder.join(CHECKPOINTS))?;
            let states = folder.join(STATES);
            for seed in numbered(&states)? {
                remove_steps(&seed)?;
            }
            remove_if_empty(&states);
        }
        networks.iter().for_each(|network| remove_if_empty(network));
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A new directory that is named after the second, and numbered if another run began in it.
fn dated() -> anyhow::Result<PathBuf> {
    let parent = Path::new("runs");
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let second = jiff::Zoned::now().strftime("%Y-%m-%d-%H%M%S").to_string();
    for number in 1.. {
        let name = if number == 1 { second.clone() } else { format!("{second}-{number}") };
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context(path.display().to_string()),
        }
    }
    unreachable!("the numbers do not end")
}

/// The directories that commands write into, as far as they are there.
fn folders(path: &Path) -> Vec<PathBuf> {
    let networks = NETWORKS.map(|name| path.join(name));
    let mut folders = Vec::new();
    for folder in networks.into_iter().chain([path.to_owned()]) {
        let seeds = numbered(&folder.join(STATES)).unwrap_or_default();
        folders.extend([folder.join(CHECKPOINTS), folder].into_iter().chain(seeds).filter(|folder| folder.is_dir()));
    }
    folders
}

/// Whether a command made a directory.
fn is_run(path: &Path) -> bool {
    let config = read_text(&path.join(CONFIG)).unwrap_or_default();
    path.join(LOCK).is_file() && config.starts_with("# Configuration of nes-search")
}

/// The configuration that the networks of a directory were made with.
pub fn config_of(directory: &Path) -> anyhow::Result<Config> {
    read_config(Preset::Laptop, &file_of(directory, CONFIG))
}

/// A file of a run directory, for the directory itself or for that of a network in it.
pub fn file_of(directory: &Path, name: &str) -> PathBuf {
    let own = directory.join(name);
    // The parent of `.` has no name.
    let parent = if directory.file_name().is_some() { directory.parent().map(Path::to_owned) } else { None };
    let parent = parent.unwrap_or_else(|| directory.join(".."));
    let above = parent.join(name);
    if own.is_file() || !above.is_file() { own } else { above }
}

/// The name of something in a directory but what a command leaves that was killed before it wrote anything.
fn content(path: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != LOCK && !name.starts_with(files::UNFINISHED) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// What is in a directory under names of digits.
fn numbered(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if entry.path().is_dir() && name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes checkpoints, of which a directory of others' files is none.
fn remove_steps(parent: &Path) -> io::Result<()> {
    for step in numbered(parent)? {
        for entry in fs::read_dir(&step)? {
            let path = entry?.path();
            let ending = path.extension().unwrap_or_default();
            if ending == "bpk" || ending == "json" || path.file_name() == Some("blake3".as_ref()) {
                remove_file(&path)?;
            }
        }
        remove_if_empty(&step);
    }
    remove_if_empty(parent);
    Ok(())
}

/// Removes a file, if there is one.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.is_dir() => fs::remove_file(path),
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory, unless somebody has files in it.
fn remove_if_empty(path: &Path) {
    let _ = fs::remove_dir(path);
}

/// Writes a file, which is whole or as it was whatever happens.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    files::write(path, content).with_context(|| path.display().to_string())
}

/// Writes a value as JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    write(path, (serde_json::to_string_pretty(value)? + "\n").as_bytes())
}

/// The text of a file, without a mark of its byte order.
pub fn read_text(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Reads a value from JSON.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let at = || path.display().to_string();
    serde_json::from_str(&read_text(path).with_context(at)?).with_context(at)
}

/// Reads a value from JSON. Returns `None` if there is no such file.
pub fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    if path.try_exists().with_context(|| path.display().to_string())? { read_json(path).map(Some) } else { Ok(None) }
}

/// Reads an architecture of a space.
pub fn read_architecture(space: &SearchSpace, path: &Path) -> anyhow::Result<Architecture> {
    let architecture: Architecture = read_json(path)?;
    space.check(&architecture).with_context(|| path.display().to_string())?;
    Ok(architecture)
}
