//! Sets of labelled images: bytes in memory, or files that are decoded when they are read.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{DataError, decode};

/// Labelled images, all of one size; cheap to clone.
///
/// The images are bytes in memory, or files on disk, which are decoded each time that they are read
/// ([`is_lazy`](Self::is_lazy)). A subset shares the pixels of the set it was taken from. An image's *position* is its place in the set at hand, from 0.
/// There is always at least one image.
#[derive(Clone, Debug)]
pub struct ImageSet {
    store: Arc<Store>,
    /// Where in the store the image of each position is.
    images: Arc<[usize]>,
}

#[derive(Debug)]
struct Store {
    pixels: Pixels,
    labels: Vec<usize>,
    /// `[channels, height, width]`
    image_shape: [usize; 3],
    class_names: Vec<String>,
}

#[derive(Debug)]
enum Pixels {
    /// `[images, channels, height, width]`
    Memory(Vec<u8>),
    /// One of each image, in any format that `decode` reads.
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
        let pixels = Pixels::Memory(pixels);
        Ok(Self::of_store(Store { pixels, labels, image_shape: [channels, height, width], class_names }))
    }

    /// A set of image files, whose views are colour images of `size` x `size` pixels. At least one file, a label for each.
    pub(super) fn of_files(files: Vec<PathBuf>, labels: Vec<usize>, size: usize, class_names: Vec<String>) -> Self {
        assert!(!files.is_empty() && files.len() == labels.len(), "{} files, {} labels", files.len(), labels.len());
        Self::of_store(Store { pixels: Pixels::Files(files), labels, image_shape: [3, size, size], class_names })
    }

    fn of_store(store: Store) -> Self {
        let images = (0..store.labels.len()).collect();
        Self { store: Arc::new(store), images }
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

    /// Whether images are files that are decoded when they are read, which takes a thousand times as long as to find
    /// them in memory.
    pub fn is_lazy(&self) -> bool {
        matches!(self.store.pixels, Pixels::Files(_))
    }

    /// Bytes of the image at a position, as `[channels, height, width]` in row-major order.
    ///
    /// Of an image file this is the view for evaluation: its shorter side is scaled to size / 0.875, and the centre is
    /// cut out.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is no image; the message names it.
    ///
    /// # Panics
    ///
    /// When the position is not below [`len`](Self::len).
    pub fn pixels(&self, position: usize) -> Result<Cow<'_, [u8]>, DataError> {
        self.view(position, None)
    }

    /// As [`pixels`](Self::pixels), or a random resized crop that a seed decides.
    pub(super) fn view(&self, position: usize, crop: Option<u64>) -> Result<Cow<'_, [u8]>, DataError> {
        let [channels, height, width] = self.store.image_shape;
        match (&self.store.pixels, self.images[position]) {
            (Pixels::Memory(pixels), image) => {
                let size = channels * height * width;
                let pixels = &pixels[image * size..][..size];
                Ok(match crop {
                    None => Cow::Borrowed(pixels),
                    Some(seed) => Cow::Owned(decode::crop_planes(pixels, [height, width], seed)),
                })
            }
            (Pixels::Files(files), image) => decode::read(&files[image], height, crop).map(Cow::Owned),
        }
    }

    /// The files of all images, if they are files.
    pub(super) fn files(&self) -> Option<Vec<&Path>> {
        match &self.store.pixels {
            Pixels::Memory(_) => None,
            Pixels::Files(files) => Some(self.images.iter().map(|&image| files[image].as_path()).collect()),
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
    /// The rest keeps the order of this set. The images held out are shuffled: of a set that is sorted by class, as folders
    /// are, a batch of them has all classes.
    ///
    /// # Errors
    ///
    /// When `per_class` is 0, or a class has some images, but so few that the rest would have none of it. A class without
    /// any is in neither part.
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
            if !positions.is_empty() && positions.len() <= per_class {
                let name = self.class_names()[class].clone();
                return Err(DataError::TooFewImages { class, name, per_class, found: positions.len() });
            }
            positions.shuffle(&mut rng);
            let held = per_class.min(positions.len());
            held_out.extend_from_slice(&positions[..held]);
            rest.extend_from_slice(&positions[held..]);
        }
        rest.sort_unstable();
        held_out.shuffle(&mut rng);
        Ok((self.subset(&rest)?, self.subset(&held_out)?))
    }
}

#[cfg(test)]
#[path = "image_set_tests.rs"]
mod tests;
