//! Exported backbones: against Burn at random architectures, and their MACs and parameters as published.

mod common;

use std::path::PathBuf;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Int, Tensor, TensorData};
use common::{Files, TOLERANCE, check_with_tools, normal, runtimes};
use elastic_layers::backbones::{MobileNetV1Config, MobileNetV2Config, ResNetConfig};
use elastic_layers::{Architecture, Backbone, SearchSpace, SpaceError, recalibrate};
use exporters::{OnnxExporter, reference, verify};

/// Images of ten patterns, smooth as photographs are, and noise.
struct Task {
    patterns: Tensor<4>,
}

impl Task {
    fn new([channels, height, width]: [usize; 3]) -> Self {
        let coarse = normal([10, channels, height.div_ceil(4), width.div_ceil(4)]);
        let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size([height, width]);
        Self { patterns: interpolate(coarse, options) }
    }

    /// Images and the numbers of their patterns, the first of which is `first`.
    fn batch(&self, count: usize, first: usize, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
        let labels: Vec<i64> = (0..count).map(|index| ((first + index) % 10) as i64).collect();
        let labels = Tensor::from_data(TensorData::new(labels, [count]), &Device::default());
        let images = self.patterns.clone().select(0, labels.clone());
        let noise = normal(images.dims()) * 0.5;
        let at = |data: TensorData| Tensor::from_data(data, device);
        (at((images + noise).into_data()), Tensor::from_data(labels.into_data(), device))
    }

    /// A supernet after a short training of views, as a search trains it.
    fn train<M: Backbone>(&self, mut supernet: M, space: &SearchSpace, steps: u64) -> M {
        let device = Device::default().autodiff();
        let mut optimizer = AdamConfig::new().init();
        for step in 0..steps {
            let view = supernet.select(&architecture(space, 1000 + step));
            let (images, labels) = self.batch(20, 0, &device);
            let loss = CrossEntropyLossConfig::new().init(&device).forward(view.forward(images), labels);
            let gradients = GradientsParams::from_grads(loss.backward(), &view);
            supernet = optimizer.step(3e-3, supernet, gradients);
        }
        supernet.valid()
    }
}

