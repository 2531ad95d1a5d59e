//! Exported backbones: against Burn at random architectures, and their MACs and parameters as published.

mod common;

use std::path::PathBuf;

use burn::tensor::Device;
use common::{Files, TOLERANCE, check_with_tools, compare_within, normal};
use elastic_layers::backbones::{MobileNetV1Config, MobileNetV2Config, ResNetConfig};
use elastic_layers::{Backbone, SearchSpace, SpaceError, recalibrate};
use exporters::OnnxExporter;

/// Untrained networks enlarge rounding from layer to layer: these by ten times more than the shallow ones do.
const TOLERANCE_OF_DEEP: f32 = 10.0 * TOLERANCE;

/// Materialised networks and views of the supernet, with the statistics of a few batches, at random architectures.
fn check_random_architectures<M: Backbone>(
    name: &str,
    [channels, height, width]: [usize; 3],
    count: u64,
    tolerance: f32,
    build: impl Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError>,
) {
    let mut space = SearchSpace::new();
    let supernet = build(&mut space, &Device::default()).expect("a network");
    let input = [1, channels, height, width];
    let mut files = Files::new();
    for index in 0..count {
        // Values that look random and are the same in every run.
        let architecture = space.with_values(|dim| {
            let values: Vec<usize> = (dim.min..=dim.max).step_by(dim.step).collect();
            let hash =
                dim.name.bytes().fold(index + 1, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
            values[(hash >> 20) as usize % values.len()]
        });
        let view = supernet.select(&architecture);
        let seen = (0..3).map(|_| normal([8, channels, height, width]));
        let view = recalibrate(&view, seen, |view, images| drop(view.forward(images)));
        let small = view.materialize_at(&architecture);
        let onnx = OnnxExporter::new(input).export(&small, M::forward).expect("exports");
        for absent in ["BatchNormalization", "Slice", "Pad", "Transpose", "MatMul"] {
            assert!(!onnx.operators().contains_key(absent), "{absent}");
        }
        let path = files.save(&format!("{name}_{index}"), &onnx);
        for model in [&small, &view] {
            let report = compare_within(tolerance, &path, model, input, M::forward);
            assert!(report.passed(), "{name}, {architecture}: {report}");
        }
        let of_view = OnnxExporter::new(input).export(&view, M::forward).expect("exports a view");
        assert_eq!(of_view.operators(), onnx.operators());
        assert_eq!((of_view.macs(), of_view.parameters()), (onnx.macs(), onnx.parameters()));
    }
}

#[test]
fn mobilenet_v1_at_random_architectures() {
    let config = MobileNetV1Config::small(1, 28, 10);
    check_random_architectures("mobilenet_v1", [1, 28, 28], 10, TOLERANCE_OF_DEEP, |space, device| {
        config.init(space, device)
    });
}

#[test]
fn mobilenet_v2_at_random_architectures() {
    let config = MobileNetV2Config::small(1, 28, 10);
    check_random_architectures("mobilenet_v2", [1, 28, 28], 50, TOLERANCE, |space, device| config.init(space, device));
}

#[test]
fn resnet_20_at_random_architectures() {
    let config = ResNetConfig::resnet20(10);
    check_random_architectures("resnet_20", [3, 32, 32], 10, TOLERANCE, |space, device| config.init(space, device));
}

#[test]
fn resnet_50_at_random_architectures() {
    let config = ResNetConfig::resnet50(10).with_images(3, 33);
    check_random_architectures("resnet_50", [3, 33, 33], 3, TOLERANCE_OF_DEEP, |space, device| {
        config.init(space, device)
    });
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
