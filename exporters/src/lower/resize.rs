//! Interpolation to another height and width.

use burn::backend::ir::{InterpolateModeIr, InterpolateOpIr};
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

use super::{Lowered, Lowering, resample};
use crate::graph::{Attribute, Dim, Kind, Node};

/// `Resize` by `scales`: `sizes` would have to name the batch size, and the `axes` attribute that avoids that is not
/// known to every runtime. A runtime computes the output size as `floor(input * scale)`, so the scale is
/// chosen among the neighbours of `output / input` to give exactly the captured size. Modes that runtimes lack or compute
/// in other ways are products with a matrix per axis.
pub(super) fn interpolate(lowering: &mut Lowering<'_>, op: &InterpolateOpIr) -> Lowered {
    let input = [op.x.shape[2], op.x.shape[3]];
    let align = op.options.align_corners;
    let (mode, coordinates, nearest) = match (&op.options.mode, align) {
        (InterpolateModeIr::Bilinear, false) => ("linear", "half_pixel", None),
        (InterpolateModeIr::Bilinear, true) => ("linear", "align_corners", None),
        (InterpolateModeIr::Nearest, _) => ("nearest", "asymmetric", Some("floor")),
        (InterpolateModeIr::NearestExact | InterpolateModeIr::Bicubic | InterpolateModeIr::Lanczos3, _) => {
            return by_matrices(lowering, op);
        }
    };
    let is_nearest = nearest.is_some();
    let scales = [0, 1].map(|axis| scale(input[axis], op.output_size[axis], is_nearest));
    let [Some(height), Some(width)] = scales else {
        return if is_nearest { gather(lowering, op) } else { by_matrices(lowering, op) };
    };
    let x = lowering.input(&op.x)?;
    let scales = lowering.graph.add_floats("", ndarray::arr1(&[1.0, 1.0, height, width]).into_dyn());
    // In files of any precision.
    lowering.graph.value_mut(scales).kind = Kind::Float32;
    let output = lowering.output(&op.out);
    let mut node = Node::new("Resize", [x], output)
        .with("coordinate_transformation_mode", Attribute::Text(coordinates))
        .with("mode", Attribute::Text(mode));
    node.inputs.extend([None, Some(scales)]);
    if let Some(nearest) = nearest {
        node.set("nearest_mode", Attribute::Text(nearest));
    }
    lowering.push(node);
    Ok(())
}

fn by_matrices(lowering: &mut Lowering<'_>, op: &InterpolateOpIr) -> Lowered {
    let mode = match op.options.mode {
        InterpolateModeIr::Nearest => InterpolateMode::Nearest,
        InterpolateModeIr::NearestExact => InterpolateMode::NearestExact,
        InterpolateModeIr::Bilinear => InterpolateMode::Bilinear,
        InterpolateModeIr::Bicubic => InterpolateMode::Bicubic,
        InterpolateModeIr::Lanczos3 => InterpolateMode::Lanczos3,
    };
    let options = InterpolateOptions::new(mode).with_align_corners(op.options.align_corners);
    let mut value = lowering.input(&op.x)?;
    for (axis, outputs) in [2, 3].into_iter().zip(op.output_size) {
        let inputs = op.x.shape[axis];
        let to_size = options.clone().with_output_size([outputs, 1]);
        let matrix =
            resample::matrix(inputs, outputs, |units| burn::tensor::module::interpolate(units, to_size.clone()))?;
        value = resample::along(lowering, value, axis, matrix);
    }
    lowering.alias(&op.out, value);
    Ok(())
}

/// The source of every output element of a nearest interpolation, as Burn computes it.
fn nearest_sources(input: usize, output: usize) -> impl Iterator<Item = usize> {
    (0..output).map(move |index| (index * input / output).min(input - 1))
}

/// An `f32` close to `output / input` by which runtimes arrive at the output size, and, for a nearest interpolation,
/// at the right sources, whether they divide by it or multiply by its reciprocal.
fn scale(input: usize, output: usize, nearest: bool) -> Option<f32> {
    let exact = output as f32 / input as f32;
    let candidates =
        [exact, exact.next_up(), exact.next_down(), exact.next_up().next_up(), exact.next_down().next_down()];
    // `onnx` itself computes sizes in `f64`.
    let sized = |scale: &f32| {
        (input as f32 * scale).floor() as usize == output
            && (input as f64 * f64::from(*scale)).floor() as usize == output
    };
    let sourced = |scale: &f32| {
        nearest_sources(input, output).enumerate().all(|(index, source)| {
            let position = index as f32;
            let clamp = |coordinate: f32| (coordinate.floor() as usize).min(input - 1);
            clamp(position / scale) == source && clamp(position * (1.0 / scale)) == source
        })
    };
    candidates.into_iter().find(|scale| sized(scale) && (!nearest || sourced(scale)))
}

/// Nearest interpolation as a choice of rows and columns: exact where no scale is.
fn gather(lowering: &mut Lowering<'_>, op: &InterpolateOpIr) -> Lowered {
    let x = lowering.input(&op.x)?;
    let sources = |axis: usize, size| nearest_sources(op.x.shape[axis], size).map(|index| index as i64).collect();
    let rows = lowering.graph.add_ints(sources(2, op.output_size[0]));
    let columns = lowering.graph.add_ints(sources(3, op.output_size[1]));
    let mut dims = lowering.graph.dims(x).to_vec();
    dims[2] = Dim::Fixed(op.output_size[0]);
    let picked = lowering.graph.add_value(dims);
    lowering.push(Node::new("Gather", [x, rows], picked).with("axis", Attribute::Int(2)));
    let output = lowering.output(&op.out);
    lowering.push(Node::new("Gather", [picked, columns], output).with("axis", Attribute::Int(3)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_gives_the_exact_size() {
        for input in 1..=256 {
            for output in 1..=256 {
                let scale = scale(input, output, false).expect("a neighbour of the ratio");
                assert_eq!((input as f32 * scale).floor() as usize, output, "{input} to {output}");
                assert_eq!((input as f64 * f64::from(scale)).floor() as usize, output, "{input} to {output}");
            }
        }
    }

    #[test]
    fn nearest_scales_are_found_for_common_sizes_and_refused_where_none_is_exact() {
        for (input, output) in [(28, 14), (28, 20), (28, 56), (7, 14), (13, 26), (1, 5)] {
            assert!(scale(input, output, true).is_some(), "{input} to {output}");
        }
        assert!(scale(2, 82, true).is_none());
    }
}
