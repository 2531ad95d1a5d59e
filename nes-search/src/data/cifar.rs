//! The binary files of CIFAR-10 and CIFAR-100.
//!
//! A file is a row of records: one byte for the class (in CIFAR-100, one for its group before that, which is not used), and
//! 3,072 for the red, green and blue of 32x32 pixels.

use std::fs;
use std::path::Path;

use super::dataset::read_class_names;
use super::{DataError, ImageData, ImageSet};

const IMAGE: [usize; 3] = [3, 32, 32];

/// How one of the two sets is stored.
struct Format {
    train: &'static [&'static str],
    test: &'static str,
    class_names: &'static str,
    classes: usize,
    /// Bytes before the image, of which the last is the class.
    labels: usize,
}

/// CIFAR-10: `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin`, and if it is there `batches.meta.txt`.
pub(super) fn read_10(directory: &Path) -> Result<ImageData, DataError> {
    let train = &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
    Format { train, test: "test_batch.bin", class_names: "batches.meta.txt", classes: 10, labels: 1 }.read(directory)
}

/// CIFAR-100: `train.bin`, `test.bin`, and if it is there `fine_label_names.txt`.
pub(super) fn read_100(directory: &Path) -> Result<ImageData, DataError> {
    let train = &["train.bin"];
    Format { train, test: "test.bin", class_names: "fine_label_names.txt", classes: 100, labels: 2 }.read(directory)
}

impl Format {
    fn read(&self, directory: &Path) -> Result<ImageData, DataError> {
        let class_names = read_class_names(&directory.join(self.class_names))?;
        let class_names =
            class_names.unwrap_or_else(|| (0..self.classes).map(|class| class.to_string()).collect::<Vec<_>>());
        let set = |files: &[&str]| {
            let (mut pixels, mut labels) = (Vec::new(), Vec::new());
            for file in files {
                self.append(&directory.join(file), class_names.len(), &mut pixels, &mut labels)?;
            }
            let [channels, height, width] = IMAGE;
            ImageSet::new(pixels, [labels.len(), channels, height, width], labels, class_names.clone())
        };
        Ok(ImageData { train: set(self.train)?, test: set(&[self.test])?, class_names: class_names.clone() })
    }

    /// Appends the records of a file.
    fn append(
        &self,
        path: &Path,
        class_count: usize,
        pixels: &mut Vec<u8>,
        labels: &mut Vec<usize>,
    ) -> Result<(), DataError> {
        let bytes = fs::read(path).map_err(|source| DataError::Read { path: path.into(), source })?;
        let size = self.labels + IMAGE.iter().product::<usize>();
        for (number, record) in bytes.chunks(size).enumerate() {
            let offset = (number * size) as u64;
            if record.len() < size {
                return Err(DataError::Record { path: path.into(), offset, expected: size, found: record.len() });
            }
            let (head, image) = record.split_at(self.labels);
            let found = usize::from(head[self.labels - 1]);
            if found >= class_count {
                let offset = offset + self.labels as u64 - 1;
                return Err(DataError::FileLabelOutOfRange {
                    path: path.into(),
                    offset,
                    image: number,
                    class_count,
                    found,
                });
            }
            labels.push(found);
            pixels.extend_from_slice(image);
        }
        if bytes.is_empty() {
            return Err(DataError::Record { path: path.into(), offset: 0, expected: size, found: 0 });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "cifar_tests.rs"]
mod tests;
