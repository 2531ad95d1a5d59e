//! Image files to bytes of one size: decoding, the window that is cut out, and scaling.
//!
//! `burn-dataset` has an `ImageFolderDataset`. It is not used: it panics at a damaged file, leaves out folders that cannot
//! be read, finds the classes of one split without the other's, and its feature brings a client for downloads.

use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

use image::imageops::{FilterType, crop_imm, resize};
use image::metadata::Orientation;
use image::{
    DynamicImage, GenericImageView, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Luma, Pixel,
    RgbImage,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::DataError;

/// The most pixels that an image file may have: as many as 8192 x 8192. A small file can announce any number.
const MAX_PIXELS: u64 = 1 << 26;
/// Share of the shorter side that is seen in evaluation: 224 of 256 pixels.
const CENTRE: f64 = 0.875;
/// Share of the area, and width by height, of random resized crops.
const AREA: (f64, f64) = (0.08, 1.0);
const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// The part of an image that is seen, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Window {
    /// A window of some size in the middle of an image.
    fn centred(image: [u32; 2], [height, width]: [u32; 2]) -> Self {
        let [top, left] = [(image[0] - height) / 2, (image[1] - width) / 2];
        Self { left, top, width, height }
    }

    /// The square in the middle that is seen in evaluation.
    fn centre(image: [u32; 2]) -> Self {
        let side = rounded(CENTRE * f64::from(image[0].min(image[1])));
        Self::centred(image, [side; 2])
    }

    /// A window of random area, aspect and place. If ten of them do not fit into the image, which happens to long
    /// ones: the largest in the middle that is not too long.
    fn random(image: [u32; 2], seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let [height, width] = image.map(f64::from);
        for _ in 0..10 {
            let area = height * width * rng.random_range(AREA.0..=AREA.1);
            let aspect = rng.random_range(ASPECT.0.ln()..=ASPECT.1.ln()).exp();
            let [h, w] = [rounded((area / aspect).sqrt()), rounded((area * aspect).sqrt())];
            if h <= image[0] && w <= image[1] {
                let (top, left) = (rng.random_range(0..=image[0] - h), rng.random_range(0..=image[1] - w));
                return Self { left, top, width: w, height: h };
            }
        }
        let [tallest, widest] = [rounded(width / ASPECT.0), rounded(height * ASPECT.1)];
        Self::centred(image, [image[0].min(tallest), image[1].min(widest)])
    }

    /// The window of an image, scaled. Pixels are weighted by a triangle as wide as the scale, or two pixels.
    fn scaled<I>(self, image: &I, [height, width]: [usize; 2]) -> ImageBuffer<I::Pixel, Vec<u8>>
    where
        I: GenericImageView,
        I::Pixel: Pixel<Subpixel = u8> + 'static,
    {
        let part = crop_imm(image, self.left, self.top, self.width, self.height);
        resize(&*part, width as u32, height as u32, FilterType::Triangle)
    }
}

/// A number of pixels.
fn rounded(length: f64) -> u32 {
    (length.round() as u32).max(1)
}

/// An image file as `[3, size, size]`: the view for evaluation, or the random resized crop of a seed.
pub(super) fn read(path: &Path, size: usize, crop: Option<u64>) -> Result<Vec<u8>, DataError> {
    let bytes = fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let Decoded { image, .. } = decode(&bytes, path)?;
    let shape = [image.height(), image.width()];
    let window = crop.map_or_else(|| Window::centre(shape), |seed| Window::random(shape, seed));
    let scaled = window.scaled(&image, [size; 2]);
    let plane = |channel| scaled.as_raw().iter().skip(channel).step_by(3).copied();
    Ok((0..3).flat_map(plane).collect())
}

/// The random resized crop of a seed, from an image `[channels, height, width]` to one of the same shape.
pub(super) fn crop_planes(pixels: &[u8], [height, width]: [usize; 2], seed: u64) -> Vec<u8> {
    let shape = [height as u32, width as u32];
    let window = Window::random(shape, seed);
    let scaled = |plane| {
        let plane: ImageBuffer<Luma<u8>, &[u8]> = ImageBuffer::from_raw(shape[1], shape[0], plane).expect("a plane");
        window.scaled(&plane, [height, width]).into_raw()
    };
    pixels.chunks_exact(height * width).flat_map(scaled).collect()
}

