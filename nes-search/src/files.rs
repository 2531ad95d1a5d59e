//! Files and directories that are whole or not there, whatever ends the process.
//!
//! All are written beside under a name that begins with [`UNFINISHED`], and renamed. What a killed process leaves has
//! such a name, and [`remove_unfinished`] takes it away.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tempfile::Builder;

/// How the names of files and directories begin that are being written.
pub const UNFINISHED: &str = ".writing-";

/// Writes a file, so that it is there after a power cut once this returns.
///
/// # Errors
/// If the file or its directory cannot be written; an older file is then as it was.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    persist(path, content, true)
}

/// Writes a file that other processes see whole, and that a power cut may set back: without the wait for the disk.
///
/// # Errors
/// As [`write()`].
pub fn write_quickly(path: &Path, content: &[u8]) -> io::Result<()> {
    persist(path, content, false)
}

fn persist(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut file = builder(0o666).tempfile_in(folder)?;
    file.write_all(content)?;
    if durable {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    if durable { sync_directory(folder) } else { Ok(()) }
}

/// Writes a directory of files, as [`write()`] does a file. It must not be there yet.
///
/// # Errors
/// If something cannot be written; the directory is then not there.
pub fn write_directory(path: &Path, files: &[(&str, Vec<u8>)]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let directory = builder(0o777).tempdir_in(parent)?;
    for (name, content) in files {
        let mut file = File::create(directory.path().join(name))?;
        file.write_all(content)?;
        file.sync_all()?;
    }
    sync_directory(directory.path())?;
    fs::rename(directory.path(), path)?;
    // It is no longer where a clean-up would look for it.
    let _ = directory.keep();
    sync_directory(parent)
}

/// Removes a directory, which is never seen with a part of its files.
///
/// # Errors
/// If it cannot be renamed or removed.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let grave = builder(0o777).tempdir_in(parent)?;
    fs::rename(path, grave.path().join("removed"))?;
    grave.close()
}

/// Removes what killed processes left half-written in a directory. No process may be writing there.
///
/// # Errors
/// If the directory cannot be read, or something not be removed.
pub fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let path = entry.path();
            if entry.file_type()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    Ok(())
}

fn builder(mode: u32) -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What a plain new file gets; the process's mask still applies.
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    builder
}

/// Makes the names in a directory survive a power cut.
#[cfg(unix)]
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Only Unix opens directories.
#[cfg(not(unix))]
pub(crate) fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_there_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        for content in ["one", "two"] {
            write(&parent.path().join("file"), content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(parent.path().join("file")).unwrap(), content);
        }
        let directory = parent.path().join("some");
        write_directory(&directory, &[("a", b"1".to_vec()), ("b", b"2".to_vec())]).unwrap();
        assert_eq!(fs::read_to_string(directory.join("b")).unwrap(), "2");
        assert!(write_directory(&directory, &[("c", Vec::new())]).is_err(), "it is there already");
        assert!(!directory.join("c").exists());
        assert_eq!(names(), ["file", "some"]);
        remove_directory(&directory).unwrap();
        assert_eq!(names(), ["file"]);
        fs::create_dir_all(parent.path().join(".writing-folder/inner")).unwrap();
        fs::write(parent.path().join(".writing-file"), "half").unwrap();
        remove_unfinished(parent.path()).unwrap();
        assert_eq!(names(), ["file"]);
    }
}
