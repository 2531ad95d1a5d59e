//! Normalisations with given statistics or per sample.

use burn::backend::ir::{BatchNormOpIr, LayerNormOpIr};

use super::{Lowered, Lowering, float};
use crate::graph::Attribute;

pub(super) fn batch_norm(lowering: &mut Lowering<'_>, op: &BatchNormOpIr, module: Option<String>) -> Lowered {
    let inputs = [&op.x, &op.gamma, &op.beta, &op.mean, &op.variance];
    let node = lowering.node("BatchNormalization", &inputs, &op.out, module)?;
    node.set("epsilon", Attribute::Float(float(op.epsilon)));
    Ok(())
}

pub(super) fn layer_norm(lowering: &mut Lowering<'_>, op: &LayerNormOpIr, module: Option<String>) -> Lowered {
    let mut inputs = vec![&op.input, &op.gamma];
    inputs.extend(&op.beta);
    let node = lowering.node("LayerNormalization", &inputs, &op.out, module)?;
    node.set("axis", Attribute::Int(-1));
    node.set("epsilon", Attribute::Float(float(op.epsilon)));
    Ok(())
}
