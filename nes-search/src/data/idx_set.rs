//! Sets like MNIST: the four IDX files of a directory, or those that are embedded.

use std::fs;
use std::io::{BufRead, ErrorKind};
use std::path::{Path, PathBuf};

use super::idx::{self, IdxImages};
use super::image_data::read_class_names;
use super::{DataError, ImageData, ImageSet};

const SPLITS: [[&str; 2]; 2] =
    [["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]];

macro_rules! embedded {
    ($name:literal) => {
        include_bytes!(concat!("../../data/fashion-mnist-subset/", $name))
    };
}

impl ImageData {
    /// The embedded subset of Fashion-MNIST: 28x28 grey pixels, 10 classes, 1,000 training and 200 test images of each.
    ///
    /// Fashion-MNIST is by Zalando SE, under the MIT licence; `data/fashion-mnist-subset` of this crate holds the notice and
    /// tells how the subset was made.
    pub fn embedded() -> Self {
        let names = include_str!("../../data/fashion-mnist-subset/classes.txt");
        let train = SplitSource {
            images: (embedded!("train-images-idx3-ubyte.gz").as_slice(), "embedded training images".into()),
            labels: (embedded!("train-labels-idx1-ubyte.gz").as_slice(), "embedded training labels".into()),
        };
        let test = SplitSource {
            images: (embedded!("t10k-images-idx3-ubyte.gz").as_slice(), "embedded test images".into()),
            labels: (embedded!("t10k-labels-idx1-ubyte.gz").as_slice(), "embedded test labels".into()),
        };
        let names = names.lines().map(str::to_owned).collect();
        from_splits(train, test, Some(names)).expect("a test reads the embedded files")
    }
}

/// What the files of a set may be called.
pub(super) fn files() -> impl Iterator<Item = String> {
    SPLITS.into_iter().flatten().flat_map(plain_and_gzip)
}

fn plain_and_gzip(name: &str) -> [String; 2] {
    [name.to_owned(), format!("{name}.gz")]
}

/// Reads the set of a directory.
pub(super) fn read(directory: &Path) -> Result<ImageData, DataError> {
    let [train, test] = SPLITS.map(|[images, labels]| -> Result<_, DataError> {
        Ok(SplitSource { images: open(directory, images)?, labels: open(directory, labels)? })
    });
    from_splits(train?, test?, read_class_names(&directory.join("classes.txt"))?)
}

fn from_splits(
    train: SplitSource<impl BufRead>,
    test: SplitSource<impl BufRead>,
    class_names: Option<Vec<String>>,
) -> Result<ImageData, DataError> {
    let (train, test) = (train.read()?, test.read()?);
    let [expected, found] = [&train, &test].map(|split| [split.images.height, split.images.width]);
    if expected != found {
        return Err(DataError::SizeMismatch { path: test.images_path, expected, found });
    }
    let class_names = class_names.unwrap_or_else(|| {
        let largest = train.labels.iter().copied().max().unwrap_or(0);
        (0..=largest).map(|label| label.to_string()).collect()
    });
    Ok(ImageData { train: train.into_set(&class_names)?, test: test.into_set(&class_names)?, class_names })
}

/// Where the two files of a split come from: content, and the path that errors name.
struct SplitSource<R> {
    images: (R, PathBuf),
    labels: (R, PathBuf),
}

/// A split as its files have it; labels are not checked yet.
struct Split {
    images_path: PathBuf,
    images: IdxImages,
    labels_path: PathBuf,
    labels: Vec<u8>,
}

impl<R: BufRead> SplitSource<R> {
    fn read(self) -> Result<Split, DataError> {
        let ((images, images_path), (labels, labels_path)) = (self.images, self.labels);
        let images = idx::parse_images(images, &images_path)?;
        let labels = idx::parse_labels(labels, &labels_path)?;
        if images.count != labels.len() {
            let (expected, found) = (images.count, labels.len());
            return Err(DataError::CountMismatch { images_path, labels_path, expected, found });
        }
        Ok(Split { images_path, images, labels_path, labels })
    }
}

impl Split {
    fn into_set(self, class_names: &[String]) -> Result<ImageSet, DataError> {
        const HEADER_BYTES: u64 = 8;
        let class_count = class_names.len();
        let labels: Vec<usize> = self.labels.into_iter().map(usize::from).collect();
        if let Some((image, &found)) = labels.iter().enumerate().find(|&(_, &label)| label >= class_count) {
            let offset = HEADER_BYTES + image as u64;
            return Err(DataError::FileLabelOutOfRange { path: self.labels_path, offset, image, class_count, found });
        }
        let IdxImages { count, height, width, pixels } = self.images;
        ImageSet::new(pixels, [count, 1, height, width], labels, class_names.to_vec())
    }
}

/// The file of that name, or else of that name with `.gz`, open for reading.
fn open(directory: &Path, name: &str) -> Result<(impl BufRead + use<>, PathBuf), DataError> {
    let names = plain_and_gzip(name);
    for name in &names {
        let path = directory.join(name);
        match fs::File::open(&path) {
            Ok(file) => return Ok((std::io::BufReader::new(file), path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(DataError::Read { path, source }),
        }
    }
    Err(DataError::MissingFile { directory: directory.to_owned(), names: names.join(", ") })
}

#[cfg(test)]
#[path = "idx_set_tests.rs"]
mod tests;
