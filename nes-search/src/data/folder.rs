//! Folders of images, as ImageNet comes: `train/CLASS/*.jpg`, and `val/` or `test/` with the same classes.
//!
//! The classes are the folders of `train`, in alphabetical order. Files named `.jpg`, `.jpeg` or `.png`, in whatever case,
//! are images; others are ignored. An image is decoded when it is asked for, since such a set is larger than memory.

use std::fs;
use std::path::{Path, PathBuf};

use super::{DataError, ImageData, ImageSet};

/// Height and width that images are scaled to, if no other is asked for.
pub const DEFAULT_SIZE: usize = 224;

/// Reads the names of all files.
pub(super) fn read(directory: &Path, size: usize) -> Result<ImageData, DataError> {
    let train = directory.join("train");
    let val = directory.join("val");
    let test = if val.exists() { val } else { directory.join("test") };
    let folders = entries(&train, |path| path.is_dir())?;
    let class_names: Vec<String> = folders.iter().map(|folder| name(folder)).collect();
    if class_names.is_empty() {
        return Err(DataError::EmptyFolder { path: train, expected: "a folder of images for each class" });
    }
    let set = |split: &Path| {
        let mut files = Vec::new();
        for (class, name) in class_names.iter().enumerate() {
            let folder = split.join(name);
            if !folder.is_dir() {
                return Err(DataError::Classes { split: split.into(), train: train.clone(), name: name.clone() });
            }
            let images = entries(&folder, is_image)?;
            if images.is_empty() {
                return Err(DataError::EmptyFolder { path: folder, expected: "images named .jpg, .jpeg or .png" });
            }
            files.extend(images.into_iter().map(|path| (path, class)));
        }
        ImageSet::of_files(files, size, class_names.clone())
    };
    Ok(ImageData { train: set(&train)?, test: set(&test)?, class_names: class_names.clone() })
}

/// What a folder holds, sorted, so that it is the same on every machine.
fn entries(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, DataError> {
    let read = |source| DataError::Read { path: folder.into(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if wanted(&path) {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"))
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
