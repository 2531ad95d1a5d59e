//! Operations that pick, move or make elements.

use burn::backend::ir::{
    BaseOperationIr, CatOpIr, FlipOpIr, RepeatDimOpIr, SelectOpIr, ShapeOpIr, SliceOpIr, TensorIr,
};
use ndarray::{ArrayD, IxDyn};

use super::{Lowered, Lowering, elementwise, ints, kind_of, unsupported, unsupported_because};
use crate::graph::{Attribute, Dim, Kind, Node, ValueId};

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
        Op::Flip(op) => flip(lowering, op, module),
        Op::Slice(op) => slice(lowering, op, module),
        Op::Expand(op) => expand(lowering, op, module),
        Op::RepeatDim(op) => repeat(lowering, op, module),
        Op::Cat(op) => concat(lowering, op),
        Op::Select(op) => select(lowering, op, module),
        Op::Equal(op) => elementwise::comparison(lowering, "Equal", op),
        Op::EqualElem(op) => elementwise::scalar(lowering, "Equal", op),
        Op::NotEqual(op) => elementwise::negated(lowering, "Equal", op),
        Op::NotEqualElem(op) => elementwise::negated_scalar(lowering, "Equal", op),
        Op::MaskWhere(op) => elementwise::mask_where(lowering, op),
        Op::MaskFill(op) => elementwise::mask_fill(lowering, op),
        Op::Zeros(op) => filled(lowering, &op.out, 0.0),
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

/// What a slice takes of the axes that it cuts.
#[derive(Default)]
struct Cuts {
    starts: Vec<i64>,
    ends: Vec<i64>,
    axes: Vec<i64>,
    steps: Vec<i64>,
}

impl Cuts {
    /// Every `step`-th element of `start..end`; a negative step begins at the last one.
    fn push(&mut self, axis: usize, start: isize, end: isize, step: isize) {
        let (first, last) = match step {
            1.. => (start as i64, end as i64),
            // In front of the first element there is none to name.
            _ if start == 0 => (end as i64 - 1, i64::MIN),
            _ => (end as i64 - 1, start as i64 - 1),
        };
        self.starts.push(first);
        self.ends.push(last);
        self.axes.push(axis as i64);
        self.steps.push(step as i64);
    }

    fn lower(self, lowering: &mut Lowering<'_>, input: ValueId, out: &TensorIr, module: Option<String>) -> Lowered {
        let cuts_batch = |axis: &i64| matches!(lowering.graph.dims(input).get(*axis as usize), Some(Dim::Batch(_)));
        if self.axes.iter().any(cuts_batch) {
            return unsupported_because("a slice of the batch");
        }
        let bounds = [self.starts, self.ends, self.axes, self.steps].map(|values| lowering.graph.add_ints(values));
        let output = lowering.output(out);
        lowering.push(Node::new("Slice", [input].into_iter().chain(bounds), output).within(module));
        Ok(())
    }
}

fn slice(lowering: &mut Lowering<'_>, op: &SliceOpIr, module: Option<String>) -> Lowered {
    let input = lowering.input(&op.tensor)?;
    let mut cuts = Cuts::default();
    for (axis, (range, size)) in op.ranges.iter().zip(op.tensor.shape.iter()).enumerate() {
        let size = *size as isize;
        let bound = |index: isize| if index < 0 { index + size } else { index }.clamp(0, size);
        let (start, end) = (bound(range.start), range.end.map_or(size, bound));
        if (start, end, range.step) != (0, size, 1) {
            cuts.push(axis, start, end, range.step);
        }
    }
    if cuts.axes.is_empty() {
        lowering.alias(&op.out, input);
        return Ok(());
    }
    cuts.lower(lowering, input, &op.out, module)
}

fn flip(lowering: &mut Lowering<'_>, op: &FlipOpIr, module: Option<String>) -> Lowered {
    let input = lowering.input(&op.input)?;
    let mut cuts = Cuts::default();
    for axis in &op.axes {
        cuts.push(*axis, 0, op.input.shape[*axis] as isize, -1);
    }
    cuts.lower(lowering, input, &op.out, module)
}

fn expand(lowering: &mut Lowering<'_>, op: &ShapeOpIr, module: Option<String>) -> Lowered {
    let input = lowering.input(&op.input)?;
    let output = lowering.dims(&op.out);
    let lead = output.len().saturating_sub(lowering.graph.dims(input).len());
    let own = |axis: usize| axis.checked_sub(lead).map(|axis| lowering.graph.dims(input)[axis]);
    // 1 keeps the size of the input.
    let kept = |axis: usize, dim: &Dim| if own(axis) == Some(*dim) { Dim::Fixed(1) } else { *dim };
    let target: Vec<Dim> = output.iter().enumerate().map(|(axis, dim)| kept(axis, dim)).collect();
    let target = shape_of(lowering, &target);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Expand", [input, target], output).within(module));
    Ok(())
}

/// A shape as a list of integers: a constant, or joined from parts where the batch size is among them.
fn shape_of(lowering: &mut Lowering<'_>, dims: &[Dim]) -> ValueId {
    let parts: Vec<ValueId> = dims
        .chunk_by(|one, other| one.fixed().is_some() && other.fixed().is_some())
        .map(|part| match part {
            [Dim::Batch(factor)] => batch_size(lowering, *factor),
            _ => lowering.graph.add_ints(part.iter().filter_map(|dim| dim.fixed()).map(|size| size as i64).collect()),
        })
        .collect();
    if let [part] = parts[..] {
        return part;
    }
    let shape = lowering.graph.add_value_of(Kind::Int, vec![Dim::Fixed(dims.len())]);
    lowering.push(Node::new("Concat", parts, shape).with("axis", Attribute::Int(0)));
    shape
}

/// The size of the first axis of the first input, times a factor.
fn batch_size(lowering: &mut Lowering<'_>, factor: usize) -> ValueId {
    let size = lowering.graph.add_value_of(Kind::Int, vec![Dim::Fixed(1)]);
    let node = Node::new("Shape", [lowering.graph.inputs[0]], size);
    lowering.push(node.with("start", Attribute::Int(0)).with("end", Attribute::Int(1)));
    if factor == 1 {
        return size;
    }
    let (factor, product) =
        (lowering.graph.add_ints(vec![factor as i64]), lowering.graph.add_value_of(Kind::Int, vec![Dim::Fixed(1)]));
    lowering.push(Node::new("Mul", [size, factor], product));
    product
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

/// A tensor that is created in the forward becomes a constant, expanded where its shape follows the batch size.
pub(super) fn filled(lowering: &mut Lowering<'_>, out: &TensorIr, value: f32) -> Lowered {
    if kind_of(out.dtype) != Kind::Float {
        return unsupported_because(format!("a constant of {:?}", out.dtype));
    }
    let dims = lowering.dims(out);
    let fixed: Vec<usize> = dims.iter().map(|dim| dim.fixed().unwrap_or(1)).collect();
    let constant = lowering.graph.add_floats("", ArrayD::from_elem(IxDyn(&fixed), value));
    if dims.iter().all(|dim| dim.fixed().is_some()) {
        lowering.alias(out, constant);
        return Ok(());
    }
    let target = shape_of(lowering, &dims);
    let output = lowering.output(out);
    lowering.push(Node::new("Expand", [constant, target], output));
    Ok(())
}
