//! Backbones with their search spaces.

mod mobilenet_v2;

pub use mobilenet_v2::{MobileNetV2, MobileNetV2Config, Stage};
