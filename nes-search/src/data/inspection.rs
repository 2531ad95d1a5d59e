//! A look at a whole set before a long job: whether its images can be read, and what tells them from others.

use std::fs;
use std::path::Path;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::decode;
use super::{DataError, ImageSet};

/// Image files are decoded one and all if they take no more than this together, in bytes: some seconds.
const DECODED: u64 = 1 << 26;
/// Image files of larger sets whose content is looked at; of the others the size and the first bytes are.
const SAMPLED: usize = 512;

/// What a look at a set found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// A hash of the labels, and of the pixels. Of image files it is of their names, their sizes and their contents; of
    /// more than 64 MiB of them, of the contents of 512 at equal distances.
    pub hash: String,
    /// What a user should know, though the set can be used.
    pub notes: Vec<String>,
}

/// One image file.
struct Seen {
    hash: blake3::Hash,
    lacks_end: bool,
}

impl ImageSet {
    /// Looks at every image. Files that are decoded when they are needed are opened now, and decoded if that is quick.
    ///
    /// # Errors
    ///
    /// The first file, in the order of the set, that cannot be read or decoded.
    pub fn inspect(&self) -> Result<Inspection, DataError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?} {:?}\n", &self.shape()[1..], self.class_names()).as_bytes());
        for position in 0..self.len() {
            hasher.update(&self.label(position).to_le_bytes());
        }
        let mut notes = Vec::new();
        match self.files() {
            None => {
                for position in 0..self.len() {
                    hasher.update(&self.pixels(position)?);
                }
            }
            Some(files) => {
                let seen = look_at(&files)?;
                for seen in &seen {
                    hasher.update(seen.hash.as_bytes());
                }
                let lacking: Vec<_> = seen.iter().zip(&files).filter(|(seen, _)| seen.lacks_end).collect();
                if let Some((_, first)) = lacking.first() {
                    let (count, first) = (lacking.len(), first.display());
                    notes.push(format!(
                        "JPEG files without the marker that ends them are used: {count}, such as {first}"
                    ));
                }
            }
        }
        let sizes = self.class_sizes();
        let without: Vec<&str> = self
            .class_names()
            .iter()
            .zip(sizes)
            .filter(|(_, size)| *size == 0)
            .map(|(name, _)| name.as_str())
            .collect();
        if let Some(first) = without.first() {
            notes.push(format!("classes without an image: {}, such as {first}", without.len()));
        }
        Ok(Inspection { hash: hasher.finalize().to_string(), notes })
    }
}

/// The files in their order.
fn look_at(files: &[&Path]) -> Result<Vec<Seen>, DataError> {
    let size = |path: &&Path| {
        let failed = |source| DataError::Read { path: path.to_path_buf(), source };
        Ok::<_, DataError>(fs::metadata(path).map_err(failed)?.len())
    };
    let sizes = files.iter().map(size).collect::<Result<Vec<u64>, _>>()?;
    let step = if sizes.iter().sum::<u64>() <= DECODED { 1 } else { files.len().div_ceil(SAMPLED) };
    let look = |index: usize| look_at_file(files[index], sizes[index], index.is_multiple_of(step));
    let seen: Vec<Result<Seen, DataError>> = (0..files.len()).into_par_iter().map(look).collect();
    seen.into_iter().collect()
}

fn look_at_file(path: &Path, size: u64, whole: bool) -> Result<Seen, DataError> {
    let mut hasher = blake3::Hasher::new();
    // The class and the name: a data set may be moved.
    let class = path.parent().and_then(Path::file_name).unwrap_or_default();
    for part in [class, path.file_name().unwrap_or_default()] {
        hasher.update(part.as_encoded_bytes()).update(b"/");
    }
    hasher.update(&size.to_le_bytes());
    let mut lacks_end = false;
    if whole {
        let bytes = fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
        lacks_end = decode::decode(&bytes, path)?.lacks_end;
        hasher.update(&bytes);
    } else {
        decode::check_header(path)?;
    }
    Ok(Seen { hash: hasher.finalize(), lacks_end })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pixels: [u8; 4], labels: [usize; 2], names: [&str; 3]) -> ImageSet {
        let names = names.map(String::from).into();
        ImageSet::new(pixels.into(), [2, 1, 1, 2], labels.into(), names).expect("a good set")
    }

    #[test]
    fn whatever_changes_in_memory_changes_the_hash() {
        let first = set([1, 2, 3, 4], [0, 1], ["a", "b", "c"]).inspect().expect("in memory");
        assert_eq!(first.notes, ["classes without an image: 1, such as c"]);
        for other in [
            set([1, 2, 3, 5], [0, 1], ["a", "b", "c"]),
            set([3, 4, 1, 2], [0, 1], ["a", "b", "c"]),
            set([1, 2, 3, 4], [1, 0], ["a", "b", "c"]),
            set([1, 2, 3, 4], [0, 1], ["a", "b", "d"]),
            set([1, 2, 3, 4], [0, 1], ["a", "b", "c"]).subset(&[1, 0]).expect("in range"),
        ] {
            assert_ne!(other.inspect().expect("in memory").hash, first.hash);
        }
        assert_eq!(set([1, 2, 3, 4], [0, 1], ["a", "b", "c"]).inspect().expect("in memory"), first);
    }
}
