//! Exported files against Burn, in every runtime at hand.

mod common;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::{BatchNorm, LayerNorm, LayerNormConfig, Linear, LinearConfig, PRelu, PReluConfig, PaddingConfig2d};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor, activation};
use common::{Files, TOLERANCE, compare, normal, operators, runtimes, trained_norm};
use elastic_layers::backbones::MobileNetV2Config;
use elastic_layers::{Backbone, Elastic, SearchSpace, recalibrate};
use exporters::{ExportError, OnnxExporter, reference, verify};

#[derive(Module, Debug)]
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(channels: [usize; 2], kernel: usize, stride: usize, groups: usize) -> Self {
        let pad = kernel / 2;
        let conv = Conv2dConfig::new(channels, [kernel, kernel])
            .with_stride([stride, stride])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_groups(groups)
            .with_bias(false)
            .init(&Device::default());
        Self { conv, norm: trained_norm(channels[1]) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x))
    }
}

/// An inverted residual.
#[derive(Module, Debug)]
struct Block {
    expand: ConvNorm,
    depthwise: ConvNorm,
    project: ConvNorm,
}

impl Block {
    fn new(channels: usize, middle: usize) -> Self {
        Self {
            expand: ConvNorm::new([channels, middle], 1, 1, 1),
            depthwise: ConvNorm::new([middle, middle], 3, 1, middle),
            project: ConvNorm::new([middle, channels], 1, 1, 1),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = activation::relu6(self.expand.forward(x.clone()));
        let y = activation::relu6(self.depthwise.forward(y));
        x + self.project.forward(y)
    }
}

#[derive(Module, Debug)]
struct Net {
    stem: ConvNorm,
    blocks: Vec<Block>,
    head: Linear,
}

impl Net {
    fn new(images: usize, channels: usize, middle: usize) -> Self {
        Self {
            stem: ConvNorm::new([images, channels], 3, 2, 1),
            blocks: vec![Block::new(channels, middle), Block::new(channels, 1)],
            head: LinearConfig::new(channels, 5).init(&Device::default()),
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut x = activation::relu6(self.stem.forward(images));
        for block in &self.blocks {
            x = block.forward(x);
        }
        self.head.forward(x.mean_dims(&[2, 3]).flatten(1, 3))
    }
}

#[test]
fn an_inverted_residual_network() {
    let mut files = Files::new();
    for (name, images, channels, middle) in [("odd", 3, 7, 13), ("single", 1, 1, 1), ("even", 3, 16, 96)] {
        let model = Net::new(images, channels, middle);
        let onnx = files.check(name, &model, [1, images, 15, 15], Net::forward);
        assert_eq!(
            operators(&onnx),
            [("Add", 2), ("Clip", 5), ("Conv", 7), ("Gemm", 1), ("GlobalAveragePool", 1), ("Reshape", 1)]
        );
    }
    files.check_with_tools(&[]);
}

#[test]
fn two_exports_are_the_same_bytes() {
    let model = Net::new(3, 7, 13);
    let export = || {
        OnnxExporter::new([1, 3, 15, 15])
            .with_metadata("b", "2")
            .with_metadata("a", "1")
            .export(&model, Net::forward)
            .expect("exports")
    };
    let first = export();
    // Captures of other models in between, also on other threads, must not show.
    std::thread::spawn(|| OnnxExporter::new([1, 1, 9, 9]).export(&Net::new(1, 2, 3), Net::forward).expect("exports"))
        .join()
        .expect("no panic");
    let second = export();
    assert_eq!(first.to_bytes(), second.to_bytes());
    let text = String::from_utf8_lossy(first.to_bytes()).into_owned();
    for name in ["images", "logits", "blocks.0.depthwise.conv_relu6", "stem.conv.weight", "batch"] {
        assert!(text.contains(name), "{name}");
    }
    let position = |key: &str| text.rfind(key).expect("a metadata key");
    assert!(position("macs") < position("parameters"));
}

#[test]
fn counts_are_the_models_own() {
    let model = Net::new(3, 7, 13);
    let onnx = OnnxExporter::new([1, 3, 15, 15]).export(&model, Net::forward).expect("exports");
    let statistics = 2 * (7 + 13 + 13 + 7 + 1 + 1 + 7);
    assert_eq!(onnx.parameters(), model.num_params() as u64 - statistics);
    let block = |middle: u64| 8 * 8 * (7 * middle + 9 * middle + middle * 7);
    assert_eq!(onnx.macs().0, 8 * 8 * 7 * 27 + block(13) + block(1) + 7 * 5);
}

#[test]
fn a_fixed_batch_takes_that_batch_only() {
    let mut files = Files::new();
    let model = Net::new(3, 7, 13);
    let exporter = OnnxExporter::new([4, 3, 15, 15]).with_symbolic_batch(false);
    let onnx = exporter.export(&model, Net::forward).expect("exports");
    let path = files.save("fixed_batch", &onnx);
    let images = normal([4, 3, 15, 15]);
    let good = reference(images.clone(), model.forward(images));
    assert!(verify(&path, &[good], &runtimes(), TOLERANCE).passed());
    let images = normal([3, 3, 15, 15]);
    let bad = reference(images.clone(), model.forward(images));
    let report = verify(&path, &[bad], &runtimes(), TOLERANCE);
    assert!(report.entries.iter().all(|entry| !entry.passed && entry.error.is_some()));
}

#[test]
fn an_exported_model_goes_on_training() {
    let mut files = Files::new();
    let device = Device::default().autodiff();
    let model = Net::new(3, 7, 13).train();
    let images = normal([4, 3, 15, 15]).to_device(&device).autodiff();
    let _ = model.forward(images.clone());
    let before = model.stem.norm.running_mean.value_sync().to_data();
    let onnx = OnnxExporter::new([1, 3, 15, 15]).export(&model, Net::forward).expect("exports a model in training");
    model.stem.norm.running_mean.value_sync().to_data().assert_eq(&before, true);
    let inference = model.valid();
    let gradients = model.forward(images).sum().backward();
    assert!(model.head.weight.val().grad(&gradients).is_some());

    let path = files.save("training", &onnx);
    assert!(compare(&path, &inference, [1, 3, 15, 15], Net::forward).passed());
}

/// A materialised network and a view of the supernet, with the statistics of a few batches.
#[test]
fn elastic_mobilenets_of_random_architectures() {
    let mut files = Files::new();
    let device = Device::default();
    let mut space = SearchSpace::new();
    let supernet = MobileNetV2Config::small(1, 28, 10).init(&mut space, &device).expect("a network");
    for index in 0..50u64 {
        // Values that look random and are the same in every run.
        let architecture = space.with_values(|dim| {
            let values: Vec<usize> = (dim.min..=dim.max).step_by(dim.step).collect();
            let hash =
                dim.name.bytes().fold(index + 1, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
            values[(hash >> 20) as usize % values.len()]
        });
        let batches = (0..3).map(|_| normal([8, 1, 28, 28]));
        let view = recalibrate(&supernet.select(&architecture), batches, |view, images| {
            let _ = Backbone::forward(view, images);
        });
        let small = view.materialize_at(&architecture);
        let forward = |model: &_, images| Backbone::forward(model, images);
        let onnx = files.check(&format!("mobilenet_{index}"), &small, [1, 1, 28, 28], forward);
        for absent in ["BatchNormalization", "Slice", "Pad", "Transpose", "MatMul"] {
            assert!(!onnx.operators().contains_key(absent), "{absent}");
        }
        let path = files.save("mobilenet_view", &onnx);
        assert!(
            compare(&path, &view, [1, 1, 28, 28], forward).passed(),
            "the view and the file of the materialised model"
        );
        let of_view = OnnxExporter::new([1, 1, 28, 28]).export(&view, forward).expect("exports a view");
        assert_eq!(of_view.operators(), onnx.operators());
        assert_eq!((of_view.macs(), of_view.parameters()), (onnx.macs(), onnx.parameters()));
    }
}

#[derive(Module, Debug)]
struct Mixed {
    conv: Conv2d,
    norm: BatchNorm,
    up: ConvTranspose2d,
    prelu: PRelu,
    layer_norm: LayerNorm,
    wide: Linear,
    narrow: Linear,
    narrow_norm: BatchNorm,
}

impl Mixed {
    fn new() -> Self {
        let device = Device::default();
        Self {
            conv: Conv2dConfig::new([3, 6], [3, 5])
                .with_stride([2, 1])
                .with_dilation([1, 2])
                .with_padding(PaddingConfig2d::Explicit(0, 1, 2, 3))
                .with_groups(3)
                .init(&device),
            norm: trained_norm(6),
            up: ConvTranspose2dConfig::new([6, 4], [3, 3]).with_stride([2, 2]).with_padding([1, 1]).init(&device),
            prelu: PReluConfig::new().with_num_parameters(4).init(&device),
            layer_norm: LayerNormConfig::new(4).init(&device),
            wide: LinearConfig::new(4, 9).with_bias(false).init(&device),
            narrow: LinearConfig::new(9, 5).init(&device),
            narrow_norm: trained_norm(5),
        }
    }

    /// A convolution with bias, norm and every option; a linear layer on a sequence; a norm behind a linear layer.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = activation::hard_swish(self.norm.forward(self.conv.forward(images)));
        let x = self.prelu.forward(self.up.forward(x));
        let [batch, channels, height, width] = x.dims();
        let x = x.reshape([batch, channels, height * width]).swap_dims(1, 2);
        let x = self.wide.forward(self.layer_norm.forward(x));
        let x = activation::gelu(x).mean_dim(1).reshape([batch, 9]);
        activation::log_softmax(self.narrow_norm.forward(self.narrow.forward(x)), 1)
    }
}

#[test]
fn layers_with_every_option() {
    let mut files = Files::new();
    let onnx = files.check("mixed", &Mixed::new(), [1, 3, 11, 12], Mixed::forward);
    let count = |operator: &str| onnx.operators().get(operator).copied().unwrap_or_default();
    assert_eq!((count("BatchNormalization"), count("HardSwish"), count("Gemm"), count("MatMul")), (0, 1, 1, 1));
    assert_eq!((count("ConvTranspose"), count("LayerNormalization"), count("LogSoftmax")), (1, 1, 1));
    files.check_with_tools(&[]);
}

#[test]
fn a_norm_without_a_convolution_before_it_stays() {
    let mut files = Files::new();
    let norm = trained_norm(2);
    let onnx = files.check("norm_first", &norm, [1, 2, 4, 4], |norm, x| activation::relu(norm.forward(x)));
    assert_eq!(operators(&onnx), [("BatchNormalization", 1), ("Relu", 1)]);
}

#[test]
fn a_model_that_does_nothing() {
    let mut files = Files::new();
    let model = trained_norm(2);
    let onnx = files.check("identity", &model, [1, 2, 4, 4], |_, x| x.reshape([-1, 2, 4, 4]));
    assert_eq!(operators(&onnx), [("Identity", 1)]);
}

#[test]
fn every_unsupported_operation_is_named_with_its_module() {
    let model = Net::new(3, 7, 13);
    let error = OnnxExporter::new([1, 3, 15, 15])
        .export(&model, |model, images| {
            let x = model.stem.forward(images.cumsum(3));
            let x = model.blocks[1].forward(x.sort(1));
            let options = InterpolateOptions::new(InterpolateMode::Bicubic).with_output_size([4, 4]);
            interpolate(x, options)
        })
        .expect_err("three operations have no ONNX form");
    let ExportError::Unsupported(operations) = &error else { panic!("{error}") };
    let found: Vec<_> = operations.iter().map(|found| (found.operation.as_str(), found.module.as_str())).collect();
    assert_eq!(
        found,
        [
            ("NumericFloat(CumSum)", "the input"),
            ("NumericFloat(Sort)", "stem.norm"),
            ("Module(Interpolate)", "blocks.1.project.norm"),
        ]
    );
    assert_eq!(
        error.to_string(),
        "3 of the model's operations cannot be exported:\n- NumericFloat(CumSum) at `the input`\n- NumericFloat(Sort) \
         at `stem.norm`\n- Module(Interpolate) at `blocks.1.project.norm`: interpolation mode Bicubic"
    );
}

#[test]
fn a_forward_that_depends_on_the_batch_size_is_refused() {
    let model = Net::new(3, 7, 13);
    let exporter = OnnxExporter::new([2, 3, 15, 15]);
    let scaled = |model: &Net, images: Tensor<4>| {
        let batch = images.dims()[0];
        model.forward(images) * batch as f32
    };
    let error = exporter.export(&model, scaled).expect_err("a factor that follows the batch");
    assert!(matches!(error, ExportError::BatchDependent { .. }), "{error}");
    assert!(exporter.with_symbolic_batch(false).export(&model, scaled).is_ok());
}

#[test]
fn wrong_settings_are_errors() {
    let model = Net::new(3, 7, 13);
    let opset = OnnxExporter::new([1, 3, 15, 15]).with_opset(17).export(&model, Net::forward);
    assert_eq!(opset.expect_err("too old").to_string(), "ONNX opset: expected 18 to 21, found 17");
    let onnx = OnnxExporter::new([1, 3, 15, 15]).export(&model, Net::forward).expect("exports");
    let error = onnx.save("no/such/folder/model.onnx").expect_err("no folder");
    assert!(error.to_string().starts_with("cannot write `no/such/folder/model.onnx`: "), "{error}");
}

#[test]
fn later_opsets_run() {
    let mut files = Files::new();
    let model = Net::new(3, 7, 13);
    for opset in 19..=21 {
        let onnx = OnnxExporter::new([1, 3, 15, 15]).with_opset(opset).export(&model, Net::forward).expect("exports");
        let path = files.save(&format!("opset_{opset}"), &onnx);
        assert!(compare(&path, &model, [1, 3, 15, 15], Net::forward).passed(), "opset {opset}");
    }
}
