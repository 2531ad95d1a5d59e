//! Checkpoints of long jobs: all that one needs to go on, bit for bit.
//!
//! A checkpoint is a directory `PARENT/NNNNNNNN`, named after the steps that are done. It has a file `state.json`, some
//! files of bytes, and a file `blake3` with one hash of all of them. It is written beside, to the disk, and renamed. The
//! last two are kept: should the newest be damaged, the one before it is whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files;

const STATE: &str = "state.json";
const HASH: &str = "blake3";

/// Why a checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file or a directory cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file or the directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The content is damaged, or of another job.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Content {
        /// The file or the directory.
        path: PathBuf,
        /// What would be valid.
        expected: String,
        /// What there is.
        found: String,
    },
}

impl CheckpointError {
    /// An error of the operating system.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.into(), source }
    }

    /// A content that is not as expected.
    pub fn content(path: &Path, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Content { path: path.into(), expected: expected.into(), found: found.to_string() }
    }
}

/// The files of a checkpoint by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The content of a `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile<S> {
    /// The job that the state is of, with a version.
    kind: String,
    state: S,
}

/// Writes a checkpoint below `parent`. It and the one before it are kept; others go.
///
/// `kind` names the job and the version of its files. A checkpoint of another kind is refused when it is read.
///
/// # Errors
/// If something cannot be written. The earlier checkpoints are then as they were.
pub fn write(
    parent: &Path,
    step: usize,
    kind: &str,
    state: &impl Serialize,
    mut files: Files,
) -> Result<(), CheckpointError> {
    fs::create_dir_all(parent).map_err(CheckpointError::file(parent))?;
    let path = parent.join(format!("{step:08}"));
    let state = serde_json::to_vec(&StateFile { kind: kind.to_owned(), state });
    let state = state.map_err(|error| CheckpointError::content(&path, "a state that JSON can hold", error))?;
    files.insert(STATE.into(), state);
    let hash = hash_of(&files);
    files.insert(HASH.into(), hash.into_bytes());
    let earlier = steps_in(parent)?;
    if earlier.contains(&step) {
        // The same step of the same job, or a damaged one.
        remove(&path)?;
    }
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    files::write_directory(&path, &files).map_err(CheckpointError::file(&path))?;
    let before = earlier.iter().copied().filter(|&other| other < step).max();
    for other in earlier.into_iter().filter(|&other| other != step && Some(other) != before) {
        remove(&parent.join(format!("{other:08}")))?;
    }
    Ok(())
}

/// Hands the newest checkpoint below `parent` to `accept`: its directory, its state and its files. If it is damaged or
/// not accepted, the one before it follows, and `warn` is told. Returns `None` if there is no checkpoint.
///
/// # Errors
/// What is wrong with the newest, if none is accepted.
pub fn read_latest<S: DeserializeOwned, T>(
    parent: &Path,
    kind: &str,
    mut accept: impl FnMut(&Path, S, Files) -> Result<T, CheckpointError>,
    warn: &mut dyn FnMut(&str),
) -> Result<Option<T>, CheckpointError> {
    let mut steps = steps_in(parent)?;
    steps.sort_unstable();
    let mut refused = None;
    for step in steps.into_iter().rev() {
        let path = parent.join(format!("{step:08}"));
        match read(&path, kind).and_then(|(state, files)| accept(&path, state, files)) {
            Ok(accepted) => {
                if let Some(newest) = refused {
                    warn(&format!("{newest}; going on from {}", path.display()));
                }
                return Ok(Some(accepted));
            }
            Err(error) => refused = Some(refused.unwrap_or(error)),
        }
    }
    refused.map_or(Ok(None), Err)
}

/// The steps that there are checkpoints of below a directory, in no order.
///
/// # Errors
/// If the directory cannot be read. One that is not there has none.
pub fn steps_in(parent: &Path) -> Result<Vec<usize>, CheckpointError> {
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(CheckpointError::file(parent))?,
    };
    let mut steps = Vec::new();
    for entry in entries {
        let name = entry.map_err(CheckpointError::file(parent))?.file_name();
        // No other name of digits is one that was written here.
        steps.extend(name.to_str().filter(|name| name.len() >= 8).and_then(|name| name.parse::<usize>().ok()));
    }
    Ok(steps)
}

