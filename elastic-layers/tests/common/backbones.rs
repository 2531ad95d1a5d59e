//! Building a backbone, and what it costs.

use burn::tensor::{Device, Tensor};
use elastic_layers::backbones::{ResNetConfig, ResNetStage};
use elastic_layers::capture::capture;
use elastic_layers::{Architecture, Backbone, Cost, CostModel, SearchSpace, SpaceError};

use super::{fractions, tensor};

pub type Built<M> = Result<M, SpaceError>;

pub fn images([channels, height, width]: [usize; 3], batch: usize) -> Tensor<4> {
    let shape = [batch, channels, height, width];
    tensor(&fractions(1, shape.iter().product()), shape, &Device::default())
}

/// The space, and the supernet's cost model.
pub fn costs<M: Backbone>(
    image: [usize; 3],
    build: impl Fn(&mut SearchSpace, &Device) -> Built<M> + Send + Sync + 'static,
) -> (SearchSpace, CostModel) {
    let mut space = SearchSpace::new();
    build(&mut space, &Device::default()).expect("a supernet");
    let costs = CostModel::new(&space, image, move |device| build(&mut SearchSpace::new(), device));
    (space, costs)
}

/// What the static network of an architecture costs by its own captured forward.
pub fn captured<M: Backbone>(
    [channels, height, width]: [usize; 3],
    architecture: &Architecture,
    build: impl Fn(&mut SearchSpace, &Device) -> Built<M>,
) -> Cost {
    let build = |device: &Device| build(&mut SearchSpace::pinned(architecture), device).expect("a network");
    let captured = capture([1, channels, height, width], build, |network, images| network.forward(images));
    captured.expect("captures").cost()
}

/// The network with an eighth of the channels and no more than two blocks in a stage, which is quick to compute.
pub fn slim(config: ResNetConfig) -> ResNetConfig {
    let narrow = |stage: &ResNetStage| ResNetStage {
        channels: stage.channels / 8,
        middle: stage.middle / 8,
        blocks: stage.blocks.min(2),
        ..*stage
    };
    ResNetConfig { stem_channels: 8, stages: config.stages.iter().map(narrow).collect(), ..config }
}
