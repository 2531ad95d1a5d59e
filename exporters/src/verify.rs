//! Running an exported file and comparing with what Burn computed.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;
use ndarray::{ArrayD, IxDyn};
use serde::{Deserialize, Serialize};

use crate::runtime::{self, Runtime, RuntimeError, RuntimeKind};

/// What verifying one file found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The largest accepted difference, relative to the largest absolute output.
    pub tolerance: f32,
    /// One entry per runtime and batch size; one per runtime that could not load the file.
    pub entries: Vec<VerifyEntry>,
}

/// One runtime at one batch size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyEntry {
    /// The runtime.
    pub runtime: RuntimeKind,
    /// Its version, where it loaded the file.
    pub version: Option<String>,
    /// The batch size; none where the file did not load.
    pub batch: Option<usize>,
    /// How many images were compared.
    pub images: usize,
    /// The largest absolute difference of any output element.
    pub max_difference: Option<f32>,
    /// The same, relative to the largest absolute expected output.
    pub max_relative_difference: Option<f32>,
    /// The fraction of images with the same largest output.
    pub top1_agreement: Option<f64>,
    /// Whether it loaded, ran, differs by no more than the tolerance, and predicts the same classes.
    pub passed: bool,
    /// Why it did not load or run.
    pub error: Option<String>,
}

impl VerifyReport {
    /// Whether there is an entry, and every entry passed.
    pub fn passed(&self) -> bool {
        !self.entries.is_empty() && self.entries.iter().all(|entry| entry.passed)
    }

    /// The largest relative difference of all entries.
    pub fn max_relative_difference(&self) -> Option<f32> {
        self.entries.iter().filter_map(|entry| entry.max_relative_difference).reduce(f32::max)
    }
}

/// An input and the output expected for it.
pub type Reference = (ArrayD<f32>, ArrayD<f32>);

/// An input and what Burn computed from it, for [`verify()`].
///
/// # Shapes
///
/// - `input`: `[batch, ...]`
/// - `output`: `[batch, ..., classes]`
pub fn reference<const D: usize, const O: usize>(input: Tensor<D>, output: Tensor<O>) -> Reference {
    (array(input), array(output))
}

fn array<const D: usize>(tensor: Tensor<D>) -> ArrayD<f32> {
    let shape = tensor.dims();
    let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&shape)))
}

/// Runs an ONNX file on every input in every runtime, with one thread, and compares with the expected outputs.
///
/// A runtime that is missing, or fails to load or to run the file, is an entry that did not pass.
pub fn verify(path: &Path, reference: &[Reference], runtimes: &[RuntimeKind], tolerance: f32) -> VerifyReport {
    let entries = runtimes.iter().flat_map(|kind| entries_of(path, reference, *kind, tolerance)).collect();
    VerifyReport { tolerance, entries }
}

fn entries_of(path: &Path, reference: &[Reference], kind: RuntimeKind, tolerance: f32) -> Vec<VerifyEntry> {
    let mut network = match runtime::load(kind, path, 1) {
        Ok(network) => network,
        Err(error) => return vec![failed(kind, None, None, &error)],
    };
    let mut by_batch: BTreeMap<usize, Vec<&Reference>> = BTreeMap::new();
    for pair in reference {
        by_batch.entry(pair.0.shape().first().copied().unwrap_or(1)).or_default().push(pair);
    }
    by_batch
        .into_iter()
        .map(|(batch, pairs)| match compare(network.as_mut(), &pairs) {
            Ok(comparison) => comparison.entry(kind, network.version(), batch, tolerance),
            Err(error) => failed(kind, Some(network.version()), Some(batch), &error),
        })
        .collect()
}

fn failed(runtime: RuntimeKind, version: Option<String>, batch: Option<usize>, error: &RuntimeError) -> VerifyEntry {
    VerifyEntry {
        runtime,
        version,
        batch,
        images: 0,
        max_difference: None,
        max_relative_difference: None,
        top1_agreement: None,
        passed: false,
        error: Some(error.to_string()),
    }
}

