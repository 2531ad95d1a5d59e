//! Exported files against Burn, in every runtime at hand.

mod common;

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::{BatchNorm, LayerNorm, LayerNormConfig, Linear, LinearConfig, PRelu, PReluConfig, PaddingConfig2d};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor, TensorData, activation};
use common::{Files, TOLERANCE, check_with_tools, compare, compare_within, normal, operators, runtimes, trained_norm};
use exporters::{ExportError, OnnxExporter, OnnxModel, Precision, reference, verify};

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
    let bytes = first.to_bytes().expect("a small file");
    assert_eq!(bytes, second.to_bytes().expect("a small file"));
    let text = String::from_utf8_lossy(&bytes).into_owned();
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

/// The bits of every parameter and running statistic.
fn state(model: &Net) -> Vec<TensorData> {
    struct Collect(Vec<TensorData>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().into_data());
        }
    }
    let mut collect = Collect(vec![]);
    model.visit(&mut collect);
    collect.0
}

#[test]
fn a_model_in_training_is_exported_and_goes_on_training() {
    let mut files = Files::new();
    let device = Device::default().autodiff();
    let model = Net::new(3, 7, 13).train();
    let images = normal([4, 3, 15, 15]).to_device(&device).autodiff();
    let _ = model.forward(images.clone());
    // This first: it merges what the forward added to the running statistics.
    let inference = model.valid();
    let before = state(&model);
    let outputs = || {
        (
            model.valid().forward(images.clone().inner()).into_data(),
            inference.forward(images.clone().inner()).into_data(),
        )
    };
    let outputs_before = outputs();
    let exporter = OnnxExporter::new([1, 3, 15, 15]);
    let onnx = exporter.export(&model, Net::forward).expect("exports a model in training");
    // A failed export leaves it alone too.
    let error = exporter.export(&model, |model, images| model.forward(images).sort(1));
    assert!(matches!(error, Err(ExportError::Unsupported(_))));
    assert_eq!(state(&model), before);
    assert_eq!(outputs(), outputs_before);
    let gradients = model.forward(images).sum().backward();
    assert!(model.head.weight.val().grad(&gradients).is_some());

    let path = files.save("training", &onnx);
    assert!(compare(&path, &inference, [1, 3, 15, 15], Net::forward).passed());
}

#[test]
fn what_panics_in_the_forward_is_an_error() {
    let device = Device::default().autodiff();
    let model = Net::new(3, 7, 13).train();
    let exporter = OnnxExporter::new([1, 3, 15, 15]);
    let elsewhere = Tensor::<4>::ones([1, 3, 15, 15], &device);
    let error = exporter.export(&model, |model, images| model.forward(images + elsewhere.clone()));
    let error = error.expect_err("a tensor of an autodiff device");
    assert!(matches!(error, ExportError::Panic { .. }), "{error}");
    let error = OnnxExporter::new([1, 4, 15, 15]).export(&model, Net::forward).expect_err("one channel too many");
    assert!(error.to_string().starts_with("the forward panicked while it was captured: "), "{error}");
    assert!(exporter.export(&model, Net::forward).is_ok(), "the next export is not disturbed");
}