/// An architecture that looks random and is the same in every run.
fn architecture(space: &SearchSpace, index: u64) -> Architecture {
    space.with_values(|dim| {
        let values: Vec<usize> = (dim.min..=dim.max).step_by(dim.step).collect();
        let hash =
            dim.name.bytes().fold(index + 1, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        values[(hash >> 20) as usize % values.len()]
    })
}

/// How many architectures of each backbone are exported.
const ARCHITECTURES: u64 = 50;

/// Networks at random architectures, with the weights of a supernet that has been trained for some steps: in every
/// runtime, and by other people's tools.
///
/// Those steps are for what is compared to mean something. In front of them a network enlarges every difference a
/// hundredfold, and a runtime's resize, whose coordinates are 32-bit floats, is off by a millionth; a trained one enlarges
/// it some times.
fn check_random_architectures<M: Backbone>(
    name: &str,
    image: [usize; 3],
    steps: u64,
    build: impl Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError>,
) {
    let device = Device::default();
    device.seed(1);
    let mut space = SearchSpace::new();
    let task = Task::new(image);
    let supernet = task.train(build(&mut space, &device.clone().autodiff()).expect("a network"), &space, steps);
    let input = [1, image[0], image[1], image[2]];
    let mut files = Files::new();
    for index in 0..ARCHITECTURES {
        let architecture = architecture(&space, index);
        let view = supernet.select(&architecture);
        let seen = (0..2).map(|_| task.batch(40, 0, &device).0);
        let view = recalibrate(&view, seen, |view, images| drop(view.forward(images)));
        let small = view.materialize_at(&architecture);
        let onnx = OnnxExporter::new(input).export(&small, M::forward).expect("exports");
        for absent in ["BatchNormalization", "Slice", "Pad", "Transpose", "MatMul"] {
            assert!(!onnx.operators().contains_key(absent), "{absent}");
        }
        let path = files.save(&format!("{name}_{index}"), &onnx);
        for model in [&small, &view] {
            let references = [1, 7].map(|batch| {
                let images = task.batch(batch, index as usize, &device).0;
                reference(images.clone(), model.forward(images))
            });
            let report = verify(&path, &references, &runtimes(), TOLERANCE);
            assert!(report.passed(), "{name}, {architecture}: {report}");
            assert_eq!(report.entries.len(), 2 * runtimes().len());
        }
        let of_view = OnnxExporter::new(input).export(&view, M::forward).expect("exports a view");
        assert_eq!(of_view.operators(), onnx.operators());
        assert_eq!((of_view.macs(), of_view.parameters()), (onnx.macs(), onnx.parameters()));
    }
    files.check_with_tools(&[]);
}

#[test]
fn mobilenet_v1_at_random_architectures() {
    let config = MobileNetV1Config::small(1, 28, 10);
    check_random_architectures("mobilenet_v1", [1, 28, 28], 1600, |space, device| config.init(space, device));
}

#[test]
fn mobilenet_v2_at_random_architectures() {
    let config = MobileNetV2Config::small(1, 28, 10);
    check_random_architectures("mobilenet_v2", [1, 28, 28], 150, |space, device| config.init(space, device));
}

#[test]
fn resnet_20_at_random_architectures() {
    let config = ResNetConfig::resnet20(10).with_images(3, 20);
    check_random_architectures("resnet_20", [3, 20, 20], 60, |space, device| config.init(space, device));
}

/// A quarter as wide as published.
#[test]
fn resnet_50_at_random_architectures() {
    let mut config = ResNetConfig::resnet50(10).with_images(3, 33);
    config.stem_channels /= 4;
    for stage in &mut config.stages {
        (stage.channels, stage.middle) = (stage.channels / 4, stage.middle / 4);
    }
    check_random_architectures("resnet_50", [3, 33, 33], 40, |space, device| config.init(space, device));
}

/// Writes the network that a configuration makes of its own numbers, and holds what the export says it costs.
fn save_published<M: Backbone>(
    folder: &tempfile::TempDir,
    name: &str,
    expected: (u64, u64),
    build: impl Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError>,
) -> PathBuf {
    let mut space = SearchSpace::new();
    build(&mut space, &Device::default()).expect("a supernet");
    let network = build(&mut SearchSpace::pinned(&space.base()), &Device::default()).expect("a network");
    let onnx = OnnxExporter::new([1, 3, 224, 224]).export(&network, M::forward).expect("exports");
    assert_eq!((onnx.macs().0, onnx.parameters()), expected, "{name}");
    let path = folder.path().join(format!("{name}.onnx"));
    onnx.save(&path).expect("writes");
    path
}

/// MACs and parameters as published; where Python has what it takes, counted from the shapes in the file too.
#[test]
fn exported_backbones_cost_what_is_published() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut files, mut costs) = (Vec::new(), Vec::new());
    for (width, macs, parameters) in [
        (1.0, 568_740_352, 4_231_976),
        (0.75, 325_400_448, 2_585_560),
        (0.5, 149_497_088, 1_331_592),
        (0.25, 41_030_272, 470_072),
    ] {
        let config = MobileNetV1Config::imagenet(1000).with_width(width);
        let (name, cost) = (format!("mobilenet_v1_{width}"), (macs, parameters));
        files.push(save_published(&folder, &name, cost, |space, device| config.init(space, device)));
        costs.push(cost);
    }
    let (config, cost) = (MobileNetV2Config::imagenet(1000), (300_774_272, 3_504_872));
    files.push(save_published(&folder, "mobilenet_v2", cost, |space, device| config.init(space, device)));
    costs.push(cost);
    let (config, cost) = (ResNetConfig::resnet50(1000), (4_089_184_256, 25_557_032));
    files.push(save_published(&folder, "resnet_50", cost, |space, device| config.init(space, device)));
    costs.push(cost);

    let reports = check_with_tools(&files, &[]).unwrap_or_default();
    for (report, (macs, parameters)) in reports.into_iter().zip(costs) {
        let report: serde_json::Value = serde_json::from_str(&report).expect("a line of JSON");
        assert_eq!(
            (report["macs"].as_u64(), report["parameters"].as_u64()),
            (Some(macs), Some(parameters)),
            "{report}"
        );
    }
}
