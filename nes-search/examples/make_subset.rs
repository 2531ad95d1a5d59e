//! Makes the embedded subset of Fashion-MNIST from the full set: 1,000 training and 200 test images of each class.
//!
//!     cargo run --release -p nes-search --no-default-features --example make_subset -- INPUT OUTPUT
//!
//! INPUT holds the four IDX files of the full set (`/usr/share/datasets/fashion-mnist` of Debian's package
//! `dataset-fashion-mnist`); OUTPUT must be there and gets four files of the same names. The same input gives the same images.

use std::error::Error;
use std::path::{Path, PathBuf};

use nes_search::data::{ImageData, ImageSet, idx};

const SEED: u64 = 0;
const TRAIN_PER_CLASS: usize = 1_000;
const TEST_PER_CLASS: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [input, output] = arguments.as_slice() else {
        return Err("expected two arguments: INPUT OUTPUT".into());
    };
    let data = ImageData::open(input, None)?;
    let (_, train) = data.train.split_per_class(TRAIN_PER_CLASS, SEED)?;
    let (_, test) = data.test.split_per_class(TEST_PER_CLASS, SEED)?;
    write(output, "train", &train)?;
    write(output, "t10k", &test)
}

fn write(directory: &Path, split: &str, set: &ImageSet) -> Result<(), Box<dyn Error>> {
    let [count, _, height, width] = set.shape();
    let mut pixels = Vec::with_capacity(count * height * width);
    for position in 0..count {
        pixels.extend_from_slice(&set.pixels(position)?);
    }
    let labels = (0..count).map(|position| u8::try_from(set.label(position))).collect::<Result<Vec<_>, _>>()?;
    let images = idx::IdxImages { count, height, width, pixels };
    idx::write_images(&directory.join(format!("{split}-images-idx3-ubyte.gz")), &images)?;
    idx::write_labels(&directory.join(format!("{split}-labels-idx1-ubyte.gz")), &labels)?;
    Ok(())
}
