//! The backbone of a configuration: a named one, of which parts can be changed.

use std::fmt;

use burn::tensor::Device;
use elastic_layers::backbones::{
    MobileNetV1Config, MobileNetV2Config, ResNetBlock, ResNetConfig, ResNetStage, ResNetStem, Scales, SeparableBlock,
    Stage,
};
use elastic_layers::{SearchSpace, SpaceError};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AnyBackbone, BackboneName};
use crate::settings::{SettingsError, check};

/// A named backbone, and what is changed about it. A configuration has the name alone, or a table with `name`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct BackboneSettings {
    /// The backbone that is changed.
    pub name: BackboneName,
    /// Factor on all numbers of channels, after the other changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<f64>,
    /// Smallest resolution, in pixels; that of the images leaves the space without a resolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_resolution: Option<usize>,
    /// First layers of a ResNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<ResNetStem>,
    /// Channels of the first convolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem_channels: Option<usize>,
    /// Stride of the first convolution of a MobileNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem_stride: Option<usize>,
    /// Kind of the blocks of a ResNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<ResNetBlock>,
    /// Channels of the last convolution of a MobileNetV2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_channels: Option<usize>,
    /// Ranges of the numbers of channels.
    #[serde(default, skip_serializing_if = "ScaleSettings::is_default")]
    pub scales: ScaleSettings,
    /// All stages of blocks, in place of the named backbone's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<StageSettings>>,
}

/// Blocks of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageSettings {
    /// Output channels.
    pub channels: usize,
    /// Number of blocks.
    #[serde(default = "one")]
    pub blocks: usize,
    /// Stride of the first block.
    #[serde(default = "one")]
    pub stride: usize,
    /// Middle channels over input channels, of a MobileNetV2 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expansion: Option<usize>,
    /// Middle channels, of a ResNet alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub middle: Option<usize>,
}

fn one() -> usize {
    1
}

/// The range of every number of channels, over its base; what is left out is the named backbone's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleSettings {
    /// The smallest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The largest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The distance between neighbouring numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
}

impl ScaleSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn over(self, scales: &mut Scales) {
        let Self { min, max, step } = self;
        *scales = Scales {
            min: min.unwrap_or(scales.min),
            max: max.unwrap_or(scales.max),
            step: step.unwrap_or(scales.step),
        };
    }
}

/// The kinds of networks, which have different fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    MobileNetV1,
    MobileNetV2,
    ResNet,
}

