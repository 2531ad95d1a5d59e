//! The search as a whole goes downhill, on networks whose loss is known for every architecture.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use elastic_layers::{Backbone, Elastic, ElasticConv2d, ElasticConv2dConfig, SearchSpace, SpaceError};
use nes_search::data::{ImageData, Normalization};
use nes_search::nes::Form;
use nes_search::search::Length;
use nes_search::{Blueprint, Budget, Config, NesSettings, Preset, Search, SearchSettings, SgdSettings, Task};

/// Its scores do not depend on the images. They favour an eleventh class, which no image is of, by the width of `bad`
/// less that of `good`: a pair of equal cost.
#[derive(Module, Elastic, Debug)]
struct Tug {
    good: ElasticConv2d,
    bad: ElasticConv2d,
}

impl Tug {
    fn new(space: &mut SearchSpace, device: &Device) -> Result<Self, SpaceError> {
        let mut conv = |name: &str| {
            let width = space.channels(name, 16).range(2..=30).add()?;
            Ok::<_, SpaceError>(ElasticConv2dConfig::new([1.into(), width], [1, 1]).init(device))
        };
        Ok(Self { good: conv("good")?, bad: conv("bad")? })
    }
}

impl Backbone for Tug {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let [good, bad] = [&self.good, &self.bad].map(|conv| conv.forward(images.clone()));
        let excess = bad.dims()[1] as f64 - good.dims()[1] as f64;
        let zero = |maps: Tensor<4>| maps.mean_dims(&[1, 2, 3]).flatten::<2>(1, 3).mul_scalar(0.0);
        let zero = zero(good) + zero(bad);
        Tensor::cat(vec![zero.clone().repeat_dim(1, 10), zero.add_scalar(0.2 * excess)], 1)
    }
}

#[test]
fn h_moves_from_the_width_that_costs_accuracy_to_the_one_that_brings_it() {
    let blueprint = Blueprint::new([1, 28, 28], Tug::new).expect("a network");
    let base = blueprint.space().base();
    let limits = blueprint.limits(Budget::Fraction(1.0), &[]).expect("a cost");
    let (_, few) = ImageData::embedded().train.split_per_class(8, 1).expect("enough images");
    let (train, evaluation) = few.split_per_class(4, 1).expect("enough images");
    let normalization = Normalization::of(&train).expect("in memory");
    let devices = [Device::default()];
    let (blueprint, train, evaluation, normalization) = (&blueprint, &train, &evaluation, &normalization);
    let config = Config::preset(Preset::Laptop);
    let recipe = &config.train;
    let task = Task { blueprint, train, evaluation, normalization, limits: &limits, recipe, devices: &devices };
    // Without a weight, the penalty leaves the loss as it is. The paper's differences are as small as the loss's slope, a
    // fiftieth here, and take a larger learning rate.
    for (form, samples, learning_rate) in [(Form::Projected, 8, 2.0), (Form::Paper, 32, 50.0)] {
        let settings = SearchSettings {
            length: Length::Iterations(10),
            trials: 0.0,
            weight_steps: 1,
            views: 1,
            nes_iterations: 1,
            evaluation_batch: 8,
            nes: NesSettings { form, samples, sigma: 1.5, sigma_floor: 0.5, learning_rate, rho: 0.0 },
            sgd: SgdSettings { batch_size: 4, ..config.search.sgd.clone() },
            ..config.search.clone()
        };
        let mut search = Search::new(task, &settings, 1).expect("a search");
        let found = search.run(None, &mut ()).expect("no error").expect("not interrupted").architecture;
        let [good, bad] = [0, 1].map(|index| found.params()[index] - base.params()[index]);
        assert!(good > 1.0 && bad < -1.0, "{form:?}: good {good:+.1}, bad {bad:+.1} steps");
    }
}
