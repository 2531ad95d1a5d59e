//! The backbones by their names, and the uniform rescalings of MobileNetV1 that Table 1 of the paper compares with.

use burn::module::{Module, ModuleVisitor, Param};
use burn::store::ModuleRecord;
use burn::tensor::{Device, Tensor};
use elastic_layers::backbones::{MobileNetV1Config, MobileNetV2Config, ResNetConfig};
use elastic_layers::{Backbone, Macs, SearchSpace, SpaceError};
use nes_search::{BackboneName, Blueprint, Budget, LEAST_SHARE, Projection, baselines};

/// The path and shape of every parameter.
fn parameters<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    #[derive(Default)]
    struct Paths(Vec<String>, Vec<(String, Vec<usize>)>);
    impl ModuleVisitor for Paths {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push((self.0.join("."), param.lazy_shape().to_vec()));
        }

        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.push(name.to_string());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.pop();
        }
    }
    let mut paths = Paths::default();
    module.visit(&mut paths);
    paths.1
}

fn scores(model: &impl Backbone, image: [usize; 3]) -> Vec<f32> {
    let [channels, height, width] = image;
    let elements = (2 * channels * height * width) as i64;
    let images = Tensor::<1, burn::tensor::Int>::arange(0..elements, &Device::default()).float();
    let images = (images * 0.37).sin().reshape([2, channels, height, width]);
    model.forward(images).into_data().iter::<f32>().collect()
}

/// The named backbone is the configured one: the same space, parameter paths and scores, also through a record.
fn assert_is<M: Backbone>(
    name: BackboneName,
    image: [usize; 3],
    build: impl Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError>,
) {
    let device = Device::default();
    let (mut space, mut expected_space) = (SearchSpace::new(), SearchSpace::new());
    name.init(image, 7, &mut space, &device).expect("a supernet");
    build(&mut expected_space, &device).expect("a supernet");
    assert_eq!(space.hash(), expected_space.hash(), "{name}");

    let narrow = space.smallest();
    let named = name.init(image, 7, &mut SearchSpace::pinned(&narrow), &device).expect("a network");
    let configured = build(&mut SearchSpace::pinned(&narrow), &device).expect("a network");
    assert_eq!(parameters(&named), parameters(&configured), "{name}");
    assert_eq!(Module::num_params(&named), Module::num_params(&configured), "{name}");
    let of_named = scores(&named, image);
    assert!(of_named.iter().any(|score| *score != of_named[0]), "{name}: not constant");
    assert_ne!(of_named, scores(&configured, image), "{name}: other weights");
    let bytes = named.clone().into_record().into_bytes().expect("a record");
    let record = |bytes| ModuleRecord::from_bytes(bytes).expect("the same record");
    let configured = configured.load_record(record(bytes));
    assert_eq!(of_named, scores(&configured, image), "{name}");
    let back = name.init(image, 7, &mut SearchSpace::pinned(&narrow), &device).expect("a network");
    let back = back.load_record(record(configured.into_record().into_bytes().expect("a record")));
    assert_eq!(of_named, scores(&back, image), "{name}");
    assert_eq!(of_named, scores(&back.train().valid(), image), "{name}");
    assert!(named.to_string().contains("classifier"), "{name}: {named}");
}

#[test]
fn a_named_backbone_is_the_configured_one() {
    use BackboneName::*;
    let image = [2, 9, 9];
    assert_is(MobilenetV1, image, |space, device| MobileNetV1Config::imagenet(7).with_images(2, 9).init(space, device));
    assert_is(MobilenetV1Small, image, |space, device| MobileNetV1Config::small(2, 9, 7).init(space, device));
    assert_is(MobilenetV2, image, |space, device| MobileNetV2Config::imagenet(7).with_images(2, 9).init(space, device));
    assert_is(MobilenetV2Small, image, |space, device| MobileNetV2Config::small(2, 9, 7).init(space, device));
    assert_is(Resnet20, image, |space, device| ResNetConfig::resnet20(7).with_images(2, 9).init(space, device));
    assert_is(Resnet56, image, |space, device| ResNetConfig::resnet56(7).with_images(2, 9).init(space, device));
    assert_is(Resnet50, image, |space, device| ResNetConfig::resnet50(7).with_images(2, 9).init(space, device));
}

