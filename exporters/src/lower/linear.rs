//! Matrix products. A linear layer is captured as a product and an addition; what of it is a `Gemm` is found later.

use burn::backend::ir::MatmulOpIr;

use super::{Lowered, Lowering};

pub(super) fn matmul(lowering: &mut Lowering<'_>, op: &MatmulOpIr, module: Option<String>) -> Lowered {
    lowering.node("MatMul", &[&op.lhs, &op.rhs], &op.out, module).map(|_| ())
}
