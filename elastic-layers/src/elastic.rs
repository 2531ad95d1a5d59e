//! The trait of everything that can be seen at an architecture.

use std::collections::HashMap;

use burn::module::{Module, ModuleDisplay, Param, ParamId};
use burn::nn;
use burn::tensor::Tensor;

use crate::crop::materialize;
use crate::{Architecture, Axis, Size};

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
pub enum Change<'a> {
    /// See [`Elastic::select`].
    Select(&'a Architecture),
    /// See [`Elastic::materialize_at`].
    Materialize(&'a Architecture),
    /// See [`Elastic::with_statistics`].
    Statistics(Statistics),
    /// See [`Elastic::named`].
    Name,
}

/// A [`Change`] at one place of a model: what [`Elastic::adapt`] gets.
///
/// A layer of one's own passes its axes and parameters through [`axis`](Self::axis), [`param`](Self::param) and
/// [`kept`](Self::kept), in this order, and need not know which change it is.
#[derive(Clone, Copy, Debug)]
pub struct Adaptation<'a> {
    change: Change<'a>,
    place: Option<(&'a Adaptation<'a>, Name)>,
}

/// A step of a module path.
#[derive(Clone, Copy, Debug)]
enum Name {
    Field(&'static str),
    Index(usize),
}

impl<'a> Adaptation<'a> {
    fn new(change: Change<'a>) -> Self {
        Self { change, place: None }
    }

    /// The change.
    pub fn change(&self) -> Change<'a> {
        self.change
    }

    /// The same change, at a field of the module here.
    #[must_use]
    pub fn field(&self, name: &'static str) -> Adaptation<'_> {
        Adaptation { change: self.change, place: Some((self, Name::Field(name))) }
    }

    /// The same change, at an element of the list of modules here.
    #[must_use]
    pub fn index(&self, index: usize) -> Adaptation<'_> {
        Adaptation { change: self.change, place: Some((self, Name::Index(index))) }
    }

    /// The module path of this place, such as `blocks.0.conv`; empty where the change began.
    pub fn path(&self) -> String {
        let Some((parent, name)) = self.place else { return String::new() };
        let mut path = parent.path();
        if !path.is_empty() {
            path.push('.');
        }
        match name {
            Name::Field(name) => path.push_str(name),
            Name::Index(index) => path.push_str(&index.to_string()),
        }
        path
    }

    /// An axis at the architecture of the change; as it is, if the change has none.
    #[must_use]
    pub fn axis(&self, axis: &Axis) -> Axis {
        match self.change {
            Change::Select(architecture) | Change::Materialize(architecture) => axis.at(architecture),
            Change::Statistics(_) | Change::Name => axis.clone(),
        }
    }

    /// A parameter behind the change, its axes being those that [`axis`](Self::axis) gave: cropped, if the change
    /// materialises.
    #[must_use]
    pub fn param<const D: usize>(&self, param: &Param<Tensor<D>>, axes: [&Axis; D]) -> Param<Tensor<D>> {
        match self.change {
            Change::Materialize(_) => materialize(param, axes),
            _ => param.clone(),
        }
    }

    /// An axis as the changed layer keeps it: of fixed size, if the change materialises.
    #[must_use]
    pub fn kept(&self, axis: Axis) -> Axis {
        match self.change {
            Change::Materialize(_) => axis.len().into(),
            _ => axis,
        }
    }
}

/// A module that can be seen at any architecture of a search space.
///
/// Derive it beside [`Module`]: every field must be `Elastic`, or be marked `#[elastic(skip)]`, and is then kept as it
/// is. Layers without parameters of Burn's own are `Elastic`, and its `Activation`.
///
/// ```compile_fail
/// #[derive(burn::module::Module, elastic_layers::Elastic, Debug)]
/// struct Net {
///     fixed: burn::nn::BatchNorm, // not elastic, and not skipped
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not `Elastic`",
    label = "this field is not `Elastic`",
    note = "use the elastic layer of this kind, such as `ElasticConv2d` for `Conv2d`, or derive `Elastic` for a module of your \
            own; or mark the field `#[elastic(skip)]`: it is then kept as it is at every architecture"
)]
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
        self.adapt(&Adaptation::new(Change::Select(architecture)))
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
        let model = self.adapt(&Adaptation::new(Change::Materialize(architecture)));
        // What is skipped is a clone, which shares its running statistics: they are changed in place, and a training of one
        // model would change the other's. Behind these two a model has its own.
        match model.devices().first() {
            Some(device) if device.is_autodiff() => model.valid().train(),
            _ => model,
        }
    }

    /// The same module with every batch norm's statistics taken from elsewhere.
    #[must_use]
    fn with_statistics(&self, statistics: Statistics) -> Self {
        self.adapt(&Adaptation::new(Change::Statistics(statistics)))
    }

    /// The same module, whose layers know their module paths, which their messages name.
    ///
    /// Any other change names the layers too; after this one it need not, which makes [`select`](Self::select) faster.
    #[must_use]
    fn named(&self) -> Self {
        self.adapt(&Adaptation::new(Change::Name))
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
    pub fn visit<const D: usize>(&mut self, param: &Param<Tensor<D>>, axes: [&Axis; D]) {
        self.axes.insert(param.id, axes.map(|axis| axis.size().clone()).into());
    }

    /// The axes of a parameter, if it is elastic.
    pub fn get(&self, id: ParamId) -> Option<&[Size]> {
        self.axes.get(&id).map(Vec::as_slice)
    }
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
        self.iter().enumerate().map(|(index, inner)| inner.adapt(&adaptation.index(index))).collect()
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        self.iter().for_each(|inner| inner.visit_axes(visitor));
    }
}

impl<E: Elastic, const N: usize> Elastic for [E; N] {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        std::array::from_fn(|index| self[index].adapt(&adaptation.index(index)))
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
    nn::GaussianNoise,
    nn::Identity,
    nn::PixelShuffle,
    nn::PixelUnshuffle,
    nn::activation::Activation,
    nn::activation::Celu,
    nn::activation::HardShrink,
    nn::activation::Hardtanh,
    nn::activation::LogSigmoid,
    nn::activation::Selu,
    nn::activation::Shrink,
    nn::activation::SoftShrink,
    nn::activation::Softsign,
    nn::activation::Tanhshrink,
    nn::activation::ThresholdedRelu,
    nn::Elu,
    nn::activation::GLU,
    nn::interpolate::Interpolate1d,
    nn::interpolate::Interpolate2d,
    nn::Gelu,
    nn::HardSigmoid,
    nn::activation::HardSwish,
    nn::LeakyRelu,
    nn::activation::Mish,
    nn::Relu,
    nn::activation::Relu6,
    nn::activation::SiLU,
    nn::Sigmoid,
    nn::Softplus,
    nn::Tanh,
    nn::pool::AdaptiveAvgPool1d,
    nn::pool::AdaptiveAvgPool2d,
    nn::pool::AvgPool1d,
    nn::pool::AvgPool2d,
    nn::pool::MaxPool1d,
    nn::pool::MaxPool2d,
);
