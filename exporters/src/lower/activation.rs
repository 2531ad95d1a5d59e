//! Activation functions.

use burn::backend::ir::{ActivationOperationIr, DimOpIr, TensorIr, UnaryOpIr};

use super::elementwise::unary;
use super::{Lowered, Lowering, float, unsupported};
use crate::graph::{Attribute, Node, ValueId};

pub(super) fn lower(lowering: &mut Lowering<'_>, op: &ActivationOperationIr, module: Option<String>) -> Lowered {
    use ActivationOperationIr as Op;
    match op {
        Op::Relu(op) => unary(lowering, "Relu", op),
        Op::Sigmoid(op) => unary(lowering, "Sigmoid", op),
        Op::Gelu(op) => gelu(lowering, op),
        Op::LogSigmoid(op) => log_sigmoid(lowering, op),
        Op::LeakyRelu(op) => {
            let alpha = Attribute::Float(float(op.rhs));
            lowering.node("LeakyRelu", &[&op.lhs], &op.out, None)?.set("alpha", alpha);
            Ok(())
        }
        Op::HardSigmoid(op) => {
            let (alpha, beta) = (Attribute::Float(float(op.alpha)), Attribute::Float(float(op.beta)));
            let node = lowering.node("HardSigmoid", &[&op.tensor], &op.out, None)?;
            node.set("alpha", alpha);
            node.set("beta", beta);
            Ok(())
        }
        Op::PRelu(op) => prelu(lowering, &op.lhs, &op.rhs, &op.out, module),
        Op::Softmax(op) => along_axis(lowering, "Softmax", op),
        Op::LogSoftmax(op) => along_axis(lowering, "LogSoftmax", op),
        Op::Softmin(op) => softmin(lowering, op),
        _ => unsupported(),
    }
}

fn along_axis(lowering: &mut Lowering<'_>, operator: &'static str, op: &DimOpIr) -> Lowered {
    lowering.node(operator, &[&op.input], &op.out, None)?.set("axis", Attribute::Int(op.axis as i64));
    Ok(())
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`; the operator `Gelu` came with opset 20.
fn gelu(lowering: &mut Lowering<'_>, op: &UnaryOpIr) -> Lowered {
    let x = lowering.input(&op.input)?;
    let scaled = with_scalar(lowering, "Mul", x, std::f32::consts::FRAC_1_SQRT_2);
    let erf = lowering.graph.add_value(lowering.dims(&op.out));
    lowering.push(Node::new("Erf", [scaled], erf));
    let cumulative = with_scalar(lowering, "Add", erf, 1.0);
    let half = with_scalar(lowering, "Mul", x, 0.5);
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Mul", [half, cumulative], output));
    Ok(())
}

/// `min(x, 0) - softplus(-|x|)`: the exponential of a positive number overflows in some runtimes.
fn log_sigmoid(lowering: &mut Lowering<'_>, op: &UnaryOpIr) -> Lowered {
    let x = lowering.input(&op.input)?;
    let mut step = |operator, inputs: Vec<ValueId>| {
        let output = lowering.graph.add_value(lowering.dims(&op.out));
        lowering.push(Node::new(operator, inputs, output));
        output
    };
    let size = step("Abs", vec![x]);
    let negative = step("Neg", vec![size]);
    let softplus = step("Softplus", vec![negative]);
    let zero = lowering.graph.add_scalar(0.0);
    let below = lowering.graph.add_value(lowering.dims(&op.out));
    lowering.push(Node::new("Min", [x, zero], below));
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Sub", [below, softplus], output));
    Ok(())
}

/// The softmax of `-x`
fn softmin(lowering: &mut Lowering<'_>, op: &DimOpIr) -> Lowered {
    let x = lowering.input(&op.input)?;
    let negative = lowering.graph.add_value(lowering.dims(&op.input));
    lowering.push(Node::new("Neg", [x], negative));
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Softmax", [negative], output).with("axis", Attribute::Int(op.axis as i64)));
    Ok(())
}

fn with_scalar(lowering: &mut Lowering<'_>, operator: &'static str, x: ValueId, scalar: f32) -> ValueId {
    let scalar = lowering.graph.add_scalar(scalar);
    let output = lowering.graph.add_value(lowering.graph.dims(x).to_vec());
    lowering.push(Node::new(operator, [x, scalar], output));
    output
}

/// The slope of each channel is broadcast from the last axis in ONNX, so it gets trailing axes.
fn prelu(
    lowering: &mut Lowering<'_>,
    input: &TensorIr,
    slope: &TensorIr,
    out: &TensorIr,
    module: Option<String>,
) -> Lowered {
    let x = lowering.input(input)?;
    let mut alpha = lowering.input(slope)?;
    if slope.shape.len() == 1 && slope.shape[0] > 1 && input.shape.len() > 2 {
        let mut shape = vec![slope.shape[0]];
        shape.resize(input.shape.len() - 1, 1);
        let target = lowering.graph.add_ints(super::ints(&shape));
        let dims = shape.iter().map(|size| crate::graph::Dim::Fixed(*size)).collect();
        let reshaped = lowering.graph.add_value(dims);
        lowering.push(Node::new("Reshape", [alpha, target], reshaped).within(module.clone()));
        alpha = reshaped;
    }
    let output = lowering.output(out);
    lowering.push(Node::new("PRelu", [x, alpha], output).within(module));
    Ok(())
}