fn read<S: DeserializeOwned>(path: &Path, kind: &str) -> Result<(S, Files), CheckpointError> {
    let mut files = Files::new();
    for entry in fs::read_dir(path).map_err(CheckpointError::file(path))? {
        let file = entry.map_err(CheckpointError::file(path))?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, fs::read(&file).map_err(CheckpointError::file(&file))?);
    }
    let hash = files.remove(HASH).unwrap_or_default();
    if hash != hash_of(&files).into_bytes() {
        return Err(CheckpointError::content(path, "a whole checkpoint", "one that has changed since it was written"));
    }
    let at = path.join(STATE);
    let state = take(&mut files, STATE, path)?;
    let bad = |error: serde_json::Error| CheckpointError::content(&at, format!("a state of {kind}"), error);
    // The kind first: another kind has another state.
    let found: StateFile<Value> = serde_json::from_slice(&state).map_err(bad)?;
    if found.kind != kind {
        return Err(CheckpointError::content(&at, format!("a state of {kind}"), format!("one of {}", found.kind)));
    }
    let StateFile { state, .. } = serde_json::from_slice::<StateFile<S>>(&state).map_err(bad)?;
    Ok((state, files))
}

/// Takes a file out of a checkpoint; `path` is the checkpoint's.
///
/// # Errors
/// If there is no such file.
pub fn take(files: &mut Files, name: &str, path: &Path) -> Result<Vec<u8>, CheckpointError> {
    files.remove(name).ok_or_else(|| CheckpointError::content(path, format!("a file {name}"), "none"))
}

/// One hash of all names, lengths and contents.
fn hash_of(files: &Files) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in files {
        hasher.update(format!("{name} {}\n", bytes.len()).as_bytes());
        hasher.update(bytes);
    }
    hasher.finalize().to_string()
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    files::remove_directory(path).map_err(CheckpointError::file(path))
}

/// The record of a module as bytes, not of its gradients.
///
/// # Errors
/// If it has no such form; `path` is what the error names.
pub fn module_bytes<M: Module>(module: &M, path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let bytes = module.valid().into_record().into_bytes();
    bytes.map(|bytes| bytes.to_vec()).map_err(|error| CheckpointError::content(path, "a record of a module", error))
}

/// A module with the record of [`module_bytes`].
///
/// # Errors
/// If the bytes are no record of such a module; `path` is what the error names.
pub fn load_module<M: Module>(module: M, bytes: Vec<u8>, path: &Path) -> Result<M, CheckpointError> {
    ModuleRecord::from_bytes(Bytes::from_bytes_vec(bytes))
        .and_then(|record| module.try_load_record(record))
        .map_err(|error| CheckpointError::content(path, "the record of such a module", error))
}

/// The record of an optimizer as bytes.
///
/// # Errors
/// If it has no such form; `path` is what the error names.
pub fn optimizer_bytes(optimizer: &ModuleOptimizer, path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let bytes = optimizer.to_record().into_bytes();
    bytes.map(|bytes| bytes.to_vec()).map_err(|error| CheckpointError::content(path, "a record of an optimizer", error))
}

/// An optimizer with the record of [`optimizer_bytes`].
///
/// # Errors
/// If the bytes are no record of an optimizer; `path` is what the error names.
pub fn load_optimizer(
    optimizer: ModuleOptimizer,
    bytes: Vec<u8>,
    path: &Path,
) -> Result<ModuleOptimizer, CheckpointError> {
    let record = OptimizerRecord::from_bytes(Bytes::from_bytes_vec(bytes))
        .map_err(|error| CheckpointError::content(path, "the record of an optimizer", error))?;
    Ok(optimizer.load_record(record))
}

/// Refuses the checkpoint of another job, and says in which fields that differs.
///
/// # Errors
/// If the two are not equal.
pub fn check_identity<T: Serialize + PartialEq>(expected: &T, found: &T, path: &Path) -> Result<(), CheckpointError> {
    if expected == found {
        return Ok(());
    }
    let value = |identity: &T| serde_json::to_value(identity).unwrap_or_default();
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    differences("", &value(expected), &value(found), &mut ours, &mut others);
    Err(CheckpointError::content(path, format!("one with {}", ours.join(", ")), others.join(", ")))
}