#[test]
fn several_inputs_and_outputs() {
    let mut files = Files::new();
    let model = Net::new(3, 7, 13);
    let forward = |model: &Net, (left, right): (Tensor<4>, Tensor<4>)| {
        let logits = model.forward(left.clone() * 0.5 + right.mean_dim(2));
        // An output that is an input, and one that is another output.
        (logits.clone(), vec![left, logits.clone().reshape([-1, 1, 1, 5])], logits)
    };
    let onnx = files.check("two", &model, ([1, 3, 15, 15], [1, 3, 2, 15]), forward);
    let [inputs, outputs] = onnx.names();
    assert_eq!((inputs, outputs), (vec!["input_0", "input_1"], vec!["output_0", "output_1", "output_2", "output_3"]));
    files.check_with_tools(&[]);

    let exporter = OnnxExporter::new(([1, 3, 15, 15], [1, 3, 2, 15]));
    let names = ["logits", "copy", "map", "again"];
    let onnx = exporter.clone().with_names(["left", "right"], names).export(&model, forward).expect("exports");
    assert_eq!(onnx.names(), [vec!["left", "right"], names.to_vec()]);
    let few = exporter.clone().with_names(["left"], names).export(&model, forward).expect_err("one name");
    assert_eq!(few.to_string(), "names of inputs: expected 2, found 1");
    let twice = exporter.with_names(["left", "left"], names).export(&model, forward).expect_err("a name twice");
    assert_eq!(twice.to_string(), "the graph is not valid: two values named `left`");
}

#[test]
fn sixteen_bits() {
    let mut files = Files::new();
    let model = Net::new(3, 7, 13);
    let exporter = OnnxExporter::new([1, 3, 15, 15]).with_precision(Precision::F16);
    let onnx = exporter.export(&model, Net::forward).expect("exports");
    let full = OnnxExporter::new([1, 3, 15, 15]).export(&model, Net::forward).expect("exports");
    let bytes = |onnx: &OnnxModel| onnx.to_bytes().expect("a small file").len();
    let weights = model.num_params() * 2;
    assert!(bytes(&full) - bytes(&onnx) > weights / 2, "{} and {} bytes", bytes(&full), bytes(&onnx));
    let path = files.save("half", &onnx);
    let report = compare_within(1e-2, &path, &model, [1, 3, 15, 15], Net::forward);
    assert!(report.passed(), "{report}");
    // Numbers of 16 bits are what it computes with.
    assert!(report.max_relative_difference().expect("compared") > 1e-5, "{report}");

    let resized = |model: &Net, images| {
        let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size([15, 15]);
        model.forward(interpolate(images, options)).greater_elem(0.1).float()
    };
    let onnx =
        OnnxExporter::new([1, 3, 10, 9]).with_precision(Precision::F16).export(&model, resized).expect("exports");
    files.save("half_resized", &onnx);
    files.check_with_tools(&[]);
    let large = exporter.export(&model, |model, images| model.forward(images) * 1e5).expect_err("infinite");
    assert_eq!(large.to_string(), "constant ``: expected values of at most 65504 for 16 bits, found 100000");
}

#[test]
fn eight_bits() {
    let mut files = Files::new();
    let model = Net::new(3, 64, 96);
    let onnx = OnnxExporter::new([1, 3, 15, 15]).export(&model, Net::forward).expect("exports");
    let images = |batch| normal([batch, 3, 15, 15]);
    let samples = [32, 32].map(|batch| reference(images(batch), images(1)).inputs);
    let quantized = onnx.quantize(&samples).expect("quantises");
    let count = |operator: &str| quantized.operators().get(operator).copied().unwrap_or_default();
    assert_eq!((count("Conv"), count("Gemm")), (7, 1));
    // Every weight and bias, and every activation that is read by what integers compute.
    assert_eq!(count("DequantizeLinear"), 2 * 8 + count("QuantizeLinear"));
    let bytes = |onnx: &OnnxModel| onnx.to_bytes().expect("a small file").len();
    assert!(bytes(&quantized) < bytes(&onnx), "{} and {} bytes", bytes(&quantized), bytes(&onnx));

    let path = files.save("int8", &quantized);
    let report = compare_within(0.2, &path, &model, [1, 3, 15, 15], Net::forward);
    assert!(report.passed(), "{report}");
    // Integers are what it computes with.
    assert!(report.max_relative_difference().expect("compared") > 1e-3, "{report}");
    assert!(onnx.quantize(&[]).is_err());
    let half = OnnxExporter::new([1, 3, 15, 15]).with_precision(Precision::F16);
    assert!(half.export(&model, Net::forward).expect("exports").quantize(&samples).is_err());
}

