//! IDX files, the format of MNIST and the sets made after it: images and labels as unsigned bytes, plain or in gzip.
//!
//! A file is two zero bytes, a byte for the element type (`0x08`, unsigned byte), a byte for the rank, one big-endian `u32`
//! per axis, and the elements in row-major order; see <http://yann.lecun.com/exdb/mnist/>. Compression is told from the
//! first two bytes, not from the name. Offsets in errors count bytes of the uncompressed content.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use flate2::{Compression, GzBuilder};

/// The most elements that a header may announce.
pub const MAX_ELEMENTS: u64 = 1 << 32;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const UNSIGNED_BYTE: u8 = 0x08;

/// Why an IDX file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdxError {
    /// The operating system would not read the file, or its gzip stream is damaged.
    #[error("{}: byte {offset}: cannot read on", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// How much had been read, in bytes.
        offset: u64,
        /// What was wrong.
        source: io::Error,
    },

    /// The file could not be written.
    #[error("{}: cannot write", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: io::Error,
    },

    /// The file is of another format.
    #[error("{}: byte 0: expected the two zero bytes that begin an IDX file, found {found:02x?}", .path.display())]
    BadMagic {
        /// The file.
        path: PathBuf,
        /// The first two bytes.
        found: [u8; 2],
    },

    /// The elements are not unsigned bytes.
    #[error(
        "{}: byte 2: expected element type {UNSIGNED_BYTE:#04x} (unsigned byte), found {found:#04x}",
        .path.display()
    )]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The element type's code.
        found: u8,
    },

    /// The file has another number of axes.
    #[error("{}: byte 3: expected {expected} axes ({axes}), found {found}", .path.display())]
    WrongRank {
        /// The file.
        path: PathBuf,
        /// The number of axes wanted.
        expected: usize,
        /// What they mean.
        axes: &'static str,
        /// The number of axes in the file.
        found: u8,
    },

    /// An axis has length zero.
    #[error("{}: byte {offset}: expected at least 1 as the number of {axis}, found 0", .path.display())]
    EmptyAxis {
        /// The file.
        path: PathBuf,
        /// Where the length stands, in bytes.
        offset: u64,
        /// What the axis counts.
        axis: &'static str,
    },

    /// The header announces more than can be meant.
    #[error("{}: byte 4: expected at most {MAX_ELEMENTS} elements, found lengths {lengths:?}", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The lengths of the axes.
        lengths: Vec<u32>,
    },

    /// The file ends before its header or its elements do.
    #[error("{}: byte {found}: expected {expected} bytes of {part}, found the end of the file", .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was cut: header or elements.
        part: &'static str,
        /// Length of a whole file up to the end of that part, in bytes.
        expected: u64,
        /// Length of this file, in bytes.
        found: u64,
    },

    /// The file goes on after its last element.
    #[error("{}: byte {offset}: expected the end of the file, found more bytes", .path.display())]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Where the file should end, in bytes.
        offset: u64,
    },
}

/// The images of an IDX file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxImages {
    /// Number of images.
    pub count: usize,
    /// Height, in pixels.
    pub height: usize,
    /// Width, in pixels.
    pub width: usize,
    /// Brightness, 0 to 255, as `[images, height, width]` in row-major order.
    pub pixels: Vec<u8>,
}

/// Reads a file of grey images.
///
/// # Errors
///
/// When the file cannot be read or is not exactly one IDX file of unsigned bytes with three non-empty axes.
pub fn read_images(path: &Path) -> Result<IdxImages, IdxError> {
    parse_images(open(path)?, path)
}

/// Reads a file of labels, one byte for each image.
///
/// # Errors
///
/// When the file cannot be read or is not exactly one IDX file of unsigned bytes with one non-empty axis.
pub fn read_labels(path: &Path) -> Result<Vec<u8>, IdxError> {
    parse_labels(open(path)?, path)
}

/// Reads grey images from the content of a file; `path` is what errors call it.
///
/// # Errors
///
/// As [`read_images`].
pub fn parse_images(content: impl BufRead, path: &Path) -> Result<IdxImages, IdxError> {
    let ([count, height, width], pixels) =
        parse(content, path, ["images", "rows", "columns"], "images, rows, columns")?;
    Ok(IdxImages { count, height, width, pixels })
}

/// Reads labels from the content of a file; `path` is what errors call it.
///
/// # Errors
///
/// As [`read_labels`].
pub fn parse_labels(content: impl BufRead, path: &Path) -> Result<Vec<u8>, IdxError> {
    parse(content, path, ["labels"], "labels").map(|(_, labels)| labels)
}

/// Writes grey images as gzip, the same bytes for the same images.
///
/// # Errors
///
/// When the file cannot be written.
///
/// # Panics
///
/// When `pixels` is not as long as the other fields say, or a length does not fit in 32 bits.
pub fn write_images(path: &Path, images: &IdxImages) -> Result<(), IdxError> {
    write(path, [images.count, images.height, images.width], &images.pixels)
}

/// Writes labels as gzip, the same bytes for the same labels.
///
/// # Errors
///
/// When the file cannot be written.
///
/// # Panics
///
/// When there are more labels than fit in 32 bits.
pub fn write_labels(path: &Path, labels: &[u8]) -> Result<(), IdxError> {
    write(path, [labels.len()], labels)
}

fn open(path: &Path) -> Result<BufReader<File>, IdxError> {
    File::open(path).map(BufReader::new).map_err(|source| IdxError::Read { path: path.to_owned(), offset: 0, source })
}

