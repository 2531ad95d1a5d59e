//! What every backbone costs: as published, and at random architectures counted by hand; and its space.

mod common;

use burn::tensor::Device;
use common::architectures;
use common::backbones::{Built, captured, costs};
use elastic_layers::backbones::{MobileNetV1Config, MobileNetV2Config, ResNetConfig};
use elastic_layers::{Backbone, DimKind, SearchSpace};

/// The cost of the backbone itself, of which both counts agree.
fn base_cost<M: Backbone>(
    image: [usize; 3],
    build: impl Fn(&mut SearchSpace, &Device) -> Built<M> + Clone + Send + Sync + 'static,
) -> (u64, u64) {
    let (space, costs) = costs(image, build.clone());
    let cost = costs.cost(&space.base()).expect("a cost");
    assert_eq!(captured(image, &space.base(), build), cost);
    (cost.macs.0, cost.parameters)
}

const IMAGENET: [usize; 3] = [3, 224, 224];

#[test]
fn mobilenet_v1_costs_what_is_published() {
    for (width, macs, parameters) in [
        (1.0, 568_740_352, 4_231_976),
        (0.75, 325_400_448, 2_585_560),
        (0.5, 149_497_088, 1_331_592),
        (0.25, 41_030_272, 470_072),
    ] {
        let config = MobileNetV1Config::imagenet(1000).with_width(width);
        let cost = base_cost(IMAGENET, move |space, device| config.init(space, device));
        assert_eq!(cost, (macs, parameters), "{width}");
    }
}

#[test]
fn mobilenet_v2_costs_what_is_published() {
    let config = MobileNetV2Config::imagenet(1000);
    let cost = base_cost(IMAGENET, move |space, device| config.init(space, device));
    assert_eq!(cost, (300_774_272, 3_504_872));
}

#[test]
fn resnets_cost_what_is_published() {
    let config = ResNetConfig::resnet50(1000);
    let cost = base_cost(IMAGENET, move |space, device| config.init(space, device));
    assert_eq!(cost, (4_089_184_256, 25_557_032));
    // With projections, which the publication has no parameters for: 0.27 M and 0.85 M without.
    let projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64;
    for (config, macs, parameters, published) in [
        (ResNetConfig::resnet20(10), 40_813_184, 272_474, 269_722),
        (ResNetConfig::resnet56(10), 125_747_840, 855_770, 853_018),
    ] {
        let cost = base_cost([3, 32, 32], move |space, device| config.init(space, device));
        assert_eq!(cost, (macs, parameters));
        assert_eq!(parameters - projections, published);
    }
}

/// The dimensions as Table 4 of the paper has them.
#[test]
fn spaces_are_those_of_the_paper() {
    let counts = |space: &SearchSpace| {
        [DimKind::Channels, DimKind::Resolution, DimKind::Depth]
            .map(|kind| space.dims().iter().filter(|dim| dim.kind == kind).count())
    };
    let range = |space: &SearchSpace, name: &str| {
        let dim = space.get(name).expect("a dimension");
        (dim.min, dim.base, dim.max, dim.step)
    };
    let device = Device::default();

    let mut space = SearchSpace::new();
    MobileNetV1Config::imagenet(1000).init(&mut space, &device).expect("a supernet");
    assert_eq!(counts(&space), [13, 1, 0]);
    assert_eq!(range(&space, "resolution"), (96, 224, 224, 1));
    // 6.4 to 102.4 in steps of 1.92, and 102.4 to 1638.4 in steps of 30.72: grids through 64 and 1024.
    assert_eq!(range(&space, "block1"), (6, 64, 102, 2));
    assert_eq!(range(&space, "block13"), (125, 1024, 1613, 31));

    let mut space = SearchSpace::new();
    MobileNetV2Config::imagenet(1000).init(&mut space, &device).expect("a supernet");
    // 8 shortcut widths, and 17 middle ones: those of the 16 blocks that have some of their own, and the last
    // convolution's.
    assert_eq!(counts(&space), [8 + 17, 1, 1]);
    assert_eq!(range(&space, "resolution"), (96, 224, 224, 1));
    assert_eq!(range(&space, "depth"), (9, 19, 19, 1));

    let mut space = SearchSpace::new();
    ResNetConfig::resnet50(1000).init(&mut space, &device).expect("a supernet");
    assert_eq!(counts(&space), [4 + 16, 0, 0]);
    assert_eq!(range(&space, "stage1.block1"), (6, 64, 102, 2));
    // 25.6 to 409.6 in steps of 7.68.
    assert_eq!(range(&space, "stage1"), (32, 256, 408, 8));
    let blocks = |stage| space.dims().iter().filter(|dim| dim.name.starts_with(&format!("stage{stage}."))).count();
    assert_eq!([1, 2, 3, 4].map(blocks), [3, 4, 6, 3]);

    let mut space = SearchSpace::new();
    ResNetConfig::resnet56(10).init(&mut space, &device).expect("a supernet");
    assert_eq!(counts(&space), [3 + 27, 1, 0]);
    assert_eq!(range(&space, "resolution"), (16, 32, 32, 1));
}

