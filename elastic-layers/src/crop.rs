//! The one way in which weights are cropped to an architecture, and put back.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Slice, Tensor};
use elastic_kernels::Part;

use crate::Axis;

/// The entries of a parameter that are in use: where they are the first ones, they are not copied.
///
/// The one place where weights are cropped: both a view's forward and a materialised model take theirs from here.
pub(crate) fn part<const D: usize>(param: &Param<Tensor<D>>, axes: [&Axis; D]) -> Part<D> {
    part_of(param.val(), axes)
}

/// As [`part`], as a tensor.
pub(crate) fn active<const D: usize>(param: &Param<Tensor<D>>, axes: [&Axis; D]) -> Tensor<D> {
    part(param, axes).into_tensor()
}

/// As [`active`], of a plain tensor.
pub(crate) fn crop<const D: usize>(tensor: Tensor<D>, axes: [&Axis; D]) -> Tensor<D> {
    part_of(tensor, axes).into_tensor()
}

fn part_of<const D: usize>(tensor: Tensor<D>, axes: [&Axis; D]) -> Part<D> {
    let mut first = tensor.dims();
    for (size, axis) in first.iter_mut().zip(axes).filter(|(_, axis)| axis.is_first()) {
        *size = axis.len();
    }
    let part = Part::new(tensor, first);
    let mut others = axes.into_iter().enumerate().filter(|(_, axis)| !axis.is_first()).peekable();
    if others.peek().is_none() {
        return part;
    }
    others.fold(part.into_tensor(), |tensor, (dim, axis)| crop_axis(tensor, dim, axis)).into()
}

/// As [`crop`], of one axis.
pub(crate) fn crop_axis<const D: usize>(tensor: Tensor<D>, dim: usize, axis: &Axis) -> Tensor<D> {
    match &*axis.ranges().collect::<Vec<_>>() {
        [first] if first.len() == tensor.dims()[dim] => tensor,
        [first] => tensor.slice_dim(dim, first.clone()),
        ranges => gather(tensor, dim, ranges),
    }
}

/// The given ranges of one axis, joined.
fn gather<const D: usize>(tensor: Tensor<D>, dim: usize, ranges: &[Range<usize>]) -> Tensor<D> {
    let mut dims = tensor.dims();
    let [first, second, ..] = ranges else { return tensor };
    let (each, size) = (first.len(), second.start);
    let is_regular = ranges.iter().enumerate().all(|(group, range)| *range == (group * size..group * size + each));
    if !is_regular || ranges.len() * size > dims[dim] {
        return Tensor::cat(ranges.iter().map(|range| tensor.clone().slice_dim(dim, range.clone())).collect(), dim);
    }
    // Groups of equal size are one slice of a tensor with an axis of groups.
    let [before, behind] = [dims[..dim].iter().product(), dims[dim + 1..].iter().product()];
    let groups = tensor.slice_dim(dim, 0..ranges.len() * size).reshape([before, ranges.len(), size, behind]);
    dims[dim] = ranges.len() * each;
    groups.slice_dim(2, 0..each).reshape(dims)
}

/// A tensor with the entries in use replaced: the inverse of [`crop`].
pub(crate) fn place<const D: usize>(into: Tensor<D>, small: Tensor<D>, axes: [&Axis; D]) -> Tensor<D> {
    // Pairs of the places in the large and in the small tensor.
    let mut places = vec![([(); D].map(|()| 0..0), [(); D].map(|()| 0..0))];
    for (dim, axis) in axes.into_iter().enumerate() {
        let mut next = Vec::new();
        for (large, small) in &places {
            let mut start = 0;
            for range in axis.ranges() {
                let (mut large, mut small) = (large.clone(), small.clone());
                small[dim] = start..start + range.len();
                start += range.len();
                large[dim] = range;
                next.push((large, small));
            }
        }
        places = next;
    }
    places.into_iter().fold(into, |tensor, (large, from)| {
        tensor.slice_assign(large.map(Slice::from), small.clone().slice(from.map(Slice::from)))
    })
}

/// A parameter of its own with the entries of another that are in use, copied.
pub(crate) fn materialize<const D: usize>(param: &Param<Tensor<D>>, axes: [&Axis; D]) -> Param<Tensor<D>> {
    Param::from_tensor(detached(active(param, axes))).set_require_grad(is_trainable(param))
}

/// Whether a parameter is trained, or would be: behind `valid` only `train` tells.
fn is_trainable<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    let value = param.val();
    if value.is_autodiff() { value.is_require_grad() } else { param.clone().train().val().is_require_grad() }
}

/// A parameter itself, if all of it is in use; otherwise a copy of that.
pub(crate) fn in_use<const D: usize>(param: Param<Tensor<D>>, axes: [&Axis; D]) -> Param<Tensor<D>> {
    let is_whole = param.lazy_shape()[..] == axes.map(Axis::len);
    if is_whole { param } else { materialize(&param, axes) }
}

/// A copy that shares no storage and no graph with the original.
pub(crate) fn detached<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let device = tensor.device();
    Tensor::from_data(tensor.into_data(), &device)
}
