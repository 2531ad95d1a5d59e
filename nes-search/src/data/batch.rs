//! From positions in a set to tensors on a device.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{ImageSet, Normalization};

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
}

/// What is done to one image.
#[derive(Clone, Copy)]
struct Change {
    flip: bool,
    /// Row of the unshifted image that comes first; negative where padding comes first.
    top: isize,
    /// Column of the unshifted (but flipped) image that comes first.
    left: isize,
}

impl Augment {
    /// Draws, in this order and only if switched on: flip, vertical shift, horizontal shift.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Change {
        let flip = self.flip && rng.random::<bool>();
        let mut shift = || match i32::try_from(self.shift).unwrap_or(i32::MAX) {
            0 => 0,
            limit => rng.random_range(-limit..=limit) as isize,
        };
        Change { flip, top: shift(), left: shift() }
    }
}

/// Gathers the images at the given positions of a set, in that order, augmented (if asked) and then normalised.
///
/// A pixel moved in by a shift is black before normalisation. The random generator is drawn from image by image; the same
/// state of it gives the same batch.
///
/// # Shapes
///
/// - `indices`: `[batch]`, positions in `set`
/// - result: images `[batch, channels, height, width]`, labels `[batch]`
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
) -> Batch {
    let [_, channels, height, width] = set.shape();
    assert!(!indices.is_empty(), "batch: expected at least 1 index, got 0");
    let images = gather(set, indices, normalization, augment);
    let labels: Vec<i32> = indices.iter().map(|&index| set.label(index) as i32).collect();
    Batch {
        images: Tensor::from_data(TensorData::new(images, [indices.len(), channels, height, width]), device),
        labels: Tensor::from_data(TensorData::new(labels, [indices.len()]), device),
    }
}

/// Normalised pixels of a batch: `[batch, channels, height, width]`.
fn gather(
    set: &ImageSet,
    indices: &[usize],
    normalization: &Normalization,
    augment: Option<(&Augment, &mut ChaCha8Rng)>,
) -> Vec<f32> {
    let [_, channels, height, width] = set.shape();
    let tables = normalization.tables();
    assert!(
        tables.len() == channels,
        "batch: expected a normalization of {channels} channels, got one of {}",
        tables.len()
    );
    let mut output = Vec::with_capacity(indices.len() * channels * height * width);
    let planes = |index| set.pixels(index).chunks_exact(height * width).zip(&tables);
    match augment {
        None => {
            for &index in indices {
                for (plane, table) in planes(index) {
                    push_row(&mut output, plane.iter(), table);
                }
            }
        }
        Some((augment, rng)) => {
            for &index in indices {
                let change = augment.draw(rng);
                for (plane, table) in planes(index) {
                    push_changed(&mut output, plane, [height, width], table, change);
                }
            }
        }
    }
    output
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