/// Convolutions with batch norms, counted one by one.
#[derive(Default)]
struct Count {
    macs: u64,
    parameters: u64,
    size: u64,
}

impl Count {
    /// A convolution of so many weights per output channel; padding of half the kernel: a stride halves upwards.
    fn conv(&mut self, weights: u64, outputs: u64, stride: u64) {
        self.size = self.size.div_ceil(stride);
        self.macs += weights * outputs * self.size * self.size;
        self.parameters += weights * outputs + 2 * outputs;
    }

    fn classes(mut self, inputs: u64, classes: u64) -> (u64, u64) {
        self.macs += inputs * classes;
        self.parameters += inputs * classes + classes;
        (self.macs, self.parameters)
    }
}

/// At 20 random architectures: the cost model, the captured static network, and a count by hand agree.
fn assert_costs<M: Backbone>(
    image: [usize; 3],
    build: impl Fn(&mut SearchSpace, &Device) -> Built<M> + Clone + Send + Sync + 'static,
    by_hand: impl Fn(&dyn Fn(&str) -> u64) -> (u64, u64),
) {
    let (space, costs) = costs(image, build.clone());
    for architecture in architectures(&space, 20).into_iter().chain([space.base()]) {
        let cost = costs.cost(&architecture).expect("a cost");
        assert_eq!(captured(image, &architecture, &build), cost, "{architecture}");
        let at = |name: &str| architecture.get(name).expect("a dimension") as u64;
        assert_eq!((cost.macs.0, cost.parameters), by_hand(&at), "{architecture}");
    }
}

#[test]
fn costs_of_mobilenet_v1_are_those_of_a_count_by_hand() {
    let strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1];
    for (config, stem, stride, size) in [
        (MobileNetV1Config::imagenet(1000), 32, 2, 224),
        (MobileNetV1Config::imagenet(7).with_images(3, 91), 32, 2, 91),
        (MobileNetV1Config::small(3, 28, 10), 8, 1, 28),
    ] {
        let classes = config.classes as u64;
        let build = move |space: &mut SearchSpace, device: &Device| config.init(space, device);
        assert_costs([3, size, size], build, |at| {
            let mut count = Count { size: at("resolution"), ..Count::default() };
            count.conv(27, stem, stride);
            let mut inputs = stem;
            for (number, stride) in strides.iter().enumerate() {
                count.conv(9, inputs, *stride);
                let outputs = at(&format!("block{}", number + 1));
                count.conv(inputs, outputs, 1);
                inputs = outputs;
            }
            count.classes(inputs, classes)
        });
    }
}

#[test]
fn costs_of_resnet_50_are_those_of_a_count_by_hand() {
    for size in [224, 45] {
        let config = ResNetConfig::resnet50(1000).with_images(3, size);
        let build = move |space: &mut SearchSpace, device: &Device| config.init(space, device);
        assert_costs([3, size, size], build, |at| {
            let mut count = Count { size: size as u64, ..Count::default() };
            count.conv(49 * 3, 64, 2);
            count.size = count.size.div_ceil(2);
            let mut inputs = 64;
            for (stage, blocks, stride) in [(1, 3, 1), (2, 4, 2), (3, 6, 2), (4, 3, 2)] {
                let outputs = at(&format!("stage{stage}"));
                for block in 1..=blocks {
                    let middle = at(&format!("stage{stage}.block{block}"));
                    count.conv(inputs, middle, 1);
                    count.conv(9 * middle, middle, if block == 1 { stride } else { 1 });
                    count.conv(middle, outputs, 1);
                    if block == 1 {
                        // The projection, at the size that the stride has left.
                        count.conv(inputs, outputs, 1);
                    }
                    inputs = outputs;
                }
            }
            count.classes(inputs, 1000)
        });
    }
}

#[test]
fn costs_of_small_resnets_are_those_of_a_count_by_hand() {
    for (config, blocks, size) in [
        (ResNetConfig::resnet20(10), 3, 32),
        (ResNetConfig::resnet20(10).with_images(3, 29), 3, 29),
        (ResNetConfig::resnet56(10), 9, 32),
    ] {
        let build = move |space: &mut SearchSpace, device: &Device| config.init(space, device);
        assert_costs([3, size, size], build, |at| {
            let mut count = Count { size: at("resolution"), ..Count::default() };
            let mut inputs = at("stage1");
            count.conv(27, inputs, 1);
            for stage in 1..=3 {
                let outputs = at(&format!("stage{stage}"));
                for block in 1..=blocks {
                    let middle = at(&format!("stage{stage}.block{block}"));
                    let first = stage > 1 && block == 1;
                    count.conv(9 * inputs, middle, if first { 2 } else { 1 });
                    count.conv(9 * middle, outputs, 1);
                    if first {
                        count.conv(inputs, outputs, 1);
                    }
                    inputs = outputs;
                }
            }
            count.classes(inputs, 10)
        });
    }
}
