//! Which axes follow the batch size: found by capturing the forward at two batch sizes.

use std::collections::BTreeMap;

use burn::backend::capture::TensorId;
use burn::backend::ir::{BaseOperationIr, IrVisitorMut, OperationIr, TensorIr};
use elastic_layers::capture::CapturedModel;

use crate::error::ExportError;
use crate::graph::Dim;

/// The axes of every tensor of a captured graph.
pub(crate) type Shapes = BTreeMap<TensorId, Vec<Dim>>;

/// The shapes at the captured batch size.
pub(crate) fn fixed(captured: &CapturedModel) -> Shapes {
    let dims = |tensor: &TensorIr| tensor.shape.iter().map(|size| Dim::Fixed(*size)).collect();
    tensors(captured).map(|tensor| (tensor.id, dims(tensor))).chain(inputs(captured, Dim::Fixed)).collect()
}

/// The shapes with every axis that scales with the batch size marked as such.
///
/// # Errors
///
/// When the two captures differ in anything but axes proportional to the batch size.
pub(crate) fn symbolic(captured: &CapturedModel, other: &CapturedModel) -> Result<Shapes, ExportError> {
    let batches = (captured.batch(), other.batch());
    if captured.operations.len() != other.operations.len() {
        let detail = format!(
            "{} operations at batch {}, {} at batch {}",
            captured.operations.len(),
            batches.0,
            other.operations.len(),
            batches.1
        );
        return Err(ExportError::BatchDependent { detail });
    }
    let mut shapes: Shapes = inputs(captured, |_| Dim::Batch(1)).collect();
    for (one, two) in captured.operations.iter().zip(&other.operations) {
        let mismatch = || ExportError::BatchDependent {
            detail: format!("at batch {} {one:?}, at batch {} {two:?}", batches.0, batches.1),
        };
        if neutral(one) != neutral(two) {
            return Err(mismatch());
        }
        for (one, two) in one.nodes().into_iter().zip(two.nodes()) {
            let sizes = one.shape.iter().zip(two.shape.iter());
            let dims: Option<Vec<Dim>> = sizes.map(|(one, two)| dim((*one, *two), batches)).collect();
            shapes.entry(one.id).or_insert(dims.ok_or_else(mismatch)?);
        }
    }
    Ok(shapes)
}

fn dim(sizes: (usize, usize), batches: (usize, usize)) -> Option<Dim> {
    if sizes.0 == sizes.1 {
        return Some(Dim::Fixed(sizes.0));
    }
    let factor = sizes.0 / batches.0;
    (sizes == (factor * batches.0, factor * batches.1)).then_some(Dim::Batch(factor))
}

fn inputs(captured: &CapturedModel, batch: fn(usize) -> Dim) -> impl Iterator<Item = (TensorId, Vec<Dim>)> {
    captured.inputs.iter().map(move |input| {
        let mut dims: Vec<Dim> = input.shape.iter().map(|size| Dim::Fixed(*size)).collect();
        if let (Some(first), Some(size)) = (dims.first_mut(), input.shape.first()) {
            *first = batch(*size);
        }
        (input.id, dims)
    })
}

fn tensors(captured: &CapturedModel) -> impl Iterator<Item = &TensorIr> {
    captured.operations.iter().flat_map(|operation| operation.nodes())
}

/// The operation without what may differ between batch sizes: identities, shapes, and the bounds of slices over an
/// axis that is taken whole.
fn neutral(operation: &OperationIr) -> OperationIr {
    struct Neutral;
    impl IrVisitorMut for Neutral {
        fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
            *tensor = TensorIr::uninit(TensorId::new(0), burn::tensor::Shape::new([0; 0]), tensor.dtype);
        }
    }
    let mut neutral = operation.clone();
    if let OperationIr::BaseFloat(BaseOperationIr::Slice(op))
    | OperationIr::BaseInt(BaseOperationIr::Slice(op))
    | OperationIr::BaseBool(BaseOperationIr::Slice(op)) = &mut neutral
    {
        for (range, size) in op.ranges.iter_mut().zip(op.tensor.shape.iter()) {
            if range.start == 0 && range.step == 1 && range.bound_to(*size).end == Some(*size as isize) {
                range.end = None;
            }
        }
    }
    neutral.visit_mut(&mut Neutral);
    neutral
}
