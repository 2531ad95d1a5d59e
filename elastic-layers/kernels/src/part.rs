//! The part of a parameter that is in use.

use burn::backend::Dispatch;
use burn::tensor::{Shape, Slice, Tensor};

use crate::corner::Corner;
use crate::covers;
use crate::extension::Kernels;

/// The first entries of a tensor along every axis: what a view uses of a parameter.
///
/// The kernels read them where they are. The gradient is that of the whole tensor: zeros outside the part.
#[derive(Clone, Debug)]
pub struct Part<const D: usize> {
    whole: Tensor<D>,
    sizes: [usize; D],
}

impl<const D: usize> Part<D> {
    /// The first `sizes` entries.
    ///
    /// # Panics
    /// If a size is larger than the tensor's.
    pub fn new(whole: Tensor<D>, sizes: [usize; D]) -> Self {
        let dims = whole.dims();
        assert!((0..D).all(|axis| sizes[axis] <= dims[axis]), "Part: expected at most {dims:?}, got {sizes:?}");
        Self { whole, sizes }
    }

    /// The part's own shape.
    pub fn dims(&self) -> [usize; D] {
        self.sizes
    }

    /// The part as a tensor of its own; see [`Tensor::slice`].
    pub fn into_tensor(self) -> Tensor<D> {
        let Self { whole, sizes } = self;
        let dims = whole.dims();
        if dims == sizes {
            return whole;
        }
        if !covers(&whole) || Corner::new(&sizes, &dims).is_none() {
            return whole.slice(sizes.map(|size| Slice::from(0..size)));
        }
        Tensor::from_dispatch(Dispatch::kernels_crop(whole.into_dispatch(), Shape::from(sizes)))
    }

    /// The tensor that it is a part of.
    pub(crate) fn into_whole(self) -> Tensor<D> {
        self.whole
    }

    pub(crate) fn is_autodiff(&self) -> bool {
        self.whole.is_autodiff()
    }

    /// Whether the kernels take it.
    pub(crate) fn is_covered(&self) -> bool {
        covers(&self.whole) && Corner::new(&self.sizes, &self.whole.dims()).is_some()
    }
}

/// All of it.
impl<const D: usize> From<Tensor<D>> for Part<D> {
    fn from(whole: Tensor<D>) -> Self {
        let sizes = whole.dims();
        Self { whole, sizes }
    }
}
