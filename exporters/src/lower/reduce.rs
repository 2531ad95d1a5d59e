//! Reductions over axes that stay, with size 1.

use burn::backend::ir::{ReduceDimOpIr, ReduceDimsOpIr, TensorIr};

use super::{Lowered, Lowering, ints, unsupported_because};
use crate::graph::{Attribute, Dim, Node};

pub(super) fn over_axis(lowering: &mut Lowering<'_>, operator: &'static str, op: &ReduceDimOpIr) -> Lowered {
    reduce(lowering, operator, &op.input, &op.out, &[op.axis])
}

pub(super) fn over_axes(lowering: &mut Lowering<'_>, operator: &'static str, op: &ReduceDimsOpIr) -> Lowered {
    reduce(lowering, operator, &op.input, &op.out, &op.axes)
}

fn reduce(
    lowering: &mut Lowering<'_>,
    operator: &'static str,
    input: &TensorIr,
    out: &TensorIr,
    axes: &[usize],
) -> Lowered {
    let input = lowering.input(input)?;
    if axes.iter().any(|axis| matches!(lowering.graph.dims(input).get(*axis), Some(Dim::Batch(_)))) {
        return unsupported_because("a reduction over the batch");
    }
    let axes = lowering.graph.add_ints(ints(axes));
    let output = lowering.output(out);
    lowering.push(Node::new(operator, [input, axes], output).with("keepdims", Attribute::Int(1)));
    Ok(())
}
