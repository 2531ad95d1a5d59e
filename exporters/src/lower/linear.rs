//! Matrix products.

use burn::backend::ir::{LinearOpIr, MatmulOpIr};

use super::{Lowered, Lowering};
use crate::graph::Node;

pub(super) fn matmul(lowering: &mut Lowering<'_>, op: &MatmulOpIr, module: Option<String>) -> Lowered {
    lowering.node("MatMul", &[&op.lhs, &op.rhs], &op.out, module).map(|_| ())
}

/// A product and an addition, as Burn records it on most backends; what of it is a `Gemm` is found later.
pub(super) fn linear(lowering: &mut Lowering<'_>, op: &LinearOpIr, module: Option<String>) -> Lowered {
    let Some(bias) = &op.bias else {
        return lowering.node("MatMul", &[&op.x, &op.weight], &op.out, module).map(|_| ());
    };
    let (x, weight, bias) = (lowering.input(&op.x)?, lowering.input(&op.weight)?, lowering.input(bias)?);
    let product = lowering.graph.add_value(lowering.dims(&op.out));
    lowering.push(Node::new("MatMul", [x, weight], product).within(module.clone()));
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Add", [product, bias], output).within(module));
    Ok(())
}