/// Differences over all inputs of one batch size.
#[derive(Default)]
struct Comparison {
    images: usize,
    predictions: usize,
    agreeing: usize,
    difference: f32,
    largest: f32,
    shape_mismatch: Option<String>,
}

fn compare(network: &mut dyn Runtime, pairs: &[&Reference]) -> Result<Comparison, RuntimeError> {
    let mut comparison = Comparison::default();
    for (input, expected) in pairs {
        comparison.add(&network.run(input)?, expected);
    }
    Ok(comparison)
}

impl Comparison {
    fn add(&mut self, found: &ArrayD<f32>, expected: &ArrayD<f32>) {
        self.images += expected.shape().first().copied().unwrap_or(1);
        if found.shape() != expected.shape() {
            let text = format!("output shape: expected {:?}, found {:?}", expected.shape(), found.shape());
            self.shape_mismatch = Some(text);
            return;
        }
        for (found, expected) in found.iter().zip(expected) {
            let difference = (found - expected).abs();
            // A difference that is no number must not look like none.
            self.difference = if difference.is_nan() { f32::INFINITY } else { self.difference.max(difference) };
            self.largest = self.largest.max(expected.abs());
        }
        let classes = expected.shape().last().copied().unwrap_or(1).max(1);
        let (found, expected): (Vec<f32>, Vec<f32>) =
            (found.iter().copied().collect(), expected.iter().copied().collect());
        for (found, expected) in found.chunks(classes).zip(expected.chunks(classes)) {
            self.predictions += 1;
            self.agreeing += usize::from(largest_at(found) == largest_at(expected));
        }
    }

    fn entry(self, runtime: RuntimeKind, version: String, batch: usize, tolerance: f32) -> VerifyEntry {
        let relative = if self.difference == 0.0 { 0.0 } else { self.difference / self.largest };
        let compared = self.shape_mismatch.is_none() && self.predictions > 0;
        VerifyEntry {
            runtime,
            version: Some(version),
            batch: Some(batch),
            images: self.images,
            max_difference: compared.then_some(self.difference),
            max_relative_difference: compared.then_some(relative),
            top1_agreement: compared.then_some(self.agreeing as f64 / self.predictions.max(1) as f64),
            passed: compared && relative <= tolerance && self.agreeing == self.predictions,
            error: self.shape_mismatch,
        }
    }
}

/// The first position of the largest value.
fn largest_at(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(values: &[f32]) -> ArrayD<f32> {
        ArrayD::from_shape_vec(IxDyn(&[1, values.len()]), values.to_vec()).expect("a row")
    }

    fn entry(found: &[f32], expected: &[f32]) -> VerifyEntry {
        let mut comparison = Comparison::default();
        comparison.add(&array(found), &array(expected));
        comparison.entry(RuntimeKind::Rten, "1.0".to_string(), 1, 1e-3)
    }

    #[test]
    fn differences_are_relative_to_the_largest_output() {
        let entry = entry(&[1.0, -99.95], &[1.0, -100.0]);
        assert!(entry.passed);
        assert!((entry.max_relative_difference.expect("compared") - 5e-4).abs() < 1e-6);
    }

    #[test]
    fn another_class_fails_whatever_the_tolerance() {
        let entry = entry(&[1.0, 1.000_1], &[1.000_1, 1.0]);
        assert_eq!(entry.top1_agreement, Some(0.0));
        assert!(!entry.passed);
    }

    #[test]
    fn what_is_no_number_never_passes() {
        assert!(!entry(&[f32::NAN, 1.0], &[0.0, 1.0]).passed);
        assert!(!entry(&[0.0, 1.0], &[f32::NAN, 1.0]).passed);
    }

    #[test]
    fn another_shape_is_named() {
        let entry = entry(&[0.0, 1.0, 2.0], &[0.0, 1.0]);
        assert!(!entry.passed);
        assert_eq!(entry.error.as_deref(), Some("output shape: expected [1, 2], found [1, 3]"));
    }

    #[test]
    fn a_file_that_is_missing_is_an_entry() {
        let report = verify(Path::new("no/such/file.onnx"), &[], &[RuntimeKind::Rten], 1e-4);
        assert!(!report.passed());
        assert!(report.entries[0].error.is_some());
    }
}