#[test]
fn constants_in_a_file_of_their_own() {
    let mut files = Files::new();
    let model = Net::new(3, 16, 96);
    let exporter = OnnxExporter::new([1, 3, 15, 15]).with_external_data(true);
    let onnx = exporter.export(&model, Net::forward).expect("exports");
    let path = files.save("outside", &onnx);
    let data = path.with_file_name("outside.onnx.data");
    let size = |path: &Path| std::fs::metadata(path).expect("a file").len() as usize;
    let within = onnx.to_bytes().expect("a small file").len();
    assert!(size(&path) < within / 2 && size(&data) > within / 2, "{} and {}", size(&path), size(&data));
    assert!(compare(&path, &model, [1, 3, 15, 15], Net::forward).passed());
    let half = exporter.with_precision(Precision::F16).export(&model, Net::forward).expect("exports");
    let half = files.save("outside_half", &half);
    assert!(compare_within(1e-2, &half, &model, [1, 3, 15, 15], Net::forward).passed());
    check_with_tools(&[path.clone(), half], &[]);

    // Without the second file, or with a part of it, it does not load.
    let whole = std::fs::read(&data).expect("a file");
    std::fs::write(&data, &whole[..whole.len() / 2]).expect("writes");
    assert!(!compare(&path, &model, [1, 3, 15, 15], Net::forward).passed());
    std::fs::remove_file(&data).expect("a file");
    let report = compare(&path, &model, [1, 3, 15, 15], Net::forward);
    assert!(report.entries.iter().all(|entry| entry.error.is_some()), "{report}");
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
            x.cumprod(2)
        })
        .expect_err("three operations have no ONNX form");
    let ExportError::Unsupported(operations) = &error else { panic!("{error}") };
    let found: Vec<_> = operations.iter().map(|found| (found.operation.as_str(), found.module.as_str())).collect();
    assert_eq!(
        found,
        [
            ("NumericFloat(CumSum)", "the input"),
            ("NumericFloat(Sort)", "stem.norm"),
            ("NumericFloat(CumProd)", "blocks.1.project.norm"),
        ]
    );
    assert_eq!(
        error.to_string(),
        "3 of the model's operations cannot be exported:\n- NumericFloat(CumSum) at `the input`\n- NumericFloat(Sort) \
         at `stem.norm`\n- NumericFloat(CumProd) at `blocks.1.project.norm`"
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
    assert_eq!(opset.expect_err("too old").to_string(), "ONNX opset: expected 18 to 23, found 17");
    let onnx = OnnxExporter::new([1, 3, 15, 15]).export(&model, Net::forward).expect("exports");
    let error = onnx.save("no/such/folder/model.onnx").expect_err("no folder");
    assert!(error.to_string().starts_with("cannot write `no/such/folder/model.onnx`: "), "{error}");
}

#[test]
fn later_opsets_run() {
    let mut files = Files::new();
    let model = Net::new(3, 7, 13);
    for opset in 19..=23 {
        let onnx = OnnxExporter::new([1, 3, 15, 15]).with_opset(opset).export(&model, Net::forward).expect("exports");
        let path = files.save(&format!("opset_{opset}"), &onnx);
        assert!(compare(&path, &model, [1, 3, 15, 15], Net::forward).passed(), "opset {opset}");
        let smooth = |model: &Net, images| activation::gelu(model.forward(images));
        let exporter = OnnxExporter::new([1, 3, 15, 15]).with_opset(opset);
        let onnx = exporter.export(&model, smooth).expect("exports");
        assert_eq!(onnx.operators().contains_key("Gelu"), opset >= 20);
        let path = files.save(&format!("gelu_{opset}"), &onnx);
        assert!(compare(&path, &model, [1, 3, 15, 15], smooth).passed(), "gelu, opset {opset}");
    }
    files.check_with_tools(&[]);
}
