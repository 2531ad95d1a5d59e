//! The backbones that a configuration can have, and one type for all of them.

mod settings;

use std::fmt;

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor};
use elastic_layers::backbones::{MobileNetV1, MobileNetV2, ResNet};
use elastic_layers::{Backbone, Elastic, SearchSpace, SpaceError};
use serde::{Deserialize, Serialize};

pub(crate) use settings::comment;
pub use settings::{BackboneSettings, ScaleSettings, StageSettings};

/// A backbone by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum BackboneName {
    /// MobileNetV1 as published.
    MobilenetV1,
    /// MobileNetV1 at a quarter of its width, with the strides for images of about 28 pixels.
    MobilenetV1Small,
    /// MobileNetV2 as published.
    MobilenetV2,
    /// A MobileNetV2 with fewer blocks and channels, and the strides for images of about 28 pixels.
    #[default]
    MobilenetV2Small,
    /// ResNet-20, for images of about 32 pixels.
    #[serde(rename = "resnet-20")]
    #[cfg_attr(feature = "cli", value(name = "resnet-20"))]
    Resnet20,
    /// ResNet-56, for images of about 32 pixels.
    #[serde(rename = "resnet-56")]
    #[cfg_attr(feature = "cli", value(name = "resnet-56"))]
    Resnet56,
    /// ResNet-50 as in torchvision.
    #[serde(rename = "resnet-50")]
    #[cfg_attr(feature = "cli", value(name = "resnet-50"))]
    Resnet50,
}

impl BackboneName {
    /// The channels of the images that the backbone is usually trained on.
    pub fn image_channels(self) -> usize {
        match self {
            Self::MobilenetV1Small | Self::MobilenetV2Small => 1,
            _ => 3,
        }
    }

    /// Adds the backbone's dimensions to a space and builds it, for images of `[channels, height, width]`.
    ///
    /// # Errors
    /// If the images are not square, or a number is 0, or the space has dimensions of these names.
    pub fn init(
        self,
        image: [usize; 3],
        classes: usize,
        space: &mut SearchSpace,
        device: &Device,
    ) -> Result<AnyBackbone, SpaceError> {
        BackboneSettings::from(self).init(image, classes, space, device)
    }
}

/// The name as a configuration has it.
impl fmt::Display for BackboneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A backbone of any kind; made by [`BackboneSettings::init`].
///
/// As a module it is the backbone itself. Burn's derive would put the variant's name before the path of every
/// parameter, and thus into the names in weight files and ONNX files.
#[derive(Clone, Debug, Elastic)]
#[expect(clippy::large_enum_variant, reason = "there are only a few networks at a time")]
pub enum AnyBackbone {
    /// A MobileNetV1.
    MobileNetV1(MobileNetV1),
    /// A MobileNetV2.
    MobileNetV2(MobileNetV2),
    /// A ResNet.
    ResNet(ResNet),
}

/// An expression of the backbone in an [`AnyBackbone`].
macro_rules! inner {
    ($any:expr, $backbone:ident => $expression:expr) => {
        match $any {
            AnyBackbone::MobileNetV1($backbone) => $expression,
            AnyBackbone::MobileNetV2($backbone) => $expression,
            AnyBackbone::ResNet($backbone) => $expression,
        }
    };
}

/// As [`inner`], made an [`AnyBackbone`] of the same variant again.
macro_rules! map_inner {
    ($any:expr, $backbone:ident => $expression:expr) => {
        match $any {
            AnyBackbone::MobileNetV1($backbone) => AnyBackbone::MobileNetV1($expression),
            AnyBackbone::MobileNetV2($backbone) => AnyBackbone::MobileNetV2($expression),
            AnyBackbone::ResNet($backbone) => AnyBackbone::ResNet($expression),
        }
    };
}

impl Backbone for AnyBackbone {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        inner!(self, backbone => backbone.forward(images))
    }
}

impl Module for AnyBackbone {
    fn collect_devices(&self, devices: Devices) -> Devices {
        inner!(self, backbone => backbone.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        map_inner!(self, backbone => backbone.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        map_inner!(self, backbone => backbone.to_device(device))
    }

    fn train(self) -> Self {
        map_inner!(self, backbone => backbone.train())
    }

    fn valid(&self) -> Self {
        map_inner!(self, backbone => backbone.valid())
    }

    fn materialize(self) -> Self {
        map_inner!(self, backbone => backbone.materialize())
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        inner!(self, backbone => backbone.visit(visitor));
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        map_inner!(self, backbone => backbone.map(mapper))
    }
}

impl ModuleDisplayDefault for AnyBackbone {
    fn content(&self, content: Content) -> Option<Content> {
        inner!(self, backbone => backbone.content(content))
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for AnyBackbone {}

impl fmt::Display for AnyBackbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        inner!(self, backbone => backbone.fmt(f))
    }
}
