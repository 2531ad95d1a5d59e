//! From positions in a set to tensors on a device.

use std::borrow::Cow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{DataError, EpochSampler, ImageSet, Normalization};

/// Images and their classes, on a device.
///
/// # Shapes
///
/// - `images`: `[batch, channels, height, width]`
/// - `labels`: `[batch]`
#[derive(Clone, Debug)]
pub struct Batch {
    /// Normalised pixels: `[batch, channels, height, width]`.
    pub images: Tensor<4>,
    /// Class of each image: `[batch]`.
    pub labels: Tensor<1, Int>,
}

/// Random changes to training images, the same for all channels of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Whether half of the images, on average, are mirrored left to right.
    pub flip: bool,
    /// How far an image may move in each direction, in pixels: it is padded with black (byte 0) by as much on all sides, and
    /// a window of the old size is cut out at a place drawn uniformly.
    pub shift: usize,
    /// Whether a window of 0.08 to 1 of an image's area and of aspect 3/4 to 4/3 is scaled to the training size, area and
    /// logarithm of the aspect drawn uniformly. It moves the image, so `shift` has to be 0.
    pub random_resized_crop: bool,
}

/// What is done to one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    flip: bool,
    /// Row of the unshifted image that comes first; negative where padding comes first.
    top: isize,
    /// Column of the unshifted (but flipped) image that comes first.
    left: isize,
    /// What decides the random resized crop.
    crop: Option<u64>,
}

impl Augment {
    /// Draws, in this order and only if switched on: flip, vertical shift, horizontal shift, random resized crop.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Change {
        let flip = self.flip && rng.random::<bool>();
        let mut shift = || match i32::try_from(self.shift).unwrap_or(i32::MAX) {
            0 => 0,
            limit => rng.random_range(-limit..=limit) as isize,
        };
        let (top, left) = (shift(), shift());
        Change { flip, top, left, crop: self.random_resized_crop.then(|| rng.next_u64()) }
    }
}

/// The images of a batch, and what is done to each of them: all that is random about it. What it makes of a set's images
/// depends on nothing else, so that it can be made ahead, on any thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    images: Vec<(usize, Change)>,
}

impl Plan {
    /// The images at the given positions of a set, in that order. If augmented, the random generator is drawn from image
    /// by image; the same state of it gives the same plan.
    ///
    /// # Panics
    ///
    /// When there is no index.
    pub fn new(indices: &[usize], augment: Option<(&Augment, &mut ChaCha8Rng)>) -> Self {
        assert!(!indices.is_empty(), "batch: expected at least 1 index, got 0");
        let images = match augment {
            None => indices.iter().map(|&index| (index, Change::default())).collect(),
            Some((augment, rng)) => indices.iter().map(|&index| (index, augment.draw(rng))).collect(),
        };
        Self { images }
    }

    /// The next batch of an order, augmented.
    ///
    /// # Panics
    ///
    /// When `size` is 0.
    pub fn next(order: &mut EpochSampler, size: usize, augment: &Augment, rng: &mut ChaCha8Rng) -> Self {
        Self::new(order.next_batch(size), Some((augment, rng)))
    }

    /// Of each image its position, and what decides its random resized crop.
    pub(super) fn views(&self) -> impl Iterator<Item = (usize, Option<u64>)> {
        self.images.iter().map(|&(position, change)| (position, change.crop))
    }

    /// The batch, from the [views](Self::views) of a set.
    ///
    /// # Panics
    ///
    /// As [`batch`].
    pub(super) fn batch<'a>(
        &self,
        set: &ImageSet,
        views: impl Iterator<Item = Result<Cow<'a, [u8]>, DataError>>,
        normalization: &Normalization,
        device: &Device,
    ) -> Result<Batch, DataError> {
        let [_, channels, height, width] = set.shape();
        let images = self.gather([channels, height, width], views, normalization)?;
        let labels: Vec<i32> = self.images.iter().map(|&(position, _)| set.label(position) as i32).collect();
        Ok(Batch {
            images: Tensor::from_data(TensorData::new(images, [labels.len(), channels, height, width]), device),
            labels: Tensor::from_data(TensorData::new(labels, [self.images.len()]), device),
        })
    }

    /// Normalised pixels: `[batch, channels, height, width]`.
    fn gather<'a>(
        &self,
        [channels, height, width]: [usize; 3],
        views: impl Iterator<Item = Result<Cow<'a, [u8]>, DataError>>,
        normalization: &Normalization,
    ) -> Result<Vec<f32>, DataError> {
        let tables = normalization.tables();
        assert!(
            tables.len() == channels,
            "batch: expected a normalization of {channels} channels, got one of {}",
            tables.len()
        );
        let mut output = Vec::with_capacity(self.images.len() * channels * height * width);
        for (&(_, change), view) in self.images.iter().zip(views) {
            for (plane, table) in view?.chunks_exact(height * width).zip(&tables) {
                push_changed(&mut output, plane, [height, width], table, change);
            }
        }
        Ok(output)
    }
}

/// Gathers the images at the given positions of a set, in that order, augmented (if asked) and then normalised.
///
/// A pixel moved in by a shift is black before normalisation. The random generator is drawn from image by image; the same
/// state of it gives the same batch. For batch after batch of a set that is decoded there is [`Feed`](super::Feed).
///
/// # Shapes
///
/// - `indices`: `[batch]`, positions in `set`
/// - result: images `[batch, channels, height, width]`, labels `[batch]`
///
/// # Errors
///
/// When an image file cannot be read or decoded.
///
/// # Panics
///
/// When there is no index, one is not below `set.len()`, or `normalization` is for another number of channels.
pub fn batch(
    set: &ImageSet,
    indices: &[usize],
    normalization: &Normalization,
    augment: Option<(&Augment, &mut ChaCha8Rng)>,
    device: &Device,
) -> Result<Batch, DataError> {
    let plan = Plan::new(indices, augment);
    plan.batch(set, plan.views().map(|(position, crop)| set.view(position, crop)), normalization, device)
}

fn push_row<'a>(output: &mut Vec<f32>, bytes: impl Iterator<Item = &'a u8>, table: &[f32; 256]) {
    output.extend(bytes.map(|&byte| table[usize::from(byte)]));
}

/// One channel of an image, row by row: padding, what is visible of the source row, padding.
fn push_changed(output: &mut Vec<f32>, plane: &[u8], [height, width]: [usize; 2], table: &[f32; 256], change: Change) {
    if (change.flip, change.top, change.left) == (false, 0, 0) {
        return push_row(output, plane.iter(), table);
    }
    let black = table[0];
    let visible = |start: isize, length: usize| {
        let end = start.saturating_add_unsigned(length).clamp(0, length as isize) as usize;
        start.clamp(0, length as isize) as usize..end
    };
    let rows = visible(change.top, height);
    let columns = visible(change.left, width);
    let before = if change.left < 0 { width - columns.len() } else { 0 };
    let after = width - columns.len() - before;
    let above = if change.top < 0 { height - rows.len() } else { 0 };
    let below = height - rows.len() - above;

    let pad = |output: &mut Vec<f32>, count| output.resize(output.len() + count, black);
    pad(output, above * width);
    for row in plane.chunks_exact(width).skip(rows.start).take(rows.len()) {
        pad(output, before);
        if change.flip {
            push_row(output, row[width - columns.end..width - columns.start].iter().rev(), table);
        } else {
            push_row(output, row[columns.clone()].iter(), table);
        }
        pad(output, after);
    }
    pad(output, below * width);
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
