//! Pooling.

use burn::backend::ir::{AvgPool1dOpIr, AvgPool2dOpIr, MaxPool1dOpIr, MaxPool2dOpIr, TensorIr};
use burn::tensor::module::adaptive_avg_pool2d;

use super::{Lowered, Lowering, ints, resample, unsupported_because};
use crate::graph::Attribute;

/// One entry per spatial axis.
struct Window<'a> {
    kernel: &'a [usize],
    stride: &'a [usize],
    padding: &'a [usize],
    dilation: &'a [usize],
    ceil: bool,
}

impl Window<'_> {
    /// Whether rounding up gives a last window that rounding down leaves out.
    fn ceil_matters(&self, input: &TensorIr) -> bool {
        self.ceil
            && input.shape.iter().skip(2).enumerate().any(|(axis, size)| {
                let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
                !(size + 2 * self.padding[axis] - reach).is_multiple_of(self.stride[axis])
            })
    }
}

pub(super) fn avg_pool1d(lowering: &mut Lowering<'_>, op: &AvgPool1dOpIr) -> Lowered {
    let window = Window {
        kernel: &[op.kernel_size],
        stride: &[op.stride],
        padding: &[op.padding],
        dilation: &[1],
        ceil: op.ceil_mode,
    };
    average(lowering, &op.x, &op.out, &window, op.count_include_pad)
}

pub(super) fn avg_pool2d(lowering: &mut Lowering<'_>, op: &AvgPool2dOpIr) -> Lowered {
    let window = Window {
        kernel: &op.kernel_size,
        stride: &op.stride,
        padding: &op.padding,
        dilation: &[1, 1],
        ceil: op.ceil_mode,
    };
    average(lowering, &op.x, &op.out, &window, op.count_include_pad)
}

pub(super) fn max_pool1d(lowering: &mut Lowering<'_>, op: &MaxPool1dOpIr) -> Lowered {
    let window = Window {
        kernel: &[op.kernel_size],
        stride: &[op.stride],
        padding: &[op.padding],
        dilation: &[op.dilation],
        ceil: op.ceil_mode,
    };
    pool(lowering, "MaxPool", &op.x, &op.out, &window)
}

pub(super) fn max_pool2d(lowering: &mut Lowering<'_>, op: &MaxPool2dOpIr) -> Lowered {
    let window = Window {
        kernel: &op.kernel_size,
        stride: &op.stride,
        padding: &op.padding,
        dilation: &op.dilation,
        ceil: op.ceil_mode,
    };
    pool(lowering, "MaxPool", &op.x, &op.out, &window)
}

fn average(
    lowering: &mut Lowering<'_>,
    x: &TensorIr,
    out: &TensorIr,
    window: &Window<'_>,
    count_include_pad: bool,
) -> Lowered {
    if window.ceil_matters(x) {
        // What the last, partial window is divided by is not the same in all runtimes.
        return unsupported_because("an average pool whose last window is partial (ceil mode)");
    }
    pool(lowering, "AveragePool", x, out, window)?;
    if let Some(node) = lowering.graph.nodes.last_mut()
        && count_include_pad
        && window.padding.iter().any(|pad| *pad > 0)
    {
        node.set("count_include_pad", Attribute::Int(1));
    }
    Ok(())
}

fn pool(
    lowering: &mut Lowering<'_>,
    operator: &'static str,
    x: &TensorIr,
    out: &TensorIr,
    window: &Window<'_>,
) -> Lowered {
    let ceil = window.ceil_matters(x);
    let node = lowering.node(operator, &[x], out, None)?;
    node.set("kernel_shape", Attribute::Ints(ints(window.kernel)));
    node.set("pads", Attribute::Ints([ints(window.padding), ints(window.padding)].concat()));
    node.set("strides", Attribute::Ints(ints(window.stride)));
    if window.dilation.iter().any(|dilation| *dilation > 1) {
        node.set("dilations", Attribute::Ints(ints(window.dilation)));
    }
    if ceil {
        node.set("ceil_mode", Attribute::Int(1));
    }
    Ok(())
}

/// Global when the output has one element per channel; windows of equal size if they divide the input; otherwise windows
/// that overlap, as a matrix per axis.
pub(super) fn adaptive_avg_pool(lowering: &mut Lowering<'_>, x: &TensorIr, out: &TensorIr) -> Lowered {
    let (input, output) = (&x.shape[2..], &out.shape[2..]);
    if output.iter().all(|size| *size == 1) {
        return lowering.node("GlobalAveragePool", &[x], out, None).map(|_| ());
    }
    if input.iter().zip(output).any(|(input, output)| !input.is_multiple_of(*output)) {
        return overlapping(lowering, x, out);
    }
    let kernel: Vec<usize> = input.iter().zip(output).map(|(input, output)| input / output).collect();
    let node = lowering.node("AveragePool", &[x], out, None)?;
    node.set("kernel_shape", Attribute::Ints(ints(&kernel)));
    node.set("strides", Attribute::Ints(ints(&kernel)));
    Ok(())
}

fn overlapping(lowering: &mut Lowering<'_>, x: &TensorIr, out: &TensorIr) -> Lowered {
    let mut value = lowering.input(x)?;
    for axis in 2..x.shape.len() {
        let (inputs, outputs) = (x.shape[axis], out.shape[axis]);
        if inputs != outputs {
            let matrix = resample::matrix(inputs, outputs, |units| adaptive_avg_pool2d(units, [outputs, 1]))?;
            value = resample::along(lowering, value, axis, matrix);
        }
    }
    lowering.alias(out, value);
    Ok(())
}
