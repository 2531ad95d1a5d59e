//! What the search of the main job costs, as it is by default.

use burn::tensor::Device;
use nes_search::data::{ImageData, Normalization};
use nes_search::{Blueprint, Budget, Config, LEAST_SHARE, Preset, Projection, Search, Task};

/// The paper's figure, a quarter, in MACs: 1 for a forward, 3 for a training step.
#[test]
fn the_default_search_takes_a_quarter_of_the_macs_that_training_the_backbone_takes() {
    let mut config = Config::preset(Preset::Laptop);
    // A tenth of the final training, and so of the search.
    config.train.epochs *= 0.1;
    let data = ImageData::embedded();
    let backbone = config.backbone.clone();
    let blueprint = Blueprint::new([1, 28, 28], move |space, device| backbone.init([1, 28, 28], 10, space, device));
    let blueprint = blueprint.expect("a network");
    let limits = blueprint.limits(Budget::Fraction(0.1), &[]).expect("a cost");
    let normalization = Normalization::of(&data.train).expect("in memory");
    let (train, evaluation) =
        data.train.split_per_class(config.evaluation_per_class, config.seed).expect("enough images");
    let devices = [Device::default()];
    let task = Task {
        blueprint: &blueprint,
        train: &train,
        evaluation: &evaluation,
        normalization: &normalization,
        limits: &limits,
        recipe: &config.train,
        devices: &devices,
    };
    let mut search = Search::new(task, &config.search, config.seed).expect("a search");
    let found = search.run(None, &mut ()).expect("no error").expect("not interrupted");
    let share = found.cost.macs as f64 / task.training_macs().expect("a cost") as f64;
    assert!((0.2..=0.25).contains(&share), "{share}");
    // It learned something with so few, and chose by it.
    let accuracy = found.accuracy.expect("shared weights");
    assert!(!accuracy.near_chance, "{accuracy:?}");
    let share = Projection::new(blueprint.space(), &limits).and_then(|it| Ok(it.share(&found.architecture)?));
    assert!((LEAST_SHARE..=1.0).contains(&share.expect("a cost")), "{}", found.architecture);
}
