//! Elastic group normalisation.

use burn::module::{Module, Param};
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{Device, Tensor};

use super::label::Label;
use crate::crop::{active, in_use};
use crate::{Adaptation, AxesVisitor, Axis, Elastic, Size};

/// Configuration of an [`ElasticGroupNorm`]; mirrors [`GroupNormConfig`].
#[derive(Clone, Debug)]
pub struct ElasticGroupNormConfig {
    groups: Size,
    channels: Size,
    epsilon: f64,
    affine: bool,
}

impl ElasticGroupNormConfig {
    /// A group norm of so many groups of so many channels in all, with Burn's epsilon, scale and shift.
    ///
    /// The groups have to divide the channels at every architecture. Channels written as `groups * each` always fit, and
    /// so do channels in steps of a fixed number of groups.
    pub fn new(groups: impl Into<Size>, channels: impl Into<Size>) -> Self {
        let burn = GroupNormConfig::new(1, 1);
        Self { groups: groups.into(), channels: channels.into(), epsilon: burn.epsilon, affine: burn.affine }
    }

    /// Sets the value that is added to the variance.
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Sets whether there are a scale and a shift.
    pub fn with_affine(mut self, affine: bool) -> Self {
        self.affine = affine;
        self
    }

    /// The layer at its maximum sizes.
    ///
    /// # Panics
    /// If the groups do not divide the channels.
    pub fn init(&self, device: &Device) -> ElasticGroupNorm {
        let config = GroupNormConfig::new(self.groups.max(), self.channels.max());
        self.take_over(config.with_epsilon(self.epsilon).with_affine(self.affine).init(device))
    }

    /// The layer with the parameters and options of one of Burn's, which is the layer at its maximum sizes.
    ///
    /// # Panics
    /// If that has other sizes.
    pub fn take_over(&self, norm: GroupNorm) -> ElasticGroupNorm {
        let [groups, channels] = [&self.groups, &self.channels].map(|size| Axis::from(size.clone()));
        let (expected, got) = ([groups.len(), channels.len()], [norm.num_groups, norm.num_channels]);
        assert!(
            got == expected,
            "ElasticGroupNorm [{} of {}]: expected groups and channels {expected:?}, got {got:?}",
            self.groups,
            self.channels,
        );
        ElasticGroupNorm { groups, channels, ..norm.into() }
    }
}

/// A group norm whose numbers of groups and channels are elastic.
///
/// Made by [`ElasticGroupNormConfig`]. At full size it is [`burn::nn::GroupNorm`] with the same parameters; a view
/// normalises over its own channels.
#[derive(Module, Debug)]
pub struct ElasticGroupNorm {
    /// Scale, `[channels]`.
    pub gamma: Option<Param<Tensor<1>>>,
    /// Shift, `[channels]`.
    pub beta: Option<Param<Tensor<1>>>,
    epsilon: f64,
    #[module(skip)]
    groups: Axis,
    #[module(skip)]
    channels: Axis,
    #[module(skip)]
    label: Label,
}

impl ElasticGroupNorm {
    /// Applies the normalisation.
    ///
    /// # Shapes
    /// - `input`: `[batch, channels, ...]`
    /// - output: `[batch, channels, ...]`
    ///
    /// # Panics
    /// If the input has another number of channels than the layer at its architecture, or the groups do not divide it.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let (num_groups, num_channels, got) = (self.groups.len(), self.channels.len(), input.dims()[1]);
        assert!(
            got == num_channels && num_channels.is_multiple_of(num_groups),
            "ElasticGroupNorm {}[{} of {}]: expected {num_channels} channels in {num_groups} groups, got {got}",
            self.label,
            self.groups.size(),
            self.channels.size(),
        );
        // Burn's own function is private; its layer without scale and shift is the normalisation.
        let plain =
            GroupNorm { gamma: None, beta: None, num_groups, num_channels, epsilon: self.epsilon, affine: false };
        let mut shape = [1; D];
        shape[1] = num_channels;
        let factor = |param: &Param<Tensor<1>>| active(param, [&self.channels]).reshape(shape);
        let mut output = plain.forward(input);
        if let Some(gamma) = &self.gamma {
            output = output * factor(gamma);
        }
        if let Some(beta) = &self.beta {
            output = output + factor(beta);
        }
        output
    }
}

/// With the same parameters, and fixed sizes.
impl From<GroupNorm> for ElasticGroupNorm {
    fn from(norm: GroupNorm) -> Self {
        let GroupNorm { gamma, beta, num_groups, num_channels, epsilon, .. } = norm;
        let [groups, channels] = [num_groups, num_channels].map(Axis::from);
        Self { gamma, beta, epsilon, groups, channels, label: Label::default() }
    }
}

/// Burn's own layer with the parameters in use: of a view, a copy of its part.
impl From<ElasticGroupNorm> for GroupNorm {
    fn from(norm: ElasticGroupNorm) -> Self {
        let ElasticGroupNorm { gamma, beta, epsilon, groups, channels, .. } = norm;
        let [gamma, beta] = [gamma, beta].map(|param| param.map(|param| in_use(param, [&channels])));
        let affine = gamma.is_some() && beta.is_some();
        Self { gamma, beta, num_groups: groups.len(), num_channels: channels.len(), epsilon, affine }
    }
}

impl Elastic for ElasticGroupNorm {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        let [groups, channels] = [&self.groups, &self.channels].map(|axis| adaptation.axis(axis));
        let [gamma, beta] =
            [&self.gamma, &self.beta].map(|param| param.as_ref().map(|param| adaptation.param(param, [&channels])));
        Self {
            gamma,
            beta,
            epsilon: self.epsilon,
            groups: adaptation.kept(groups),
            channels: adaptation.kept(channels),
            label: self.label.at(adaptation),
        }
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        for param in [&self.gamma, &self.beta].into_iter().flatten() {
            visitor.visit(param, [&self.channels]);
        }
    }
}
