//! A message names the layer by the path that Burn gives the layer's parameters, in every container.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor};
use elastic_layers::{
    Architecture, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv1d, ElasticConv1dConfig, ElasticConv2d,
    ElasticConv2dConfig, ElasticConvTranspose2d, ElasticConvTranspose2dConfig, ElasticGroupNorm,
    ElasticGroupNormConfig, ElasticLayerNorm, ElasticLayerNormConfig, ElasticLinear, ElasticLinearConfig, ElasticPRelu,
    ElasticPReluConfig, ElasticSqueezeExcite, ElasticSqueezeExciteConfig, ElasticStack, SearchSpace, Size, Statistics,
};

#[derive(Module, Elastic, Debug)]
#[allow(clippy::large_enum_variant, reason = "a test")]
enum Either {
    Linear(ElasticLinear),
    Block(Block),
}

#[derive(Module, Elastic, Debug)]
struct Block {
    first: ElasticLinear,
    second: Option<ElasticLinear>,
}

/// Linear layers in every container.
#[derive(Module, Elastic, Debug)]
struct Nest {
    own: ElasticLinear,
    block: Block,
    list: Vec<Vec<ElasticLinear>>,
    array: [Block; 2],
    option: Option<Either>,
    stack: ElasticStack<Either>,
    r#type: ElasticLinear,
}

impl Nest {
    fn new(width: &Size) -> Self {
        let linear = || ElasticLinearConfig::new(width.clone(), 3).init(&Device::default());
        let block = || Block { first: linear(), second: Some(linear()) };
        Self {
            own: linear(),
            block: block(),
            list: vec![vec![linear()], vec![linear(), linear()]],
            array: [block(), block()],
            option: Some(Either::Block(block())),
            stack: ElasticStack::new(vec![Either::Linear(linear()), Either::Block(block())]),
            r#type: linear(),
        }
    }

    fn layers(&self) -> Vec<&ElasticLinear> {
        fn of(block: &Block) -> impl Iterator<Item = &ElasticLinear> {
            [Some(&block.first), block.second.as_ref()].into_iter().flatten()
        }
        fn either(either: &Either) -> Vec<&ElasticLinear> {
            match either {
                Either::Linear(linear) => vec![linear],
                Either::Block(block) => of(block).collect(),
            }
        }
        let mut layers = vec![&self.own];
        layers.extend(of(&self.block));
        layers.extend(self.list.iter().flatten());
        layers.extend(self.array.iter().flat_map(of));
        layers.extend(self.option.iter().flat_map(either));
        layers.extend(self.stack.iter().flat_map(either));
        layers.push(&self.r#type);
        layers
    }
}

fn width() -> (Size, [Architecture; 2]) {
    let mut space = SearchSpace::new();
    let width = space.channels("width", 8).range(4..=8).step_by(2).add().expect("a dimension");
    (width, [space.smallest(), space.largest()])
}

/// Burn's path of the module that has a parameter of this id.
fn burns_path<M: Module>(module: &M, id: ParamId) -> String {
    struct Visitor {
        id: ParamId,
        path: Vec<String>,
        found: Option<String>,
    }

    impl ModuleVisitor for Visitor {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.id == self.id {
                self.found = self.path.split_last().map(|(_, module)| module.join("."));
            }
        }

        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.into());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
    }

    let mut visitor = Visitor { id, path: Vec::new(), found: None };
    module.visit(&mut visitor);
    visitor.found.expect("a parameter of the module")
}

/// What a panic says.
#[track_caller]
fn message<T>(work: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(work)).err().expect("a panic");
    panic.downcast_ref::<String>().cloned().expect("a message with details")
}

/// What a layer says about an input of 1 feature, which none expects.
#[track_caller]
fn complaint(layer: &ElasticLinear) -> String {
    message(|| layer.forward(Tensor::<2>::zeros([1, 1], &Device::default())))
}

