//! A network of large depthwise convolutions and layer norms over channels, with a scale for each channel.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig};
use burn::nn::{Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use exporters::OnnxExporter;

use crate::onnx::{Files, compare, operators};

#[derive(Module, Debug)]
struct Block {
    depthwise: Conv2d,
    norm: LayerNorm,
    expand: Linear,
    gelu: Gelu,
    project: Linear,
    scale: Param<Tensor<1>>,
}

impl Block {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            depthwise: Conv2dConfig::new([channels, channels], [7, 7])
                .with_padding(PaddingConfig2d::Explicit(3, 3, 3, 3))
                .with_groups(channels)
                .init(device),
            norm: LayerNormConfig::new(channels).with_epsilon(1e-6).init(device),
            expand: LinearConfig::new(channels, 4 * channels).init(device),
            gelu: Gelu::new(),
            project: LinearConfig::new(4 * channels, channels).init(device),
            scale: Param::from_tensor(Tensor::full([channels], 0.3, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.norm.forward(self.depthwise.forward(x.clone()).permute([0, 2, 3, 1]));
        let y = self.project.forward(self.gelu.forward(self.expand.forward(y)));
        x + (y * self.scale.val().unsqueeze()).permute([0, 3, 1, 2])
    }
}

#[derive(Module, Debug)]
struct ConvNext {
    stem: Conv2d,
    blocks: Vec<Block>,
    pool: AdaptiveAvgPool2d,
    norm: LayerNorm,
    head: Linear,
}

impl ConvNext {
    fn new(device: &Device) -> Self {
        Self {
            stem: Conv2dConfig::new([3, 6], [4, 4]).with_stride([4, 4]).init(device),
            blocks: vec![Block::new(6, device), Block::new(6, device)],
            // Into windows that overlap.
            pool: AdaptiveAvgPool2dConfig::new([3, 2]).init(),
            norm: LayerNormConfig::new(36).init(device),
            head: LinearConfig::new(36, 5).init(device),
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.blocks.iter().fold(self.stem.forward(images), |x, block| block.forward(x));
        self.head.forward(self.norm.forward(self.pool.forward(x).flatten(1, 3)))
    }
}

#[test]
fn files_compute_what_the_network_does() {
    let mut files = Files::new();
    let model = ConvNext::new(&Device::default());
    let onnx = files.check("convnext", &model, [1, 3, 20, 16], ConvNext::forward);
    let count = |operator: &str| onnx.operators().get(operator).copied().unwrap_or_default();
    assert_eq!(
        (count("Conv"), count("LayerNormalization"), count("Gemm"), count("Erf")),
        (3, 3, 3, 2),
        "{:?}",
        operators(&onnx)
    );
    let exporter = OnnxExporter::new([1, 3, 20, 16]).with_opset(20);
    let onnx = exporter.export(&model, ConvNext::forward).expect("exports");
    let path = files.save("convnext_20", &onnx);
    assert_eq!((onnx.operators().get("Gelu"), onnx.operators().get("Erf")), (Some(&2), None));
    assert!(compare(&path, &model, [1, 3, 20, 16], ConvNext::forward).passed());
    files.check_with_tools(&[]);
}
