use super::*;

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
    let error = ImageData::open(directory.path(), None).expect_err("the directory is wrong");
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
    let (read, embedded) = (ImageData::open(&directory, None).expect("good"), ImageData::embedded());
    assert_eq!(read.class_names, embedded.class_names);
    for (read, embedded) in [(&read.train, &embedded.train), (&read.test, &embedded.test)] {
        assert_eq!(read.shape(), embedded.shape());
        for position in 0..read.len() {
            assert_eq!(read.label(position), embedded.label(position));
            assert_eq!(read.pixels(position).expect("in memory"), embedded.pixels(position).expect("in memory"));
        }
    }
    let bytes: u64 = fs::read_dir(directory)
        .expect("readable")
        .map(|entry| entry.and_then(|entry| entry.metadata()).expect("readable").len())
        .sum();
    assert!(bytes <= 6_000_000, "{bytes} bytes");
}

#[test]
fn a_directory_is_read_with_digits_or_its_own_class_names() {
    let directory = directory();
    let data = ImageData::open(directory.path(), None).expect("good");
    assert_eq!((data.train.shape(), data.test.shape()), ([3, 1, 2, 2], [2, 1, 2, 2]));
    assert_eq!(data.class_names, ["0", "1", "2"]);
    assert_eq!(*data.train.pixels(1).expect("in memory"), [4, 5, 6, 7]);
    assert_eq!((data.train.label(1), data.test.label(1)), (2, 0));

    fs::write(directory.path().join("classes.txt"), "a\r\nb\nc\nd\n").expect("written");
    let data = ImageData::open(directory.path(), None).expect("good");
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
