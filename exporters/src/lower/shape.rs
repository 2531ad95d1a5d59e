//! Operations that pick, move or make elements.

use burn::backend::ir::{BaseOperationIr, CatOpIr, RepeatDimOpIr, SelectOpIr, ShapeOpIr, SliceOpIr, TensorIr};
use ndarray::{ArrayD, IxDyn};

use super::{Lowered, Lowering, elementwise, ints, unsupported, unsupported_because};
use crate::graph::{Attribute, Dim, Node};

pub(super) fn lower(lowering: &mut Lowering<'_>, op: &BaseOperationIr, module: Option<String>) -> Lowered {
    use BaseOperationIr as Op;
    match op {
        Op::Reshape(op) => reshape(lowering, op, module),
        Op::SwapDims(op) => {
            let mut axes: Vec<usize> = (0..op.input.shape.len()).collect();
            axes.swap(op.dim1, op.dim2);
            transpose(lowering, &op.input, &op.out, &axes, module)
        }
        Op::Permute(op) => transpose(lowering, &op.input, &op.out, &op.axes, module),
        Op::Slice(op) => slice(lowering, op, module),
        Op::Expand(op) => expand(lowering, op, module),
        Op::RepeatDim(op) => repeat(lowering, op, module),
        Op::Cat(op) => concat(lowering, op),
        Op::Select(op) => select(lowering, op, module),
        Op::Equal(op) => elementwise::comparison(lowering, "Equal", op),
        Op::EqualElem(op) => elementwise::scalar(lowering, "Equal", op),
        Op::MaskWhere(op) => elementwise::mask_where(lowering, op),
        Op::MaskFill(op) => elementwise::mask_fill(lowering, op),
        Op::Cast(op) if op.input.dtype == op.out.dtype => {
            let value = lowering.input(&op.input)?;
            lowering.alias(&op.out, value);
            Ok(())
        }
        Op::Zeros(op) | Op::Empty(op) => filled(lowering, &op.out, 0.0),
        Op::Ones(op) => filled(lowering, &op.out, 1.0),
        _ => unsupported(),
    }
}

/// The `shape` input of a `Reshape`: 0 keeps the batch, -1 takes what is left; none where two axes would have to.
pub(crate) fn reshape_target(input: &[Dim], output: &[Dim]) -> Option<Vec<i64>> {
    let target = output.iter().enumerate().map(|(axis, dim)| match dim {
        Dim::Fixed(size) => *size as i64,
        Dim::Batch(_) if input.get(axis) == Some(dim) => 0,
        Dim::Batch(_) => -1,
    });
    let target: Vec<i64> = target.collect();
    (target.iter().filter(|size| **size == -1).count() <= 1).then_some(target)
}

fn reshape(lowering: &mut Lowering<'_>, op: &ShapeOpIr, module: Option<String>) -> Lowered {
    let input = lowering.input(&op.input)?;
    let Some(target) = reshape_target(lowering.graph.dims(input), &lowering.dims(&op.out)) else {
        return unsupported_because("two axes of the result depend on the batch size");
    };
    let target = lowering.graph.add_ints(target);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Reshape", [input, target], output).within(module));
    Ok(())
}

fn transpose(
    lowering: &mut Lowering<'_>,
    input: &TensorIr,
    out: &TensorIr,
    axes: &[usize],
    module: Option<String>,
) -> Lowered {
    lowering.node("Transpose", &[input], out, module)?.set("perm", Attribute::Ints(ints(axes)));
    Ok(())
}

fn slice(lowering: &mut Lowering<'_>, op: &SliceOpIr, module: Option<String>) -> Lowered {
    let input = lowering.input(&op.tensor)?;
    let (mut starts, mut ends, mut axes, mut steps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (axis, (range, size)) in op.ranges.iter().zip(op.tensor.shape.iter()).enumerate() {
        let size = *size as isize;
        let bound = |index: isize| if index < 0 { index + size } else { index }.clamp(0, size);
        let (start, end) = (bound(range.start), range.end.map_or(size, bound));
        if range.step < 1 {
            return unsupported_because("a slice that runs backwards");
        }
        if (start, end, range.step) == (0, size, 1) {
            continue;
        }
        if matches!(lowering.graph.dims(input).get(axis), Some(Dim::Batch(_))) {
            return unsupported_because("a slice of the batch");
        }
        starts.push(start as i64);
        ends.push(end as i64);
        axes.push(axis as i64);
        steps.push(range.step as i64);
    }
    if axes.is_empty() {
        lowering.alias(&op.out, input);
        return Ok(());
    }
    let [starts, ends, axes, steps] = [starts, ends, axes, steps].map(|values| lowering.graph.add_ints(values));
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Slice", [input, starts, ends, axes, steps], output).within(module));
    Ok(())
}

fn expand(lowering: &mut Lowering<'_>, op: &ShapeOpIr, module: Option<String>) -> Lowered {
    let input = lowering.input(&op.input)?;
    let output = lowering.dims(&op.out);
    let lead = output.len().saturating_sub(lowering.graph.dims(input).len());
    let mut target = Vec::new();
    for (axis, dim) in output.iter().enumerate() {
        target.push(match dim {
            Dim::Fixed(size) => *size as i64,
            // 1 keeps the size of the input.
            Dim::Batch(_) if axis >= lead && lowering.graph.dims(input)[axis - lead] == *dim => 1,
            Dim::Batch(_) => return unsupported_because("an expansion to the batch size"),
        });
    }
    let target = lowering.graph.add_ints(target);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Expand", [input, target], output).within(module));
    Ok(())
}

fn repeat(lowering: &mut Lowering<'_>, op: &RepeatDimOpIr, module: Option<String>) -> Lowered {
    let input = lowering.input(&op.tensor)?;
    let mut repeats = vec![1; op.tensor.shape.len()];
    repeats[op.dim] = op.times as i64;
    let repeats = lowering.graph.add_ints(repeats);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Tile", [input, repeats], output).within(module));
    Ok(())
}

/// Entries along an axis, by constant indices.
fn select(lowering: &mut Lowering<'_>, op: &SelectOpIr, module: Option<String>) -> Lowered {
    let (input, indices) = (lowering.input(&op.tensor)?, lowering.input(&op.indices)?);
    if matches!(lowering.graph.dims(input).get(op.dim), Some(Dim::Batch(_))) {
        return unsupported_because("a selection from the batch");
    }
    let output = lowering.output(&op.out);
    let node = Node::new("Gather", [input, indices], output).with("axis", Attribute::Int(op.dim as i64));
    lowering.push(node.within(module));
    Ok(())
}

fn concat(lowering: &mut Lowering<'_>, op: &CatOpIr) -> Lowered {
    let tensors: Vec<&TensorIr> = op.tensors.iter().collect();
    lowering.node("Concat", &tensors, &op.out, None)?.set("axis", Attribute::Int(op.dim as i64));
    Ok(())
}

/// A tensor that is created in the forward becomes a constant.
pub(super) fn filled(lowering: &mut Lowering<'_>, out: &TensorIr, value: f32) -> Lowered {
    let shape: Option<Vec<usize>> = lowering.dims(out).iter().map(|dim| dim.fixed()).collect();
    let Some(shape) = shape else {
        return unsupported_because("a constant whose shape depends on the batch size");
    };
    let constant = lowering.graph.add_floats("", ArrayD::from_elem(IxDyn(&shape), value));
    lowering.alias(out, constant);
    Ok(())
}
