//! Sets of labelled images.

use std::borrow::Cow;
use std::fs;
use std::io::{BufRead, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::DataError;
use super::idx::{self, IdxImages};
use super::photo::{self, Crop};
use super::{cifar, folder};

/// Labelled images, all of one size; cheap to clone.
///
/// Their pixels are in memory, or in a file each, which is then decoded whenever an image is asked for. A subset shares
/// the pixels of the set it was taken from. An image's *position* is its place in the set at hand, from 0.
/// There is always at least one image.
#[derive(Clone, Debug)]
pub struct ImageSet {
    store: Arc<Store>,
    /// Where in the store the image of each position is.
    images: Arc<[usize]>,
}

#[derive(Debug)]
struct Store {
    source: Source,
    labels: Vec<usize>,
    /// `[channels, height, width]`
    image_shape: [usize; 3],
    class_names: Vec<String>,
}

/// Where pixels are.
#[derive(Debug)]
enum Source {
    /// `[images, channels, height, width]`
    Memory(Vec<u8>),
    /// A file for each image, of any size, which is scaled to the set's.
    Files(Vec<PathBuf>),
}

impl ImageSet {
    /// A set of all the given images.
    ///
    /// # Shapes
    ///
    /// - `pixels`: brightness, 0 to 255, as `[images, channels, height, width]` in row-major order, the lengths being `shape`
    /// - `labels`: `[images]`, each below the number of class names
    ///
    /// # Errors
    ///
    /// When the shape has a zero, pixels or labels do not fill it, or a label is out of range.
    pub fn new(
        pixels: Vec<u8>,
        shape: [usize; 4],
        labels: Vec<usize>,
        class_names: Vec<String>,
    ) -> Result<Self, DataError> {
        let [count, channels, height, width] = shape;
        if shape.contains(&0) {
            return Err(DataError::Empty { shape });
        }
        let expected = shape.iter().fold(1usize, |product, &length| product.saturating_mul(length));
        if pixels.len() != expected {
            return Err(DataError::ShapeMismatch { shape, what: "pixels", expected, found: pixels.len() });
        }
        if labels.len() != count {
            return Err(DataError::ShapeMismatch { shape, what: "labels", expected: count, found: labels.len() });
        }
        let class_count = class_names.len();
        if let Some((image, &found)) = labels.iter().enumerate().find(|&(_, &label)| label >= class_count) {
            return Err(DataError::LabelOutOfRange { image, class_count, found });
        }
        Ok(Self::of_source(Source::Memory(pixels), [channels, height, width], labels, class_names))
    }

    /// A set of files of images (JPEG or PNG), which are decoded when they are asked for, as colours, and scaled to
    /// `size` pixels in height and width; `files` has the class of each.
    ///
    /// # Errors
    ///
    /// When there is no file, the size is 0, or a class is out of range.
    pub fn of_files(files: Vec<(PathBuf, usize)>, size: usize, class_names: Vec<String>) -> Result<Self, DataError> {
        let image_shape = [3, size, size];
        if files.is_empty() || size == 0 {
            return Err(DataError::Empty { shape: [files.len(), 3, size, size] });
        }
        let class_count = class_names.len();
        if let Some((image, &(_, found))) = files.iter().enumerate().find(|(_, (_, label))| *label >= class_count) {
            return Err(DataError::LabelOutOfRange { image, class_count, found });
        }
        let (files, labels) = files.into_iter().unzip();
        Ok(Self::of_source(Source::Files(files), image_shape, labels, class_names))
    }

    fn of_source(source: Source, image_shape: [usize; 3], labels: Vec<usize>, class_names: Vec<String>) -> Self {
        let images = (0..labels.len()).collect();
        Self { store: Arc::new(Store { source, labels, image_shape, class_names }), images }
    }

    /// Whether every image is decoded from its file when it is asked for.
    pub fn is_on_disk(&self) -> bool {
        matches!(self.store.source, Source::Files(_))
    }

    /// Number of images, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "a set is never empty")]
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Lengths of the axes: `[images, channels, height, width]`.
    pub fn shape(&self) -> [usize; 4] {
        let [channels, height, width] = self.store.image_shape;
        [self.len(), channels, height, width]
    }

    /// Bytes of the image at a position, as `[channels, height, width]` in row-major order. Of a file, this is the middle of
    /// the image: a square of seven eighths of its shorter side.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is no image.
    ///
    /// # Panics
    ///
    /// When the position is not below [`len`](Self::len).
    pub fn pixels(&self, position: usize) -> Result<Cow<'_, [u8]>, DataError> {
        self.cropped(position, Crop::Middle)
    }

    /// As [`pixels`](Self::pixels), with another part of a file. An image in memory is always whole.
    pub(super) fn cropped(&self, position: usize, crop: Crop) -> Result<Cow<'_, [u8]>, DataError> {
        let image = self.images[position];
        match &self.store.source {
            Source::Memory(pixels) => {
                let size: usize = self.store.image_shape.iter().product();
                Ok(Cow::Borrowed(&pixels[image * size..(image + 1) * size]))
            }
            Source::Files(files) => Ok(Cow::Owned(photo::read(&files[image], self.store.image_shape[1], crop)?)),
        }
    }

    /// Class of the image at a position, below [`class_count`](Self::class_count).
    ///
    /// # Panics
    ///
    /// When the position is not below [`len`](Self::len).
    pub fn label(&self, position: usize) -> usize {
        self.store.labels[self.images[position]]
    }

    /// Number of classes, whether or not this set has images of each.
    pub fn class_count(&self) -> usize {
        self.store.class_names.len()
    }

    /// Names of the classes, in the order of the labels.
    pub fn class_names(&self) -> &[String] {
        &self.store.class_names
    }

    /// Number of images of each class, in the order of the labels.
    pub fn class_sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.class_count()];
        for position in 0..self.len() {
            sizes[self.label(position)] += 1;
        }
        sizes
    }

    /// The images at the given positions, in that order, without a copy of their pixels.
    ///
    /// # Errors
    ///
    /// When there is no position, or one is not below [`len`](Self::len).
    pub fn subset(&self, positions: &[usize]) -> Result<Self, DataError> {
        let [_, channels, height, width] = self.shape();
        if positions.is_empty() {
            return Err(DataError::Empty { shape: [0, channels, height, width] });
        }
        let images =
            positions.iter().map(|&position| self.images.get(position).copied()).collect::<Option<Arc<[usize]>>>();
        match images {
            Some(images) => Ok(Self { store: Arc::clone(&self.store), images }),
            None => {
                let found = positions.iter().copied().max().unwrap_or(0);
                Err(DataError::PositionOutOfRange { len: self.len(), found })
            }
        }
    }

    /// Cuts the set in two: the rest, and `per_class` images of each class held out. The seed alone decides which.
    ///
    /// Both parts keep the order of this set.
    ///
    /// # Errors
    ///
    /// When `per_class` is 0, or a class has so few images that the rest would have none of it.
    pub fn split_per_class(&self, per_class: usize, seed: u64) -> Result<(Self, Self), DataError> {
        if per_class == 0 {
            return Err(DataError::NothingHeldOut);
        }
        let mut by_class = vec![Vec::new(); self.class_count()];
        for position in 0..self.len() {
            by_class[self.label(position)].push(position);
        }

        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut rest, mut held_out) = (Vec::new(), Vec::new());
        for (class, positions) in by_class.iter_mut().enumerate() {
            if positions.len() <= per_class {
                let name = self.class_names()[class].clone();
                return Err(DataError::TooFewImages { class, name, per_class, found: positions.len() });
            }
            positions.shuffle(&mut rng);
            held_out.extend_from_slice(&positions[..per_class]);
            rest.extend_from_slice(&positions[per_class..]);
        }
        rest.sort_unstable();
        held_out.sort_unstable();
        Ok((self.subset(&rest)?, self.subset(&held_out)?))
    }
}

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
        Self::from_splits(train, test, Some(names)).expect("a test reads the embedded files")
    }

    /// The data set in a directory: the files of MNIST-like sets ([`from_idx_dir`](Self::from_idx_dir)), those of CIFAR
    /// ([`cifar`](super::cifar)), or folders of images ([`folder`](super::folder)). Images of folders are scaled to
    /// `image_size` pixels, by default 224; those of the others have a size of their own.
    ///
    /// # Errors
    ///
    /// When the directory holds none of these, a file is missing, damaged, or does not fit the others, or `image_size` is
    /// not that of the images; the message names the file and the place.
    pub fn from_dir(directory: &Path, image_size: Option<usize>) -> Result<Self, DataError> {
        let is_there = |name: &str| directory.join(name).exists();
        if is_there("train") {
            return folder::read(directory, image_size.unwrap_or(folder::DEFAULT_SIZE));
        }
        let data = if is_there("data_batch_1.bin") || is_there("test_batch.bin") {
            cifar::read_10(directory)
        } else if is_there("train.bin") || is_there("test.bin") {
            cifar::read_100(directory)
        } else {
            match Self::from_idx_dir(directory) {
                Err(DataError::MissingFile { .. }) if !has_idx_file(directory) => {
                    return Err(DataError::UnknownFormat { directory: directory.into() });
                }
                other => other,
            }
        }?;
        let [_, _, height, width] = data.train.shape();
        match image_size {
            Some(size) if [height, width] != [size; 2] => {
                Err(DataError::ImageSize { directory: directory.into(), expected: [height, width], found: size })
            }
            _ => Ok(data),
        }
    }

    /// The four IDX files of a set like MNIST, each plain or with `.gz` at the end of its name:
    /// `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`.
    ///
    /// If the directory has a file `classes.txt`, its lines name the classes, label 0 first. Without it, there is one
    /// class for each label from 0 to the largest of the training labels, named by the label in digits.
    ///
    /// # Errors
    ///
    /// When a file is missing, damaged, or does not fit the others; the message names the file and the place.
    pub fn from_idx_dir(directory: &Path) -> Result<Self, DataError> {
        let train = SplitSource {
            images: open(directory, "train-images-idx3-ubyte")?,
            labels: open(directory, "train-labels-idx1-ubyte")?,
        };
        let test = SplitSource {
            images: open(directory, "t10k-images-idx3-ubyte")?,
            labels: open(directory, "t10k-labels-idx1-ubyte")?,
        };
        Self::from_splits(train, test, read_class_names(&directory.join("classes.txt"))?)
    }

    fn from_splits(
        train: SplitSource<impl BufRead>,
        test: SplitSource<impl BufRead>,
        class_names: Option<Vec<String>>,
    ) -> Result<Self, DataError> {
        let (train, test) = (train.read()?, test.read()?);
        let [expected, found] = [&train, &test].map(|split| [split.images.height, split.images.width]);
        if expected != found {
            return Err(DataError::SizeMismatch { path: test.images_path, expected, found });
        }
        let class_names = class_names.unwrap_or_else(|| {
            let largest = train.labels.iter().copied().max().unwrap_or(0);
            (0..=largest).map(|label| label.to_string()).collect()
        });
        Ok(Self { train: train.into_set(&class_names)?, test: test.into_set(&class_names)?, class_names })
    }
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

/// Whether a directory has any of the files of an MNIST-like set.
fn has_idx_file(directory: &Path) -> bool {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_string_lossy().contains("-idx"))
}

/// The file of that name, or else of that name with `.gz`, open for reading.
fn open(directory: &Path, name: &str) -> Result<(impl BufRead + use<>, PathBuf), DataError> {
    let names = [name.to_owned(), format!("{name}.gz")];
    for name in &names {
        let path = directory.join(name);
        match fs::File::open(&path) {
            Ok(file) => return Ok((std::io::BufReader::new(file), path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(idx::IdxError::Read { path, offset: 0, source }.into()),
        }
    }
    Err(DataError::MissingFile { directory: directory.to_owned(), names: names.join(", ") })
}

pub(super) fn read_class_names(path: &Path) -> Result<Option<Vec<String>>, DataError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataError::ReadClassNames { path: path.to_owned(), source }),
    };
    let mut names: Vec<String> = Vec::new();
    for (number, line) in text.lines().enumerate() {
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

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
