//! Weights of torchvision's networks in a supernet: the class scores are PyTorch's. The fixtures are written by
//! `tests/python/torchvision_fixtures.py`.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use common::{assert_close, entries, values};
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config, ResNetConfig, Stage};
use elastic_layers::{
    Elastic, ElasticConv2d, ElasticLinear, PytorchWeights, SearchSpace, Statistics, Torchvision, WeightsError,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Scores {
    size: usize,
    scores: Vec<Vec<f64>>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torchvision").join(name)
}

/// The images that the fixtures were scored on.
fn images(size: usize) -> Tensor<4> {
    let pixels: Vec<f32> = (0..2 * 3 * size * size).map(|index| ((index * 7919) % 1009) as f32 / 504.5 - 1.0).collect();
    common::tensor(&pixels, [2, 3, size, size], &Device::default())
}

/// The network of `mobilenet-v2-narrow`.
fn narrow() -> (SearchSpace, MobileNetV2) {
    let stage = |expansion, channels, blocks, stride| Stage { expansion, channels, blocks, stride };
    let config = MobileNetV2Config {
        stages: vec![stage(1, 8, 1, 1), stage(2, 16, 2, 2), stage(3, 24, 2, 2)],
        ..MobileNetV2Config::imagenet(10).with_images(3, 32)
    };
    let mut space = SearchSpace::new();
    let supernet = config.init(&mut space, &Device::default()).expect("a supernet");
    (space, supernet)
}

/// A supernet's base region, and the static network cropped from it, give the scores of PyTorch.
fn assert_scores<M: Torchvision>(space: &SearchSpace, supernet: M, weights: &Path, scores: &Path) {
    let expected: Scores = serde_json::from_slice(&std::fs::read(scores).expect("scores")).expect("scores");
    let weights = PytorchWeights::read(weights).expect("weights");
    let base = space.base();
    let supernet = weights.put_into_backbone(supernet, &base).expect("weights that fit");
    let flat: Vec<f64> = expected.scores.concat();
    let view = supernet.select(&base).with_statistics(Statistics::Running);
    let scale = flat.iter().fold(0.0f64, |scale, score| scale.max(score.abs()));
    // `assert_close` takes differences over 1 at least.
    let relative = |scores: Tensor<2>| values(scores.div_scalar(scale));
    let flat: Vec<f64> = flat.iter().map(|score| score / scale).collect();
    assert_close("view", &relative(view.forward(images(expected.size))), &flat, 1e-4);
    let small = supernet.materialize_at(&base);
    assert_close("materialised", &relative(small.forward(images(expected.size))), &flat, 1e-4);
}

#[test]
fn a_mobilenet_v2_scores_as_pytorchs() {
    for file in ["mobilenet-v2-narrow.pth", "mobilenet-v2-narrow.safetensors"] {
        let (space, supernet) = narrow();
        assert_scores(&space, supernet, &fixture(file), &fixture("mobilenet-v2-narrow.json"));
    }
}

/// With the files that the script writes when asked to, which are too large to keep.
#[test]
fn networks_of_full_size_score_as_pytorchs() {
    let Some(directory) = std::env::var_os("TORCHVISION_FULL").map(PathBuf::from) else { return };
    let file = |name: &str| directory.join(name);
    let mut space = SearchSpace::new();
    let mobilenet = MobileNetV2Config::imagenet(1000).init(&mut space, &Device::default()).expect("a supernet");
    assert_scores(&space, mobilenet, &file("mobilenet-v2.pth"), &file("mobilenet-v2.json"));
    let mut space = SearchSpace::new();
    let resnet = ResNetConfig::resnet50(1000).init(&mut space, &Device::default()).expect("a supernet");
    assert_scores(&space, resnet, &file("resnet-50.pth"), &file("resnet-50.json"));
}

/// The paths and shapes of a static network's parameters, and whether they are of a linear layer.
fn parameters<M: Module>(model: &M) -> Vec<(String, Vec<usize>, bool)> {
    #[derive(Default)]
    struct Visitor {
        path: Vec<(String, bool)>,
        found: Vec<(String, Vec<usize>, bool)>,
    }

    impl ModuleVisitor for Visitor {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path: Vec<&str> = self.path.iter().map(|(name, _)| name.as_str()).collect();
            let is_linear = self.path.iter().any(|(_, is_linear)| *is_linear);
            self.found.push((path.join("."), param.lazy_shape().to_vec(), is_linear));
        }

        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.push((name.into(), container.ends_with("Linear")));
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
    }

    let mut visitor = Visitor::default();
    model.visit(&mut visitor);
    visitor.found
}

/// Every parameter has the name and shape of one of torchvision's, and none of these is left.
fn assert_names<M: Torchvision>(model: &M, mut theirs: BTreeMap<String, Vec<usize>>) {
    theirs.retain(|name, _| !name.ends_with("num_batches_tracked"));
    for (path, mut shape, is_linear) in parameters(model) {
        let (module, leaf) = path.rsplit_once('.').expect("a parameter of a module");
        let leaf = match leaf {
            "gamma" => "weight",
            "beta" => "bias",
            leaf => leaf,
        };
        if is_linear {
            shape.reverse();
        }
        let name = format!("{}.{leaf}", model.torchvision_name(module).expect("a name"));
        assert_eq!(theirs.remove(&name), Some(shape), "{path} is {name}");
    }
    assert_eq!(theirs, BTreeMap::new());
}