/// A decoded image file.
pub(super) struct Decoded {
    image: RgbImage,
    /// Whether it is a JPEG image without the marker that ends it, but with all pixels.
    pub lacks_end: bool,
}

/// The most that is read of a file to see its size and format, in bytes. Cameras put previews before the size.
const HEADER: u64 = 1 << 18;

/// Checks that an image file begins as one, and is not too large.
pub(super) fn check_header(path: &Path) -> Result<(), DataError> {
    let failed = |source| DataError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(HEADER).read_to_end(&mut bytes)).map_err(failed)?;
    match decoder(&bytes, path) {
        Err(_) if bytes.len() as u64 == HEADER => {
            // The size may be behind what was read.
            decoder(&fs::read(path).map_err(failed)?, path).map(drop)
        }
        decoder => decoder.map(drop),
    }
}

/// Decodes the content of a file; `path` is what errors call it. It stands upright: an orientation in EXIF is applied. Grey
/// becomes colour, and transparency goes.
pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Decoded, DataError> {
    let is_jpeg = image::guess_format(bytes).is_ok_and(|format| format == ImageFormat::Jpeg);
    let lacks_end = is_jpeg && !is_whole_jpeg(bytes);
    if !lacks_end {
        return Ok(Decoded { image: pixels(bytes, path)?, lacks_end });
    }
    match without_end(bytes, path) {
        Some(image) => Ok(Decoded { image, lacks_end }),
        // The decoder makes what is missing grey.
        None => {
            let expected = "the marker that ends a JPEG image";
            Err(DataError::content_at(path, bytes.len() as u64, expected, "the end of the file"))
        }
    }
}

fn pixels(bytes: &[u8], path: &Path) -> Result<RgbImage, DataError> {
    let (mut decoder, name) = decoder(bytes, path)?;
    // No orientation, or one that cannot be read, is none.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| damaged(path, name, &error))?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// The decoder of a file's format, and the name of that.
fn decoder<'a>(bytes: &'a [u8], path: &Path) -> Result<(impl ImageDecoder + use<'a>, &'static str), DataError> {
    let (format, name) = match image::guess_format(bytes) {
        Ok(format @ ImageFormat::Jpeg) => (format, "JPEG"),
        Ok(format @ ImageFormat::Png) => (format, "PNG"),
        Ok(format @ ImageFormat::WebP) => (format, "WebP"),
        Ok(format @ ImageFormat::Bmp) => (format, "BMP"),
        _ => {
            let found = match &bytes[..bytes.len().min(4)] {
                [] => "an empty file".into(),
                first => format!("{first:02x?}"),
            };
            return Err(DataError::content_at(path, 0, "the first bytes of a JPEG, PNG, WebP or BMP image", found));
        }
    };
    let decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder();
    let decoder = decoder.map_err(|error| damaged(path, name, &error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let expected = format!("an image of at most {MAX_PIXELS} pixels");
        return Err(DataError::content(path, expected, format!("{width}x{height}")));
    }
    Ok((decoder, name))
}

fn damaged(path: &Path, name: &str, error: &ImageError) -> DataError {
    let found = format!("damage: {}", error.to_string().trim_end());
    DataError::content(path, format!("a {name} image"), found)
}

/// A JPEG image without its end, if it has all of its pixels: then what follows the file makes no difference.
fn without_end(bytes: &[u8], path: &Path) -> Option<RgbImage> {
    // The first half of the marker may be there.
    let coded = bytes.strip_suffix(&[0xff]).unwrap_or(bytes);
    let [one, other] = [0x00, 0x55].map(|byte| pixels(&[coded, &[byte; 512], &[0xff, 0xd9]].concat(), path).ok());
    one.filter(|one| other.as_ref() == Some(one))
}

/// Whether the marker that ends a JPEG image follows its scans; an embedded thumbnail has one too.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xd9;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // From one marker to the next: what is between is coded pixels, in which 0 follows 0xff.
        let Some(start) = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff)) else {
            return false;
        };
        let marker = rest[start + 1];
        rest = &rest[start + 2..];
        match marker {
            END_OF_IMAGE => return true,
            // These have no content: restarts, and one of old.
            0xd0..=0xd7 | 0x01 => {}
            _ => {
                let Some(length) = rest.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length))) else {
                    return false;
                };
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
