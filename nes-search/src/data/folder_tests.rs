use image::{Rgb, RgbImage};

use super::*;

/// Images of one colour each: red is the number of the class, green that of the image.
fn directory(test: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (split, count) in [(TRAIN, 3), (test, 1)] {
        for (class, name) in ["ant", "bee", "cat"].iter().enumerate() {
            let folder = directory.path().join(split).join(name);
            fs::create_dir_all(&folder).expect("made");
            for (image, ending) in (0..count).zip(["png", "PNG", "png"]) {
                let colour = Rgb([class as u8, image as u8, 9]);
                let picture = RgbImage::from_pixel(10 + image, 12, colour);
                picture
                    .save_with_format(folder.join(format!("{image}.{ending}")), image::ImageFormat::Png)
                    .expect("written");
            }
            fs::write(folder.join(".hidden"), "not an image").expect("written");
        }
    }
    directory
}

fn message(directory: &tempfile::TempDir) -> String {
    let error = ImageData::open(directory.path(), None).expect_err("the directory is wrong");
    error.to_string().replace(&directory.path().display().to_string(), "DIR")
}

#[test]
fn classes_and_images_are_in_the_order_of_their_names() {
    for test in TEST {
        let directory = directory(test);
        let data = ImageData::open(directory.path(), Some(8)).expect("good");
        assert!(data.train.is_lazy());
        assert_eq!(data.class_names, ["ant", "bee", "cat"]);
        assert_eq!((data.train.shape(), data.test.shape()), ([9, 3, 8, 8], [3, 3, 8, 8]));
        for position in 0..9 {
            let (class, image) = (position / 3, position % 3);
            assert_eq!(data.train.label(position), class);
            let pixels = data.train.pixels(position).expect("good");
            for (plane, colour) in pixels.chunks(64).zip([class as u8, image as u8, 9]) {
                assert_eq!(plane, [colour; 64]);
            }
        }
        let (rest, held_out) = data.train.split_per_class(1, 3).expect("enough");
        assert_eq!((rest.class_sizes(), held_out.class_sizes()), (vec![2; 3], vec![1; 3]));
        let default = ImageData::open(directory.path(), None).expect("good");
        assert_eq!(default.train.shape(), [9, 3, 224, 224]);
    }
}

#[test]
fn wrong_directories_are_told_what_is_wrong() {
    let wrong = |change: fn(&Path)| {
        let directory = directory("val");
        change(directory.path());
        message(&directory)
    };
    let remove = |path: &Path| fs::remove_dir_all(path).expect("removed");
    assert_eq!(
        wrong(|path| fs::remove_dir_all(path.join("val")).expect("removed")),
        "DIR: no such file in this directory: looked for val, test"
    );
    let without_bee = directory("test");
    remove(&without_bee.path().join("test/bee"));
    assert_eq!(
        message(&without_bee),
        "DIR: expected the same classes in both splits, found class bee in DIR/train alone"
    );
    assert_eq!(
        wrong(|path| fs::create_dir(path.join("val/dog")).expect("made")),
        "DIR: expected the same classes in both splits, found class dog in DIR/val alone"
    );
    assert_eq!(
        wrong(|path| fs::write(path.join("train/bee/notes.txt"), "").expect("written")),
        "DIR/train/bee/notes.txt: expected an image that ends in .jpg, .jpeg, .png, .webp or .bmp, found another file"
    );
    assert_eq!(
        wrong(|path| fs::write(path.join("train/list.csv"), "").expect("written")),
        "DIR/train/list.csv: expected a folder for each class, found a file"
    );
    assert_eq!(
        wrong(|path| ["train", "val"]
            .iter()
            .for_each(|split| fs::create_dir(path.join(split).join("dog")).expect("made"))),
        "DIR/train/dog: expected at least 1 image, found none"
    );
    assert_eq!(
        wrong(|path| {
            fs::remove_dir_all(path.join("train")).expect("removed");
            fs::create_dir(path.join("train")).expect("made");
        }),
        "DIR/train: expected a folder for each class, found none"
    );
}

#[test]
fn a_damaged_image_is_named_when_it_is_read() {
    let directory = directory("val");
    let damaged = directory.path().join("train/bee/1.PNG");
    fs::write(&damaged, "no image").expect("written");
    let data = ImageData::open(directory.path(), Some(8)).expect("nothing is decoded yet");
    assert!(data.train.pixels(3).is_ok());
    let error = data.train.pixels(4).expect_err("damaged").to_string();
    assert_eq!(
        error,
        format!(
            "{}: byte 0: expected the first bytes of a JPEG, PNG, WebP or BMP image, found [6e, 6f, 20, 69]",
            damaged.display()
        )
    );
}
