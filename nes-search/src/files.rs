//! Files and directories that are whole or not there, whatever ends the process.
//!
//! All are written beside under a name that begins with [`UNFINISHED`], and renamed. What a killed process leaves has
//! such a name, and [`remove_unfinished`] takes it away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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

/// Replaces a file, or writes into what is no file: a device or a pipe is never replaced. Links are followed.
fn persist(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let path = &target(path)?;
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(there) if !there.is_file() => return OpenOptions::new().write(true).open(path)?.write_all(content),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
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

/// The most links that are followed, as Linux does.
const MAX_LINKS: usize = 40;

/// What a path stands for: the end of its links, which need not be there.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(there) if there.is_symlink() => {
                let link = fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("")).join(link);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
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

    #[cfg(unix)]
    #[test]
    fn a_link_stays_one_and_what_is_no_file_is_written_into() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        fs::create_dir(path("elsewhere")).unwrap();
        fs::write(path("elsewhere/file"), "old").unwrap();
        for (link, to) in [("link", "elsewhere/file"), ("second", "link"), ("dangling", "elsewhere/new")] {
            std::os::unix::fs::symlink(to, path(link)).unwrap();
            write(&path(link), link.as_bytes()).unwrap();
            assert!(fs::symlink_metadata(path(link)).unwrap().is_symlink(), "{link}");
            assert_eq!(fs::read_to_string(path(link)).unwrap(), link);
        }
        assert_eq!(fs::read_to_string(path("elsewhere/file")).unwrap(), "second");
        std::os::unix::fs::symlink("round", path("round")).unwrap();
        assert!(write(&path("round"), b"").is_err());
        assert!(write(&path("elsewhere"), b"").is_err(), "a directory");

        assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = path("pipe");
            move || fs::read_to_string(pipe).unwrap()
        });
        write(&path("pipe"), b"through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(!fs::metadata(path("pipe")).unwrap().is_file());
    }
}
