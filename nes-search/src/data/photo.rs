//! One image from its file.

use std::path::Path;

use image::imageops::{FilterType, crop_imm, resize};
use image::{ImageReader, Limits, RgbImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::DataError;

/// Largest height and width of an image, in pixels: a file of a few bytes can claim to be larger than any memory.
const LIMIT: u32 = 16_384;

/// Share of the shorter side that the middle has, as is usual for ImageNet (224 of 256 pixels).
const MIDDLE: f64 = 0.875;

/// Which part of an image is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crop {
    /// A square in the middle.
    Middle,
    /// A rectangle of 8 % to all of the area, and of a width of 3/4 to 4/3 of the height, that this seed decides
    /// ([Szegedy et al., 2014](https://arxiv.org/abs/1409.4842)).
    Random(u64),
}

/// Left, top, width and height of a part of an image, in pixels.
type Window = [u32; 4];

impl Crop {
    fn window(self, width: u32, height: u32) -> Window {
        let shorter = f64::from(width.min(height));
        let middle = |width_of: f64, height_of: f64| {
            let size = [width_of, height_of].map(|size| (size.round() as u32).max(1));
            [
                (width - size[0].min(width)) / 2,
                (height - size[1].min(height)) / 2,
                size[0].min(width),
                size[1].min(height),
            ]
        };
        let Self::Random(seed) = self else { return middle(shorter * MIDDLE, shorter * MIDDLE) };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..10 {
            let area = f64::from(width) * f64::from(height) * rng.random_range(0.08..=1.0);
            let ratio: f64 = rng.random_range((0.75f64).ln()..=(4.0f64 / 3.0).ln());
            let ratio = ratio.exp();
            let [w, h] = [(area * ratio).sqrt(), (area / ratio).sqrt()].map(|size| (size.round() as u32).max(1));
            if w <= width && h <= height {
                return [rng.random_range(0..=width - w), rng.random_range(0..=height - h), w, h];
            }
        }
        // A very long image: all of its shorter side, and as much of the other as the shape allows.
        let longest = shorter * 4.0 / 3.0;
        middle(longest.min(f64::from(width)), longest.min(f64::from(height)))
    }
}

/// A part of the image in a file, scaled (bilinearly, over all pixels that it covers): `[3, size, size]`.
pub(super) fn read(path: &Path, size: usize, crop: Crop) -> Result<Vec<u8>, DataError> {
    let image = decode(path)?;
    let [left, top, width, height] = crop.window(image.width(), image.height());
    let part = crop_imm(&image, left, top, width, height);
    let pixels = if [width, height] == [size as u32; 2] {
        part.to_image()
    } else {
        resize(&*part, size as u32, size as u32, FilterType::Triangle)
    };
    let channel = |channel| pixels.pixels().map(move |pixel| pixel.0[channel]);
    Ok((0..3).flat_map(channel).collect())
}

/// The colours of an image. Grey becomes three equal colours, transparency is ignored.
fn decode(path: &Path) -> Result<RgbImage, DataError> {
    let read = |source| DataError::Read { path: path.into(), source };
    let mut reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(read)?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(LIMIT), Some(LIMIT));
    reader.limits(limits);
    let image = reader.decode().map_err(|error| {
        let found = error.to_string();
        DataError::Image { path: path.into(), limit: LIMIT, found }
    })?;
    Ok(image.into_rgb8())
}

#[cfg(test)]
#[path = "photo_tests.rs"]
mod tests;
