//! A whole backbone at random architectures: views, materialised models, pinned networks, costs, threads and records.

mod common;

use std::sync::LazyLock;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::store::ModuleRecord;
use burn::tensor::{Device, Tensor};
use common::{architectures, assert_same_bits, device, entries, fractions, is_statistic, shapes, tensor, values};
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use elastic_layers::capture::capture_model;
use elastic_layers::{
    Architecture, Backbone, CostModel, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv2d,
    ElasticConv2dConfig, ElasticLinear, ElasticLinearConfig, SearchSpace, Statistics, recalibrate,
};

const IMAGE: [usize; 3] = [1, 20, 20];

fn config() -> MobileNetV2Config {
    MobileNetV2Config::small(IMAGE[0], IMAGE[1], 10)
}

/// The space and a supernet. Weights are as initialised: batch norms of ones and zeros hide nothing, as the weights
/// around them are random.
static SUPERNET: LazyLock<(SearchSpace, MobileNetV2)> = LazyLock::new(|| supernet(1));

fn supernet(seed: u64) -> (SearchSpace, MobileNetV2) {
    let device = Device::default();
    device.seed(seed);
    let mut space = SearchSpace::new();
    let model = config().init(&mut space, &device).expect("a supernet");
    (space, model)
}

fn images(seed: u64, batch: usize) -> Tensor<4> {
    let shape = [batch, IMAGE[0], IMAGE[1], IMAGE[2]];
    tensor(&fractions(seed, shape.iter().product()), shape, &Device::default())
}

fn cost_model(space: &SearchSpace) -> CostModel {
    CostModel::new(space, IMAGE, |device| config().init(&mut SearchSpace::new(), device))
}

#[test]
fn views_are_the_materialised_networks() {
    let (space, supernet) = &*SUPERNET;
    for architecture in architectures(space, 50) {
        let (view, small) = (supernet.select(&architecture), supernet.materialize_at(&architecture));
        let with_batch = values(small.with_statistics(Statistics::Batch).forward(images(1, 3)));
        assert_same_bits(&format!("{architecture}"), &values(view.forward(images(1, 3))), &with_batch);
        assert!(with_batch.iter().any(|score| *score != with_batch[0]), "{architecture}: no constant");

        let calibrate = |model: &MobileNetV2| {
            recalibrate(model, [images(2, 2), images(3, 4)], |model, images| drop(model.forward(images)))
        };
        let (view, calibrated) = (calibrate(&view), calibrate(&small));
        let scores = values(calibrated.forward(images(1, 3)));
        assert_same_bits(&format!("{architecture}, recalibrated"), &values(view.forward(images(1, 3))), &scores);
        assert_ne!(scores, values(small.forward(images(1, 3))), "{architecture}: recalibration does something");
        assert_eq!(entries(&calibrated), entries(&view.materialize_at(&architecture)), "{architecture}");
    }
}

#[test]
fn materialised_networks_are_the_pinned_ones_and_cost_what_the_model_says() {
    let (space, supernet) = &*SUPERNET;
    let costs = cost_model(space);
    for architecture in architectures(space, 50) {
        let small = supernet.materialize_at(&architecture);
        let mut pinned_space = SearchSpace::pinned(&architecture);
        let pinned = config().init(&mut pinned_space, &Device::default()).expect("a pinned network");
        assert_eq!(pinned_space.hash(), space.hash());
        assert_eq!(shapes(entries(&pinned)), shapes(entries(&small)), "{architecture}");

        let cost = costs.cost(&architecture).expect("a cost");
        let trainable = entries(&small).into_iter().filter(|entry| !is_statistic(entry));
        let elements: usize = trainable.map(|entry| entry.values.len()).sum();
        assert_eq!(cost.parameters, elements as u64, "{architecture}");
        let captured =
            capture_model(&small, [1, IMAGE[0], IMAGE[1], IMAGE[2]], MobileNetV2::forward).expect("captures");
        assert_eq!(cost, captured.cost(), "{architecture}");
        let view = supernet.select(&architecture).with_statistics(Statistics::Batch);
        let captured = capture_model(&view, [1, IMAGE[0], IMAGE[1], IMAGE[2]], MobileNetV2::forward).expect("captures");
        assert_eq!(cost.macs, captured.macs(), "{architecture}: the view");
    }
}

/// Every channel, resolution and depth counted by hand, for the block structure of [`MobileNetV2Config::small`].
#[test]
fn costs_are_those_of_a_count_by_hand() {
    let (space, _) = &*SUPERNET;
    let costs = cost_model(space);
    for architecture in architectures(space, 50) {
        let at = |name: &str| architecture.get(name).expect("a dimension") as u64;
        let (mut macs, mut parameters) = (0, 0);
        let mut conv_norm = |weight: u64, outputs: u64, size: u64| {
            macs += weight * outputs * size * size;
            parameters += weight * outputs + 2 * outputs;
        };
        let mut size = at("resolution");
        conv_norm(9 * IMAGE[0] as u64, at("stem"), size);
        let mut input = at("stem");
        // Of the 10 layers at most, 4 blocks are repeated; the last are dropped first.
        let kept = at("depth") - 6;
        let mut repeated = 0;
        for (stage, (blocks, stride)) in [(1, 1), (2, 2), (3, 2), (2, 1)].into_iter().enumerate() {
            let output = at(&format!("stage{}", stage + 1));
            for block in 0..blocks {
                if block > 0 {
                    repeated += 1;
                    if repeated > kept {
                        continue;
                    }
                }
                let middle = if stage == 0 { input } else { at(&format!("stage{}.block{}", stage + 1, block + 1)) };
                if stage > 0 {
                    conv_norm(input, middle, size);
                }
                if block == 0 && stride == 2 {
                    // Padding of 1 and a kernel of 3: stride 2 halves, upwards.
                    size = size.div_ceil(2);
                }
                conv_norm(9, middle, size);
                conv_norm(middle, output, size);
                input = output;
            }
        }
        conv_norm(input, at("head"), size);
        macs += 10 * at("head");
        parameters += 10 * at("head") + 10;
        let cost = costs.cost(&architecture).expect("a cost");
        assert_eq!((cost.macs.0, cost.parameters), (macs, parameters), "{architecture}");
    }
}