#[test]
fn paths_are_burns_in_every_container_and_after_every_change() {
    let (width, [narrow, wide]) = width();
    let nest = Nest::new(&width);
    assert_eq!(complaint(&nest.own), "ElasticLinear [width<=8 -> 3]: expected 8 input features, got 1");
    let changed = [
        (nest.select(&narrow), "width<=8", 4),
        (nest.materialize_at(&narrow), "4", 4),
        (nest.with_statistics(Statistics::Batch), "width<=8", 8),
        (nest.named(), "width<=8", 8),
        (nest.named().select(&narrow), "width<=8", 4),
        (nest.select(&wide).select(&narrow).materialize_at(&wide), "8", 8),
        (nest.named().valid().fork(&Device::default()), "width<=8", 8),
    ];
    for (nest, size, expected) in changed {
        let layers = nest.layers();
        assert_eq!(layers.len(), 16);
        for layer in layers {
            let path = burns_path(&nest, layer.weight.id);
            let message = format!("ElasticLinear `{path}` [{size} -> 3]: expected {expected} input features, got 1");
            assert_eq!(complaint(layer), message);
        }
    }
    let paths: Vec<_> = nest.layers().iter().map(|layer| burns_path(&nest, layer.weight.id)).collect();
    for path in ["own", "block.second", "list.1.1", "array.1.first", "option.Block.first", "stack.blocks.0.Linear"] {
        assert!(paths.iter().any(|found| found == path), "{path} is among {paths:?}");
    }
}

#[test]
fn a_layer_that_was_changed_on_its_own_gets_its_path_in_a_model() {
    let (width, [narrow, _]) = width();
    let linear = ElasticLinearConfig::new(width, 3).init(&Device::default()).materialize_at(&narrow);
    assert_eq!(complaint(&linear), "ElasticLinear [4 -> 3]: expected 4 input features, got 1");
    let block = Block { first: linear, second: None }.named();
    assert_eq!(complaint(&block.first), "ElasticLinear `first` [4 -> 3]: expected 4 input features, got 1");
}

/// One of every layer.
#[derive(Module, Elastic, Debug)]
struct All {
    conv1d: ElasticConv1d,
    conv2d: ElasticConv2d,
    transposed: ElasticConvTranspose2d,
    batch_norm: ElasticBatchNorm,
    group_norm: ElasticGroupNorm,
    layer_norm: ElasticLayerNorm,
    prelu: ElasticPRelu,
    excite: ElasticSqueezeExcite,
}

#[test]
fn every_layer_names_its_path_expected_and_got() {
    let (width, [narrow, _]) = width();
    let (device, two) = (Device::default(), || [width.clone(), 5.into()]);
    let all = All {
        conv1d: ElasticConv1dConfig::new(two(), 3).init(&device),
        conv2d: ElasticConv2dConfig::new(two(), [3, 1]).init(&device),
        transposed: ElasticConvTranspose2dConfig::new(two(), [3, 2]).init(&device),
        batch_norm: ElasticBatchNormConfig::new(width.clone()).init(&device),
        group_norm: ElasticGroupNormConfig::new(2, width.clone()).init(&device),
        layer_norm: ElasticLayerNormConfig::new(width.clone() + 1).init(&device),
        prelu: ElasticPReluConfig::new().with_num_parameters(width.clone()).init(&device),
        excite: ElasticSqueezeExciteConfig::new(width.clone(), 2).init(&device),
    }
    .select(&narrow);
    let images = || Tensor::<4>::zeros([1, 3, 4, 4], &device);
    let lines = || Tensor::<3>::zeros([1, 3, 3], &device);
    let messages = [
        message(|| all.conv1d.forward(lines())),
        message(|| all.conv2d.forward(images())),
        message(|| all.transposed.forward(images())),
        message(|| all.batch_norm.forward(images())),
        message(|| all.group_norm.forward(images())),
        message(|| all.layer_norm.forward(lines())),
        message(|| all.prelu.forward(images())),
        message(|| all.excite.forward(images())),
    ];
    let expected = [
        "ElasticConv1d `conv1d` [width<=8 -> 5] 3: expected 4 input channels, got 3",
        "ElasticConv2d `conv2d` [width<=8 -> 5] [3, 1]: expected 4 input channels, got 3",
        "ElasticConvTranspose2d `transposed` [width<=8 -> 5] [3, 2]: expected 4 input channels, got 3",
        "ElasticBatchNorm `batch_norm` [width<=8]: expected 4 features, got 3",
        "ElasticGroupNorm `group_norm` [2 of width<=8]: expected 4 channels in 2 groups, got 3",
        "ElasticLayerNorm `layer_norm` [(width<=8 + 1)]: expected 5 features, got 3",
        "ElasticPRelu `prelu` [width<=8]: expected 4 channels, got 3",
        "ElasticConv2d `excite.reduce` [width<=8 -> 2] [1, 1]: expected 4 input channels, got 3",
    ];
    assert_eq!(messages, expected);
}
