//! Exports a backbone with random weights and plausible running statistics, with inputs and what Burn computes from
//! them: for comparisons with files and programs of others.
//!
//!     cargo run --release -p exporters --example export_backbone -- mobilenet-v2 224 model.onnx
//!
//! Writes `model.onnx` and, for a batch of 2, `model.json`: `input_shape`, `input`, `output_shape`, `output`.

use std::error::Error;
use std::path::Path;

use burn::tensor::{Device, Distribution, Tensor};
use elastic_layers::backbones::{MobileNetV1Config, MobileNetV2Config, ResNetConfig};
use elastic_layers::{Backbone, SearchSpace, SpaceError, recalibrate};
use exporters::{OnnxExporter, Reference, reference};

const USAGE: &str = "expected: mobilenet-v1 | mobilenet-v2 | resnet-20 | resnet-50, an image size, and a file to write";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, size, out] = &arguments[..] else { return Err(USAGE.into()) };
    let (size, out) = (size.parse::<usize>()?, Path::new(out));
    match name.as_str() {
        "mobilenet-v1" => export(size, out, |space, device| imagenet_v1(size).init(space, device)),
        "mobilenet-v2" => export(size, out, |space, device| imagenet_v2(size).init(space, device)),
        "resnet-20" => {
            export(size, out, |space, device| ResNetConfig::resnet20(10).with_images(3, size).init(space, device))
        }
        "resnet-50" => {
            export(size, out, |space, device| ResNetConfig::resnet50(1000).with_images(3, size).init(space, device))
        }
        _ => Err(USAGE.into()),
    }
}

fn imagenet_v1(size: usize) -> MobileNetV1Config {
    MobileNetV1Config::imagenet(1000).with_images(3, size)
}

fn imagenet_v2(size: usize) -> MobileNetV2Config {
    MobileNetV2Config::imagenet(1000).with_images(3, size)
}

fn export<M: Backbone>(
    size: usize,
    out: &Path,
    build: impl Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError>,
) -> Result<(), Box<dyn Error>> {
    let device = Device::default();
    device.seed(1);
    let images = |batch: usize| Tensor::<4>::random([batch, 3, size, size], Distribution::Normal(0.0, 1.0), &device);
    let mut space = SearchSpace::new();
    build(&mut space, &device)?;
    let network = build(&mut SearchSpace::pinned(&space.base()), &device)?;
    let network = recalibrate(&network, [images(4)], |network, images| drop(network.forward(images)));
    let onnx = OnnxExporter::new([2, 3, size, size]).export(&network, M::forward)?;
    onnx.save(out)?;

    let images = images(2);
    let Reference { inputs, outputs } = reference(images.clone(), network.forward(images));
    let json = serde_json::json!({
        "input_shape": inputs[0].shape(),
        "input": inputs[0].iter().collect::<Vec<_>>(),
        "output_shape": outputs[0].shape(),
        "output": outputs[0].iter().collect::<Vec<_>>(),
    });
    std::fs::write(out.with_extension("json"), json.to_string())?;
    Ok(())
}
