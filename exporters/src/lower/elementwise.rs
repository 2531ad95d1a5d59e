//! Arithmetic on elements.

use burn::backend::ir::{
    BinaryOpIr, BoolOperationIr, CastOpIr, FloatOperationIr, IntOperationIr, MaskFillOpIr, MaskWhereOpIr,
    NumericOperationIr, OperationIr, PadModeIr, PadOpIr, ScalarOpIr, TensorIr, UnaryOpIr,
};

use super::{Lowered, Lowering, float, linear, reduce, shape, unsupported, unsupported_because};
use crate::graph::{Attribute, Dim, Node, ValueId};

/// ONNX's numbers for element types.
const FLOAT: i64 = 1;
const INT64: i64 = 7;

pub(super) fn lower_numeric(lowering: &mut Lowering<'_>, op: &NumericOperationIr, module: Option<String>) -> Lowered {
    use NumericOperationIr as Op;
    match op {
        Op::Add(op) => binary(lowering, "Add", &op.lhs, &op.rhs, &op.out, module),
        Op::Sub(op) => binary(lowering, "Sub", &op.lhs, &op.rhs, &op.out, module),
        Op::Mul(op) => binary(lowering, "Mul", &op.lhs, &op.rhs, &op.out, module),
        Op::Div(op) => binary(lowering, "Div", &op.lhs, &op.rhs, &op.out, module),
        Op::AddScalar(op) => scalar(lowering, "Add", op),
        Op::SubScalar(op) => scalar(lowering, "Sub", op),
        Op::MulScalar(op) => scalar(lowering, "Mul", op),
        Op::DivScalar(op) => scalar(lowering, "Div", op),
        Op::PowiScalar(op) => scalar(lowering, "Pow", op),
        Op::Abs(op) => unary(lowering, "Abs", op),
        Op::Neg(op) => unary(lowering, "Neg", op),
        Op::Sign(op) => unary(lowering, "Sign", op),
        Op::Greater(op) => comparison(lowering, "Greater", op),
        Op::GreaterElem(op) => scalar(lowering, "Greater", op),
        Op::GreaterEqual(op) => comparison(lowering, "GreaterOrEqual", op),
        Op::GreaterEqualElem(op) => scalar(lowering, "GreaterOrEqual", op),
        Op::Lower(op) => comparison(lowering, "Less", op),
        Op::LowerElem(op) => scalar(lowering, "Less", op),
        Op::LowerEqual(op) => comparison(lowering, "LessOrEqual", op),
        Op::LowerEqualElem(op) => scalar(lowering, "LessOrEqual", op),
        Op::Clamp(op) => clip(lowering, &op.tensor, Some(float(op.min)), Some(float(op.max)), &op.out),
        Op::ClampMin(op) => clip(lowering, &op.lhs, Some(float(op.rhs)), None, &op.out),
        Op::ClampMax(op) => clip(lowering, &op.lhs, None, Some(float(op.rhs)), &op.out),
        Op::Rem(op) => remainder(lowering, op),
        Op::RemScalar(op) => remainder_scalar(lowering, op),
        Op::Full(op) => shape::filled(lowering, &op.out, float(op.value)),
        Op::Pad(op) => pad(lowering, op),
        Op::MeanDim(op) => reduce::over_axis(lowering, "ReduceMean", op),
        Op::SumDim(op) => reduce::over_axis(lowering, "ReduceSum", op),
        Op::MaxDim(op) => reduce::over_axis(lowering, "ReduceMax", op),
        Op::MinDim(op) => reduce::over_axis(lowering, "ReduceMin", op),
        Op::ProdDim(op) => reduce::over_axis(lowering, "ReduceProd", op),
        Op::SumDims(op) => reduce::over_axes(lowering, "ReduceSum", op),
        Op::MaxAbsDim(op) => reduce::of_sizes_over_axis(lowering, op),
        Op::MaxDimWithIndices(op) => reduce::with_places(lowering, ["ReduceMax", "ArgMax"], op),
        Op::MinDimWithIndices(op) => reduce::with_places(lowering, ["ReduceMin", "ArgMin"], op),
        Op::ArgMax(op) => reduce::place(lowering, "ArgMax", op),
        Op::ArgMin(op) => reduce::place(lowering, "ArgMin", op),
        Op::Mean(op) => reduce::over_everything(lowering, "ReduceMean", op),
        Op::Sum(op) => reduce::over_everything(lowering, "ReduceSum", op),
        Op::Max(op) => reduce::over_everything(lowering, "ReduceMax", op),
        Op::Min(op) => reduce::over_everything(lowering, "ReduceMin", op),
        Op::Prod(op) => reduce::over_everything(lowering, "ReduceProd", op),
        _ => unsupported(),
    }
}

