//! Backbones with their search spaces.
//!
//! Every backbone takes square images of any size from one pixel, of any number of channels.

mod mobilenet_v1;
mod mobilenet_v2;
mod parts;
mod resnet;
mod settings;

pub use mobilenet_v1::{MobileNetV1, MobileNetV1Config, SeparableBlock};
pub use mobilenet_v2::{MobileNetV2, MobileNetV2Config, Stage};
pub use resnet::{ResNet, ResNetBlock, ResNetConfig, ResNetStage, ResNetStem};
pub use settings::{Images, Scales};
