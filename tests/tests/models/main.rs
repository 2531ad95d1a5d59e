//! Whole networks as users of Burn write them, each at random architectures: views, materialised and pinned networks,
//! costs, training steps and exported files.
//!
//! A network is its structs and their plain forward, in a file of its own; [`case::Case`] is what is asked of all elastic
//! ones. Five have Burn's own layers only, and are exported.

#[path = "../../../elastic-layers/tests/common/mod.rs"]
mod common;
#[path = "../../../exporters/tests/common/mod.rs"]
mod onnx;

mod case;
mod convnext;
mod decoder;
mod densenet;
mod mobilenet_v3;
mod resnet;
mod sequence;
mod shuffle;
mod twins;
mod unet;
mod vocoder;
