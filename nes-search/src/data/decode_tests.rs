use image::codecs::jpeg::JpegEncoder;
use image::{GrayImage, ImageEncoder, Rgb};
use proptest::prelude::*;

use super::*;

/// Colours that differ from pixel to pixel, and change slowly enough for JPEG.
fn picture(width: u32, height: u32) -> RgbImage {
    let wave = |place: u32, length: u32, times: f32| {
        (127.0 + 100.0 * (place as f32 / length as f32 * times).sin()).round() as u8
    };
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([wave(x, width, 3.0), wave(y, height, 2.0), wave(x + y, width + height, 5.0)])
    })
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("memory can be written");
    bytes.into_inner()
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), bytes).expect("written");
    file
}

fn message(bytes: &[u8]) -> String {
    decode(bytes, Path::new("some/image")).err().expect("the file is wrong").to_string()
}

/// A window of an image by the definition of scaling: in each axis, pixels are weighted by a triangle around the place
/// of the new pixel, as wide as two new pixels or two old ones.
fn naive(image: &RgbImage, window: Window, size: usize, channel: usize) -> Vec<f64> {
    let weights = |length: u32, to: usize| -> Vec<f64> {
        let ratio = f64::from(length) / size as f64;
        let (scale, centre) = (ratio.max(1.0), (to as f64 + 0.5) * ratio);
        let weight = |from: u32| (1.0 - ((f64::from(from) + 0.5 - centre) / scale).abs()).max(0.0);
        let weights: Vec<f64> = (0..length).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    };
    let mut output = Vec::new();
    for y in 0..size {
        for x in 0..size {
            let mut value = 0.0;
            for (row, vertical) in weights(window.height, y).into_iter().enumerate() {
                for (column, horizontal) in weights(window.width, x).into_iter().enumerate() {
                    let pixel = image.get_pixel(window.left + column as u32, window.top + row as u32);
                    value += vertical * horizontal * f64::from(pixel.0[channel]);
                }
            }
            output.push(value);
        }
    }
    output
}

#[test]
fn png_keeps_every_pixel_and_jpeg_nearly() {
    let image = picture(40, 23);
    assert_eq!(decode(&encoded(image.clone(), ImageFormat::Png), Path::new("a")).expect("good").image, image);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 95)
        .write_image(image.as_raw(), 40, 23, image::ExtendedColorType::Rgb8)
        .expect("memory can be written");
    let read = decode(&jpeg, Path::new("a")).expect("good").image;
    assert_eq!(read.dimensions(), (40, 23));
    assert!(read.iter().zip(image.iter()).all(|(read, written)| read.abs_diff(*written) <= 12));
}

#[test]
fn any_kind_of_pixel_becomes_colour() {
    let grey = GrayImage::from_fn(5, 4, |x, y| Luma([(x * 40 + y * 9) as u8]));
    let expected = DynamicImage::from(grey.clone()).into_rgb8();
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let read = decode(&encoded(grey.clone(), format), Path::new("a")).expect("good").image;
        assert!(read.pixels().all(|pixel| pixel.0[0] == pixel.0[1] && pixel.0[1] == pixel.0[2]));
        assert!(read.iter().zip(expected.iter()).all(|(read, written)| read.abs_diff(*written) <= 8), "{format:?}");
    }
    let colours = picture(5, 4);
    for other in [
        DynamicImage::from(DynamicImage::from(colours.clone()).into_rgba8()),
        DynamicImage::from(DynamicImage::from(colours.clone()).into_rgb16()),
    ] {
        assert_eq!(decode(&encoded(other, ImageFormat::Png), Path::new("a")).expect("good").image, colours);
    }
}