fn parse<const RANK: usize>(
    content: impl BufRead,
    path: &Path,
    axes: [&'static str; RANK],
    axes_text: &'static str,
) -> Result<([usize; RANK], Vec<u8>), IdxError> {
    let mut content = Content::new(content, path)?;
    let [zero, zero_too, element, rank] = content.header(4)?;
    if [zero, zero_too] != [0, 0] {
        return Err(IdxError::BadMagic { path: path.to_owned(), found: [zero, zero_too] });
    }
    if element != UNSIGNED_BYTE {
        return Err(IdxError::WrongType { path: path.to_owned(), found: element });
    }
    if usize::from(rank) != RANK {
        return Err(IdxError::WrongRank { path: path.to_owned(), expected: RANK, axes: axes_text, found: rank });
    }

    let header = 4 + 4 * RANK as u64;
    let mut lengths = [0; RANK];
    for (length, axis) in lengths.iter_mut().zip(axes) {
        let offset = content.offset;
        *length = u32::from_be_bytes(content.header(header)?);
        if *length == 0 {
            return Err(IdxError::EmptyAxis { path: path.to_owned(), offset, axis });
        }
    }
    let elements = lengths
        .iter()
        .try_fold(1u64, |product, &length| product.checked_mul(u64::from(length)))
        .filter(|&product| product <= MAX_ELEMENTS)
        .ok_or_else(|| IdxError::TooLarge { path: path.to_owned(), lengths: lengths.to_vec() })?;

    Ok((lengths.map(|length| length as usize), content.elements(elements)?))
}

/// The uncompressed content of a file, and how much of it has been read.
struct Content<'a> {
    reader: Box<dyn Read + 'a>,
    path: &'a Path,
    offset: u64,
}

impl<'a> Content<'a> {
    fn new(mut content: impl BufRead + 'a, path: &'a Path) -> Result<Self, IdxError> {
        let mut first = Vec::with_capacity(2);
        content.by_ref().take(2).read_to_end(&mut first).map_err(|source| IdxError::Read {
            path: path.to_owned(),
            offset: 0,
            source,
        })?;
        let compressed = first == GZIP_MAGIC;
        let whole = Cursor::new(first).chain(content);
        let reader: Box<dyn Read + 'a> =
            if compressed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        Ok(Self { reader, path, offset: 0 })
    }

    /// The next bytes of the header, which ends at `header_end`.
    fn header<const N: usize>(&mut self, header_end: u64) -> Result<[u8; N], IdxError> {
        let bytes = self.up_to(N as u64)?;
        bytes.try_into().map_err(|_| self.truncated("header", header_end))
    }

    /// All that follows the header, which must be exactly `count` bytes.
    ///
    /// One more byte is asked for: only a reader at its end has checked the sum that closes a gzip stream.
    fn elements(&mut self, count: u64) -> Result<Vec<u8>, IdxError> {
        let end = self.offset + count;
        let bytes = self.up_to(count + 1)?;
        match (bytes.len() as u64).cmp(&count) {
            std::cmp::Ordering::Less => Err(self.truncated("header and elements", end)),
            std::cmp::Ordering::Equal => Ok(bytes),
            std::cmp::Ordering::Greater => Err(IdxError::TrailingBytes { path: self.path.to_owned(), offset: end }),
        }
    }

    /// At most `count` bytes. The buffer grows with what is there, so a header cannot make it large.
    fn up_to(&mut self, count: u64) -> Result<Vec<u8>, IdxError> {
        let mut bytes = Vec::new();
        let result = self.reader.by_ref().take(count).read_to_end(&mut bytes);
        self.offset += bytes.len() as u64;
        match result {
            Ok(_) => Ok(bytes),
            Err(source) => Err(IdxError::Read { path: self.path.to_owned(), offset: self.offset, source }),
        }
    }

    fn truncated(&self, part: &'static str, expected: u64) -> IdxError {
        IdxError::Truncated { path: self.path.to_owned(), part, expected, found: self.offset }
    }
}

fn write<const RANK: usize>(path: &Path, lengths: [usize; RANK], elements: &[u8]) -> Result<(), IdxError> {
    assert_eq!(lengths.iter().product::<usize>(), elements.len(), "elements do not fill the lengths {lengths:?}");
    let content = encode(lengths, elements);
    compress(&content)
        .and_then(|compressed| fs::write(path, compressed))
        .map_err(|source| IdxError::Write { path: path.to_owned(), source })
}

fn encode<const RANK: usize>(lengths: [usize; RANK], elements: &[u8]) -> Vec<u8> {
    let mut content = vec![0, 0, UNSIGNED_BYTE, RANK as u8];
    for length in lengths {
        let length = u32::try_from(length).expect("a length fits in 32 bits");
        content.extend_from_slice(&length.to_be_bytes());
    }
    content.extend_from_slice(elements);
    content
}

/// Gzip without a time, a file name or an operating system: nothing but the content decides the bytes.
fn compress(content: &[u8]) -> io::Result<Vec<u8>> {
    const UNKNOWN_SYSTEM: u8 = 255;
    let builder = GzBuilder::new().mtime(0).operating_system(UNKNOWN_SYSTEM);
    let mut encoder = builder.write(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    encoder.finish()
}

#[cfg(test)]
#[path = "idx_tests.rs"]
mod tests;
