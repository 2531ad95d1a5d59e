//! Convolutions, also transposed.

use burn::backend::ir::{Conv1dOpIr, Conv2dOpIr, ConvTranspose1dOpIr, ConvTranspose2dOpIr, TensorIr};

use super::{Lowered, Lowering, ints};
use crate::graph::Attribute;

pub(super) fn conv1d(lowering: &mut Lowering<'_>, op: &Conv1dOpIr, module: Option<String>) -> Lowered {
    let Conv1dOpIr { x, weight, bias, options, out } = op;
    let geometry = Geometry {
        stride: &options.stride,
        padding: &options.padding,
        dilation: &options.dilation,
        groups: options.groups,
        output_padding: &[],
    };
    convolution(lowering, "Conv", [x, weight], bias.as_ref(), out, &geometry, module)
}

pub(super) fn conv2d(lowering: &mut Lowering<'_>, op: &Conv2dOpIr, module: Option<String>) -> Lowered {
    let Conv2dOpIr { x, weight, bias, options, out } = op;
    let geometry = Geometry {
        stride: &options.stride,
        padding: &options.padding,
        dilation: &options.dilation,
        groups: options.groups,
        output_padding: &[],
    };
    convolution(lowering, "Conv", [x, weight], bias.as_ref(), out, &geometry, module)
}

pub(super) fn conv_transpose1d(
    lowering: &mut Lowering<'_>,
    op: &ConvTranspose1dOpIr,
    module: Option<String>,
) -> Lowered {
    let ConvTranspose1dOpIr { x, weight, bias, options, out } = op;
    let geometry = Geometry {
        stride: &options.stride,
        padding: &options.padding.map(|pad| (pad, pad)),
        dilation: &options.dilation,
        groups: options.groups,
        output_padding: &options.padding_out,
    };
    convolution(lowering, "ConvTranspose", [x, weight], bias.as_ref(), out, &geometry, module)
}

pub(super) fn conv_transpose2d(
    lowering: &mut Lowering<'_>,
    op: &ConvTranspose2dOpIr,
    module: Option<String>,
) -> Lowered {
    let ConvTranspose2dOpIr { x, weight, bias, options, out } = op;
    let geometry = Geometry {
        stride: &options.stride,
        padding: &options.padding.map(|pad| (pad, pad)),
        dilation: &options.dilation,
        groups: options.groups,
        output_padding: &options.padding_out,
    };
    convolution(lowering, "ConvTranspose", [x, weight], bias.as_ref(), out, &geometry, module)
}

/// One entry per spatial axis.
struct Geometry<'a> {
    stride: &'a [usize],
    padding: &'a [(usize, usize)],
    dilation: &'a [usize],
    groups: usize,
    /// Of a transposed convolution only.
    output_padding: &'a [usize],
}

/// ONNX has Burn's weight layouts: `[out, in / groups, k...]`, and `[in, out / groups, k...]` when transposed.
fn convolution(
    lowering: &mut Lowering<'_>,
    operator: &'static str,
    [x, weight]: [&TensorIr; 2],
    bias: Option<&TensorIr>,
    out: &TensorIr,
    geometry: &Geometry<'_>,
    module: Option<String>,
) -> Lowered {
    let inputs: Vec<&TensorIr> = [x, weight].into_iter().chain(bias).collect();
    let node = lowering.node(operator, &inputs, out, module)?;
    let pads = geometry.padding.iter().map(|pad| pad.0).chain(geometry.padding.iter().map(|pad| pad.1));
    node.set("dilations", Attribute::Ints(ints(geometry.dilation)));
    node.set("group", Attribute::Int(geometry.groups as i64));
    node.set("kernel_shape", Attribute::Ints(ints(&weight.shape[2..])));
    node.set("pads", Attribute::Ints(pads.map(|pad| pad as i64).collect()));
    node.set("strides", Attribute::Ints(ints(geometry.stride)));
    if geometry.output_padding.iter().any(|pad| *pad > 0) {
        node.set("output_padding", Attribute::Ints(ints(geometry.output_padding)));
    }
    Ok(())
}
