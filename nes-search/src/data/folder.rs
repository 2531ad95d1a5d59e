//! Folders of images as ImageNet's: `train/CLASS/NAME.jpg`, and the same with `val` or `test`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::{DataError, ImageData, ImageSet};

/// The folder of training images.
pub(super) const TRAIN: &str = "train";
/// Folders of test images; the first that there is counts. Of ImageNet's own test images nobody knows the classes.
pub(super) const TEST: [&str; 2] = ["val", "test"];
const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

/// Lists the images of a directory. They are decoded when they are read, to `size` x `size` pixels.
pub(super) fn read(directory: &Path, size: usize) -> Result<ImageData, DataError> {
    let train = directory.join(TRAIN);
    let folders = TEST.map(|name| directory.join(name));
    let Some(test) = folders.into_iter().find(|folder| folder.is_dir()) else {
        return Err(DataError::MissingFile { directory: directory.to_owned(), names: TEST.join(", ") });
    };
    let class_names = classes(&train)?;
    let of_test = classes(&test)?;
    for (one, other, folder) in [(&of_test, &class_names, &test), (&class_names, &of_test, &train)] {
        if let Some(name) = one.iter().find(|name| other.binary_search(name).is_err()) {
            let expected = "the same classes in both splits";
            let found = format!("class {name} in {} alone", folder.display());
            return Err(DataError::content(directory, expected, found));
        }
    }
    let split = |folder: &Path| -> Result<ImageSet, DataError> {
        let (mut files, mut labels) = (Vec::new(), Vec::new());
        for (label, name) in class_names.iter().enumerate() {
            files.extend(images(&folder.join(name))?);
            labels.resize(files.len(), label);
        }
        Ok(ImageSet::of_files(files, labels, size, class_names.clone()))
    };
    Ok(ImageData { train: split(&train)?, test: split(&test)?, class_names: class_names.clone() })
}

/// The names of a split's folders, in order.
fn classes(split: &Path) -> Result<Vec<String>, DataError> {
    let class = |path: PathBuf| match path.file_name().and_then(OsStr::to_str) {
        Some(name) if path.is_dir() => Ok(name.to_owned()),
        Some(_) => Err(DataError::content(&path, "a folder for each class", "a file")),
        None => Err(DataError::content(&path, "the name of a class in UTF-8", "other bytes")),
    };
    let classes = entries(split)?.into_iter().map(class).collect::<Result<Vec<_>, _>>()?;
    if classes.is_empty() {
        return Err(DataError::content(split, "a folder for each class", "none"));
    }
    Ok(classes)
}

/// The image files of a class, in the order of their names.
fn images(class: &Path) -> Result<Vec<PathBuf>, DataError> {
    let files = entries(class)?;
    let is_image = |path: &&PathBuf| {
        path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
    };
    match files.iter().find(|path| !is_image(path)) {
        // To leave it out without a word could leave out half of a class.
        Some(other) => {
            Err(DataError::content(other, "an image that ends in .jpg, .jpeg, .png, .webp or .bmp", "another file"))
        }
        None if files.is_empty() => Err(DataError::content(class, "at least 1 image", "none")),
        None => Ok(files),
    }
}

/// What is in a folder, in the order of the names, but for hidden files.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = || {
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                paths.push(entry.path());
            }
        }
        paths.sort_unstable();
        Ok(paths)
    };
    read().map_err(|source| DataError::Read { path: folder.to_owned(), source })
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
