//! Every backbone: at random shapes and architectures views, static networks and the cost model agree; the networks are
//! what their authors describe; and what makes no network is refused.

mod common;

use burn::module::{ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use common::backbones::{Built, captured, costs, images, slim};
use common::{architectures, assert_same_bits, below, device, entries, is_statistic, shapes, tensor, values};
use elastic_layers::backbones::{Images, MobileNetV1Config, MobileNetV2Config, ResNetConfig, SeparableBlock, Stage};
use elastic_layers::{Backbone, Elastic, SearchSpace, Statistics};
use proptest::prelude::*;

/// At one architecture: the view is the static network bit for bit, which has the shapes of the pinned one and costs
/// what the model says.
fn assert_agree<M: Backbone>(
    image: [usize; 3],
    batch: usize,
    seed: u64,
    build: impl Fn(&mut SearchSpace, &Device) -> Built<M> + Clone + Send + Sync + 'static,
) {
    let (space, costs) = costs(image, build.clone());
    let supernet = build(&mut SearchSpace::new(), &Device::default()).expect("a supernet");
    let levels = |index: usize| below(seed.wrapping_add(index as u64), space.dims()[index].levels());
    let architecture = space.at_levels(&(0..space.dims().len()).map(levels).collect::<Vec<_>>());
    let small = supernet.materialize_at(&architecture);
    let scores = small.with_statistics(Statistics::Batch).forward(images(image, batch));
    assert_eq!(scores.dims()[0], batch);
    let view = supernet.select(&architecture).forward(images(image, batch));
    let scores = values(scores);
    assert!(scores.iter().all(|score| score.is_finite()), "{architecture}: {scores:?}");
    assert_same_bits(&format!("{architecture}"), &values(view), &scores);

    let pinned = build(&mut SearchSpace::pinned(&architecture), &Device::default()).expect("a pinned network");
    assert_eq!(shapes(entries(&pinned)), shapes(entries(&small)), "{architecture}");
    let cost = costs.cost(&architecture).expect("a cost");
    assert_eq!(captured(image, &architecture, build), cost, "{architecture}");
    let trainable = entries(&small).into_iter().filter(|entry| !is_statistic(entry));
    assert_eq!(cost.parameters, trainable.map(|entry| entry.values.len() as u64).sum::<u64>(), "{architecture}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn mobilenet_v1_agrees(channels in 1usize..5, size in 1usize..40, classes in 1usize..12, batch in 1usize..4, seed: u64) {
        let config = MobileNetV1Config::small(channels, size, classes);
        assert_agree([channels, size, size], batch, seed, move |space, device| config.init(space, device));
    }

    #[test]
    fn mobilenet_v2_agrees(channels in 1usize..5, size in 1usize..40, classes in 1usize..12, batch in 1usize..4, seed: u64) {
        let config = MobileNetV2Config::small(channels, size, classes);
        assert_agree([channels, size, size], batch, seed, move |space, device| config.init(space, device));
    }

    #[test]
    fn resnet_20_agrees(channels in 1usize..5, size in 1usize..40, classes in 1usize..12, batch in 1usize..4, seed: u64) {
        let config = ResNetConfig::resnet20(classes).with_images(channels, size);
        assert_agree([channels, size, size], batch, seed, move |space, device| config.init(space, device));
    }

    #[test]
    fn a_slim_resnet_50_agrees(channels in 1usize..5, size in 1usize..80, classes in 1usize..12, batch in 1usize..4, seed: u64) {
        let config = slim(ResNetConfig::resnet50(classes)).with_images(channels, size);
        assert_agree([channels, size, size], batch, seed, move |space, device| config.init(space, device));
    }
}

#[test]
fn a_step_on_a_view_changes_no_entry_outside_it() {
    fn assert_steps<M: Backbone>(image: [usize; 3], build: impl Fn(&mut SearchSpace, &Device) -> Built<M>) {
        let mut space = SearchSpace::new();
        let supernet = build(&mut space, &device()).expect("a supernet");
        for architecture in architectures(&space, 3).into_iter().chain([space.base()]) {
            common::assert_step_stays_inside(&supernet, &architecture, images(image, 2));
        }
    }
    assert_steps([1, 20, 20], |space, device| MobileNetV1Config::small(1, 20, 10).init(space, device));
    assert_steps([3, 13, 13], |space, device| ResNetConfig::resnet20(10).with_images(3, 13).init(space, device));
    assert_steps([1, 33, 33], |space, device| slim(ResNetConfig::resnet50(10)).with_images(1, 33).init(space, device));
}

/// The forward of a network with given parameters, written down with Burn's functions alone.
struct Reference<'a> {
    entries: &'a [common::Entry],
}

