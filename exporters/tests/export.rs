//! Exported files against Burn, in every runtime at hand.

mod common;

use burn::module::{Module, Param, RunningState};
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::pool::{AdaptiveAvgPool2dConfig, AvgPool2dConfig, MaxPool2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, PRelu, PReluConfig, PaddingConfig2d,
};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, PadMode};
use burn::tensor::{Device, Distribution, Tensor, activation};
use common::{TOLERANCE, assert_agrees, check, check_with_tools, normal, place, runtimes};
use elastic_layers::backbones::MobileNetV2Config;
use elastic_layers::{Backbone, Elastic, SearchSpace};
use exporters::{ExportError, OnnxExporter, OnnxModel, reference, verify};

fn operators(onnx: &OnnxModel) -> Vec<(&'static str, usize)> {
    onnx.operators().iter().map(|(operator, count)| (*operator, *count)).collect()
}

/// A batch norm as it is after training.
fn trained_norm(channels: usize) -> BatchNorm {
    let device = Device::default();
    let spread = |low, high| Tensor::<1>::random([channels], Distribution::Uniform(low, high), &device);
    let mut norm = BatchNormConfig::new(channels).init(&device);
    norm.gamma = Param::from_tensor(spread(-1.5, 1.5));
    norm.beta = Param::from_tensor(spread(-0.5, 0.5));
    norm.running_mean = RunningState::new(spread(-0.5, 0.5));
    norm.running_var = RunningState::new(spread(0.2, 2.0));
    norm
}

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
    for (name, images, channels, middle) in [("odd", 3, 7, 13), ("single", 1, 1, 1), ("even", 3, 16, 96)] {
        let model = Net::new(images, channels, middle);
        let onnx = check(name, &model, [1, images, 15, 15], Net::forward);
        assert_eq!(
            operators(&onnx),
            [("Add", 2), ("Clip", 5), ("Conv", 7), ("Gemm", 1), ("GlobalAveragePool", 1), ("Reshape", 1)]
        );
    }
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
    let model = Net::new(3, 7, 13);
    let exporter = OnnxExporter::new([4, 3, 15, 15]).with_symbolic_batch(false);
    let onnx = exporter.export(&model, Net::forward).expect("exports");
    let (path, _folder) = place("fixed_batch");
    onnx.save(&path).expect("writes");
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

    let (path, _folder) = place("training");
    onnx.save(&path).expect("writes");
    assert_agrees(&path, &inference, [1, 3, 15, 15], TOLERANCE, Net::forward);
}

/// What `tests/python/check_onnx.py` asks of a file.
#[test]
fn other_peoples_tools_find_nothing_to_change() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let save = |name: &str, onnx: OnnxModel| {
        let path = folder.path().join(name);
        onnx.save(&path).expect("writes");
        path
    };
    let net = OnnxExporter::new([1, 3, 15, 15]).export(&Net::new(3, 7, 13), Net::forward).expect("exports");
    let mixed = OnnxExporter::new([1, 3, 11, 12]).export(&Mixed::new(), Mixed::forward).expect("exports");
    let mut space = SearchSpace::new();
    let elastic = MobileNetV2Config::small(1, 28, 10).init(&mut space, &Device::default()).expect("a network");
    let small = elastic.materialize_at(&space.smallest());
    let small = OnnxExporter::new([1, 1, 28, 28]).export(&small, Backbone::forward).expect("exports");
    check_with_tools(&[save("net.onnx", net), save("mixed.onnx", mixed), save("small.onnx", small)], &[]);
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
    let onnx = check("mixed", &Mixed::new(), [1, 3, 11, 12], Mixed::forward);
    let count = |operator: &str| onnx.operators().get(operator).copied().unwrap_or_default();
    assert_eq!((count("BatchNormalization"), count("HardSwish"), count("Gemm"), count("MatMul")), (0, 1, 1, 1));
    assert_eq!((count("ConvTranspose"), count("LayerNormalization"), count("LogSoftmax")), (1, 1, 1));
}

/// A convolution, so that there is always something with parameters, and `then`.
fn after_conv<const O: usize>(name: &str, then: impl Fn(Tensor<4>) -> Tensor<O>) -> OnnxModel {
    let model = Conv2dConfig::new([2, 3], [1, 1]).init(&Device::default());
    check(name, &model, [1, 2, 8, 6], |model, x| then(model.forward(x)))
}

#[test]
fn resizing_to_other_sizes() {
    for (name, mode, align) in [
        ("bilinear", InterpolateMode::Bilinear, false),
        ("bilinear_corners", InterpolateMode::Bilinear, true),
        ("nearest", InterpolateMode::Nearest, false),
    ] {
        for size in [[8, 6], [5, 7], [13, 3], [1, 1], [16, 12]] {
            let options = InterpolateOptions::new(mode.clone()).with_align_corners(align).with_output_size(size);
            let file = format!("{name}_{}x{}", size[0], size[1]);
            after_conv(&file, |x| interpolate(x, options.clone()).mean_dim(1));
        }
    }
}