#[test]
fn networks_of_full_size_have_torchvisions_names_and_shapes() {
    let text = std::fs::read(fixture("shapes.json")).expect("shapes");
    let mut theirs: BTreeMap<String, BTreeMap<String, Vec<usize>>> = serde_json::from_slice(&text).expect("shapes");
    let device = Device::default();
    let mut of = |name: &str| theirs.remove(name).expect("a network");
    let config = MobileNetV2Config::imagenet(1000);
    let mut space = SearchSpace::new();
    config.init(&mut space, &device).expect("a supernet");
    let base = config.init(&mut SearchSpace::pinned(&space.base()), &device).expect("a network");
    assert_names(&base, of("mobilenet-v2"));
    let config = ResNetConfig::resnet50(1000);
    let mut space = SearchSpace::new();
    config.init(&mut space, &device).expect("a supernet");
    let base = config.init(&mut SearchSpace::pinned(&space.base()), &device).expect("a network");
    assert_names(&base, of("resnet-50"));
}

#[test]
fn entries_outside_the_architecture_stay() {
    let (space, supernet) = narrow();
    let before = entries(&supernet);
    let weights = PytorchWeights::read(&fixture("mobilenet-v2-narrow.pth")).expect("weights");
    let supernet = weights.put_into_backbone(supernet, &space.base()).expect("weights that fit");
    let small = entries(&supernet.materialize_at(&space.base()));
    for ((before, after), small) in before.iter().zip(&entries(&supernet)).zip(&small) {
        let inside = common::inside(&before.shape, &common::first(&small.shape));
        let mut expected = before.values.clone();
        for (place, value) in inside.into_iter().zip(&small.values) {
            expected[place] = *value;
        }
        common::assert_same_bits(&before.path, &after.values, &expected);
    }
}

fn error(path: &Path) -> WeightsError {
    let (space, supernet) = narrow();
    let weights = match PytorchWeights::read(path) {
        Ok(weights) => weights,
        Err(error) => return error,
    };
    weights.put_into_backbone(supernet, &space.base()).expect_err("weights that do not fit")
}

#[test]
fn a_network_of_other_classes_is_refused() {
    let stage = |expansion, channels, blocks, stride| Stage { expansion, channels, blocks, stride };
    let config = MobileNetV2Config {
        stages: vec![stage(1, 8, 1, 1), stage(2, 16, 2, 2), stage(3, 24, 2, 2)],
        ..MobileNetV2Config::imagenet(7).with_images(3, 32)
    };
    let mut space = SearchSpace::new();
    let supernet = config.init(&mut space, &Device::default()).expect("a supernet");
    let path = fixture("mobilenet-v2-narrow.pth");
    let weights = PytorchWeights::read(&path).expect("weights");
    let error = weights.put_into_backbone(supernet, &space.base()).expect_err("other classes");
    let expected = vec![1280, 7];
    assert_eq!(
        error,
        WeightsError::Shape { path, name: "classifier.1.weight".into(), expected, found: vec![1280, 10] }
    );
}

#[test]
fn files_that_hold_no_such_weights_are_refused() {
    let directory = std::env::temp_dir().join(format!("weights-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let good = std::fs::read(fixture("mobilenet-v2-narrow.safetensors")).expect("weights");
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let read = |error: WeightsError| matches!(error, WeightsError::Read { .. });
    assert!(read(error(&directory.join("none.pth"))));
    assert!(read(error(&write("weights.bin", &good))));
    assert!(read(error(&write("text.pth", b"no weights"))));
    assert!(read(error(&write("text.safetensors", b"no weights"))));
    for end in [7, 100, good.len() / 2, good.len() - 1] {
        assert!(read(error(&write("short.safetensors", &good[..end]))), "{end} bytes");
    }
    let torch = std::fs::read(fixture("mobilenet-v2-narrow.pth")).expect("weights");
    for end in [0, 7, 100, torch.len() / 2, torch.len() - 1] {
        assert!(read(error(&write("short.pth", &torch[..end]))), "{end} bytes");
    }
    // Another name of the same length.
    let renamed = String::from_utf8_lossy(&good).contains("features.0.0.weight");
    assert!(renamed, "the tensor that is renamed");
    let at = good.windows(19).position(|bytes| bytes == b"features.0.0.weight").expect("a name");
    let mut other = good.clone();
    other[at..at + 19].copy_from_slice(b"features.9.9.weight");
    let missing = error(&write("renamed.safetensors", &other));
    assert!(matches!(&missing, WeightsError::Missing { name, .. } if name == "features.0.0.weight"), "{missing}");
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[test]
fn tensors_that_are_left_over_are_named() {
    #[derive(Module, Elastic, Debug)]
    struct Head {
        stem: ElasticConv2d,
        head: ElasticLinear,
    }
    let device = Device::default();
    let head = Head {
        stem: elastic_layers::ElasticConv2dConfig::new([3.into(), 32.into()], [3, 3]).with_bias(false).init(&device),
        head: elastic_layers::ElasticLinearConfig::new(1280, 10).init(&device),
    };
    let weights = PytorchWeights::read(&fixture("mobilenet-v2-narrow.pth")).expect("weights");
    let nothing = SearchSpace::new().base();
    let names = |path: &str| match path {
        "stem" => Some("features.0.0".to_string()),
        "head" => Some("classifier.1".to_string()),
        _ => None,
    };
    let error = weights.put_into(head.clone(), &nothing, names).expect_err("a part of the network");
    assert!(matches!(&error, WeightsError::LeftOver { name, .. } if name == "features.0.1.bias"), "{error}");
    let error = weights.put_into(head, &nothing, |_| None).expect_err("no names");
    assert_eq!(error, WeightsError::Unnamed { module: "stem".into() });
}