/// Names and values of the fields in which two values differ.
fn differences(name: &str, one: &Value, other: &Value, of_one: &mut Vec<String>, of_other: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                let [one, other] = [one, other].map(|fields| fields.get(key).unwrap_or(&Value::Null));
                differences(&name, one, other, of_one, of_other);
            }
        }
        _ if one != other => {
            of_one.push(format!("{name} {one}"));
            of_other.push(format!("{name} {other}"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> Files {
        Files::from([("weights.bpk".into(), text.as_bytes().to_vec())])
    }

    type Read = Result<Option<(usize, String)>, CheckpointError>;

    fn latest(parent: &Path) -> (Read, Vec<String>) {
        let mut warnings = Vec::new();
        let accept = |path: &Path, step: usize, mut files: Files| {
            Ok((step, String::from_utf8(take(&mut files, "weights.bpk", path)?).expect("text")))
        };
        let found = read_latest(parent, "test 1", accept, &mut |warning| warnings.push(warning.to_owned()));
        (found, warnings)
    }

    #[test]
    fn the_last_two_are_kept_and_the_newest_is_read() {
        let parent = tempfile::tempdir().expect("a directory");
        let parent = parent.path().join("checkpoints");
        assert!(matches!(latest(&parent).0, Ok(None)));
        for step in [0usize, 5, 9, 12] {
            write(&parent, step, "test 1", &step, files(&format!("at {step}"))).expect("written");
        }
        let mut steps = steps_in(&parent).expect("readable");
        steps.sort_unstable();
        assert_eq!(steps, [9, 12]);
        assert_eq!(latest(&parent).0.expect("whole"), Some((12, "at 12".into())));
        // Again, as after going on from it.
        write(&parent, 12, "test 1", &12, files("again")).expect("written");
        assert_eq!(latest(&parent).0.expect("whole"), Some((12, "again".into())));
    }

    #[test]
    fn a_damaged_one_is_named_and_the_one_before_it_is_used() {
        let directory = tempfile::tempdir().expect("a directory");
        let parent = directory.path();
        for step in [3usize, 7] {
            write(parent, step, "test 1", &step, files("weights")).expect("written");
        }
        for name in ["weights.bpk", "state.json", "blake3"] {
            let path = parent.join("00000007").join(name);
            let whole = fs::read(&path).expect("a file");
            let mut damaged = whole.clone();
            damaged[0] ^= 1;
            fs::write(&path, &damaged).expect("written");
            let (found, warnings) = latest(parent);
            assert_eq!(found.expect("the one before"), Some((3, "weights".into())));
            assert!(warnings.len() == 1 && warnings[0].contains("00000007"), "{warnings:?}");
            fs::remove_file(&path).expect("a file");
            assert_eq!(latest(parent).0.expect("the one before"), Some((3, "weights".into())));
            fs::write(&path, &whole).expect("written");
        }
        assert_eq!(latest(parent).0.expect("whole"), Some((7, "weights".into())));
        // A damaged newer one goes when an older step is written.
        fs::write(parent.join("00000007/blake3"), "").expect("written");
        write(parent, 4, "test 1", &4, files("weights")).expect("written");
        let mut steps = steps_in(parent).expect("readable");
        steps.sort_unstable();
        assert_eq!(steps, [3, 4]);
    }

    #[test]
    fn another_kind_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), 1, "test 2", &1, files("weights")).expect("written");
        let message = latest(directory.path()).0.expect_err("another kind").to_string();
        assert!(message.contains("expected a state of test 1, found one of test 2"), "{message}");
    }

    #[test]
    fn fields_that_differ_are_named() {
        let (one, other) = (serde_json::json!({"a": {"b": 1}, "c": 2}), serde_json::json!({"a": {"b": 3}, "c": 2}));
        let message = check_identity(&one, &other, Path::new("x")).expect_err("they differ").to_string();
        assert_eq!(message, "x: expected one with a.b 1, found a.b 3");
    }
}
