//! CIFAR-10 and CIFAR-100 in their binary form: records of one or two label bytes and 3 x 32 x 32 pixels, with nothing
//! before, between or after them; see <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::image_data::read_class_names;
use super::{DataError, ImageData, ImageSet};

const IMAGE_SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;

/// What the files of a set are called, and what is in them.
pub(super) struct Layout {
    train: &'static [&'static str],
    test: &'static str,
    class_names: &'static str,
    /// Bytes before the pixels of a record, of which the last is the label. In CIFAR-100 the first is a coarser label.
    label_bytes: usize,
}

pub(super) const CIFAR_10: Layout = Layout {
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    class_names: "batches.meta.txt",
    label_bytes: 1,
};

pub(super) const CIFAR_100: Layout =
    Layout { train: &["train.bin"], test: "test.bin", class_names: "fine_label_names.txt", label_bytes: 2 };

impl Layout {
    /// All files of the set.
    pub(super) fn files(&self) -> impl Iterator<Item = &'static str> {
        self.train.iter().copied().chain([self.test, self.class_names])
    }

    /// Reads the set of a directory.
    pub(super) fn read(&self, directory: &Path) -> Result<ImageData, DataError> {
        let class_names = read_class_names(&directory.join(self.class_names))?;
        let class_names = class_names.ok_or_else(|| missing(directory, self.class_names))?;
        let train = self.read_split(directory, self.train, &class_names)?;
        let test = self.read_split(directory, &[self.test], &class_names)?;
        Ok(ImageData { train, test, class_names })
    }

    fn read_split(&self, directory: &Path, files: &[&str], class_names: &[String]) -> Result<ImageSet, DataError> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for name in files {
            let path = directory.join(name);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing(directory, name)),
                Err(source) => return Err(DataError::Read { path, source }),
            };
            self.append(&bytes, &path, class_names.len(), &mut pixels, &mut labels)?;
        }
        let [channels, height, width] = IMAGE_SHAPE;
        ImageSet::new(pixels, [labels.len(), channels, height, width], labels, class_names.to_vec())
    }

    /// Appends the records of a file's content; `path` is what errors call it.
    fn append(
        &self,
        bytes: &[u8],
        path: &Path,
        class_count: usize,
        pixels: &mut Vec<u8>,
        labels: &mut Vec<usize>,
    ) -> Result<(), DataError> {
        let length = self.label_bytes + PIXELS;
        if bytes.is_empty() {
            let expected = format!("records of {length} bytes");
            return Err(DataError::content_at(path, 0, expected, "the end of the file"));
        }
        for (image, record) in bytes.chunks(length).enumerate() {
            if record.len() < length {
                let expected = format!("{length} bytes of record {image}");
                let found = format!("the end of the file after {}", record.len());
                return Err(DataError::content_at(path, bytes.len() as u64, expected, found));
            }
            let found = usize::from(record[self.label_bytes - 1]);
            if found >= class_count {
                let (path, offset) = (path.to_owned(), (image * length + self.label_bytes - 1) as u64);
                return Err(DataError::FileLabelOutOfRange { path, offset, image, class_count, found });
            }
            labels.push(found);
            pixels.extend_from_slice(&record[self.label_bytes..]);
        }
        Ok(())
    }
}

fn missing(directory: &Path, name: &str) -> DataError {
    DataError::MissingFile { directory: directory.to_owned(), names: name.to_owned() }
}

#[cfg(test)]
#[path = "cifar_tests.rs"]
mod tests;