pub(super) fn lower_float(lowering: &mut Lowering<'_>, op: &FloatOperationIr, module: Option<String>) -> Lowered {
    use FloatOperationIr as Op;
    match op {
        Op::Matmul(op) => linear::matmul(lowering, op, module),
        Op::Exp(op) => unary(lowering, "Exp", op),
        Op::Log(op) => unary(lowering, "Log", op),
        Op::Log1p(op) => log1p(lowering, op),
        Op::Sqrt(op) => unary(lowering, "Sqrt", op),
        Op::Erf(op) => unary(lowering, "Erf", op),
        Op::Tanh(op) => unary(lowering, "Tanh", op),
        Op::Sin(op) => unary(lowering, "Sin", op),
        Op::Cos(op) => unary(lowering, "Cos", op),
        Op::Tan(op) => unary(lowering, "Tan", op),
        Op::Sinh(op) => unary(lowering, "Sinh", op),
        Op::Cosh(op) => unary(lowering, "Cosh", op),
        Op::ArcSin(op) => unary(lowering, "Asin", op),
        Op::ArcCos(op) => unary(lowering, "Acos", op),
        Op::ArcTan(op) => unary(lowering, "Atan", op),
        Op::ArcSinh(op) => unary(lowering, "Asinh", op),
        Op::ArcCosh(op) => unary(lowering, "Acosh", op),
        Op::ArcTanh(op) => unary(lowering, "Atanh", op),
        Op::Recip(op) => unary(lowering, "Reciprocal", op),
        Op::Round(op) => unary(lowering, "Round", op),
        Op::Floor(op) => unary(lowering, "Floor", op),
        Op::Ceil(op) => unary(lowering, "Ceil", op),
        Op::Trunc(op) => truncate(lowering, op),
        Op::IntoInt(op) => cast(lowering, op, INT64),
        Op::PowfScalar(op) => scalar(lowering, "Pow", op),
        Op::Powf(op) => binary(lowering, "Pow", &op.lhs, &op.rhs, &op.out, module),
        _ => unsupported(),
    }
}

/// Operations on truth values.
pub(super) fn lower_bool(lowering: &mut Lowering<'_>, op: &BoolOperationIr) -> Lowered {
    use BoolOperationIr as Op;
    match op {
        Op::Not(op) => unary(lowering, "Not", op),
        Op::And(op) => comparison(lowering, "And", op),
        Op::Or(op) => comparison(lowering, "Or", op),
        Op::Xor(op) => comparison(lowering, "Xor", op),
        Op::IntoFloat(op) => cast(lowering, op, FLOAT),
        Op::IntoInt(op) => cast(lowering, op, INT64),
    }
}

/// Operations on integers.
pub(super) fn lower_int(lowering: &mut Lowering<'_>, op: &IntOperationIr) -> Lowered {
    match op {
        IntOperationIr::IntoFloat(op) => cast(lowering, op, FLOAT),
        _ => unsupported(),
    }
}

fn cast(lowering: &mut Lowering<'_>, op: &CastOpIr, to: i64) -> Lowered {
    lowering.node("Cast", &[&op.input], &op.out, None)?.set("to", Attribute::Int(to));
    Ok(())
}

