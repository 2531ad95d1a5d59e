use proptest::prelude::*;

use super::*;

/// Two images of 2 rows and 3 columns.
const IMAGES: [u8; 28] = [
    0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, //
    1, 2, 3, 4, 5, 6, 250, 251, 252, 253, 254, 255,
];
const LABELS: [u8; 11] = [0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9];

fn images(content: &[u8]) -> Result<IdxImages, IdxError> {
    parse_images(content, Path::new("some/images"))
}

fn labels(content: &[u8]) -> Result<Vec<u8>, IdxError> {
    parse_labels(content, Path::new("some/labels"))
}

fn gzip(content: &[u8]) -> Vec<u8> {
    compress(content).expect("memory can be written")
}

/// `IMAGES` with one byte changed.
fn changed(offset: usize, value: u8) -> Vec<u8> {
    let mut content = IMAGES.to_vec();
    content[offset] = value;
    content
}

fn message(content: &[u8]) -> String {
    images(content).expect_err("the file is wrong").to_string()
}

#[test]
fn hand_built_files_are_read() {
    let expected =
        IdxImages { count: 2, height: 2, width: 3, pixels: vec![1, 2, 3, 4, 5, 6, 250, 251, 252, 253, 254, 255] };
    assert_eq!(images(&IMAGES).expect("plain"), expected);
    assert_eq!(images(&gzip(&IMAGES)).expect("gzip"), expected);
    assert_eq!(labels(&LABELS).expect("plain"), [7, 0, 9]);
    assert_eq!(labels(&gzip(&LABELS)).expect("gzip"), [7, 0, 9]);
}

#[test]
fn encoding_gives_the_hand_built_bytes() {
    assert_eq!(encode([2, 2, 3], &IMAGES[16..]), IMAGES);
    assert_eq!(encode([3], &LABELS[8..]), LABELS);
}

#[test]
fn what_was_written_is_read_and_its_bytes_depend_on_the_content_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (first, second) = (directory.path().join("first.gz"), directory.path().join("second.gz"));
    let written = images(&IMAGES).expect("good");
    write_images(&first, &written).expect("written");
    write_images(&second, &written).expect("written");
    assert_eq!(read_images(&first).expect("read"), written);

    let bytes = fs::read(&first).expect("read");
    assert_eq!(bytes, fs::read(&second).expect("read"));
    // RFC 1952: flags (no file name) at 3, time at 4 to 7, operating system at 9.
    assert_eq!((bytes[3], &bytes[4..8], bytes[9]), (0, &[0; 4][..], 255));

    write_labels(&first, &[7, 0, 9]).expect("written");
    assert_eq!(read_labels(&first).expect("read"), [7, 0, 9]);
}

#[test]
fn messages_name_file_offset_expected_and_found() {
    assert_eq!(
        message(&changed(1, 0x42)),
        "some/images: byte 0: expected the two zero bytes that begin an IDX file, found [00, 42]"
    );
    assert_eq!(
        message(&changed(2, 0x0d)),
        "some/images: byte 2: expected element type 0x08 (unsigned byte), found 0x0d"
    );
    assert_eq!(message(&changed(3, 1)), "some/images: byte 3: expected 3 axes (images, rows, columns), found 1");
    assert_eq!(message(&changed(11, 0)), "some/images: byte 8: expected at least 1 as the number of rows, found 0");
    assert_eq!(message(&IMAGES[..9]), "some/images: byte 9: expected 16 bytes of header, found the end of the file");
    assert_eq!(
        message(&IMAGES[..20]),
        "some/images: byte 20: expected 28 bytes of header and elements, found the end of the file"
    );
    assert_eq!(
        message(&[&IMAGES[..], &[0]].concat()),
        "some/images: byte 28: expected the end of the file, found more bytes"
    );
    assert!(matches!(labels(&IMAGES), Err(IdxError::WrongRank { expected: 1, found: 3, .. })));
}

#[test]
fn a_header_cannot_ask_for_memory() {
    let mut content = IMAGES.to_vec();
    content[4..16].fill(0xff);
    assert_eq!(
        message(&content),
        "some/images: byte 4: expected at most 4294967296 elements, found lengths [4294967295, 4294967295, 4294967295]"
    );
    // The most that is allowed is announced, and 12 bytes are there.
    content[4..16].copy_from_slice(&[0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0]);
    assert!(matches!(images(&content), Err(IdxError::Truncated { found: 28, .. })));
}

#[test]
fn every_truncation_is_an_error() {
    for good in [IMAGES.to_vec(), gzip(&IMAGES)] {
        for length in 0..good.len() {
            assert!(images(&good[..length]).is_err(), "the first {length} of {} bytes", good.len());
        }
    }
    for good in [LABELS.to_vec(), gzip(&LABELS)] {
        for length in 0..good.len() {
            assert!(labels(&good[..length]).is_err(), "the first {length} of {} bytes", good.len());
        }
    }
}

#[test]
fn a_damaged_or_continued_gzip_stream_is_an_error() {
    let mut damaged = gzip(&IMAGES);
    let sum = damaged.len() - 8;
    damaged[sum] ^= 1;
    assert!(matches!(images(&damaged), Err(IdxError::Read { offset: 28, .. })));
    assert!(images(&[&gzip(&IMAGES)[..], b"more"].concat()).is_err());
}

#[test]
fn a_missing_file_is_named() {
    let error = read_labels(Path::new("no/such/file")).expect_err("there is none");
    assert!(error.to_string().starts_with("no/such/file: "), "{error}");
}

proptest! {
    #[test]
    fn mutated_files_never_panic(
        compressed in any::<bool>(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut content = if compressed { gzip(&IMAGES) } else { IMAGES.to_vec() };
        for (index, value) in mutations {
            let offset = index.index(content.len());
            content[offset] = value;
        }
        if let Ok(read) = images(&content) {
            prop_assert_eq!(read.count * read.height * read.width, read.pixels.len());
        }
    }
}
