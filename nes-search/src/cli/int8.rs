//! A trained network in 8 bits: written, and compared with its `f32` file.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::{anyhow, ensure};
use exporters::OnnxModel;
use exporters::runtime::{self, Runtime, RuntimeKind, available};
use ndarray::ArrayD;
use nes_search::data::{ImageSet, batch, batches};

use super::job::Job;

/// How many training images the ranges of activations are taken from.
const SAMPLE: usize = 256;

/// Images in a batch.
const BATCH: usize = 32;

/// The least share of images of which both files have to say the same class.
const LEAST_AGREEMENT: f64 = 0.9;

/// Both files in one runtime, on the images of the evaluation split.
struct Comparison {
    runtime: RuntimeKind,
    images: usize,
    correct: [usize; 2],
    agreeing: usize,
}

impl Comparison {
    fn share(&self, count: usize) -> f64 {
        count as f64 / self.images as f64
    }
}

impl Display for Comparison {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let [full, int8] = self.correct.map(|correct| 100.0 * self.share(correct));
        write!(
            formatter,
            "{}, {} images: accuracy {full:.2} % in f32, {int8:.2} % in int8, same class {:.2} %",
            self.runtime,
            self.images,
            100.0 * self.share(self.agreeing)
        )
    }
}

impl Job {
    /// Quantises an exported network, with ranges from training images, to the file `path`, and compares it with the file
    /// `full` on the images of the evaluation split. Returns a line for each runtime. A file that does not agree does not
    /// take its place.
    pub fn export_int8(&self, model: &OnnxModel, full: &Path, path: &Path) -> anyhow::Result<String> {
        let step = self.train.len().div_ceil(SAMPLE).max(1);
        let places: Vec<usize> = (0..self.train.len()).step_by(step).collect();
        let sample = |places: &[usize]| Ok(vec![self.input(&self.train, places)?.0]);
        let samples = places.chunks(BATCH).map(sample).collect::<anyhow::Result<Vec<_>>>()?;
        model.quantize(&samples)?.save_checked(path, |beside| {
            let mut lines = String::new();
            for runtime in available() {
                let comparison = self.compare([full, beside], runtime)?;
                let agreement = comparison.share(comparison.agreeing);
                ensure!(
                    agreement >= LEAST_AGREEMENT,
                    "{}: expected at least {:.0} % of images with the class that f32 says, found {comparison}; it is not \
                     written",
                    path.display(),
                    100.0 * LEAST_AGREEMENT
                );
                lines += &format!("[x] int8 in {comparison}\n");
            }
            Ok(lines)
        })
    }

    fn compare(&self, files: [&Path; 2], kind: RuntimeKind) -> anyhow::Result<Comparison> {
        let [mut full, mut int8] = [runtime::load(kind, files[0], 1)?, runtime::load(kind, files[1], 1)?];
        let mut comparison = Comparison { runtime: kind, images: 0, correct: [0, 0], agreeing: 0 };
        for places in batches(&self.evaluation, BATCH) {
            let (images, labels) = self.input(&self.evaluation, &places)?;
            let said = [classes(full.as_mut(), &images)?, classes(int8.as_mut(), &images)?];
            comparison.images += labels.len();
            for (index, label) in labels.iter().enumerate() {
                let [full, int8] = [said[0][index], said[1][index]];
                comparison.correct[0] += usize::from(full == *label);
                comparison.correct[1] += usize::from(int8 == *label);
                comparison.agreeing += usize::from(full == int8);
            }
        }
        Ok(comparison)
    }

    /// Normalised images at places of a set, and their classes.
    fn input(&self, set: &ImageSet, places: &[usize]) -> anyhow::Result<(ArrayD<f32>, Vec<usize>)> {
        let batch = batch(set, places, &self.normalization, None, &self.devices[0])?;
        let labels = batch.labels.into_data().iter::<i64>().map(|label| label as usize).collect();
        let images = exporters::reference(batch.images, Vec::<burn::tensor::Tensor<1>>::new()).inputs.pop();
        Ok((images.ok_or_else(|| anyhow!("no images"))?, labels))
    }
}

/// The class with the largest score, for each image.
fn classes(network: &mut dyn Runtime, images: &ArrayD<f32>) -> anyhow::Result<Vec<usize>> {
    let scores = network.run(images)?;
    let largest = |row: ndarray::ArrayViewD<'_, f32>| {
        row.iter().enumerate().fold(
            (0, f32::NEG_INFINITY),
            |best, (class, score)| {
                if *score > best.1 { (class, *score) } else { best }
            },
        )
    };
    Ok(scores.outer_iter().map(|row| largest(row).0).collect())
}