#[test]
fn nearest_resizing_that_no_scale_expresses_is_exact() {
    let model = Conv2dConfig::new([2, 3], [1, 1]).init(&Device::default());
    let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([82, 94]);
    let onnx = check("nearest_gather", &model, [1, 2, 2, 2], |model, x| interpolate(model.forward(x), options.clone()));
    assert_eq!(onnx.operators().get("Gather"), Some(&2));
}

#[test]
fn pooling() {
    let max = MaxPool2dConfig::new([3, 2]).with_strides([2, 1]).with_padding(PaddingConfig2d::Explicit(1, 0, 1, 0));
    after_conv("max_pool", |x| max.init().forward(x));
    for (name, include) in [("avg_pool_with_pad", true), ("avg_pool", false)] {
        let average = AvgPool2dConfig::new([3, 3])
            .with_strides([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_count_include_pad(include);
        after_conv(name, |x| average.init().forward(x));
    }
    for (name, size) in [("adaptive_1", [1, 1]), ("adaptive_4_3", [4, 3]), ("adaptive_same", [8, 6])] {
        after_conv(name, |x| AdaptiveAvgPool2dConfig::new(size).init().forward(x));
    }
}

#[test]
fn arithmetic_and_activations() {
    after_conv("scalars", |x| ((x * 2.0 - 1.0) / 3.0 + 0.5).powf_scalar(2.0));
    after_conv("tensors", |x| {
        (x.clone() - x.clone().mean_dim(3)) / (x.clone().exp() + 1.0) * x.abs().sqrt().neg().tanh()
    });
    after_conv("clamps", |x| x.clone().clamp_min(-0.5) + x.clone().clamp_max(0.25) + x.clamp_min(0.0));
    after_conv("smooth", |x| activation::silu(x.clone()) + activation::sigmoid(x.clone()) + activation::log_sigmoid(x));
    after_conv("leaky", |x| activation::leaky_relu(x.clone(), 0.1) + activation::hard_sigmoid(x, 0.2, 0.5));
    after_conv("softmax", |x| activation::softmax(x, 1));
    after_conv("reduced", |x| x.clone().sum_dim(1) + x.clone().max_dim(1) + x.clone().min_dim(2) + x.mean_dim(2));
}

#[test]
fn rearrangements() {
    after_conv("permuted", |x| x.permute([0, 2, 3, 1]).flatten::<2>(1, 3));
    after_conv("back_and_forth", |x| x.swap_dims(1, 2).swap_dims(1, 2));
    after_conv("sliced", |x| x.slice_dim(2, 1..7).slice_dim(1, 0..2));
    after_conv("concatenated", |x| Tensor::cat(vec![x.clone(), x.clone() * 2.0, x], 1));
    after_conv("expanded", |x| {
        let [batch, channels, height, _] = x.dims();
        x.mean_dim(3).expand([batch, channels, height, 4])
    });
    after_conv("folded_batch", |x| {
        let [batch, channels, height, width] = x.dims();
        x.reshape([batch * channels, height * width]).reshape([batch, channels * height * width])
    });
    for (name, mode) in [
        ("pad_zero", PadMode::Constant(0.0)),
        ("pad_one", PadMode::Constant(1.5)),
        ("pad_reflect", PadMode::Reflect),
        ("pad_edge", PadMode::Edge),
    ] {
        after_conv(name, |x| x.pad((1, 2, 0, 3), mode));
    }
}

#[test]
fn padding_before_a_convolution_becomes_its_own() {
    let model = Conv2dConfig::new([2, 3], [3, 3]).init(&Device::default());
    let onnx = check("pad_conv", &model, [1, 2, 8, 6], |model, x| model.forward(x.pad((1, 2, 0, 3), 0.0)));
    assert_eq!(operators(&onnx), [("Conv", 1)]);
}

#[test]
fn a_norm_without_a_convolution_before_it_stays() {
    let norm = trained_norm(2);
    let onnx = check("norm_first", &norm, [1, 2, 4, 4], |norm, x| activation::relu(norm.forward(x)));
    assert_eq!(operators(&onnx), [("BatchNormalization", 1), ("Relu", 1)]);
}

#[test]
fn a_model_that_does_nothing() {
    let model = trained_norm(2);
    let onnx = check("identity", &model, [1, 2, 4, 4], |_, x| x.reshape([-1, 2, 4, 4]));
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
    let model = Net::new(3, 7, 13);
    for opset in 19..=21 {
        let onnx = OnnxExporter::new([1, 3, 15, 15]).with_opset(opset).export(&model, Net::forward).expect("exports");
        let (path, _folder) = place(&format!("opset_{opset}"));
        onnx.save(&path).expect("writes");
        assert_agrees(&path, &model, [1, 3, 15, 15], TOLERANCE, Net::forward);
    }
}
