//! From positions in a set to tensors on a device.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::{Deserialize, Serialize};

use super::feed::decoders;
use super::photo::Crop;
use super::{DataError, ImageSet, Normalization};

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

/// Random changes to training images, the same for all channels of an image; by default none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Whether half of the images, on average, are mirrored left to right.
    pub flip: bool,
    /// How far an image may move in each direction, in pixels: it is padded with black (byte 0) by as much on all sides, and
    /// a window of the old size is cut out at a place drawn uniformly.
    pub shift: usize,
    /// Whether a random part of each image, of 8 % to all of its area, is scaled to the size of the set, instead of the
    /// middle; for images in files only.
    #[serde(default)]
    pub random_resized_crop: bool,
}

/// What is done to one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    crop: Crop,
    flip: bool,
    /// Row of the unshifted image that comes first; negative where padding comes first.
    top: isize,
    /// Column of the unshifted (but flipped) image that comes first.
    left: isize,
}

impl Augment {
    /// Checks that images of this set can be changed so.
    ///
    /// # Errors
    ///
    /// When random parts of images in memory are asked for.
    pub fn check(&self, set: &ImageSet) -> Result<(), DataError> {
        if self.random_resized_crop && !set.is_on_disk() { Err(DataError::Crop) } else { Ok(()) }
    }

    /// Draws, in this order and only if switched on: crop, flip, vertical shift, horizontal shift.
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> Change {
        let crop = if self.random_resized_crop { Crop::Random(rng.random()) } else { Crop::Middle };
        let flip = self.flip && rng.random::<bool>();
        let mut shift = || match i32::try_from(self.shift).unwrap_or(i32::MAX) {
            0 => 0,
            limit => rng.random_range(-limit..=limit) as isize,
        };
        Change { crop, flip, top: shift(), left: shift() }
    }
}

impl Change {
    const NONE: Self = Self { crop: Crop::Middle, flip: false, top: 0, left: 0 };
}

/// Gathers the images at the given positions of a set, in that order, and normalises them; [`Feed`](super::Feed) hands out
/// augmented ones.
///
/// # Shapes
///
/// - `indices`: `[batch]`, positions in `set`
/// - result: images `[batch, channels, height, width]`, labels `[batch]`
///
/// # Errors
///
/// When a file cannot be read or is no image.
///
/// # Panics
///
/// When there is no index, one is not below `set.len()`, or `normalization` is for another number of channels.
pub fn batch(
    set: &ImageSet,
    indices: &[usize],
    normalization: &Normalization,
    device: &Device,
) -> Result<Batch, DataError> {
    let pixels = gather(set, indices, &vec![Change::NONE; indices.len()], normalization)?;
    Ok(to_device(set, indices, pixels, device))
}

/// The batch of these pixels.
pub(super) fn to_device(set: &ImageSet, indices: &[usize], pixels: Vec<f32>, device: &Device) -> Batch {
    let [_, channels, height, width] = set.shape();
    let labels: Vec<i32> = indices.iter().map(|&index| set.label(index) as i32).collect();
    Batch {
        images: Tensor::from_data(TensorData::new(pixels, [indices.len(), channels, height, width]), device),
        labels: Tensor::from_data(TensorData::new(labels, [indices.len()]), device),
    }
}

/// Changed and normalised pixels of a batch: `[batch, channels, height, width]`. A pixel moved in by a shift is black before
/// normalisation.
pub(super) fn gather(
    set: &ImageSet,
    indices: &[usize],
    changes: &[Change],
    normalization: &Normalization,
) -> Result<Vec<f32>, DataError> {
    let [_, channels, height, width] = set.shape();
    let tables = normalization.tables();
    assert!(!indices.is_empty(), "batch: expected at least 1 index, got 0");
    assert!(
        tables.len() == channels,
        "batch: expected a normalization of {channels} channels, got one of {}",
        tables.len()
    );
    let append = |output: &mut Vec<f32>, (&index, change): (&usize, &Change)| {
        for (plane, table) in set.cropped(index, change.crop)?.chunks_exact(height * width).zip(&tables) {
            match change {
                Change { flip: false, top: 0, left: 0, .. } => push_row(output, plane.iter(), table),
                change => push_changed(output, plane, [height, width], table, *change),
            }
        }
        Ok::<_, DataError>(())
    };
    let size = channels * height * width;
    let mut images = indices.iter().zip(changes);
    if !set.is_on_disk() {
        let mut output = Vec::with_capacity(indices.len() * size);
        images.try_for_each(|image| append(&mut output, image))?;
        return Ok(output);
    }
    let decode = || {
        let images: Vec<_> = images.collect();
        let decoded = images.into_par_iter().map(|image| {
            let mut output = Vec::with_capacity(size);
            append(&mut output, image).map(|()| output)
        });
        decoded.collect::<Result<Vec<_>, _>>()
    };
    let decoded = match decoders() {
        Some(pool) => pool.install(decode),
        None => decode(),
    };
    Ok(decoded?.concat())
}

fn push_row<'a>(output: &mut Vec<f32>, bytes: impl Iterator<Item = &'a u8>, table: &[f32; 256]) {
    output.extend(bytes.map(|&byte| table[usize::from(byte)]));
}

/// One channel of an image, row by row: padding, what is visible of the source row, padding.
fn push_changed(output: &mut Vec<f32>, plane: &[u8], [height, width]: [usize; 2], table: &[f32; 256], change: Change) {
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
