//! What convolutions of all kinds share: their channels, and how they are adapted.

use std::fmt;

use burn::module::Param;
use burn::tensor::Tensor;
use elastic_kernels::Part;

use crate::crop::{active, in_use, part};
use crate::{Adaptation, Axis, Change, Size};

/// The numbers of input and output channels of a convolution, and of the groups that connect them.
#[derive(Clone, Debug)]
pub(super) struct Channels {
    inputs: Axis,
    outputs: Axis,
    groups: Groups,
    transposed: bool,
}

/// The groups that connect channels. Most convolutions have none of their own, which `select` need not look at.
#[derive(Clone, Debug)]
enum Groups {
    /// One: every output channel sees every input channel.
    One,
    /// As many as there are input and output channels.
    Depthwise,
    Some {
        groups: Box<Axis>,
        /// Of a convolution, the input channels of a group; of a transposed one, the output channels.
        in_group: Box<Axis>,
    },
}

impl Channels {
    /// The channels of a convolution, whose weight is `[outputs, inputs / groups, ...]`.
    ///
    /// # Panics
    /// If the channels are not written as groups.
    pub(super) fn new(layer: &str, channels: &[Size; 2], groups: &Size) -> Self {
        let [in_group, _] = in_groups(layer, channels, groups);
        Self::with_groups(channels, groups, in_group, false)
    }

    /// The channels of a transposed convolution, whose weight is `[inputs, outputs / groups, ...]`.
    ///
    /// # Panics
    /// If the channels are not written as groups.
    pub(super) fn transposed(layer: &str, channels: &[Size; 2], groups: &Size) -> Self {
        let [_, out_group] = in_groups(layer, channels, groups);
        Self::with_groups(channels, groups, out_group, true)
    }

    fn with_groups(channels: &[Size; 2], groups: &Size, in_group: Size, transposed: bool) -> Self {
        let groups = match groups {
            Size::Fixed(1) => Groups::One,
            groups if channels.iter().all(|channels| channels == groups) => Groups::Depthwise,
            groups => Groups::Some { groups: Box::new(groups.clone().into()), in_group: Box::new(in_group.into()) },
        };
        let [inputs, outputs] = channels.clone().map(Axis::from);
        Self { inputs, outputs, groups, transposed }
    }

    /// These channels behind a change, still on the supernet's axes.
    pub(super) fn at(&self, adaptation: &Adaptation<'_>) -> Self {
        let groups = match &self.groups {
            Groups::Some { groups, in_group } => {
                let [groups, in_group] = [groups, in_group].map(|axis| Box::new(adaptation.axis(axis)));
                Groups::Some { groups, in_group }
            }
            other => other.clone(),
        };
        Self {
            inputs: adaptation.axis(&self.inputs),
            outputs: adaptation.axis(&self.outputs),
            groups,
            transposed: self.transposed,
        }
    }

    /// As the changed layer keeps them.
    pub(super) fn kept(self, adaptation: &Adaptation<'_>) -> Self {
        if !matches!(adaptation.change(), Change::Materialize(_)) {
            // `select` has no time to spare for moving axes.
            return self;
        }
        let groups = match self.groups {
            Groups::Some { groups, in_group } => {
                let [groups, in_group] = [groups, in_group].map(|axis| Box::new(adaptation.kept(*axis)));
                Groups::Some { groups, in_group }
            }
            other => other,
        };
        let [inputs, outputs] = [self.inputs, self.outputs].map(|axis| adaptation.kept(axis));
        Self { inputs, outputs, groups, transposed: self.transposed }
    }

    /// The numbers of input and output channels in use.
    pub(super) fn in_use(&self) -> [usize; 2] {
        [self.inputs.len(), self.outputs.len()]
    }

    /// The number of groups in use.
    pub(super) fn groups(&self) -> usize {
        match &self.groups {
            Groups::One => 1,
            Groups::Depthwise => self.inputs.len(),
            Groups::Some { groups, .. } => groups.len(),
        }
    }

    /// Checks an input's number of channels.
    ///
    /// # Panics
    /// If it is another than that in use.
    pub(super) fn check_input(&self, got: usize, layer: impl Fn() -> String) {
        let expected = self.inputs.len();
        assert!(got == expected, "{}: expected {expected} input channels, got {got}", layer());
    }

    /// Checks the weight and the number of groups of a layer that is to be the supernet's.
    ///
    /// # Panics
    /// If it has other channels or groups.
    pub(super) fn check_layer<const D: usize>(&self, layer: &str, weight: &Param<Tensor<D>>, groups: usize) {
        let (expected, got) = (self.weight().map(Axis::len), weight.lazy_shape().dims::<D>());
        assert!(
            got[..2] == expected,
            "{layer} [{self}]: expected a weight of shape {expected:?} x kernel, got {got:?}"
        );
        let expected = self.groups();
        assert!(groups == expected, "{layer} [{self}]: expected {expected} groups, got {groups}");
    }

