use image::{GrayImage, ImageFormat, Luma, Rgb};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// An image whose colours tell the place.
fn image(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 % 251) as u8, (y * 5 % 241) as u8, ((x + y) * 3 % 239) as u8]))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn the_middle_is_seven_eighths_of_the_shorter_side() {
    let folder = folder();
    let path = folder.path().join("image.png");
    let image = image(20, 16);
    image.save(&path).expect("written");
    // 14 of 16 rows, from the second; 14 of 20 columns, from the fourth: nothing is scaled.
    let pixels = read(&path, 14, Crop::Middle).expect("an image");
    for (place, &byte) in pixels.iter().enumerate() {
        let (channel, y, x) = (place / 196, place / 14 % 14, place % 14);
        assert_eq!(byte, image.get_pixel(x as u32 + 3, y as u32 + 1).0[channel], "channel {channel}, {x}, {y}");
    }
}

#[test]
fn a_part_is_scaled_by_the_mean_of_what_it_covers() {
    let folder = folder();
    let path = folder.path().join("image.png");
    // Four columns of 28 pixels, each of one brightness: halved, every pixel lies within one of them or between two.
    let image = GrayImage::from_fn(32, 32, |x, _| Luma([(x / 8 * 60) as u8]));
    image.save(&path).expect("written");
    let pixels = read(&path, 14, Crop::Middle).expect("an image");
    assert_eq!(pixels.len(), 3 * 14 * 14);
    for row in pixels.chunks_exact(14) {
        assert!(row.is_sorted(), "{row:?}");
        assert_eq!((row[0], row[5], row[8], row[13]), (0, 60, 120, 180));
    }
}

#[test]
fn grey_transparent_and_sixteen_bit_images_are_colours() {
    let folder = folder();
    let path = folder.path().join("image.png");
    GrayImage::from_pixel(8, 8, Luma([77])).save(&path).expect("written");
    assert_eq!(read(&path, 4, Crop::Middle).expect("grey"), vec![77; 48]);
    image::RgbaImage::from_pixel(8, 8, image::Rgba([1, 2, 3, 0])).save(&path).expect("written");
    assert_eq!(read(&path, 1, Crop::Middle).expect("transparent"), [1, 2, 3]);
    image::ImageBuffer::from_pixel(8, 8, Rgb([257u16, 514, 65_535])).save(&path).expect("written");
    assert_eq!(read(&path, 1, Crop::Middle).expect("sixteen bits"), [1, 2, 255]);
}

#[test]
fn the_content_says_what_a_file_is() {
    let folder = folder();
    let path = folder.path().join("photo.png");
    image(40, 40).save_with_format(&path, ImageFormat::Jpeg).expect("written");
    let pixels = read(&path, 35, Crop::Middle).expect("an image");
    let exact = read_png(&folder, &image(40, 40), 35);
    let difference = pixels.iter().zip(&exact).map(|(one, other)| f64::from(one.abs_diff(*other))).sum::<f64>();
    assert!(difference / (pixels.len() as f64) < 8.0, "JPEG is near the original: {difference}");
}

fn read_png(folder: &TempDir, image: &RgbImage, size: usize) -> Vec<u8> {
    let path = folder.path().join("exact.png");
    image.save(&path).expect("written");
    read(&path, size, Crop::Middle).expect("an image")
}

proptest! {
    #[test]
    fn a_random_part_lies_inside_and_has_the_published_area_and_shape(
        width in 1u32..400, height in 1u32..400, seed: u64
    ) {
        let [left, top, w, h] = Crop::Random(seed).window(width, height);
        prop_assert!(w >= 1 && h >= 1 && left + w <= width && top + h <= height);
        prop_assert_eq!(Crop::Random(seed).window(width, height), [left, top, w, h]);
        let (area, ratio) = (f64::from(w * h) / f64::from(width * height), f64::from(w) / f64::from(h));
        // Sides are rounded to whole pixels.
        if width.min(height) >= 100 && f64::from(width.max(height)) / f64::from(width.min(height)) <= 4.0 / 3.0 {
            prop_assert!((0.07..=1.0).contains(&area), "area {area}");
            prop_assert!((0.72..=1.39).contains(&ratio), "ratio {ratio}");
        }
        let [left, top, w, h] = Crop::Middle.window(width, height);
        prop_assert!(w == h && left + w <= width && top + h <= height);
    }

    #[test]
    fn a_damaged_file_is_an_error_or_an_image(format in 0..2usize, cut in 0.0f64..1.0, at in 0.0f64..1.0, with: u8) {
        let folder = folder();
        let path = folder.path().join("image");
        image(24, 24).save_with_format(&path, [ImageFormat::Png, ImageFormat::Jpeg][format]).expect("written");
        let mut bytes = std::fs::read(&path).expect("read");
        let place = (at * bytes.len() as f64) as usize;
        bytes[place] = with;
        bytes.truncate(1 + (cut * 2.0 * bytes.len() as f64) as usize);
        std::fs::write(&path, bytes).expect("written");
        match read(&path, 8, Crop::Random(1)) {
            Ok(pixels) => prop_assert_eq!(pixels.len(), 192),
            Err(error) => prop_assert!(error.to_string().starts_with(&path.display().to_string()), "{error}"),
        }
    }
}

#[test]
fn areas_of_random_parts_have_the_mean_of_those_that_fit() {
    let draws = 4000;
    let areas = (0..draws).map(|seed| {
        let [_, _, width, height] = Crop::Random(seed).window(1000, 1000);
        f64::from(width * height) / 1e6
    });
    // Parts that do not fit are drawn again. Of a ratio e^u or e^-u, areas up to e^-u fit, so that the mean is the integral
    // of (e^-2u - 0.08^2) / 2 over that of e^-u - 0.08, for u from 0 to ln(4/3).
    let limit = (4.0f64 / 3.0).ln();
    let above = ((1.0 - (-2.0 * limit).exp()) / 2.0 - 0.0064 * limit) / 2.0;
    let below = 1.0 - (-limit).exp() - 0.08 * limit;
    let mean = areas.sum::<f64>() / draws as f64;
    // Four standard deviations of the mean.
    assert!((mean - above / below).abs() < 4.0 * 0.25 / (draws as f64).sqrt(), "{mean}, not {}", above / below);
}

#[test]
fn a_file_that_claims_to_be_huge_is_refused() {
    let folder = folder();
    let path = folder.path().join("bomb.png");
    GrayImage::from_pixel(20_000, 1, Luma([0])).save(&path).expect("written");
    let error = read(&path, 8, Crop::Middle).expect_err("too wide").to_string();
    assert!(error.contains("bomb.png: expected a JPEG or PNG image of at most 16384 pixels"), "{error}");
    let error = read(&folder.path().join("none.png"), 8, Crop::Middle).expect_err("no file").to_string();
    assert!(error.contains("none.png"), "{error}");
    std::fs::write(&path, b"no image").expect("written");
    let error = read(&path, 8, Crop::Middle).expect_err("no image").to_string();
    assert!(error.contains("bomb.png: expected a JPEG or PNG image"), "{error}");
}
