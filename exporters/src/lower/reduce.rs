//! Reductions over axes that stay, with size 1, and over everything.

use burn::backend::ir::{ReduceDimOpIr, ReduceDimWithIndicesOpIr, ReduceDimsOpIr, ReduceOpIr, TensorIr};

use super::{Lowered, Lowering, ints, unsupported_because};
use crate::graph::{Attribute, Dim, Node, ValueId};

pub(super) fn over_axis(lowering: &mut Lowering<'_>, operator: &'static str, op: &ReduceDimOpIr) -> Lowered {
    let input = lowering.input(&op.input)?;
    reduce(lowering, operator, input, &op.out, &[op.axis])
}

pub(super) fn over_axes(lowering: &mut Lowering<'_>, operator: &'static str, op: &ReduceDimsOpIr) -> Lowered {
    let input = lowering.input(&op.input)?;
    reduce(lowering, operator, input, &op.out, &op.axes)
}

/// The largest absolute value.
pub(super) fn of_sizes_over_axis(lowering: &mut Lowering<'_>, op: &ReduceDimOpIr) -> Lowered {
    let input = lowering.input(&op.input)?;
    let sizes = lowering.step("Abs", [input]);
    reduce(lowering, "ReduceMax", sizes, &op.out, &[op.axis])
}

fn reduce(
    lowering: &mut Lowering<'_>,
    operator: &'static str,
    input: ValueId,
    out: &TensorIr,
    axes: &[usize],
) -> Lowered {
    refuse_batch(lowering, input, axes)?;
    let axes = lowering.graph.add_ints(ints(axes));
    let output = lowering.output(out);
    lowering.push(Node::new(operator, [input, axes], output).with("keepdims", Attribute::Int(1)));
    Ok(())
}

/// The place of the largest or smallest element along an axis; the first one where several are equal.
pub(super) fn place(lowering: &mut Lowering<'_>, operator: &'static str, op: &ReduceDimOpIr) -> Lowered {
    place_along(lowering, operator, &op.input, &op.out, op.axis)
}

fn place_along(
    lowering: &mut Lowering<'_>,
    operator: &'static str,
    input: &TensorIr,
    out: &TensorIr,
    axis: usize,
) -> Lowered {
    let input = lowering.input(input)?;
    refuse_batch(lowering, input, &[axis])?;
    let output = lowering.output(out);
    let node = Node::new(operator, [input], output).with("axis", Attribute::Int(axis as i64));
    lowering.push(node.with("keepdims", Attribute::Int(1)));
    Ok(())
}

/// The largest or smallest element along an axis, and its place.
pub(super) fn with_places(
    lowering: &mut Lowering<'_>,
    [value, place]: [&'static str; 2],
    op: &ReduceDimWithIndicesOpIr,
) -> Lowered {
    let input = lowering.input(&op.tensor)?;
    reduce(lowering, value, input, &op.out, &[op.dim])?;
    place_along(lowering, place, &op.tensor, &op.out_indices, op.dim)
}

/// One number, as a list of one.
pub(super) fn over_everything(lowering: &mut Lowering<'_>, operator: &'static str, op: &ReduceOpIr) -> Lowered {
    let input = lowering.input(&op.input)?;
    let axes: Vec<usize> = (0..op.input.shape.len()).collect();
    refuse_batch(lowering, input, &axes)?;
    let reduced = lowering.graph.add_value(Vec::new());
    let axes = lowering.graph.add_ints(ints(&axes));
    lowering.push(Node::new(operator, [input, axes], reduced).with("keepdims", Attribute::Int(0)));
    let target = lowering.graph.add_ints(vec![1]);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Reshape", [reduced, target], output));
    Ok(())
}

fn refuse_batch(lowering: &Lowering<'_>, input: ValueId, axes: &[usize]) -> Lowered {
    let dims = lowering.graph.dims(input);
    if axes.iter().any(|axis| matches!(dims.get(*axis), Some(Dim::Batch(_)))) {
        return unsupported_because(
            "a reduction over the batch: what it makes of one image depends on the others. A view's batch norms average over \
             the batch; export what `materialize_at` and then `recalibrate` make of it",
        );
    }
    Ok(())
}
