//! Files with a hash of their own content: a changed one is told from a whole one, whatever has changed.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::checkpoint::CheckpointError;
use crate::files;

/// What such a file is: its format, and the version of it that is read and written.
pub(super) struct Kind {
    pub format: &'static str,
    pub version: u32,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<T> {
    format: String,
    version: u32,
    /// Of the content as it is written here.
    blake3: String,
    content: T,
}

impl Kind {
    /// The text of a file.
    pub(super) fn seal<T: Serialize>(&self, content: T) -> serde_json::Result<Vec<u8>> {
        let blake3 = blake3::hash(&serde_json::to_vec(&content)?).to_string();
        serde_json::to_vec(&Sealed { format: self.format.into(), version: self.version, blake3, content })
    }

    /// Writes a file.
    pub(super) fn write<T: Serialize>(&self, path: &Path, content: T) -> Result<(), CheckpointError> {
        let sealed = self.seal(content).map_err(|error| CheckpointError::unwritable(path, error))?;
        files::write(path, &sealed).map_err(CheckpointError::file(path))
    }

    /// Reads a file.
    pub(super) fn read<T: Serialize + DeserializeOwned>(&self, path: &Path) -> Result<T, CheckpointError> {
        let bytes = fs::read(path).map_err(CheckpointError::file(path))?;
        let damaged = |found: &dyn Display| CheckpointError::content(path, format!("a whole {}", self.format), found);
        let header: Header = serde_json::from_slice(&bytes).map_err(|error| damaged(&error))?;
        if header.format != self.format {
            return Err(CheckpointError::content(path, self.format, header.format));
        }
        if header.version != self.version {
            let (path, expected, found) = (path.into(), self.version, header.version);
            return Err(CheckpointError::Version { path, expected, found });
        }
        let sealed: Sealed<T> = serde_json::from_slice(&bytes).map_err(|error| damaged(&error))?;
        // Written again it has every byte that was read, and the hash.
        if self.seal(&sealed.content).map_err(|error| damaged(&error))? != bytes {
            return Err(damaged(&"one that was changed since it was written"));
        }
        Ok(sealed.content)
    }
}
