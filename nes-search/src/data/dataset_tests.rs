use proptest::prelude::*;

use super::*;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|class| format!("class {class}")).collect()
}

/// One-pixel images with these labels; the pixel is the image's number.
fn labelled(labels: &[usize], class_count: usize) -> ImageSet {
    let pixels = (0..labels.len()).map(|image| image as u8).collect();
    ImageSet::new(pixels, [labels.len(), 1, 1, 1], labels.to_vec(), names(class_count)).expect("a good set")
}

/// Which images of [`labelled`] these are.
fn image_numbers(set: &ImageSet) -> Vec<u8> {
    (0..set.len()).map(|position| set.pixels(position).expect("in memory")[0]).collect()
}

/// A directory with the four files, 3 training and 2 test images of 2x2 pixels.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |split: &str, count: usize, labels: &[u8]| {
        let pixels = (0..count * 4).map(|byte| byte as u8).collect();
        let images = IdxImages { count, height: 2, width: 2, pixels };
        idx::write_images(&directory.path().join(format!("{split}-images-idx3-ubyte.gz")), &images).expect("written");
        // Written as gzip under a plain name: content decides, not the name.
        idx::write_labels(&directory.path().join(format!("{split}-labels-idx1-ubyte")), labels).expect("written");
    };
    write("train", 3, &[0, 2, 1]);
    write("t10k", 2, &[2, 0]);
    directory
}

fn message(directory: &tempfile::TempDir) -> String {
    let error = ImageData::from_idx_dir(directory.path()).expect_err("the directory is wrong");
    error.to_string().replace(&directory.path().display().to_string(), "DIR")
}

#[test]
fn the_embedded_set_is_balanced_and_complete() {
    let data = ImageData::embedded();
    assert_eq!(data.train.shape(), [10_000, 1, 28, 28]);
    assert_eq!(data.test.shape(), [2_000, 1, 28, 28]);
    assert_eq!(data.train.class_sizes(), [1_000; 10]);
    assert_eq!(data.test.class_sizes(), [200; 10]);
    let expected =
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
    assert_eq!(data.class_names, expected);
    assert_eq!(data.train.class_names(), expected);
}

#[test]
fn the_embedded_set_is_its_directory_and_small() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fashion-mnist-subset");
    let (read, embedded) = (ImageData::from_idx_dir(&directory).expect("good"), ImageData::embedded());
    assert_eq!(read.class_names, embedded.class_names);
    let pixels = |set: &ImageSet| match &set.store.source {
        Source::Memory(pixels) => pixels.clone(),
        Source::Files(files) => panic!("expected pixels in memory, found {files:?}"),
    };
    assert_eq!(pixels(&read.train), pixels(&embedded.train));
    assert_eq!(read.test.store.labels, embedded.test.store.labels);
    let bytes: u64 = fs::read_dir(directory)
        .expect("readable")
        .map(|entry| entry.and_then(|entry| entry.metadata()).expect("readable").len())
        .sum();
    assert!(bytes <= 6_000_000, "{bytes} bytes");
}

#[test]
fn a_directory_is_read_with_digits_or_its_own_class_names() {
    let directory = directory();
    let data = ImageData::from_idx_dir(directory.path()).expect("good");
    assert_eq!((data.train.shape(), data.test.shape()), ([3, 1, 2, 2], [2, 1, 2, 2]));
    assert_eq!(data.class_names, ["0", "1", "2"]);
    assert_eq!(*data.train.pixels(1).expect("in memory"), [4, 5, 6, 7]);
    assert_eq!((data.train.label(1), data.test.label(1)), (2, 0));

    fs::write(directory.path().join("classes.txt"), "a\r\nb\nc\nd\n").expect("written");
    let data = ImageData::from_idx_dir(directory.path()).expect("good");
    assert_eq!(data.class_names, ["a", "b", "c", "d"]);
    assert_eq!(data.test.class_count(), 4);
}

#[test]
fn a_missing_file_is_named_with_its_directory() {
    let directory = directory();
    fs::remove_file(directory.path().join("t10k-labels-idx1-ubyte")).expect("removed");
    assert_eq!(
        message(&directory),
        "DIR: no such file in this directory: looked for t10k-labels-idx1-ubyte, t10k-labels-idx1-ubyte.gz"
    );
}