    /// The first two axes of the weight.
    fn weight(&self) -> [&Axis; 2] {
        let (first, other) =
            if self.transposed { (&self.inputs, &self.outputs) } else { (&self.outputs, &self.inputs) };
        let in_group = match &self.groups {
            Groups::One => other,
            Groups::Depthwise => Axis::one(),
            Groups::Some { in_group, .. } => in_group,
        };
        [first, in_group]
    }

    /// All axes of a weight. Those of the kernel are never elastic.
    pub(super) fn weight_axes<const D: usize>(&self, weight: &Param<Tensor<D>>) -> [Axis; D] {
        let (shape, first) = (weight.lazy_shape(), self.weight());
        std::array::from_fn(|axis| first.get(axis).map_or_else(|| shape[axis].into(), |axis| (*axis).clone()))
    }

    /// A weight behind a change that these channels are behind.
    pub(super) fn adapted<const D: usize>(
        &self,
        adaptation: &Adaptation<'_>,
        weight: &Param<Tensor<D>>,
    ) -> Param<Tensor<D>> {
        match adaptation.change() {
            Change::Materialize(_) => adaptation.param(weight, self.weight_axes(weight).each_ref()),
            // `select` has no time to spare for axes that are not used.
            _ => weight.clone(),
        }
    }

    /// The axis of a bias.
    pub(super) fn bias_axis(&self) -> [&Axis; 1] {
        [&self.outputs]
    }

    /// The weight and bias in use.
    pub(super) fn active<const D: usize>(
        &self,
        weight: &Param<Tensor<D>>,
        bias: Option<&Param<Tensor<1>>>,
    ) -> (Part<D>, Option<Tensor<1>>) {
        let axes = self.weight_axes(weight);
        (part(weight, axes.each_ref()), bias.map(|bias| active(bias, self.bias_axis())))
    }

    /// The weight and bias in use, as parameters of Burn's own layer.
    pub(super) fn params_in_use<const D: usize>(
        &self,
        weight: Param<Tensor<D>>,
        bias: Option<Param<Tensor<1>>>,
    ) -> (Param<Tensor<D>>, Option<Param<Tensor<1>>>) {
        let axes = self.weight_axes(&weight);
        (in_use(weight, axes.each_ref()), bias.map(|bias| in_use(bias, self.bias_axis())))
    }
}

/// What is padded before and behind an axis so that a stride of 1 keeps its length. As Burn's layers, whose own function
/// is private: dilation is not counted, an odd number goes behind.
pub(super) fn same_padding(length: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let reach = (length.div_ceil(stride).max(1) - 1) * stride;
    let total = (reach + kernel).saturating_sub(length);
    (total / 2, total.div_ceil(2))
}

fn in_groups(layer: &str, channels: &[Size; 2], groups: &Size) -> [Size; 2] {
    channels.each_ref().map(|channels| {
        channels.in_groups(groups).unwrap_or_else(|| {
            panic!(
                "{layer}: expected the channels of {groups} groups, as a product {groups} * channels, got {channels}"
            )
        })
    })
}

/// As `stem<=8 -> stage1<=16`.
impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.inputs.size(), self.outputs.size())
    }
}

/// Implements `Elastic` for a convolution with the fields `weight`, `bias`, `channels` and `label`, and those named.
macro_rules! elastic_convolution {
    ($layer:ident { $($option:ident),* $(,)? }) => {
        impl $layer {
            /// The numbers of input and output channels of this view.
            pub fn active_channels(&self) -> [usize; 2] {
                self.channels.in_use()
            }
        }

        impl crate::Elastic for $layer {
            fn adapt(&self, adaptation: &crate::Adaptation<'_>) -> Self {
                let channels = self.channels.at(adaptation);
                Self {
                    weight: channels.adapted(adaptation, &self.weight),
                    bias: self.bias.as_ref().map(|bias| adaptation.param(bias, channels.bias_axis())),
                    channels: channels.kept(adaptation),
                    label: self.label.at(adaptation),
                    $($option: self.$option.clone(),)*
                }
            }

            fn visit_axes(&self, visitor: &mut crate::AxesVisitor) {
                visitor.visit(&self.weight, self.channels.weight_axes(&self.weight).each_ref());
                if let Some(bias) = &self.bias {
                    visitor.visit(bias, self.channels.bias_axis());
                }
            }
        }
    };
}

pub(super) use elastic_convolution;