/// The opposite of a comparison that ONNX has.
pub(super) fn negated(lowering: &mut Lowering<'_>, operator: &'static str, op: &BinaryOpIr) -> Lowered {
    let inputs = [lowering.input(&op.lhs)?, lowering.input(&op.rhs)?];
    let same = lowering.truth(operator, inputs);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Not", [same], output));
    Ok(())
}

/// The opposite of a comparison with a scalar.
pub(super) fn negated_scalar(lowering: &mut Lowering<'_>, operator: &'static str, op: &ScalarOpIr) -> Lowered {
    let inputs = [lowering.input(&op.lhs)?, lowering.scalar_like(&op.lhs, op.rhs)];
    let same = lowering.truth(operator, inputs);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Not", [same], output));
    Ok(())
}

/// Of two tensors without parameters.
pub(super) fn comparison(lowering: &mut Lowering<'_>, operator: &'static str, op: &BinaryOpIr) -> Lowered {
    binary(lowering, operator, &op.lhs, &op.rhs, &op.out, None)
}

pub(super) fn mask_where(lowering: &mut Lowering<'_>, op: &MaskWhereOpIr) -> Lowered {
    lowering.node("Where", &[&op.mask, &op.value, &op.tensor], &op.out, None).map(|_| ())
}

pub(super) fn mask_fill(lowering: &mut Lowering<'_>, op: &MaskFillOpIr) -> Lowered {
    let (mask, tensor) = (lowering.input(&op.mask)?, lowering.input(&op.tensor)?);
    let value = lowering.scalar_like(&op.tensor, op.value);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Where", [mask, value, tensor], output));
    Ok(())
}

/// `Softplus` is `log(1 + exp(x))`. Otherwise, with `u = 1 + x` as rounded: `log(u) * x / (u - 1)`, in which the
/// rounding of `u` cancels out, and `x` where `u` is 1.
fn log1p(lowering: &mut Lowering<'_>, op: &UnaryOpIr) -> Lowered {
    if let Some(OperationIr::Float(_, FloatOperationIr::Exp(exp))) = lowering.captured.producer(op.input.id) {
        let exponent = exp.input.clone();
        return lowering.node("Softplus", &[&exponent], &op.out, None).map(|_| ());
    }
    let x = lowering.input(&op.input)?;
    let one = lowering.graph.add_scalar(1.0);
    let rounded = lowering.step("Add", [x, one]);
    let excess = lowering.step("Sub", [rounded, one]);
    let correction = lowering.step("Div", [x, excess]);
    let log = lowering.step("Log", [rounded]);
    let corrected = lowering.step("Mul", [log, correction]);
    let tiny = lowering.truth("Equal", [rounded, one]);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Where", [tiny, x, corrected], output));
    Ok(())
}

/// `sign(x) * floor(|x|)`
fn truncate(lowering: &mut Lowering<'_>, op: &UnaryOpIr) -> Lowered {
    let x = lowering.input(&op.input)?;
    let size = lowering.step("Abs", [x]);
    let whole = lowering.step("Floor", [size]);
    let sign = lowering.step("Sign", [x]);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Mul", [whole, sign], output));
    Ok(())
}

/// C's remainder, moved by one divisor where its sign is not the divisor's.
fn remainder(lowering: &mut Lowering<'_>, op: &BinaryOpIr) -> Lowered {
    let (x, divisor) = (lowering.input(&op.lhs)?, lowering.input(&op.rhs)?);
    let rest = modulo(lowering, x, divisor, &op.out);
    let zero = lowering.graph.add_scalar(0.0);
    let [below, divisor_below] = [rest, divisor].map(|value| lowering.truth("Less", [value, zero]));
    let other_sign = lowering.truth("Xor", [below, divisor_below]);
    let exact = lowering.truth("Equal", [rest, zero]);
    let inexact = lowering.truth("Not", [exact]);
    let moves = lowering.truth("And", [other_sign, inexact]);
    moved(lowering, moves, [rest, divisor], &op.out)
}

