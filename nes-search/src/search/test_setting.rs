//! A search that takes next to no time, for tests of what is around it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use elastic_layers::{Backbone, Elastic, ElasticConv2d, ElasticConv2dConfig, ElasticResize, SearchSpace, SpaceError};

use super::{Length, Search, SearchSettings, Task};
use crate::data::{ImageData, ImageSet, Normalization};
use crate::{Blueprint, Budget, Config, Limits, Preset, TrainSettings};

/// Its loss is larger at a higher resolution, whatever its weights.
#[derive(Module, Elastic, Debug)]
pub struct Slope {
    resize: ElasticResize,
    conv: ElasticConv2d,
}

impl Slope {
    fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, SpaceError> {
        let resize = ElasticResize::new(space.resolution("resolution", 28).range(14..=28).add()?);
        let width = space.channels("width", 200).range(2..=300).add()?;
        Ok(Self { resize, conv: ElasticConv2dConfig::new([1.into(), width], [1, 1]).init(device) })
    }
}

impl Backbone for Slope {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let images = self.resize.forward(images);
        let excess = 0.2 * (images.dims()[2] as f64 - 14.0);
        let zero = self.conv.forward(images).mean_dims(&[1, 2, 3]).flatten::<2>(1, 3).mul_scalar(0.0);
        // An eleventh class, which no image is of.
        Tensor::cat(vec![zero.clone().repeat_dim(1, 10), zero.add_scalar(excess)], 1)
    }
}

/// A few images, the network, and a fraction of its MACs.
pub struct Setting {
    pub blueprint: Blueprint<Slope>,
    train: ImageSet,
    evaluation: ImageSet,
    normalization: Normalization,
    devices: [Device; 1],
    limits: Limits,
    recipe: TrainSettings,
}

impl Setting {
    pub fn new(budget: f64) -> Self {
        let blueprint = Blueprint::new([1, 28, 28], Slope::new).expect("a network");
        let (_, few) = ImageData::embedded().train.split_per_class(8, 1).expect("enough images");
        let (train, evaluation) = few.split_per_class(4, 1).expect("enough images");
        let normalization = Normalization::of(&train).expect("in memory");
        let limits = blueprint.limits(Budget::Fraction(budget), &[]).expect("a cost");
        let mut recipe = Config::preset(Preset::Smoke).train;
        recipe.sgd.batch_size = 4;
        Self { blueprint, train, evaluation, normalization, devices: [Device::default()], limits, recipe }
    }

    /// A search without weight steps.
    pub fn search(&self, change: impl Fn(&mut SearchSettings)) -> Search<'_, Slope> {
        let Self { blueprint, train, evaluation, normalization, devices, limits, recipe } = self;
        let task = Task { blueprint, train, evaluation, normalization, limits, recipe, devices };
        let mut settings = Config::preset(Preset::Laptop).search;
        settings.length = Length::Iterations(8);
        settings.trials = 0.0;
        settings.weight_steps = 0;
        settings.evaluation_batch = 8;
        settings.sgd.batch_size = 4;
        change(&mut settings);
        Search::new(task, &settings, 1).expect("a search")
    }
}
