use image::{Rgb, RgbImage};
use tempfile::TempDir;

use super::*;

fn write(directory: &Path, place: &str, colour: u8) {
    let path = directory.join(place);
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    RgbImage::from_pixel(10, 12, Rgb([colour, 0, 255 - colour])).save(path).expect("written");
}

/// Two classes, three training images and two test images.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let images = ["train/dog/b.png", "train/dog/a.jpeg", "train/cat/z.PNG", "test/cat/1.png", "test/dog/2.png"];
    for (index, place) in images.into_iter().enumerate() {
        write(folder.path(), place, index as u8 * 40);
    }
    fs::write(folder.path().join("train/dog/notes.txt"), "no image").expect("written");
    folder
}

#[test]
fn classes_and_images_are_in_alphabetical_order() {
    let folder = folder();
    let data = read(folder.path(), 8).expect("a data set");
    assert_eq!(data.class_names, ["cat", "dog"]);
    assert_eq!((data.train.shape(), data.test.shape()), ([3, 3, 8, 8], [2, 3, 8, 8]));
    assert_eq!((0..3).map(|image| data.train.label(image)).collect::<Vec<_>>(), [0, 1, 1]);
    let red = |position: usize| data.train.pixels(position).expect("an image")[0];
    assert_eq!(red(0), 80, "cat/z.PNG");
    assert!(red(1).abs_diff(40) < 4, "dog/a.jpeg");
    assert_eq!(red(2), 0, "dog/b.png");
    assert!(data.train.is_on_disk());
    // `val` goes before `test`.
    write(folder.path(), "val/cat/1.png", 1);
    write(folder.path(), "val/dog/1.png", 1);
    write(folder.path(), "val/dog/2.png", 1);
    assert_eq!(read(folder.path(), 8).expect("a data set").test.len(), 3);
}

#[test]
fn what_is_missing_is_named() {
    let message = |folder: &TempDir| read(folder.path(), 8).expect_err("not a data set").to_string();
    let complete = folder();
    fs::remove_dir_all(complete.path().join("test/dog")).expect("removed");
    let text = message(&complete);
    assert!(text.contains("test: expected the folders of") && text.contains("found no folder \"dog\""), "{text}");
    let empty = folder();
    fs::remove_file(empty.path().join("train/cat/z.PNG")).expect("removed");
    assert!(message(&empty).contains("train/cat: expected images named .jpg, .jpeg or .png, found none"));
    let none = tempfile::tempdir().expect("a folder");
    fs::create_dir(none.path().join("train")).expect("a folder");
    assert!(message(&none).contains("train: expected a folder of images for each class, found none"));
    let missing = tempfile::tempdir().expect("a folder");
    assert!(message(&missing).contains("train: "));
}

#[test]
fn a_directory_is_recognised_by_what_it_holds() {
    let folder = folder();
    let of = |size| ImageData::from_dir(folder.path(), size);
    assert_eq!(of(Some(20)).expect("a data set").train.shape(), [3, 3, 20, 20]);
    assert_eq!(of(None).expect("a data set").train.shape(), [3, 3, DEFAULT_SIZE, DEFAULT_SIZE]);
    let empty = tempfile::tempdir().expect("a folder");
    let error = ImageData::from_dir(empty.path(), None).expect_err("nothing").to_string();
    for name in ["train-images-idx3-ubyte", "data_batch_1.bin", "train.bin", "train/"] {
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn statistics_of_a_set_on_disk_are_those_of_its_pixels() {
    let folder = folder();
    let data = read(folder.path(), 8).expect("a data set");
    let normalization = crate::data::Normalization::of(&data.test).expect("images");
    // Red of 120 and 160.
    assert!((normalization.mean[0] - 140.0 / 255.0).abs() < 1e-6, "{normalization:?}");
    assert!((normalization.std[0] - 20.0 / 255.0).abs() < 1e-6, "{normalization:?}");
}
