//! Running an exported file and comparing with what Burn computed.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use burn::tensor::{Device, TensorData};
use elastic_layers::capture::{InputShapes, Tensors};
use ndarray::{ArrayD, IxDyn};
use serde::{Deserialize, Serialize};

use crate::model::OnnxModel;
use crate::runtime::{self, Runtime, RuntimeError, RuntimeKind};

/// How far an output may be from what is expected: by the larger of the two.
///
/// A relative bound alone has no meaning for a network whose outputs are all nearly 0: rounding inside the network does
/// not shrink with them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// As a part of the largest absolute value that is expected of that output.
    pub relative: f32,
    /// In units of the output.
    pub absolute: f32,
}

impl From<f32> for Tolerance {
    /// A relative tolerance alone.
    fn from(relative: f32) -> Self {
        Self { relative, absolute: 0.0 }
    }
}

/// What verifying one file found: a checklist. Its text form has one line for each check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The largest accepted difference.
    pub tolerance: Tolerance,
    /// What was checked when the file was made; empty for a file of which only the path is known.
    pub checks: Vec<Check>,
    /// One entry per runtime and batch size; one per runtime that could not load the file.
    pub entries: Vec<VerifyEntry>,
}

/// One step on the way to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked, such as `captured`.
    pub name: String,
    /// What was found.
    pub found: String,
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
    /// The same, relative to the largest absolute value expected of that output.
    pub max_relative_difference: Option<f32>,
    /// The fraction of images with the same largest output. Within the tolerance, two outputs that are nearly equal may
    /// change places.
    pub top1_agreement: Option<f64>,
    /// Whether it loaded, ran, and differs by no more than the tolerance.
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

impl Display for VerifyReport {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for Check { name, found } in &self.checks {
            writeln!(formatter, "[x] {name}: {found}")?;
        }
        if self.entries.is_empty() {
            writeln!(formatter, "[ ] runs: no runtime was asked")?;
        }
        let Tolerance { relative, absolute } = self.tolerance;
        for entry in &self.entries {
            let VerifyEntry { runtime, version, batch, .. } = entry;
            let runtime = format!("{runtime} {}", version.as_deref().unwrap_or("(not loaded)"));
            let place = batch.map_or(runtime.clone(), |batch| format!("{runtime}, batch {batch}"));
            if let Some(error) = &entry.error {
                writeln!(formatter, "[ ] runs in {place}: {error}")?;
                continue;
            }
            writeln!(formatter, "[x] runs in {place}: {} images", entry.images)?;
            writeln!(
                formatter,
                "[{}] equal in {place}: difference {:.1e}, relative {:.1e} (accepted {relative:.0e}, or {absolute:.0e} \
                 absolute), same class {:.1} %",
                if entry.passed { 'x' } else { ' ' },
                entry.max_difference.unwrap_or(f32::NAN),
                entry.max_relative_difference.unwrap_or(f32::NAN),
                entry.top1_agreement.unwrap_or(f64::NAN) * 100.0,
            )?;
        }
        Ok(())
    }
}

/// Inputs and the outputs expected for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// One array for each input.
    pub inputs: Vec<ArrayD<f32>>,
    /// One array for each output; integers as `f32`.
    pub outputs: Vec<ArrayD<f32>>,
}

/// Inputs and what Burn computed from them, for [`verify()`].
///
/// # Shapes
///
/// - `inputs`: `[batch, ...]`
/// - `outputs`: `[batch, ..., classes]`
pub fn reference(inputs: impl Tensors, outputs: impl Tensors) -> Reference {
    let arrays = |data: Vec<TensorData>| data.into_iter().map(array).collect();
    Reference { inputs: arrays(inputs.into_data()), outputs: arrays(outputs.into_data()) }
}

/// Normally distributed inputs, and what `forward` computes from them.
pub fn random_reference<I: InputShapes, O: Tensors>(
    input_shapes: I,
    device: &Device,
    forward: impl FnOnce(I::Tensors) -> O,
) -> Reference
where
    I::Tensors: Clone,
{
    let inputs = input_shapes.normal(device);
    reference(inputs.clone(), forward(inputs))
}

fn array(data: TensorData) -> ArrayD<f32> {
    let shape = data.shape().to_vec();
    let values: Vec<f32> = data.iter::<f32>().collect();
    ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&shape)))
}

/// Runs an ONNX file on every reference in every runtime, with one thread, and compares with the expected outputs.
///
/// A runtime that is missing, or fails to load or to run the file, is an entry that did not pass.
pub fn verify(
    path: &Path,
    references: &[Reference],
    runtimes: &[RuntimeKind],
    tolerance: impl Into<Tolerance>,
) -> VerifyReport {
    let tolerance = tolerance.into();
    let entries = runtimes.iter().flat_map(|kind| entries_of(path, references, *kind, tolerance)).collect();
    VerifyReport { tolerance, checks: Vec::new(), entries }
}

