use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A record by its definition: labels, then planes.
fn record(labels: &[u8], seed: usize) -> Vec<u8> {
    labels.iter().copied().chain((0..3072).map(|place| (place * 31 + seed * 17) as u8)).collect()
}

fn write(directory: &TempDir, name: &str, records: &[Vec<u8>]) {
    fs::write(directory.path().join(name), records.concat()).expect("written");
}

fn cifar_10() -> TempDir {
    let directory = tempfile::tempdir().expect("a folder");
    for number in 1..=5 {
        write(&directory, &format!("data_batch_{number}.bin"), &[record(&[number as u8], number), record(&[9], 0)]);
    }
    write(&directory, "test_batch.bin", &[record(&[3], 7)]);
    directory
}

#[test]
fn cifar_10_is_read_in_the_order_of_its_files() {
    let directory = cifar_10();
    let data = ImageData::from_dir(directory.path(), None).expect("a data set");
    assert_eq!((data.train.shape(), data.test.shape()), ([10, 3, 32, 32], [1, 3, 32, 32]));
    assert_eq!((0..10).map(|image| data.train.label(image)).collect::<Vec<_>>(), [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]);
    assert_eq!(*data.train.pixels(4).expect("in memory"), record(&[], 3));
    assert_eq!(data.class_names[3], "3");
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n";
    fs::write(directory.path().join("batches.meta.txt"), names).expect("written");
    let data = ImageData::from_dir(directory.path(), Some(32)).expect("a data set");
    assert_eq!(data.class_names[3], "cat");
    let error = ImageData::from_dir(directory.path(), Some(64)).expect_err("another size").to_string();
    assert!(error.contains("expected an image size of 32x32") && error.contains("found 64"), "{error}");
}

#[test]
fn cifar_100_is_read_with_its_fine_labels() {
    let directory = tempfile::tempdir().expect("a folder");
    write(&directory, "train.bin", &[record(&[1, 99], 1), record(&[19, 0], 2)]);
    write(&directory, "test.bin", &[record(&[0, 5], 3)]);
    let data = ImageData::from_dir(directory.path(), None).expect("a data set");
    assert_eq!((data.train.label(0), data.train.label(1), data.test.label(0)), (99, 0, 5));
    assert_eq!(*data.train.pixels(1).expect("in memory"), record(&[], 2));
    assert_eq!(data.class_names.len(), 100);
}

#[test]
fn what_is_damaged_is_named_with_its_place() {
    let message = |directory: &TempDir| read_10(directory.path()).expect_err("damaged").to_string();
    let label = cifar_10();
    write(&label, "data_batch_2.bin", &[record(&[1], 1), record(&[10], 1)]);
    let text = message(&label);
    assert!(text.contains("data_batch_2.bin: byte 3073 (image 1): expected a label below 10"), "{text}");
    let missing = cifar_10();
    fs::remove_file(missing.path().join("data_batch_4.bin")).expect("removed");
    assert!(message(&missing).contains("data_batch_4.bin"));
    let empty = cifar_10();
    write(&empty, "test_batch.bin", &[]);
    assert!(message(&empty).contains("test_batch.bin: byte 0: expected a record of 3073 bytes, found 0"));
}

proptest! {
    #[test]
    fn a_file_that_ends_inside_a_record_is_refused(length in 1usize..9219) {
        prop_assume!(!length.is_multiple_of(3073));
        let directory = cifar_10();
        let bytes = [record(&[1], 1), record(&[2], 2), record(&[3], 3)].concat();
        fs::write(directory.path().join("data_batch_5.bin"), &bytes[..length]).expect("written");
        let text = read_10(directory.path()).expect_err("cut").to_string();
        let (offset, found) = (length / 3073 * 3073, length % 3073);
        let expected = format!("byte {offset}: expected a record of 3073 bytes, found {found}");
        prop_assert!(text.contains(&expected), "{}", text);
    }
}
