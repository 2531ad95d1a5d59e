//! The trait of everything that can be seen at an architecture, and the one way in which weights are cropped.

use std::collections::HashMap;

use burn::module::{Module, ModuleDisplay, Param, ParamId};
use burn::nn;
use burn::tensor::{Slice, Tensor};

use crate::{Architecture, Size};

/// Where a batch norm takes its statistics from.
///
/// Running statistics gathered at one width mean nothing at another, so a view normalises with the statistics of the
/// batch at hand, in training and in evaluation; [`recalibrate`](crate::recalibrate) gives a network that is kept
/// running statistics of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// As Burn's own batch norm: the batch's in training, which updates the running ones; the running ones otherwise.
    Running,
    /// The batch's, always; the running ones are neither read nor changed.
    Batch,
    /// The batch's, always, averaged into the running ones after `seen` batches of equal weight.
    Calibrate {
        /// Batches averaged so far.
        seen: usize,
    },
}

/// A change that runs through a model, layer by layer.
#[derive(Clone, Copy, Debug)]
pub enum Adaptation<'a> {
    /// See [`Elastic::select`].
    Select(&'a Architecture),
    /// See [`Elastic::materialize_at`].
    Materialize(&'a Architecture),
    /// See [`Elastic::with_statistics`].
    Statistics(Statistics),
}

/// A module that can be seen at any architecture of a search space.
///
/// Derive it beside [`Module`]: every field must be `Elastic`, or be marked `#[elastic(skip)]`, and is then kept as it
/// is. Layers without parameters of Burn's own are.
///
/// ```compile_fail
/// #[derive(burn::module::Module, elastic_layers::Elastic, Debug)]
/// struct Net {
///     fixed: burn::nn::BatchNorm, // not elastic, and not skipped
/// }
/// ```
pub trait Elastic: Module + ModuleDisplay {
    /// The module after a change; what [`select`](Self::select) and its siblings call on every field.
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self;

    /// Tells the visitor the sizes of the axes of every parameter that is elastic.
    fn visit_axes(&self, visitor: &mut AxesVisitor);

    /// The view at an architecture: the same parameters (and parameter ids), smaller active sizes, batch statistics
    /// in every batch norm. Nothing is copied and `self` is not changed; gradients of the view come back at the
    /// parameters' full size, with zeros outside the view.
    ///
    /// # Panics
    /// If the architecture is of another search space.
    #[must_use]
    fn select(&self, architecture: &Architecture) -> Self {
        self.adapt(&Adaptation::Select(architecture))
    }

    /// The static model of an architecture: its own parameters, copied from the first channels of these, fixed sizes,
    /// and nothing of the supernet left. Batch norms use running statistics again, which have to be
    /// [recalibrated](crate::recalibrate).
    ///
    /// It is not called `materialize` because [`Module::materialize`] is another operation, which folds
    /// reparameterizations.
    ///
    /// # Panics
    /// If the architecture is of another search space.
    #[must_use]
    fn materialize_at(&self, architecture: &Architecture) -> Self {
        self.adapt(&Adaptation::Materialize(architecture))
    }

    /// The same module with every batch norm's statistics taken from elsewhere.
    #[must_use]
    fn with_statistics(&self, statistics: Statistics) -> Self {
        self.adapt(&Adaptation::Statistics(statistics))
    }
}

/// Gathers the sizes of the axes of a model's elastic parameters.
#[derive(Clone, Debug, Default)]
pub struct AxesVisitor {
    axes: HashMap<ParamId, Vec<Size>>,
}

impl AxesVisitor {
    /// The axes of all elastic parameters of a module.
    pub fn of<E: Elastic>(module: &E) -> Self {
        let mut visitor = Self::default();
        module.visit_axes(&mut visitor);
        visitor
    }

    /// Records one parameter's axes, in the order of its shape.
    pub fn visit<const D: usize>(&mut self, param: &Param<Tensor<D>>, axes: [Size; D]) {
        self.axes.insert(param.id, axes.into());
    }

    /// The axes of a parameter, if it is elastic.
    pub fn get(&self, id: ParamId) -> Option<&[Size]> {
        self.axes.get(&id).map(Vec::as_slice)
    }
}

/// The first entries of a parameter along every axis.
///
/// The one place where weights are cropped: both a view's forward and a materialised model take theirs from here.
pub(crate) fn active<const D: usize>(param: &Param<Tensor<D>>, sizes: [usize; D]) -> Tensor<D> {
    crop(param.val(), sizes)
}

/// As [`active`], of a plain tensor.
pub(crate) fn crop<const D: usize>(tensor: Tensor<D>, sizes: [usize; D]) -> Tensor<D> {
    if tensor.dims() == sizes { tensor } else { tensor.slice(sizes.map(|size| Slice::from(0..size))) }
}

/// A parameter of its own with the first entries of another along every axis, copied.
pub(crate) fn materialize<const D: usize>(param: &Param<Tensor<D>>, sizes: [usize; D]) -> Param<Tensor<D>> {
    let cropped = Param::from_tensor(detached(active(param, sizes)));
    let is_active = param.val().is_require_grad() || !param.val().is_autodiff();
    cropped.set_require_grad(is_active)
}

/// A copy that shares no storage and no graph with the original.
pub(crate) fn detached<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let device = tensor.device();
    Tensor::from_data(tensor.into_data(), &device)
}

impl<E: Elastic> Elastic for Option<E> {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        self.as_ref().map(|inner| inner.adapt(adaptation))
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        self.iter().for_each(|inner| inner.visit_axes(visitor));
    }
}

impl<E: Elastic> Elastic for Vec<E> {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        self.iter().map(|inner| inner.adapt(adaptation)).collect()
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        self.iter().for_each(|inner| inner.visit_axes(visitor));
    }
}

impl<E: Elastic, const N: usize> Elastic for [E; N] {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        std::array::from_fn(|index| self[index].adapt(adaptation))
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        self.iter().for_each(|inner| inner.visit_axes(visitor));
    }
}

macro_rules! without_parameters {
    ($($layer:ty),* $(,)?) => {$(
        impl Elastic for $layer {
            fn adapt(&self, _adaptation: &Adaptation<'_>) -> Self {
                self.clone()
            }

            fn visit_axes(&self, _visitor: &mut AxesVisitor) {}
        }
    )*};
}

without_parameters!(
    bool,
    usize,
    f64,
    nn::Dropout,
    nn::Gelu,
    nn::HardSigmoid,
    nn::LeakyRelu,
    nn::Relu,
    nn::Sigmoid,
    nn::Tanh,
    nn::pool::AdaptiveAvgPool1d,
    nn::pool::AdaptiveAvgPool2d,
    nn::pool::AvgPool1d,
    nn::pool::AvgPool2d,
    nn::pool::MaxPool1d,
    nn::pool::MaxPool2d,
);