fn remainder_scalar(lowering: &mut Lowering<'_>, op: &ScalarOpIr) -> Lowered {
    let (x, divisor) = (lowering.input(&op.lhs)?, lowering.scalar_like(&op.lhs, op.rhs));
    let rest = modulo(lowering, x, divisor, &op.out);
    let zero = lowering.graph.add_scalar(0.0);
    let moves = lowering.truth(if float(op.rhs) < 0.0 { "Greater" } else { "Less" }, [rest, zero]);
    moved(lowering, moves, [rest, divisor], &op.out)
}

fn modulo(lowering: &mut Lowering<'_>, x: ValueId, divisor: ValueId, out: &TensorIr) -> ValueId {
    let rest = lowering.graph.add_value(lowering.dims(out));
    lowering.push(Node::new("Mod", [x, divisor], rest).with("fmod", Attribute::Int(1)));
    rest
}

fn moved(lowering: &mut Lowering<'_>, moves: ValueId, [rest, divisor]: [ValueId; 2], out: &TensorIr) -> Lowered {
    let moved = lowering.step("Add", [rest, divisor]);
    let output = lowering.output(out);
    lowering.push(Node::new("Where", [moves, moved, rest], output));
    Ok(())
}

fn binary(
    lowering: &mut Lowering<'_>,
    operator: &'static str,
    lhs: &TensorIr,
    rhs: &TensorIr,
    out: &TensorIr,
    module: Option<String>,
) -> Lowered {
    lowering.node(operator, &[lhs, rhs], out, module).map(|_| ())
}

pub(super) fn unary(lowering: &mut Lowering<'_>, operator: &'static str, op: &UnaryOpIr) -> Lowered {
    lowering.node(operator, &[&op.input], &op.out, None).map(|_| ())
}

pub(super) fn scalar(lowering: &mut Lowering<'_>, operator: &'static str, op: &ScalarOpIr) -> Lowered {
    let input = lowering.input(&op.lhs)?;
    let scalar = lowering.scalar_like(&op.lhs, op.rhs);
    let output = lowering.output(&op.out);
    lowering.push(Node::new(operator, [input, scalar], output));
    Ok(())
}

/// `Clip` takes its bounds as inputs; a missing bound is an input left out.
fn clip(lowering: &mut Lowering<'_>, input: &TensorIr, min: Option<f32>, max: Option<f32>, out: &TensorIr) -> Lowered {
    if (min, max) == (Some(0.0), None) {
        return lowering.node("Relu", &[input], out, None).map(|_| ());
    }
    let min = min.map(|min| lowering.graph.add_scalar(min));
    let max = max.map(|max| lowering.graph.add_scalar(max));
    let node = lowering.node("Clip", &[input], out, None)?;
    node.inputs.push(min);
    if max.is_some() {
        node.inputs.push(max);
    }
    Ok(())
}

fn pad(lowering: &mut Lowering<'_>, op: &PadOpIr) -> Lowered {
    let input = lowering.input(&op.input)?;
    let padded_batch = lowering
        .graph
        .dims(input)
        .iter()
        .zip(&op.padding)
        .any(|(dim, padding)| matches!(dim, Dim::Batch(_)) && *padding != (0, 0));
    if padded_batch {
        return unsupported_because("padding of the batch");
    }
    let (before, after) = (op.padding.iter().map(|pad| pad.0 as i64), op.padding.iter().map(|pad| pad.1 as i64));
    let pads = lowering.graph.add_ints(before.chain(after).collect());
    let (mode, value) = match op.mode {
        PadModeIr::Constant(value) => ("constant", Some(lowering.graph.add_scalar(float(value)))),
        PadModeIr::Reflect => ("reflect", None),
        PadModeIr::Edge => ("edge", None),
    };
    let output = lowering.output(&op.out);
    let inputs = [input, pads].into_iter().chain(value);
    lowering.push(Node::new("Pad", inputs, output).with("mode", Attribute::Text(mode)));
    Ok(())
}
