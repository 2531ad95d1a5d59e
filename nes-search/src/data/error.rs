//! What can be wrong with a data set.

use std::path::{Path, PathBuf};

use super::idx::IdxError;

/// Why a data set, or a part of one, could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// An IDX file could not be read or written.
    #[error(transparent)]
    Idx(#[from] IdxError),

    /// A file or a folder could not be read.
    #[error("{}: cannot read", .path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A file or a folder is not what it has to be.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// What would be valid.
        expected: String,
        /// What there was.
        found: String,
    },

    /// A file is not what it has to be, from some place on.
    #[error("{}: byte {offset}: expected {expected}, found {found}", .path.display())]
    ContentAt {
        /// The file.
        path: PathBuf,
        /// The place, in bytes.
        offset: u64,
        /// What would be valid.
        expected: String,
        /// What there was.
        found: String,
    },

    /// The images of a set are not of the size asked for.
    #[error(
        "image_size: expected {}x{}, as the images of this data set are, found {found}; only images in folders are scaled",
        .expected[0], .expected[1]
    )]
    ImageSize {
        /// Height and width of the images, in pixels.
        expected: [usize; 2],
        /// The size asked for, in pixels.
        found: usize,
    },

    /// A file of the set is not in the directory.
    #[error("{}: no such file in this directory: looked for {names}", .directory.display())]
    MissingFile {
        /// The directory searched.
        directory: PathBuf,
        /// The file names looked for.
        names: String,
    },

    /// The file of class names could not be read as UTF-8 text.
    #[error("{}: cannot read the class names", .path.display())]
    ReadClassNames {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The file of class names has a line without a name, or a name twice.
    #[error("{}: line {line}: expected a class name of its own on every line, found {found:?}", .path.display())]
    ClassName {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What stands on that line.
        found: String,
    },

    /// An image file and its label file do not belong together.
    #[error(
        "{}: expected {expected} labels, as many as {} has images, found {found}",
        .labels_path.display(), .images_path.display()
    )]
    CountMismatch {
        /// The image file.
        images_path: PathBuf,
        /// The label file.
        labels_path: PathBuf,
        /// Images in the image file.
        expected: usize,
        /// Labels in the label file.
        found: usize,
    },

    /// A label of a file is not a class of the set.
    #[error(
        "{}: byte {offset} (image {}): expected a label below {class_count}, the number of classes, found {found}",
        .path.display(), .image
    )]
    FileLabelOutOfRange {
        /// The label file.
        path: PathBuf,
        /// Where in the (uncompressed) file, in bytes.
        offset: u64,
        /// The image that carries the label, counted from 0.
        image: usize,
        /// Number of classes.
        class_count: usize,
        /// The label.
        found: usize,
    },

    /// The two splits hold images of different sizes.
    #[error(
        "{}: expected images of {}x{} pixels, the training split's size, found {}x{}",
        .path.display(), .expected[0], .expected[1], .found[0], .found[1]
    )]
    SizeMismatch {
        /// The image file of the test split.
        path: PathBuf,
        /// Height and width of the training images, in pixels.
        expected: [usize; 2],
        /// Height and width of the test images, in pixels.
        found: [usize; 2],
    },

    /// Pixels or labels do not fill the shape that was given with them.
    #[error("an image set of shape {shape:?} needs {expected} {what}, found {found}")]
    ShapeMismatch {
        /// The shape: `[images, channels, height, width]`.
        shape: [usize; 4],
        /// What was counted.
        what: &'static str,
        /// How many the shape asks for.
        expected: usize,
        /// How many there were.
        found: usize,
    },

    /// A label is not a class of the set.
    #[error("image {image}: expected a label below {class_count}, the number of classes, found {found}")]
    LabelOutOfRange {
        /// The image that carries the label, counted from 0.
        image: usize,
        /// Number of classes.
        class_count: usize,
        /// The label.
        found: usize,
    },

    /// A set without images was asked for.
    #[error("an image set needs at least one image, channel and pixel, found shape {shape:?}")]
    Empty {
        /// The shape: `[images, channels, height, width]`.
        shape: [usize; 4],
    },

    /// A subset names an image that its set lacks.
    #[error("expected positions below {len}, the number of images, found {found}")]
    PositionOutOfRange {
        /// Number of images.
        len: usize,
        /// The position.
        found: usize,
    },

    /// A split was asked for with no image per class.
    #[error("expected at least 1 image per class to hold out, found 0")]
    NothingHeldOut,

    /// A class has too few images for a split.
    #[error(
        "class {class} ({name}): holding out {per_class} images (evaluation_per_class) and keeping at least one needs {} \
         images, found {found}",
        .per_class.saturating_add(1)
    )]
    TooFewImages {
        /// The class.
        class: usize,
        /// Its name.
        name: String,
        /// Images to hold out of each class.
        per_class: usize,
        /// Images of the class.
        found: usize,
    },

    /// A normalisation that cannot be applied.
    #[error("normalization: expected {expected}, found {found}")]
    Normalization {
        /// What would be valid.
        expected: &'static str,
        /// What there was.
        found: String,
    },

    /// The saved state of a sampler contradicts itself.
    #[error("saved state of an epoch sampler: expected {expected}, found {found}")]
    SamplerState {
        /// What would be valid.
        expected: &'static str,
        /// What there was.
        found: String,
    },
}

impl DataError {
    pub(super) fn content(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), expected: expected.into(), found: found.into() }
    }

    pub(super) fn content_at(path: &Path, offset: u64, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::ContentAt { path: path.to_owned(), offset, expected: expected.into(), found: found.into() }
    }
}
