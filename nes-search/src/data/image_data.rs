//! Data sets of two splits, in any format that a directory can have.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::{DataError, ImageSet, cifar, folder, idx_set};

/// A data set: training and test images of the same classes and the same size.
#[derive(Clone, Debug)]
pub struct ImageData {
    /// Images to learn from, and to cut an evaluation split from.
    pub train: ImageSet,
    /// Images that only the final evaluation reads.
    pub test: ImageSet,
    /// Names of the classes, in the order of the labels.
    pub class_names: Vec<String>,
}

/// Height and width that images in folders are given if nothing else is asked for, in pixels.
pub const IMAGE_SIZE: usize = 224;

impl ImageData {
    /// The data set of a directory, whose files tell its format, the first of:
    ///
    /// - IDX, as MNIST: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    ///   `t10k-labels-idx1-ubyte`, each plain or with `.gz` at the end of its name. If there is a file `classes.txt`, its
    ///   lines name the classes, label 0 first. Without it, there is one class for each label from 0 to the largest of the
    ///   training labels, named by the label in digits.
    /// - CIFAR-10: `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin`, and the names of the classes in
    ///   `batches.meta.txt`.
    /// - CIFAR-100: `train.bin`, `test.bin`, and the names of the fine classes in `fine_label_names.txt`.
    /// - Folders of JPEG, PNG, WebP and BMP images, as ImageNet: `train/CLASS/NAME`, where the name ends in `.jpg`, `.jpeg`,
    ///   `.png`, `.webp` or `.bmp`, and test images of the same classes in `val` or else `test`. Labels follow the order of
    ///   the names. Only the names are read now; an image is decoded each time that it is needed
    ///   ([`ImageSet::is_lazy`]), to colours, upright by its orientation in EXIF, and at most 67,108,864 pixels of it.
    ///
    /// `image_size` is the height and width in pixels that images in folders are given ([`IMAGE_SIZE`] without it). Of other
    /// formats it has to be the size of the images.
    ///
    /// # Errors
    ///
    /// When the directory has no data set, or a file is missing, damaged, or does not fit the others; the message names
    /// the file and the place.
    pub fn open(directory: &Path, image_size: Option<usize>) -> Result<Self, DataError> {
        let has = |name: &str| directory.join(name).exists();
        if idx_set::files().any(|name| has(&name)) {
            return idx_set::read(directory)?.of_size(image_size);
        }
        for layout in [cifar::CIFAR_10, cifar::CIFAR_100] {
            if layout.files().any(has) {
                return layout.read(directory)?.of_size(image_size);
            }
        }
        if directory.join(folder::TRAIN).is_dir() {
            return folder::read(directory, image_size.unwrap_or(IMAGE_SIZE));
        }
        let expected = "IDX files (train-images-idx3-ubyte, ...), CIFAR-10 (data_batch_1.bin, ...), CIFAR-100 \
                        (train.bin, ...) or folders of images (train/CLASS/*.jpg, ...)";
        Err(DataError::content(directory, expected, "none of them"))
    }

    /// The same, if its images are squares of a size.
    ///
    /// # Errors
    ///
    /// When they are not.
    pub fn of_size(self, image_size: Option<usize>) -> Result<Self, DataError> {
        let [_, _, height, width] = self.train.shape();
        match image_size {
            Some(found) if [height, width] != [found; 2] => {
                Err(DataError::ImageSize { expected: [height, width], found })
            }
            _ => Ok(self),
        }
    }
}

/// The lines of a file of class names; nothing, if there is no such file. Empty lines may follow the last one.
pub(super) fn read_class_names(path: &Path) -> Result<Option<Vec<String>>, DataError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataError::ReadClassNames { path: path.to_owned(), source }),
    };
    let mut names: Vec<String> = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').trim_end().lines().enumerate() {
        let name = line.trim();
        if name.is_empty() || names.iter().any(|earlier| earlier == name) {
            return Err(DataError::ClassName { path: path.to_owned(), line: number + 1, found: line.to_owned() });
        }
        names.push(name.to_owned());
    }
    if names.is_empty() {
        return Err(DataError::ClassName { path: path.to_owned(), line: 1, found: String::new() });
    }
    Ok(Some(names))
}
