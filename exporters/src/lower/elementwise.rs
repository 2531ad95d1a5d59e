//! Arithmetic on elements.

use burn::backend::ir::{
    BinaryOpIr, BoolOperationIr, FloatOperationIr, MaskFillOpIr, MaskWhereOpIr, NumericOperationIr, OperationIr,
    PadModeIr, PadOpIr, ScalarOpIr, TensorIr, UnaryOpIr,
};

use super::{Lowered, Lowering, float, linear, reduce, shape, unsupported, unsupported_because};
use crate::graph::{Attribute, Dim, Node};

/// ONNX's number for 32-bit floats.
const FLOAT: i64 = 1;

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
        Op::Powi(op) => binary(lowering, "Pow", &op.lhs, &op.rhs, &op.out, module),
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
        Op::Full(op) => shape::filled(lowering, &op.out, float(op.value)),
        Op::Pad(op) => pad(lowering, op),
        Op::MeanDim(op) => reduce::over_axis(lowering, "ReduceMean", op),
        Op::SumDim(op) => reduce::over_axis(lowering, "ReduceSum", op),
        Op::MaxDim(op) => reduce::over_axis(lowering, "ReduceMax", op),
        Op::MinDim(op) => reduce::over_axis(lowering, "ReduceMin", op),
        Op::ProdDim(op) => reduce::over_axis(lowering, "ReduceProd", op),
        Op::SumDims(op) => reduce::over_axes(lowering, "ReduceSum", op),
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
        Op::IntoFloat(op) => {
            lowering.node("Cast", &[&op.input], &op.out, None)?.set("to", Attribute::Int(FLOAT));
            Ok(())
        }
        _ => unsupported(),
    }
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
    let value = lowering.graph.add_scalar(float(op.value));
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Where", [mask, value, tensor], output));
    Ok(())
}

/// `Softplus` is `log(1 + exp(x))`. There is no other way to write `log(1 + y)` that keeps a small `y`.
fn log1p(lowering: &mut Lowering<'_>, op: &UnaryOpIr) -> Lowered {
    match lowering.captured.producer(op.input.id) {
        Some(OperationIr::Float(_, FloatOperationIr::Exp(exp))) => {
            let exponent = exp.input.clone();
            lowering.node("Softplus", &[&exponent], &op.out, None).map(|_| ())
        }
        _ => unsupported_because("log1p of what is no exp"),
    }
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
    let scalar = lowering.graph.add_scalar(float(op.rhs));
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