#[test]
fn the_view_for_evaluation_is_the_centre_scaled() {
    for (width, height, size) in [(64, 48, 42), (31, 77, 24), (9, 5, 12), (1, 1, 3), (1, 7, 1), (256, 300, 224)] {
        let image = picture(width, height);
        let file = file(&encoded(image.clone(), ImageFormat::Png));
        let view = read(file.path(), size, None).expect("good");
        assert_eq!(view.len(), 3 * size * size);
        // 224 of 256 pixels, wherever a side is even.
        let side = ((f64::from(width.min(height)) * 0.875).round() as u32).max(1);
        let window = Window { left: (width - side) / 2, top: (height - side) / 2, width: side, height: side };
        for (channel, plane) in view.chunks(size * size).enumerate() {
            if size == 224 {
                // As large as before: a plain cut.
                let cut = crop_imm(&image, window.left, window.top, side, side).to_image();
                assert!(cut.pixels().zip(plane).all(|(pixel, byte)| pixel.0[channel] == *byte));
                continue;
            }
            for (found, expected) in plane.iter().zip(naive(&image, window, size, channel)) {
                assert!((f64::from(*found) - expected).abs() <= 1.0, "{width}x{height} to {size}: {found}, {expected}");
            }
        }
    }
}

#[test]
fn windows_have_the_area_and_aspect_that_they_are_drawn_with() {
    let [height, width] = [300u32, 400];
    let (mut areas, mut aspects, mut lefts) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..4000 {
        let window = Window::random([height, width], seed);
        areas.push(f64::from(window.width * window.height) / f64::from(width * height));
        aspects.push((f64::from(window.width) / f64::from(window.height)).ln());
        if window.width < width {
            lefts.push(f64::from(window.left) / f64::from(width - window.width));
        }
    }
    let extremes = |values: &[f64]| values.iter().fold((f64::MAX, f64::MIN), |(a, b), &v| (a.min(v), b.max(v)));
    let (least, most) = extremes(&areas);
    assert!((0.078..0.09).contains(&least) && (0.9..=1.0).contains(&most), "{least} to {most}");
    let (least, most) = extremes(&aspects);
    assert!((-0.30..-0.27).contains(&least) && (0.27..0.30).contains(&most), "{least} to {most}");
    // Uniform places: the mean of n is 1/2 within five deviations, 5 / sqrt(12 n).
    let mean = lefts.iter().sum::<f64>() / lefts.len() as f64;
    assert!((mean - 0.5).abs() < 5.0 / (12.0 * lefts.len() as f64).sqrt(), "{mean}");
}

#[test]
fn a_random_crop_of_a_file_and_of_planes_is_its_window_scaled() {
    let image = picture(30, 30);
    let planes: Vec<u8> = (0..3).flat_map(|c| image.pixels().map(move |pixel| pixel.0[c])).collect();
    let file = file(&encoded(image.clone(), ImageFormat::Png));
    for seed in 0..20 {
        let cropped = crop_planes(&planes, [30, 30], seed);
        assert_eq!(read(file.path(), 30, Some(seed)).expect("good"), cropped);
        let window = Window::random([30, 30], seed);
        for (channel, plane) in cropped.chunks(900).enumerate() {
            let expected = naive(&image, window, 30, channel);
            assert!(plane.iter().zip(expected).all(|(found, expected)| (f64::from(*found) - expected).abs() <= 1.0));
        }
    }
}

#[test]
fn wrong_files_are_named() {
    assert_eq!(
        message(b"GIF89a"),
        "some/image: byte 0: expected the first bytes of a JPEG, PNG, WebP or BMP image, found [47, 49, 46, 38]"
    );
    assert_eq!(
        message(b""),
        "some/image: byte 0: expected the first bytes of a JPEG, PNG, WebP or BMP image, found an empty file"
    );
    let [jpeg, png] = [ImageFormat::Jpeg, ImageFormat::Png].map(|format| encoded(picture(40, 30), format));
    let half = message(&jpeg[..jpeg.len() - 300]);
    let expected =
        format!("byte {}: expected the marker that ends a JPEG image, found the end of the file", jpeg.len() - 300);
    assert_eq!(half, format!("some/image: {expected}"));
    let damage = message(&png[..png.len() / 2]);
    assert!(damage.starts_with("some/image: expected a PNG image, found damage: "), "{damage}");
    let missing = read(Path::new("no/such/image.png"), 8, None).expect_err("no file");
    assert_eq!(missing.to_string(), "no/such/image.png: cannot read");
}

