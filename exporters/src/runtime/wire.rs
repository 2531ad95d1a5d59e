//! A look at the lengths in an ONNX file before rten reads it.
//!
//! rten's reader trusts the lengths of nested messages: one that is too large makes it allocate without bound, and one
//! above `i64::MAX` makes it go backwards, for ever. An ONNX file is a Protocol Buffers message, in which every length
//! stands before what it measures, so that walking over the tags shows whether each part lies within the part around
//! it. The content of tensors is skipped, not read.
//!
//! Encoding: <https://protobuf.dev/programming-guides/encoding/>; field numbers: `onnx.proto`.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::path::Path;

/// Deeper nesting than any real network has, and shallow enough for a recursive reader's stack.
const MAX_DEPTH: usize = 64;

/// The messages that contain others, or arrays of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    SequenceType,
    Shape,
    /// Has no parts with a length but strings.
    Flat,
}

/// What a field with a length holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Part(Message),
    Varints,
    /// Numbers of this many bytes each.
    Fixed(u64),
    Bytes,
}

impl Message {
    fn content(self, field: u64) -> Content {
        use Content::{Bytes, Fixed, Part, Varints};
        match (self, field) {
            (Self::Model, 7) => Part(Self::Graph),
            (Self::Model, 8 | 14) => Part(Self::Flat),
            (Self::Graph, 1) => Part(Self::Node),
            (Self::Graph, 5) => Part(Self::Tensor),
            (Self::Graph, 11..=13) => Part(Self::ValueInfo),
            (Self::Node, 5) => Part(Self::Attribute),
            (Self::Attribute, 5) => Part(Self::Tensor),
            (Self::Attribute, 6) => Part(Self::Graph),
            (Self::Attribute, 7) => Fixed(4),
            (Self::Attribute, 8) => Varints,
            (Self::Tensor, 1 | 5 | 7 | 11) => Varints,
            (Self::Tensor, 4) => Fixed(4),
            (Self::Tensor, 10) => Fixed(8),
            (Self::Tensor, 13) => Part(Self::Flat),
            (Self::ValueInfo, 2) => Part(Self::Type),
            (Self::Type, 1) => Part(Self::TensorType),
            (Self::Type, 4) => Part(Self::SequenceType),
            (Self::TensorType, 2) => Part(Self::Shape),
            (Self::SequenceType, 1) => Part(Self::Type),
            (Self::Shape, 1) => Part(Self::Flat),
            _ => Bytes,
        }
    }
}

/// Checks that every part of the file at `path` lies within the part around it; the error is the reason why it is no
/// ONNX file.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    walk(BufReader::new(file), length)
}

fn walk(input: impl BufRead + Seek, length: u64) -> Result<(), String> {
    let mut reader = Reader { input, position: 0 };
    let mut parts = vec![(Message::Model, length)];
    while let Some(&(message, end)) = parts.last() {
        if reader.position == end {
            parts.pop();
            continue;
        }
        let start = reader.position;
        let tag = reader.varint(end)?;
        match tag & 7 {
            0 => drop(reader.varint(end)?),
            1 => reader.skip(8, end)?,
            5 => reader.skip(4, end)?,
            2 => {
                let length = reader.varint(end)?;
                let part = reader.within(length, end)?;
                match message.content(tag >> 3) {
                    Content::Part(_) if parts.len() == MAX_DEPTH => {
                        return Err(format!("nested deeper than {MAX_DEPTH} at byte {start}"));
                    }
                    Content::Part(message) => parts.push((message, part)),
                    Content::Varints => reader.skip_varints(length, end)?,
                    Content::Fixed(size) if length % size != 0 => {
                        return Err(format!("{length} bytes of numbers of {size} bytes at byte {start}"));
                    }
                    Content::Fixed(_) | Content::Bytes => reader.skip(length, end)?,
                }
            }
            kind => return Err(format!("field of unknown kind {kind} at byte {start}")),
        }
    }
    Ok(())
}

struct Reader<R> {
    input: R,
    position: u64,
}

impl<R: BufRead + Seek> Reader<R> {
    /// Where something that is `length` long ends, which may not be after `end`.
    fn within(&self, length: u64, end: u64) -> Result<u64, String> {
        self.position
            .checked_add(length)
            .filter(|&part| part <= end)
            .ok_or_else(|| format!("{length} bytes at byte {}, where {} are left", self.position, end - self.position))
    }

    fn byte(&mut self, end: u64) -> Result<u8, String> {
        self.within(1, end)?;
        let mut byte = [0];
        self.input.read_exact(&mut byte).map_err(|error| error.to_string())?;
        self.position += 1;
        Ok(byte[0])
    }