impl BackboneSettings {
    fn family(&self) -> Family {
        match self.name {
            BackboneName::MobilenetV1 | BackboneName::MobilenetV1Small => Family::MobileNetV1,
            BackboneName::MobilenetV2 | BackboneName::MobilenetV2Small => Family::MobileNetV2,
            BackboneName::Resnet20 | BackboneName::Resnet56 | BackboneName::Resnet50 => Family::ResNet,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Naming the first field that is out of its range, or that such a backbone does not have.
    pub fn check(&self) -> Result<(), SettingsError> {
        let (family, most) = (self.family(), 1_000_000);
        let (v2, resnet) = (family == Family::MobileNetV2, family == Family::ResNet);
        check("backbone.width", self.width.unwrap_or(1.0), 1e-3..=1e3)?;
        check("backbone.min_resolution", self.min_resolution.unwrap_or(1), 1..=8192)?;
        self.has("backbone.stem", self.stem.is_some(), resnet)?;
        check("backbone.stem_channels", self.stem_channels.unwrap_or(1), 1..=most)?;
        self.has("backbone.stem_stride", self.stem_stride.is_some(), !resnet)?;
        check("backbone.stem_stride", self.stem_stride.unwrap_or(1), 1..=64)?;
        self.has("backbone.block", self.block.is_some(), resnet)?;
        self.has("backbone.head_channels", self.head_channels.is_some(), v2)?;
        check("backbone.head_channels", self.head_channels.unwrap_or(1), 1..=most)?;
        check("backbone.scales.min", self.scales.min.unwrap_or(1.0), 1e-3..=1.0)?;
        check("backbone.scales.max", self.scales.max.unwrap_or(1.0), 1.0..=100.0)?;
        check("backbone.scales.step", self.scales.step.unwrap_or(1.0), 1e-4..=1.0)?;
        let stages = self.stages.as_deref();
        check("number of tables in backbone.stages", stages.map_or(1, <[_]>::len), 1..=1000)?;
        for (number, stage) in stages.unwrap_or_default().iter().enumerate() {
            let field = |name| format!("backbone.stages, table {}: {name}", number + 1);
            check(field("channels"), stage.channels, 1..=most)?;
            check(field("blocks"), stage.blocks, 1..=1000)?;
            check(field("stride"), stage.stride, 1..=64)?;
            for (name, value, belongs) in [("expansion", stage.expansion, v2), ("middle", stage.middle, resnet)] {
                self.has(&field(name), value.is_some(), belongs)?;
                match value {
                    Some(value) => check(field(name), value, 1..=most)?,
                    None if belongs => return Err(SettingsError::new(field(name), "a number", "none")),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Refuses a field that such a backbone does not have.
    fn has(&self, field: &str, given: bool, belongs: bool) -> Result<(), SettingsError> {
        if given && !belongs {
            let found = "one".to_string();
            return Err(SettingsError::new(field, format!("none, as {} has no such part", self.name), found));
        }
        Ok(())
    }

    /// Adds the backbone's dimensions to a space and builds it, for images of `[channels, height, width]`.
    ///
    /// # Errors
    /// If the images are not square, or smaller than the smallest resolution, or a number is 0, or the space has
    /// dimensions of these names.
    pub fn init(
        &self,
        [channels, height, width]: [usize; 3],
        classes: usize,
        space: &mut SearchSpace,
        device: &Device,
    ) -> Result<AnyBackbone, SpaceError> {
        if height != width {
            let (expected, found) = ("square ones".into(), format!("{height}x{width}"));
            return Err(SpaceError::Backbone { what: "images", expected, found });
        }
        if let Some(found) = self.min_resolution.filter(|&least| least > height) {
            let (expected, found) = (format!("at most the {height} pixels of the images"), found.to_string());
            return Err(SpaceError::Backbone { what: "backbone.min_resolution", expected, found });
        }
        match self.family() {
            Family::MobileNetV1 => {
                self.mobilenet_v1(channels, height, classes).init(space, device).map(AnyBackbone::MobileNetV1)
            }
            Family::MobileNetV2 => {
                self.mobilenet_v2(channels, height, classes).init(space, device).map(AnyBackbone::MobileNetV2)
            }
            Family::ResNet => self.resnet(channels, height, classes).init(space, device).map(AnyBackbone::ResNet),
        }
    }

    fn mobilenet_v1(&self, channels: usize, size: usize, classes: usize) -> MobileNetV1Config {
        let mut config = match self.name {
            BackboneName::MobilenetV1Small => MobileNetV1Config::small(channels, size, classes),
            _ => MobileNetV1Config::imagenet(classes).with_images(channels, size),
        };
        if let Some(stages) = &self.stages {
            let block = |channels, stride| SeparableBlock { channels, stride };
            let blocks = stages.iter().flat_map(|stage| {
                let rest = (1..stage.blocks).map(|_| block(stage.channels, 1));
                std::iter::once(block(stage.channels, stage.stride)).chain(rest)
            });
            config.blocks = blocks.collect();
        }
        config.images.min_resolution = self.min_resolution.unwrap_or(config.images.min_resolution);
        config.stem_channels = self.stem_channels.unwrap_or(config.stem_channels);
        config.stem_stride = self.stem_stride.unwrap_or(config.stem_stride);
        self.scales.over(&mut config.scales);
        config.with_width(self.width.unwrap_or(1.0))
    }

    fn mobilenet_v2(&self, channels: usize, size: usize, classes: usize) -> MobileNetV2Config {
        let mut config = match self.name {
            BackboneName::MobilenetV2Small => MobileNetV2Config::small(channels, size, classes),
            _ => MobileNetV2Config::imagenet(classes).with_images(channels, size),
        };
        if let Some(stages) = &self.stages {
            let stage = |stage: &StageSettings| Stage {
                expansion: stage.expansion.unwrap_or(1),
                channels: stage.channels,
                blocks: stage.blocks,
                stride: stage.stride,
            };
            config.stages = stages.iter().map(stage).collect();
        }
        config.images.min_resolution = self.min_resolution.unwrap_or(config.images.min_resolution);
        config.stem_channels = self.stem_channels.unwrap_or(config.stem_channels);
        config.stem_stride = self.stem_stride.unwrap_or(config.stem_stride);
        config.head_channels = self.head_channels.unwrap_or(config.head_channels);
        self.scales.over(&mut config.scales);
        config.with_width(self.width.unwrap_or(1.0))
    }

    fn resnet(&self, channels: usize, size: usize, classes: usize) -> ResNetConfig {
        let mut config = match self.name {
            BackboneName::Resnet20 => ResNetConfig::resnet20(classes),
            BackboneName::Resnet56 => ResNetConfig::resnet56(classes),
            _ => ResNetConfig::resnet50(classes),
        }
        .with_images(channels, size);
        if let Some(stages) = &self.stages {
            let stage = |stage: &StageSettings| ResNetStage {
                channels: stage.channels,
                middle: stage.middle.unwrap_or(stage.channels),
                blocks: stage.blocks,
                stride: stage.stride,
            };
            config.stages = stages.iter().map(stage).collect();
        }
        config.images.min_resolution = self.min_resolution.unwrap_or(config.images.min_resolution);
        config.stem = self.stem.unwrap_or(config.stem);
        config.stem_channels = self.stem_channels.unwrap_or(config.stem_channels);
        config.block = self.block.unwrap_or(config.block);
        self.scales.over(&mut config.scales);
        config.with_width(self.width.unwrap_or(1.0))
    }
}

impl From<BackboneName> for BackboneSettings {
    fn from(name: BackboneName) -> Self {
        Self { name, ..Self::default() }
    }
}

/// The name of the backbone, and whether it was changed.
impl fmt::Display for BackboneSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = if *self == Self::from(self.name) { "" } else { ", changed" };
        write!(f, "{}{changed}", self.name)
    }
}

impl Serialize for BackboneSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Self::from(self.name) {
            return self.name.serialize(serializer);
        }
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for BackboneSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = BackboneSettings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a backbone, or a table with name and changes")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<BackboneSettings, E> {
                BackboneName::deserialize(StrDeserializer::new(name)).map(BackboneSettings::from)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BackboneSettings, A::Error> {
                BackboneSettings::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(NameOrTable)
    }
}

/// What a field below `backbone` means.
pub(crate) fn comment(field: &str) -> Option<&'static str> {
    Some(match field {
        "name" => "The backbone that is changed.",
        "width" => "Factor on all numbers of channels, after the other changes.",
        "min_resolution" => "Smallest resolution, in pixels; that of the images leaves the space without a resolution.",
        "stem" => "First layers of a ResNet: \"large\" (7x7 and a max pool, stride 4 together) or \"small\" (3x3).",
        "stem_channels" => "Channels of the first convolution.",
        "stem_stride" => "Stride of the first convolution of a MobileNet.",
        "block" => "Blocks of a ResNet: \"basic\" (two convolutions of 3x3) or \"bottleneck\" (1x1, 3x3, 1x1).",
        "head_channels" => "Channels of the last convolution of a MobileNetV2.",
        "scales" => "Range of every number of channels, over its base.",
        "scales.min" => "The smallest.",
        "scales.max" => "The largest.",
        "scales.step" => "The distance between neighbours.",
        "stages" => "A stage of blocks; these tables together replace all stages of the named backbone.",
        "stages.channels" => "Output channels.",
        "stages.blocks" => "Number of blocks.",
        "stages.stride" => "Stride of the first block.",
        "stages.expansion" => "Middle channels over input channels (MobileNetV2).",
        "stages.middle" => "Middle channels (ResNet).",
        _ => return None,
    })
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