#[test]
fn names_are_those_that_are_written() {
    use BackboneName::*;
    for (name, text) in [
        (MobilenetV1, "mobilenet-v1"),
        (MobilenetV1Small, "mobilenet-v1-small"),
        (MobilenetV2, "mobilenet-v2"),
        (MobilenetV2Small, "mobilenet-v2-small"),
        (Resnet20, "resnet-20"),
        (Resnet56, "resnet-56"),
        (Resnet50, "resnet-50"),
    ] {
        assert_eq!(name.to_string(), text);
        assert_eq!(serde_json::from_str::<BackboneName>(&format!("\"{text}\"")).expect("a name"), name);
    }
}

#[test]
fn images_that_no_backbone_takes_are_refused() {
    let refused = |image, classes| {
        let built = BackboneName::Resnet50.init(image, classes, &mut SearchSpace::new(), &Device::default());
        built.map(drop).expect_err("no network").to_string()
    };
    assert_eq!(refused([3, 28, 14], 10), "images: expected square ones, found 28x14");
    assert!(refused([3, 0, 0], 10).contains("at least 1, found [3, 0, 10, 64]"));
    assert!(refused([3, 32, 32], 0).contains("at least 1, found [3, 32, 0, 64]"));
}

/// The uniform rows of Table 1: 325 M, 149 M and 41 M MACs are MobileNetV1 with the published widths 0.75, 0.5 and 0.25,
/// which scale the stem too. The space of Table 4 has no dimension for the stem: its own uniform rescaling keeps the 32
/// channels and gives the blocks less instead, at the same budget.
#[test]
fn uniform_rescalings_of_mobilenet_v1_meet_the_budgets_of_the_paper() {
    let image = [3, 224, 224];
    let blueprint = |config: MobileNetV1Config| {
        Blueprint::new(image, move |space, device| config.init(space, device)).expect("a supernet")
    };
    let whole = blueprint(MobileNetV1Config::imagenet(1000));
    for (width, budget, own_width) in [(0.75, 325_400_448, 0.740), (0.5, 149_497_088, 0.475), (0.25, 41_030_272, 0.190)]
    {
        let thinner = blueprint(MobileNetV1Config::imagenet(1000).with_width(width));
        let published = thinner.cost().cost(&thinner.space().base()).expect("a cost").macs;
        assert_eq!(published, Macs(budget), "{width}");

        let limits = whole.limits(Budget::Macs(Macs(budget)), &[]).expect("a cost");
        let projection = Projection::new(whole.space(), &limits).expect("a feasible budget");
        let channel = baselines::uniform_channel(&projection).expect("an architecture");
        assert_eq!(channel.get("resolution"), Some(224), "{width}");
        let base = whole.space().base();
        let scales = base.values().iter().zip(channel.values()).skip(1);
        let scales: Vec<f64> = scales.map(|(base, value)| *value as f64 / *base as f64).collect();
        // One factor, but for the steps of 0.03 of the base, and the last fill of the budget.
        let mean = scales.iter().sum::<f64>() / scales.len() as f64;
        assert!((mean - own_width).abs() < 0.001, "{width}: {mean} of {scales:?}");
        assert!(scales.iter().all(|scale| (scale - mean).abs() < 0.06), "{width}: {scales:?}");

        let joint = baselines::uniform_joint(&projection).expect("architectures");
        assert_eq!(joint[0], channel);
        for architecture in &joint {
            let share = projection.share(architecture).expect("a cost");
            assert!((LEAST_SHARE..=1.0).contains(&share), "{share} of {budget}: {architecture}");
        }
        assert!(joint.len() > 120, "{width}: {} resolutions", joint.len());
    }
}