impl Reference<'_> {
    fn tensor<const D: usize>(&self, path: &str) -> Tensor<D> {
        let found = self.entries.iter().find(|entry| entry.path == path);
        let entry = found.unwrap_or_else(|| panic!("no parameter {path}"));
        tensor(&entry.values, std::array::from_fn(|axis| entry.shape[axis]), &Device::default())
    }

    /// Convolution, and batch norm by its definition.
    fn conv_norm(&self, path: &str, x: Tensor<4>, stride: usize, is_depthwise: bool) -> Tensor<4> {
        let weight: Tensor<4> = self.tensor(&format!("{path}.conv.weight"));
        let [outputs, _, kernel, _] = weight.dims();
        let groups = if is_depthwise { outputs } else { 1 };
        let options = burn::tensor::ops::ConvOptions::new([stride; 2], [kernel / 2; 2], [1; 2], groups);
        let x = burn::tensor::module::conv2d(x, weight, None, options);
        let [gamma, beta, mean, variance] = ["gamma", "beta", "running_mean", "running_var"]
            .map(|name| self.tensor::<1>(&format!("{path}.norm.{name}")).reshape([1, outputs, 1, 1]));
        (x - mean) / (variance + 1e-5).sqrt() * gamma + beta
    }

    fn classes(&self, x: Tensor<4>) -> Tensor<2> {
        let [batch, channels, height, width] = x.dims();
        let mean = x.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels]);
        mean.matmul(self.tensor("classifier.weight")) + self.tensor::<1>("classifier.bias").reshape([1, -1])
    }
}

fn relu(x: Tensor<4>) -> Tensor<4> {
    x.clamp_min(0.0)
}

/// The backbone itself, as no new network is: batch norms have running statistics of a batch, and scales of 4, so that
/// ReLU and ReLU6 differ.
fn network<M: Backbone>(image: [usize; 3], build: impl Fn(&mut SearchSpace, &Device) -> Built<M>) -> M {
    struct Scale(bool);
    impl ModuleMapper for Scale {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.0 { param.map(|scale| scale * 4.0) } else { param }
        }

        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0 = name == "gamma";
        }
    }
    let mut space = SearchSpace::new();
    build(&mut space, &Device::default()).expect("a supernet");
    let network = build(&mut SearchSpace::pinned(&space.base()), &Device::default()).expect("a network");
    let network = network.map(&mut Scale(false));
    assert_eq!(common::entry(&network, "stem.norm.gamma")[0], 4.0);
    elastic_layers::recalibrate(&network, [images(image, 5)], |model, images| drop(model.forward(images)))
}

#[track_caller]
fn assert_near(got: Tensor<2>, expected: Tensor<2>) {
    common::assert_close("scores", &values(got), &common::to_f64(&values(expected)), 1e-4);
}

#[test]
fn mobilenet_v1_is_what_its_authors_describe() {
    let image = [3, 28, 28];
    let config = MobileNetV1Config::small(3, 28, 10);
    let network = network(image, |space, device| config.init(space, device));
    let entries = entries(&network);
    let reference = Reference { entries: &entries };
    let mut x = relu(reference.conv_norm("stem", images(image, 2), 1, false));
    for (index, stride) in [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1].into_iter().enumerate() {
        x = relu(reference.conv_norm(&format!("blocks.{index}.filter"), x, stride, true));
        x = relu(reference.conv_norm(&format!("blocks.{index}.mix"), x, 1, false));
    }
    assert_eq!(x.dims(), [2, 256, 2, 2]);
    assert_near(network.forward(images(image, 2)), reference.classes(x));
}

#[test]
fn resnets_are_what_their_authors_describe() {
    let max_pool = |x| {
        burn::tensor::module::max_pool2d(
            x,
            burn::tensor::ops::MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]),
        )
    };
    for (config, bottleneck, size) in
        [(ResNetConfig::resnet20(10), false, 17), (slim(ResNetConfig::resnet50(10)), true, 71)]
    {
        let (image, config) = ([3, size, size], config.with_images(3, size));
        let network = network(image, |space, device| config.init(space, device));
        let entries = entries(&network);
        let reference = Reference { entries: &entries };
        let mut x = relu(reference.conv_norm("stem", images(image, 2), if bottleneck { 2 } else { 1 }, false));
        if bottleneck {
            x = max_pool(x);
        }
        for (stage, shape) in config.stages.iter().enumerate() {
            for block in 0..shape.blocks {
                let path = |layer: &str| format!("stages.{stage}.{block}.{layer}");
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let is_projected = block == 0 && (stage > 0 || bottleneck);
                let shortcut = match is_projected {
                    true => reference.conv_norm(&path("downsample"), x.clone(), stride, false),
                    false => x.clone(),
                };
                // As torchvision: the stride is in the first 3x3.
                let strides = if bottleneck { [1, stride] } else { [stride, 1] };
                x = relu(reference.conv_norm(&path("conv1"), x, strides[0], false));
                x = reference.conv_norm(&path("conv2"), x, strides[1], false);
                if bottleneck {
                    x = reference.conv_norm(&path("conv3"), relu(x), 1, false);
                }
                x = relu(x + shortcut);
            }
        }
        assert_near(network.forward(images(image, 2)), reference.classes(x));
    }
}