#[test]
fn what_a_header_announces_is_bounded() {
    // A JPEG of 65,500 x 65,500 pixels, by its header.
    let mut jpeg = encoded(picture(40, 30), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    assert_eq!(message(&jpeg), "some/image: expected an image of at most 67108864 pixels, found 65500x65500");
    let wide = encoded(GrayImage::new(20_000, 3_356), ImageFormat::Png);
    assert_eq!(message(&wide), "some/image: expected an image of at most 67108864 pixels, found 20000x3356");
}

#[test]
fn a_marker_inside_a_segment_does_not_end_an_image() {
    let jpeg = encoded(picture(16, 16), ImageFormat::Jpeg);
    // A comment that holds the marker, and an image without it.
    let mut other = [&jpeg[..2], &[0xff, 0xfe, 0, 6, 0xff, 0xd9, 0xff, 0xd9], &jpeg[2..]].concat();
    assert!(!decode(&other, Path::new("a")).expect("good").lacks_end);
    other.truncate(other.len() - 2);
    assert!(decode(&other, Path::new("a")).expect("good").lacks_end);
}

#[test]
fn a_jpeg_without_its_end_is_used_if_it_has_all_pixels() {
    for (width, height) in [(40, 30), (16, 16), (33, 17), (8, 8)] {
        let jpeg = encoded(picture(width, height), ImageFormat::Jpeg);
        let whole = decode(&jpeg, Path::new("a")).expect("good");
        for missing in [1, 2] {
            let cut = decode(&jpeg[..jpeg.len() - missing], Path::new("a")).expect("all pixels");
            assert!(cut.lacks_end && cut.image == whole.image, "{width}x{height}, {missing} bytes");
        }
        let half = message(&jpeg[..jpeg.len() - jpeg.len() / 10]);
        assert!(half.contains("the marker that ends a JPEG image"), "{width}x{height}: {half}");
    }
}

#[test]
fn webp_and_bmp_are_read() {
    let image = picture(21, 13);
    for format in [ImageFormat::WebP, ImageFormat::Bmp] {
        assert_eq!(decode(&encoded(image.clone(), format), Path::new("a")).expect("good").image, image, "{format:?}");
    }
}

/// The orientation of EXIF stands in a segment at the beginning of a JPEG file.
#[test]
fn an_image_stands_upright() {
    let image = picture(40, 24);
    let jpeg = encoded(image, ImageFormat::Jpeg);
    let plain = decode(&jpeg, Path::new("a")).expect("good").image;
    let turned = |orientation: u8| {
        let tiff =
            [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation, 0, 0, 0, 0, 0, 0]].concat();
        let exif = [b"Exif\0\0".as_slice(), &tiff].concat();
        let length = (exif.len() as u16 + 2).to_be_bytes();
        let file = [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat();
        decode(&file, Path::new("a")).expect("good").image
    };
    assert_eq!(turned(1), plain);
    assert_eq!(turned(3), image::imageops::rotate180(&plain));
    assert_eq!(turned(6), image::imageops::rotate90(&plain));
    assert_eq!(turned(8), image::imageops::rotate270(&plain));
}

proptest! {
    #[test]
    fn damage_is_an_error_or_an_image_and_never_a_panic(
        jpeg: bool, cut in 0usize..2000, flips in prop::collection::vec((0usize..2000, any::<u8>()), 0..6),
    ) {
        let mut bytes = encoded(picture(33, 17), if jpeg { ImageFormat::Jpeg } else { ImageFormat::Png });
        let length = bytes.len();
        for (place, value) in flips {
            bytes[place % length] ^= value;
        }
        bytes.truncate(length.saturating_sub(cut / 4));
        let file = file(&bytes);
        if let Ok(view) = read(file.path(), 8, Some(cut as u64)) {
            prop_assert_eq!(view.len(), 3 * 8 * 8);
        }
    }

    #[test]
    fn a_window_is_inside_its_image(height in 1u32..500, width in 1u32..500, seed: u64) {
        for window in [Window::random([height, width], seed), Window::centre([height, width])] {
            prop_assert!(window.width >= 1 && window.height >= 1, "{:?}", window);
            prop_assert!(window.left + window.width <= width && window.top + window.height <= height, "{:?}", window);
        }
    }
}