#[test]
fn files_that_do_not_fit_each_other_are_named() {
    let wrong_count = directory();
    idx::write_labels(&wrong_count.path().join("train-labels-idx1-ubyte"), &[0, 1]).expect("written");
    assert_eq!(
        message(&wrong_count),
        "DIR/train-labels-idx1-ubyte: expected 3 labels, as many as DIR/train-images-idx3-ubyte.gz has images, found 2"
    );

    let unknown_label = directory();
    idx::write_labels(&unknown_label.path().join("t10k-labels-idx1-ubyte"), &[1, 9]).expect("written");
    assert_eq!(
        message(&unknown_label),
        "DIR/t10k-labels-idx1-ubyte: byte 9 (image 1): expected a label below 3, the number of classes, found 9"
    );

    let other_size = directory();
    let images = IdxImages { count: 2, height: 1, width: 3, pixels: vec![0; 6] };
    idx::write_images(&other_size.path().join("t10k-images-idx3-ubyte.gz"), &images).expect("written");
    assert_eq!(
        message(&other_size),
        "DIR/t10k-images-idx3-ubyte.gz: expected images of 2x2 pixels, the training split's size, found 1x3"
    );
}

#[test]
fn wrong_class_names_are_refused() {
    let directory = directory();
    for (text, expected) in [
        ("a\n\nc\n", "DIR/classes.txt: line 2: expected a class name of its own on every line, found \"\""),
        ("a\nb\na\n", "DIR/classes.txt: line 3: expected a class name of its own on every line, found \"a\""),
        ("", "DIR/classes.txt: line 1: expected a class name of its own on every line, found \"\""),
        (
            "a\nb\n",
            "DIR/train-labels-idx1-ubyte: byte 9 (image 1): expected a label below 2, the number of classes, found 2",
        ),
    ] {
        fs::write(directory.path().join("classes.txt"), text).expect("written");
        assert_eq!(message(&directory), expected);
    }
}

#[test]
fn a_set_must_fit_its_shape() {
    let new = |pixels, shape, labels: &[usize]| ImageSet::new(vec![0; pixels], shape, labels.to_vec(), names(2));
    assert!(new(12, [2, 3, 1, 2], &[0, 1]).is_ok());
    assert!(matches!(new(0, [0, 3, 1, 2], &[]), Err(DataError::Empty { .. })));
    assert!(matches!(new(11, [2, 3, 1, 2], &[0, 1]), Err(DataError::ShapeMismatch { what: "pixels", .. })));
    assert!(matches!(new(12, [2, 3, 1, 2], &[0]), Err(DataError::ShapeMismatch { what: "labels", .. })));
    assert!(matches!(new(12, [2, 3, 1, 2], &[0, 2]), Err(DataError::LabelOutOfRange { image: 1, found: 2, .. })));
}

#[test]
fn subsets_of_subsets_share_pixels() {
    let set = labelled(&[0, 1, 0, 1, 0], 2);
    let part = set.subset(&[4, 1, 3]).and_then(|part| part.subset(&[2, 0])).expect("in range");
    assert_eq!(image_numbers(&part), [3, 4]);
    assert_eq!((part.label(0), part.label(1)), (1, 0));
    assert!(Arc::ptr_eq(&set.store, &part.store));
    assert!(matches!(set.subset(&[]), Err(DataError::Empty { .. })));
    assert!(matches!(set.subset(&[0, 7]), Err(DataError::PositionOutOfRange { len: 5, found: 7 })));
}

#[test]
fn a_class_with_too_few_images_is_named() {
    let set = labelled(&[0, 0, 0, 1, 1], 2);
    assert!(matches!(set.split_per_class(0, 1), Err(DataError::NothingHeldOut)));
    assert_eq!(
        set.split_per_class(2, 1).expect_err("class 1 would have none left").to_string(),
        "class 1 (class 1): holding out 2 images and keeping at least one needs 3 images, found 2"
    );
}

#[test]
fn the_seed_decides_a_split() {
    let train = ImageData::embedded().train;
    let held_out = |seed| train.split_per_class(50, seed).expect("enough").1;
    assert_eq!(held_out(1).images, held_out(1).images);
    assert_ne!(held_out(1).images, held_out(2).images);
}

proptest! {
    #[test]
    fn a_split_is_balanced_and_loses_nothing(
        mut labels in prop::collection::vec(0usize..3, 0..60), per_class in 1usize..6, seed: u64,
    ) {
        labels.extend((0..3).cycle().take(3 * (per_class + 1)));
        let set = labelled(&labels, 3);
        let (rest, held_out) = set.split_per_class(per_class, seed).expect("enough");
        prop_assert_eq!(held_out.class_sizes(), [per_class; 3]);

        let (rest, held_out) = (image_numbers(&rest), image_numbers(&held_out));
        prop_assert!(rest.is_sorted() && held_out.is_sorted());
        let mut all = [rest, held_out].concat();
        all.sort_unstable();
        prop_assert_eq!(all, image_numbers(&set));
    }
}