/// As torchvision initialises ResNets: N(0, 2 / fan_out) in convolutions, 1 and 0 in batch norms, and uniform within
/// 1 / sqrt(inputs) in the linear layer.
#[test]
fn initial_weights_are_torchvisions() {
    let device = Device::default();
    device.seed(3);
    let config = ResNetConfig::resnet50(100);
    let mut space = SearchSpace::new();
    config.init(&mut space, &device).expect("a supernet");
    let network = config.init(&mut SearchSpace::pinned(&space.base()), &device).expect("a network");
    for entry in entries(&network) {
        let all = |value: f32| entry.values.iter().all(|found| *found == value);
        let mean_square = entry.values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        let mean_square = mean_square / entry.values.len() as f64;
        // Of so many squares of normally distributed numbers, the mean is within 6 deviations.
        let tolerance = 6.0 * (2.0 / entry.values.len() as f64).sqrt();
        match (entry.path.rsplit('.').next().expect("a name"), entry.shape.as_slice()) {
            ("gamma" | "running_var", _) => assert!(all(1.0), "{}", entry.path),
            ("beta" | "running_mean", _) => assert!(all(0.0), "{}", entry.path),
            (_, [outputs, _, height, width]) => {
                let expected = 2.0 / (outputs * height * width) as f64;
                assert!((mean_square / expected - 1.0).abs() < tolerance, "{}: {mean_square}", entry.path);
            }
            (_, shape) => {
                assert!(entry.path.starts_with("classifier."), "{} {shape:?}", entry.path);
                let bound = 1.0 / 2048f32.sqrt();
                assert!(entry.values.iter().all(|value| value.abs() <= bound), "{}", entry.path);
                assert!((mean_square / (f64::from(bound).powi(2) / 3.0) - 1.0).abs() < tolerance, "{}", entry.path);
            }
        }
    }
}

#[test]
fn a_stem_has_the_channels_of_the_shortcut_that_it_begins() {
    let mut space = SearchSpace::new();
    let supernet = ResNetConfig::resnet20(10).init(&mut space, &Device::default()).expect("a supernet");
    let narrow = space.with_values(|dim| if dim.name == "stage1" { 5 } else { dim.base });
    let shapes = shapes(entries(&supernet.materialize_at(&narrow)));
    let shape = |path: &str| shapes.iter().find(|(found, _)| found == path).map(|(_, shape)| shape.clone());
    assert_eq!(shape("stem.conv.weight"), Some(vec![5, 3, 3, 3]));
    assert_eq!(shape("stages.0.2.conv2.conv.weight"), Some(vec![5, 16, 3, 3]));
    assert_eq!(shape("stages.1.0.downsample.conv.weight"), Some(vec![32, 5, 1, 1]));
    assert_eq!(shape("stages.0.0.downsample.conv.weight"), None);
}

#[test]
fn what_makes_no_network_is_refused_with_a_message() {
    let message = |built: Built<()>| built.expect_err("no network").to_string();
    let v1 = |change: &dyn Fn(&mut MobileNetV1Config)| {
        let mut config = MobileNetV1Config::small(1, 28, 10);
        change(&mut config);
        message(config.init(&mut SearchSpace::new(), &Device::default()).map(drop))
    };
    assert_eq!(
        v1(&|config| config.classes = 0),
        "MobileNetV1 sizes (image channels, image size, classes, channels and stride of the stem): expected numbers of \
         at least 1, found [1, 28, 0, 8, 1]"
    );
    assert_eq!(
        v1(&|config| config.blocks = vec![SeparableBlock { channels: 3, stride: 0 }]),
        "MobileNetV1 blocks (channels, stride): expected numbers of at least 1, found [3, 0]"
    );
    assert_eq!(
        v1(&|config| config.blocks.clear()),
        "MobileNetV1 blocks (channels, stride): expected numbers of at least 1, found []"
    );
    assert_eq!(
        v1(&|config| config.scales.min = f64::NAN),
        "scales of the channels: expected a positive step, and a range around 1, found NaN to 1.6 in steps of 0.03"
    );
    assert_eq!(
        v1(&|config| config.images = Images { min_resolution: 29, ..config.images }),
        "dimension \"resolution\": the base 28 should be in the range 29 to 28"
    );
    let mut config = MobileNetV2Config::small(1, 28, 10);
    config.stages = vec![Stage { expansion: 1, channels: 8, blocks: 0, stride: 1 }];
    assert_eq!(
        message(config.init(&mut SearchSpace::new(), &Device::default()).map(drop)),
        "MobileNetV2 stages (expansion, channels, blocks, stride): expected numbers of at least 1, found [1, 8, 0, 1]"
    );
    let mut config = ResNetConfig::resnet20(10);
    config.stages.clear();
    assert_eq!(
        message(config.init(&mut SearchSpace::new(), &Device::default()).map(drop)),
        "ResNet stages (channels, middle channels, blocks, stride): expected numbers of at least 1, found []"
    );
}