#[test]
fn a_view_of_a_view_is_a_view_of_the_supernet() {
    let (space, supernet) = &*SUPERNET;
    let expected = values(supernet.select(&space.base()).forward(images(1, 2)));
    let twice = supernet.select(&space.smallest()).select(&space.base());
    assert_same_bits("view of a view", &values(twice.forward(images(1, 2))), &expected);
}

#[test]
fn views_on_several_threads_at_once_do_not_meet() {
    let (space, supernet) = &*SUPERNET;
    let architectures = architectures(space, 16);
    let run = |architecture: &Architecture| values(supernet.select(architecture).forward(images(1, 2)));
    let before = entries(supernet);
    let serial: Vec<_> = architectures.iter().map(run).collect();
    let parallel = std::thread::scope(|scope| {
        let threads: Vec<_> =
            architectures.chunks(4).map(|part| scope.spawn(move || part.iter().map(run).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
    });
    for (architecture, (parallel, serial)) in architectures.iter().zip(parallel.iter().zip(&serial)) {
        assert_same_bits(&format!("{architecture}"), parallel, serial);
    }
    assert_ne!(serial[0], serial[1], "different architectures give different scores");
    assert_eq!(entries(supernet), before);
}

#[test]
fn a_step_on_a_view_changes_no_entry_outside_it() {
    let (space, _) = &*SUPERNET;
    let device = device();
    let supernet = config().init(&mut SearchSpace::new(), &device).expect("a supernet");
    for architecture in architectures(space, 5).into_iter().chain([space.base()]) {
        common::assert_step_stays_inside(&supernet, &architecture, images(1, 2));
    }
}

fn reloaded<M: Module>(from: &M, into: M) -> M {
    let bytes = from.clone().into_record().into_bytes().expect("a record");
    into.load_record(ModuleRecord::from_bytes(bytes).expect("the same record"))
}

#[test]
fn a_supernet_survives_its_record() {
    let (space, original) = &*SUPERNET;
    // Running statistics too, at other values than a new network's.
    let original = recalibrate(original, [images(4, 4)], |model, images| drop(model.forward(images)));
    let (_, other) = supernet(2);
    assert_ne!(entries(&other), entries(&original));
    let loaded = reloaded(&original, other);
    assert_eq!(entries(&loaded), entries(&original));
    let scores = |model: &MobileNetV2| values(model.forward(images(1, 3)));
    assert_same_bits("supernet", &scores(&loaded), &scores(&original));
    for architecture in architectures(space, 10) {
        let (ours, theirs) = (loaded.select(&architecture), original.select(&architecture));
        assert_same_bits(&format!("{architecture}"), &scores(&ours), &scores(&theirs));
    }
}

#[test]
fn a_found_network_loads_into_its_pinned_space() {
    let (space, supernet) = &*SUPERNET;
    for architecture in architectures(space, 5) {
        let small = recalibrate(&supernet.materialize_at(&architecture), [images(5, 4)], |model, images| {
            drop(model.forward(images));
        });
        let pinned = config().init(&mut SearchSpace::pinned(&architecture), &Device::default()).expect("a network");
        let loaded = reloaded(&small, pinned);
        let expected = values(small.forward(images(1, 3)));
        assert_same_bits(&format!("{architecture}"), &values(loaded.forward(images(1, 3))), &expected);
    }
}

/// A network whose only convolution is depthwise, with biases, over one channel or more.
#[derive(Module, Elastic, Debug)]
struct Tiny {
    filter: ElasticConv2d,
    norm: ElasticBatchNorm,
    head: ElasticLinear,
}

impl Tiny {
    fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, elastic_layers::SpaceError> {
        let width = space.channels("width", 3).range(1..=3).add()?;
        Ok(Self {
            filter: ElasticConv2dConfig::depthwise(width.clone(), [3, 3])
                .with_padding(PaddingConfig2d::Same)
                .init(device),
            norm: ElasticBatchNormConfig::new(width.clone()).init(device),
            head: ElasticLinearConfig::new(width, 2).init(device),
        })
    }
}

impl Backbone for Tiny {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let [width, _] = self.filter.active_channels();
        let x = self.norm.forward(self.filter.forward(images.repeat_dim(1, width)));
        self.head.forward(x.mean_dims(&[2, 3]).flatten(1, 3))
    }
}

#[test]
fn biases_and_depthwise_weights_are_counted() {
    let mut space = SearchSpace::new();
    Tiny::new(&mut space, &Device::default()).expect("a network");
    let costs = CostModel::new(&space, [1, 5, 4], |device| Tiny::new(&mut SearchSpace::new(), device));
    for width in 1..=3u64 {
        let cost = costs.cost(&space.architecture([width as usize]).expect("a width")).expect("a cost");
        assert_eq!(cost.macs.0, width * 9 * 20 + width * 2);
        assert_eq!(cost.parameters, width * 9 + width + 2 * width + width * 2 + 2);
    }
}
