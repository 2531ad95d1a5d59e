use proptest::prelude::*;

use super::*;

/// Files of this many records each; what each byte is follows from its place and the seed.
fn records(layout: &Layout, count: usize, classes: usize, seed: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in 0..count {
        // A coarse label that is never a fine one.
        bytes.extend((1..layout.label_bytes).map(|_| 250));
        bytes.push(((record + seed) % classes) as u8);
        bytes.extend((0..PIXELS).map(|pixel| pixel_of(record, pixel, seed)));
    }
    bytes
}

fn pixel_of(record: usize, pixel: usize, seed: usize) -> u8 {
    (pixel * 7 + pixel / 1024 * 50 + record * 31 + seed * 101) as u8
}

/// Names as the set of CIFAR-10 has them: an empty line follows.
const NAMES: &str = "cat\ndog\nship\n\n";

fn directory(layout: &Layout, per_file: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join(layout.class_names), NAMES).expect("written");
    for (seed, name) in layout.train.iter().copied().chain([layout.test]).enumerate() {
        fs::write(directory.path().join(name), records(layout, per_file, 3, seed)).expect("written");
    }
    directory
}

fn message(directory: &tempfile::TempDir) -> String {
    let error = ImageData::open(directory.path(), None).expect_err("the directory is wrong");
    error.to_string().replace(&directory.path().display().to_string(), "DIR")
}

#[test]
fn hand_built_records_are_read_in_the_order_of_the_files() {
    for layout in [CIFAR_10, CIFAR_100] {
        let directory = directory(&layout, 4);
        let data = ImageData::open(directory.path(), Some(32)).expect("good");
        let files = layout.train.len();
        assert_eq!((data.train.shape(), data.test.shape()), ([4 * files, 3, 32, 32], [4, 3, 32, 32]));
        assert_eq!(data.class_names, ["cat", "dog", "ship"]);
        for (seed, (set, first)) in (0..files).map(|file| (&data.train, 4 * file)).chain([(&data.test, 0)]).enumerate()
        {
            for record in 0..4 {
                assert_eq!(set.label(first + record), (record + seed) % 3);
                let expected: Vec<u8> = (0..PIXELS).map(|pixel| pixel_of(record, pixel, seed)).collect();
                assert_eq!(*set.pixels(first + record).expect("in memory"), expected);
            }
        }
        assert!(!data.train.is_lazy());
    }
}

#[test]
fn a_missing_file_is_named() {
    for name in CIFAR_10.files() {
        let directory = directory(&CIFAR_10, 1);
        fs::remove_file(directory.path().join(name)).expect("removed");
        assert_eq!(message(&directory), format!("DIR: no such file in this directory: looked for {name}"));
    }
}

#[test]
fn a_damaged_file_is_named_with_the_place() {
    let change = |layout: &Layout, name: &str, change: fn(&mut Vec<u8>)| {
        let directory = directory(layout, 3);
        let path = directory.path().join(name);
        let mut bytes = fs::read(&path).expect("read");
        change(&mut bytes);
        fs::write(&path, bytes).expect("written");
        message(&directory)
    };
    assert_eq!(
        change(&CIFAR_10, "data_batch_4.bin", |bytes| bytes.truncate(2 * 3073 + 100)),
        "DIR/data_batch_4.bin: byte 6246: expected 3073 bytes of record 2, found the end of the file after 100"
    );
    assert_eq!(
        change(&CIFAR_100, "test.bin", |bytes| bytes.push(1)),
        "DIR/test.bin: byte 9223: expected 3074 bytes of record 3, found the end of the file after 1"
    );
    assert_eq!(
        change(&CIFAR_100, "train.bin", Vec::clear),
        "DIR/train.bin: byte 0: expected records of 3074 bytes, found the end of the file"
    );
    assert_eq!(
        change(&CIFAR_10, "test_batch.bin", |bytes| bytes[3073] = 3),
        "DIR/test_batch.bin: byte 3073 (image 1): expected a label below 3, the number of classes, found 3"
    );
    assert_eq!(
        change(&CIFAR_100, "train.bin", |bytes| bytes[2 * 3074 + 1] = 99),
        "DIR/train.bin: byte 6149 (image 2): expected a label below 3, the number of classes, found 99"
    );
    let names = |bytes: &mut Vec<u8>| *bytes = b"cat\n\nship\n".to_vec();
    assert_eq!(
        change(&CIFAR_10, "batches.meta.txt", names),
        "DIR/batches.meta.txt: line 2: expected a class name of its own on every line, found \"\""
    );
}

#[test]
fn only_images_in_folders_are_scaled() {
    let directory = directory(&CIFAR_10, 1);
    let error = ImageData::open(directory.path(), Some(40)).expect_err("another size");
    assert_eq!(
        error.to_string(),
        "image_size: expected 32x32, as the images of this data set are, found 40; only images in folders are scaled"
    );
}

#[test]
fn a_directory_without_a_set_is_told_what_was_looked_for() {
    let empty = tempfile::tempdir().expect("a directory");
    let message = message(&empty);
    for name in ["train-images-idx3-ubyte", "data_batch_1.bin", "train.bin", "train/CLASS/*.jpg", "none of them"] {
        assert!(message.contains(name), "{message}");
    }
}

proptest! {
    #[test]
    fn whole_records_with_good_labels_are_read_and_nothing_else_is(
        count in 0usize..4, cut in 0usize..4000, label in 0usize..8, coarse: bool,
    ) {
        let layout = if coarse { CIFAR_100 } else { CIFAR_10 };
        let mut bytes = records(&layout, count, 3, 0);
        bytes.truncate(bytes.len().saturating_sub(cut));
        let length = layout.label_bytes + PIXELS;
        if let Some(byte) = bytes.get_mut(layout.label_bytes - 1) {
            *byte = label as u8;
        }
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        let result = layout.append(&bytes, Path::new("some/file"), 3, &mut pixels, &mut labels);
        let good = !bytes.is_empty() && bytes.len().is_multiple_of(length) && label < 3;
        prop_assert_eq!(result.is_ok(), good, "{:?}", result);
        if good {
            prop_assert_eq!((labels.len(), pixels.len()), (bytes.len() / length, bytes.len() / length * PIXELS));
        }
    }
}
