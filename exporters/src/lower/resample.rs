//! Resampling along an axis as a product with a constant matrix: exact for every mode that is linear in its input.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Device, Tensor};
use ndarray::{ArrayD, IxDyn};

use super::{Lowered, Lowering, unsupported_because};
use crate::graph::{Dim, Node, ValueId};

/// The matrix `[outputs, inputs]` of a linear resampling of one axis: what it makes of the unit vectors.
///
/// # Shapes
///
/// - `resample`: `[1, inputs, inputs, 1]` to `[1, inputs, outputs, 1]`
pub(super) fn matrix(inputs: usize, outputs: usize, resample: impl Fn(Tensor<4>) -> Tensor<4>) -> Lowered<ArrayD<f32>> {
    let units = Tensor::<2>::eye(inputs, &Device::default()).reshape([1, inputs, inputs, 1]);
    // A backend without this mode panics.
    let columns = catch_unwind(AssertUnwindSafe(|| resample(units).into_data().iter::<f32>().collect::<Vec<f32>>()));
    match columns.ok().and_then(|columns| ArrayD::from_shape_vec(IxDyn(&[inputs, outputs]), columns).ok()) {
        Some(columns) => Ok(columns.reversed_axes().as_standard_layout().into_owned()),
        None => unsupported_because("a mode that the default device does not have"),
    }
}

/// Multiplies an axis that is the last one, or the one before it, by a matrix.
pub(super) fn along(lowering: &mut Lowering<'_>, x: ValueId, axis: usize, matrix: ArrayD<f32>) -> ValueId {
    let mut dims = lowering.graph.dims(x).to_vec();
    let is_last = axis + 1 == dims.len();
    dims[axis] = Dim::Fixed(matrix.shape()[0]);
    let output = lowering.graph.add_value(dims);
    let matrix = if is_last { matrix.reversed_axes().as_standard_layout().into_owned() } else { matrix };
    let matrix = lowering.graph.add_floats("", matrix);
    let inputs = if is_last { [x, matrix] } else { [matrix, x] };
    lowering.push(Node::new("MatMul", inputs, output));
    output
}