impl OnnxModel {
    /// As [`verify()`], of the file that this model was saved to; the report begins with what was checked before it was
    /// written.
    pub fn verify(
        &self,
        path: &Path,
        references: &[Reference],
        runtimes: &[RuntimeKind],
        tolerance: impl Into<Tolerance>,
    ) -> VerifyReport {
        VerifyReport { checks: self.checks(), ..verify(path, references, runtimes, tolerance) }
    }

    fn checks(&self) -> Vec<Check> {
        let check = |name: &str, found: String| Check { name: name.to_string(), found };
        let [inputs, outputs] = self.names();
        let operations: usize = self.captured_operations().values().sum();
        let operators = self.operators();
        let nodes: usize = operators.values().sum();
        let kinds: Vec<String> = operators.iter().map(|(operator, count)| format!("{operator} {count}")).collect();
        let (inputs, outputs) = (inputs.join(", "), outputs.join(", "));
        vec![
            check("captured", format!("{operations} operations from {inputs} to {outputs}")),
            check("lowered", format!("{nodes} nodes: {}", kinds.join(", "))),
            check("structure valid", "nodes in order, names unique, constants of their shapes".to_string()),
        ]
    }
}

fn entries_of(path: &Path, references: &[Reference], kind: RuntimeKind, tolerance: Tolerance) -> Vec<VerifyEntry> {
    let mut network = match runtime::load_any(kind, path, 1) {
        Ok(network) => network,
        Err(error) => return vec![failed(kind, None, None, &error)],
    };
    let mut by_batch: BTreeMap<usize, Vec<&Reference>> = BTreeMap::new();
    for reference in references {
        let shape = reference.inputs.first().map(|input| input.shape()).unwrap_or_default();
        by_batch.entry(shape.first().copied().unwrap_or(1)).or_default().push(reference);
    }
    by_batch
        .into_iter()
        .map(|(batch, references)| match compare(network.as_mut(), &references) {
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

/// Differences over all references of one batch size.
#[derive(Default)]
struct Comparison {
    images: usize,
    predictions: usize,
    agreeing: usize,
    /// Of each output: the largest difference, and the largest absolute value expected.
    outputs: Vec<(f32, f32)>,
    shape_mismatch: Option<String>,
}

fn compare(network: &mut dyn Runtime, references: &[&Reference]) -> Result<Comparison, RuntimeError> {
    let mut comparison = Comparison::default();
    for reference in references {
        let inputs: Vec<&ArrayD<f32>> = reference.inputs.iter().collect();
        comparison.add(&network.run_all(&inputs)?, &reference.outputs);
    }
    Ok(comparison)
}

impl Comparison {
    fn add(&mut self, found: &[ArrayD<f32>], expected: &[ArrayD<f32>]) {
        self.images += expected.first().and_then(|output| output.shape().first()).copied().unwrap_or(1);
        let shapes = |outputs: &[ArrayD<f32>]| -> Vec<Vec<usize>> {
            outputs.iter().map(|output| output.shape().to_vec()).collect()
        };
        if shapes(found) != shapes(expected) {
            self.shape_mismatch =
                Some(format!("shapes of outputs: expected {:?}, found {:?}", shapes(expected), shapes(found)));
            return;
        }
        self.outputs.resize(expected.len(), (0.0, 0.0));
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            self.add_output(index, found, expected);
        }
    }

    fn add_output(&mut self, index: usize, found: &ArrayD<f32>, expected: &ArrayD<f32>) {
        let (largest_difference, largest) = &mut self.outputs[index];
        for (found, expected) in found.iter().zip(expected) {
            let difference = (found - expected).abs();
            // A difference that is no number must not look like none.
            let difference = if difference.is_nan() { f32::INFINITY } else { difference };
            *largest_difference = largest_difference.max(difference);
            *largest = largest.max(expected.abs());
        }
        let classes = expected.shape().last().copied().unwrap_or(1).max(1);
        let (found, expected): (Vec<f32>, Vec<f32>) =
            (found.iter().copied().collect(), expected.iter().copied().collect());
        for (found, expected) in found.chunks(classes).zip(expected.chunks(classes)) {
            self.predictions += 1;
            self.agreeing += usize::from(largest_at(found) == largest_at(expected));
        }
    }

    fn entry(self, runtime: RuntimeKind, version: String, batch: usize, tolerance: Tolerance) -> VerifyEntry {
        let relative = |(difference, largest): &(f32, f32)| match difference {
            0.0 => 0.0,
            _ => difference / largest,
        };
        let within =
            |(difference, largest): &(f32, f32)| *difference <= tolerance.absolute.max(tolerance.relative * largest);
        let compared = self.shape_mismatch.is_none() && self.predictions > 0;
        let largest = |values: &mut dyn Iterator<Item = f32>| compared.then(|| values.fold(0.0, f32::max));
        VerifyEntry {
            runtime,
            version: Some(version),
            batch: Some(batch),
            images: self.images,
            max_difference: largest(&mut self.outputs.iter().map(|output| output.0)),
            max_relative_difference: largest(&mut self.outputs.iter().map(relative)),
            top1_agreement: compared.then_some(self.agreeing as f64 / self.predictions.max(1) as f64),
            passed: compared && self.outputs.iter().all(within),
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
        entry_of(&[found], &[expected], Tolerance { relative: 1e-3, absolute: 0.0 })
    }

    fn entry_of(found: &[&[f32]], expected: &[&[f32]], tolerance: Tolerance) -> VerifyEntry {
        let arrays = |outputs: &[&[f32]]| -> Vec<ArrayD<f32>> { outputs.iter().map(|output| array(output)).collect() };
        let mut comparison = Comparison::default();
        comparison.add(&arrays(found), &arrays(expected));
        comparison.entry(RuntimeKind::Rten, "1.0".to_string(), 1, tolerance)
    }

    #[test]
    fn differences_are_relative_to_the_largest_output() {
        let entry = entry(&[1.0, -99.95], &[1.0, -100.0]);
        assert!(entry.passed);
        assert!((entry.max_relative_difference.expect("compared") - 5e-4).abs() < 1e-6);
    }

    #[test]
    fn classes_may_change_places_within_the_tolerance_only() {
        let near = entry(&[1.0, 1.000_1], &[1.000_1, 1.0]);
        assert_eq!((near.top1_agreement, near.passed), (Some(0.0), true));
        let far = entry(&[1.0, 1.01], &[1.01, 1.0]);
        assert_eq!((far.top1_agreement, far.passed), (Some(0.0), false));
    }

    #[test]
    fn outputs_that_are_nearly_zero_are_held_to_the_absolute_tolerance() {
        let dead: (&[&[f32]], &[&[f32]]) = (&[&[1e-7, -1e-7]], &[&[-1e-7, 1e-7]]);
        let tolerance = Tolerance { relative: 1e-4, absolute: 1e-5 };
        assert!(entry_of(dead.0, dead.1, tolerance).passed);
        assert!(!entry_of(dead.0, dead.1, 1e-4.into()).passed);
        assert!(!entry_of(&[&[0.0, 2e-5]], &[&[0.0, 0.0]], tolerance).passed);
    }

    #[test]
    fn every_output_has_a_measure_of_its_own() {
        let found: &[&[f32]] = &[&[100.0, 0.0], &[0.011, 0.0]];
        let entry = entry_of(found, &[&[100.0, 0.0], &[0.010, 0.0]], 1e-3.into());
        assert!(!entry.passed);
        assert!((entry.max_relative_difference.expect("compared") - 0.1).abs() < 1e-3);
    }

    #[test]
    fn the_checklist_has_a_line_for_each_check() {
        let check = Check { name: "captured".to_string(), found: "2 operations".to_string() };
        let failed = VerifyEntry { error: Some("no such operator".to_string()), ..entry(&[0.0], &[1.0]) };
        let entries = vec![entry(&[1.0, 2.0], &[1.0, 2.0]), entry(&[1.0, 2.0], &[1.0, 4.0]), failed];
        let report = VerifyReport { tolerance: 1e-3.into(), checks: vec![check], entries };
        let text = report.to_string();
        let starts: Vec<&str> = text.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
        assert_eq!(
            starts,
            [
                "[x] captured",
                "[x] runs in rten 1.0, batch 1",
                "[x] equal in rten 1.0, batch 1",
                "[x] runs in rten 1.0, batch 1",
                "[ ] equal in rten 1.0, batch 1",
                "[ ] runs in rten 1.0, batch 1",
            ]
        );
        assert!(text.contains("difference 2.0e0, relative 5.0e-1"), "{text}");
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
        assert_eq!(entry.error.as_deref(), Some("shapes of outputs: expected [[1, 2]], found [[1, 3]]"));
    }

    #[test]
    fn a_file_that_is_missing_is_an_entry() {
        let report = verify(Path::new("no/such/file.onnx"), &[], &[RuntimeKind::Rten], 1e-4);
        assert!(!report.passed());
        assert!(report.entries[0].error.is_some());
    }
}