    fn skip(&mut self, length: u64, end: u64) -> Result<(), String> {
        self.position = self.within(length, end)?;
        // A length within a file fits `i64`, as the file's own does.
        self.input.seek_relative(length.cast_signed()).map_err(|error| error.to_string())
    }

    /// At most ten bytes, of seven bits each, the lowest first.
    fn varint(&mut self, end: u64) -> Result<u64, String> {
        let start = self.position;
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte(end)?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("integer of more than 64 bits at byte {start}"))
    }

    /// An array of integers ends where its last integer does.
    fn skip_varints(&mut self, length: u64, end: u64) -> Result<(), String> {
        let Some(before_last) = length.checked_sub(1) else { return Ok(()) };
        self.skip(before_last, end)?;
        match self.byte(end)? {
            0x80.. => Err(format!("array of integers cut off at byte {}", self.position)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const GOOD: &[u8] = include_bytes!("../../tests/fixtures/conv_relu_gemm.onnx");

    fn check_bytes(bytes: &[u8]) -> Result<(), String> {
        walk(Cursor::new(bytes), bytes.len() as u64)
    }

    #[test]
    fn good_files_pass() {
        for bytes in [
            GOOD,
            include_bytes!("../../tests/fixtures/symbolic_size.onnx"),
            include_bytes!("../../tests/fixtures/two_inputs.onnx"),
            include_bytes!("../../tests/fixtures/integer_input.onnx"),
        ] {
            assert_eq!(check_bytes(bytes), Ok(()));
        }
    }

    #[test]
    fn a_file_cut_inside_a_part_fails() {
        let failures = (0..GOOD.len()).filter(|&length| check_bytes(&GOOD[..length]).is_err()).count();
        // It may end between two fields of the outermost message: after nothing, version, producer, graph and so on.
        assert!(failures >= GOOD.len() - 8, "{failures} of {}", GOOD.len());
    }

    #[test]
    fn lengths_beyond_the_part_around_them_fail() {
        // Graph (field 7) of 4 bytes with a node (field 1) that claims 3, where 2 are left; then the same, consistent.
        let error = check_bytes(&[0x3a, 4, 0x0a, 3, 0x1a, 0, 0x1a, 0]).expect_err("3 of 2 bytes");
        assert_eq!(error, "3 bytes at byte 4, where 2 are left");
        assert_eq!(check_bytes(&[0x3a, 4, 0x0a, 2, 0x1a, 0]), Ok(()));
        // A length of 2^64 - 1, which as a signed number is a step back.
        let back = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(check_bytes(&back), Err("18446744073709551615 bytes at byte 11, where 0 are left".to_owned()));
        assert_eq!(check_bytes(&[0xff; 11]), Err("integer of more than 64 bits at byte 0".to_owned()));
        assert_eq!(check_bytes(&[0x0b]), Err("field of unknown kind 3 at byte 0".to_owned()));
    }

    #[test]
    fn arrays_of_numbers_end_with_a_number() {
        // Initialiser (graph, field 5): sizes (field 1) as an array; the last integer goes on after its end.
        assert_eq!(check_bytes(&[0x3a, 6, 0x2a, 4, 0x0a, 2, 0x81, 0x01]), Ok(()));
        let error = check_bytes(&[0x3a, 6, 0x2a, 4, 0x0a, 2, 0x01, 0x81]).expect_err("cut off");
        assert!(error.starts_with("array of integers cut off"), "{error}");
        // Three bytes of f32.
        let error = check_bytes(&[0x3a, 7, 0x2a, 5, 0x22, 3, 0, 0, 0]).expect_err("three bytes");
        assert!(error.starts_with("3 bytes of numbers of 4 bytes"), "{error}");
    }

    #[test]
    fn nesting_is_limited() {
        // Attribute (node, field 5) holding a graph (field 6) holding a node (field 1), over and over.
        let mut bytes = Vec::new();
        for tag in [0x32, 0x2a, 0x0a].into_iter().cycle().take(90) {
            let mut outer = vec![tag, 0x80 | (bytes.len() & 0x7f) as u8, (bytes.len() >> 7) as u8];
            outer.append(&mut bytes);
            bytes = outer;
        }
        let mut model = vec![0x3a, 0x80 | (bytes.len() & 0x7f) as u8, (bytes.len() >> 7) as u8];
        model.append(&mut bytes);
        let error = check_bytes(&model).expect_err("30 graphs deep");
        assert!(error.starts_with("nested deeper than 64"), "{error}");
    }
}
