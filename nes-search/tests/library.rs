//! Projection, baselines and training, on the small MobileNetV2.

use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use elastic_layers::{Backbone, DimKind, Macs};
use nes_search::data::{Augment, ImageData, ImageSet, Normalization};
use nes_search::rng::{Stream, stream};
use nes_search::{
    Blueprint, Bound, Budget, LEAST_SHARE, Limits, Observer, Progress, Projection, ProjectionError, SgdSettings,
    TrainSettings, baselines, evaluate, train,
};
use rand::RngExt;

fn blueprint() -> Blueprint<MobileNetV2> {
    let config = MobileNetV2Config::small(1, 28, 10);
    Blueprint::new([1, 28, 28], move |space, device| config.init(space, device)).expect("a network")
}

fn share(blueprint: &Blueprint<MobileNetV2>, architecture: &elastic_layers::Architecture, budget: Macs) -> f64 {
    blueprint.cost().cost(architecture).expect("a cost").macs.ratio(budget)
}

fn limits(blueprint: &Blueprint<MobileNetV2>, budget: Macs) -> Limits {
    blueprint.limits(Budget::Macs(budget), &[]).expect("a cost")
}

#[test]
fn any_params_end_between_the_least_share_and_the_budget() {
    let blueprint = blueprint();
    let mut rng = stream(3, Stream::Views);
    for budget in [60_000, 250_000, 251_721, 1_000_000, 3_500_000].map(Macs) {
        let limits = limits(&blueprint, budget);
        let projection = Projection::new(blueprint.space(), &limits).expect("a feasible budget");
        for _ in 0..40 {
            let params: Vec<f64> =
                blueprint.space().dims().iter().map(|dim| rng.random_range(-2.0..dim.levels() as f64 + 2.0)).collect();
            let architecture = projection.architecture(&params).expect("an architecture");
            let share = share(&blueprint, &architecture, budget);
            assert!((LEAST_SHARE..=1.0).contains(&share), "{share} of {budget} for {params:?}");
        }
    }
}

#[test]
fn coarse_channels_reach_the_budget_by_resolution_and_depth() {
    // One width for the whole network: next to each other, two widths are more than 2 % apart.
    let mut config = MobileNetV2Config::small(1, 28, 10);
    config.scales.step = 0.5;
    let blueprint = Blueprint::new([1, 28, 28], move |space, device| config.init(space, device)).expect("a network");
    let budget = Macs(700_000);
    let limits = limits(&blueprint, budget);
    let projection = Projection::new(blueprint.space(), &limits).expect("a feasible budget");
    let mut rng = stream(4, Stream::Views);
    for _ in 0..20 {
        let params: Vec<f64> =
            blueprint.space().dims().iter().map(|dim| rng.random_range(0.0..dim.levels() as f64)).collect();
        let share = share(&blueprint, &projection.architecture(&params).expect("an architecture"), budget);
        assert!((LEAST_SHARE..=1.0).contains(&share), "{share} for {params:?}");
    }
}

#[test]
fn every_bound_holds_and_the_budget_is_used() {
    let blueprint = blueprint();
    let space = blueprint.space();
    let budget = Budget::Macs(Macs(250_000));
    let loose = blueprint.limits(budget, &[]).expect("a cost");
    let free = Projection::new(space, &loose).expect("a feasible budget");
    let mut rng = stream(5, Stream::Views);
    let (mut points, mut parameters, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..20 {
        let params: Vec<f64> = space.dims().iter().map(|dim| rng.random_range(0.0..dim.levels() as f64)).collect();
        let cost = blueprint.cost().cost(&free.architecture(&params).expect("an architecture")).expect("a cost");
        points.push(params);
        parameters.push(cost.parameters);
        bytes.push(cost.activation_bytes);
    }
    // What half of the architectures exceed without the bounds.
    let median = |values: &mut Vec<u64>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    let bounds = [("parameters", median(&mut parameters)), ("activation-memory", median(&mut bytes))]
        .map(|(name, most)| format!("{name}={most}").parse().expect("a bound"));
    let limits = blueprint.limits(budget, &bounds).expect("a cost");
    let projection = Projection::new(space, &limits).expect("a feasible budget");
    for params in points {
        let architecture = projection.architecture(&params).expect("an architecture");
        let cost = blueprint.cost().cost(&architecture).expect("a cost");
        let share = cost.macs.ratio(Macs(250_000));
        assert!((LEAST_SHARE..=1.0).contains(&share), "{share}: {architecture}");
        assert!(cost.parameters <= bounds[0].most, "{} of {}: {architecture}", cost.parameters, bounds[0]);
        assert!(cost.activation_bytes <= bounds[1].most, "{} of {}: {architecture}", cost.activation_bytes, bounds[1]);
    }
    // More than the bound lets any architecture of that many parameters have.
    let narrow: Bound = "parameters=1500".parse().expect("a bound");
    let limits = blueprint.limits(Budget::Macs(Macs(2_000_000)), &[narrow]).expect("a cost");
    let projection = Projection::new(space, &limits).expect("both can be met, though not together");
    let found = projection.architecture(&space.base().params()).expect("the nearest within the bound");
    let (share, worst) = (projection.share(&found).expect("a cost"), limits.worst(&found).expect("a cost"));
    assert!(share >= projection.least() && projection.least() < LEAST_SHARE && worst <= 1.0, "{share}, {worst}");
    let limits = blueprint.limits(budget, &["parameters=5".parse().expect("a bound")]).expect("a cost");
    let error = Projection::new(space, &limits).expect_err("infeasible").to_string();
    assert!(error.contains("parameters") && error.contains("found 5 parameters"), "{error}");
}

#[test]
fn infeasible_budgets_name_what_is_feasible() {
    let blueprint = blueprint();
    let [smallest, largest] = [blueprint.space().smallest(), blueprint.space().largest()]
        .map(|architecture| blueprint.cost().cost(&architecture).expect("a cost").macs);
    let error = |budget| {
        let limits = limits(&blueprint, Macs(budget));
        Projection::new(blueprint.space(), &limits).expect_err("infeasible")
    };
    let small = error(smallest.0 - 1);
    assert!(matches!(small, ProjectionError::TooSmall { .. }) && small.to_string().contains(&smallest.to_string()));
    let large = error(largest.0 * 2);
    assert!(matches!(large, ProjectionError::TooLarge { .. }) && large.to_string().contains(&largest.to_string()));
}

#[test]
fn uniform_baselines_scale_what_they_say() {
    let blueprint = blueprint();
    let space = blueprint.space();
    let budget = Macs(251_721);
    let limits = limits(&blueprint, budget);
    let projection = Projection::new(space, &limits).expect("a feasible budget");
    let channel = baselines::uniform_channel(&projection).expect("an architecture");
    assert_eq!((channel.get("resolution"), channel.get("depth")), (Some(28), Some(10)));
    let joint = baselines::uniform_joint(&projection).expect("architectures");
    assert_eq!(joint.first(), Some(&channel));
    let resolutions: Vec<usize> = joint.iter().filter_map(|one| one.get("resolution")).collect();
    assert_eq!(resolutions, (14..=28).rev().collect::<Vec<_>>());
    for architecture in &joint {
        assert_eq!(architecture.get("depth"), Some(10));
        assert!((LEAST_SHARE..=1.0).contains(&share(&blueprint, architecture, budget)));
        // One factor for all channels, but for rounding and the last fill of the budget, which add a few steps.
        let base = space.base();
        let factors: Vec<f64> = space
            .dims()
            .iter()
            .zip(architecture.values())
            .filter(|(dim, _)| dim.kind == DimKind::Channels && dim.base >= 96)
            .map(|(dim, &value)| value as f64 / base.get(&dim.name).expect("a value") as f64)
            .collect();
        let mean = factors.iter().sum::<f64>() / factors.len() as f64;
        assert!(factors.iter().all(|factor| (factor - mean).abs() < 0.12), "{factors:?}");
    }
}

fn settings() -> TrainSettings {
    TrainSettings {
        epochs: 6.0,
        sgd: SgdSettings {
            batch_size: 32,
            learning_rate: 0.1,
            warmup: 0.2,
            momentum: 0.9,
            weight_decay: 1e-4,
            gradient_norm: 1.0,
            label_smoothing: 0.1,
            augment: Augment { flip: true, shift: 1, random_resized_crop: false },
        },
        average_decay: 0.9,
        recalibration_batches: 2,
    }
}

fn images() -> (ImageSet, Normalization) {
    let (_, set) = ImageData::embedded().train.split_per_class(32, 0).expect("enough images");
    let normalization = Normalization::of(&set).expect("in memory");
    (set, normalization)
}

#[test]
fn training_learns_and_a_seed_decides_every_bit() {
    let blueprint = blueprint();
    let device = burn::tensor::Device::default().autodiff();
    let (set, normalization) = images();
    let budget = Macs(1_000_000);
    let limits = limits(&blueprint, budget);
    let projection = Projection::new(blueprint.space(), &limits).expect("a feasible budget");
    let architecture = baselines::uniform_channel(&projection).expect("an architecture");
    let run = |seed| {
        let network = blueprint.network(&architecture, seed, &device).expect("a network");
        let trained = train(network, &set, &normalization, &settings(), seed, "test", &mut ())
            .expect("in memory")
            .expect("not interrupted");
        assert_eq!(trained.images, 6 * 320);
        let evaluation =
            evaluate(&trained.model, &set, &normalization, 64, &device.clone().without_autodiff()).expect("in memory");
        let logits =
            trained.model.forward(burn::tensor::Tensor::ones([1, 1, 28, 28], &device.clone().without_autodiff()));
        (evaluation, logits.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>())
    };
    let (evaluation, bits) = run(5);
    // Ten classes: chance is 0.1, and a loss of ln 10 = 2.30.
    assert!(evaluation.accuracy > 0.3 && evaluation.loss < 2.1, "{evaluation:?}");
    assert_eq!(run(5).1, bits);
    assert_ne!(run(6).1, bits);
}

#[test]
fn a_gradient_is_scaled_down_to_the_norm_that_it_may_have() {
    let blueprint = blueprint();
    let device = burn::tensor::Device::default().autodiff();
    let (set, normalization) = images();
    let loss = |gradient_norm| {
        let mut settings = settings();
        settings.sgd = SgdSettings { gradient_norm, weight_decay: 0.0, ..settings.sgd };
        let network = blueprint.network(&blueprint.space().smallest(), 0, &device).expect("a network");
        train(network, &set, &normalization, &settings, 0, "test", &mut ())
            .expect("in memory")
            .expect("not interrupted")
            .loss
    };
    // With steps of next to nothing the weights stay where they were.
    let [learned, stayed] = [loss(1.0), loss(1e-6)];
    assert!(stayed > learned + 0.1 && stayed > 2.2, "{learned} and {stayed}");
}

#[test]
fn an_interrupted_training_ends() {
    struct Stop(usize);
    impl Observer for Stop {
        fn progress(&mut self, progress: Progress<'_>) {
            self.0 = progress.done;
        }

        fn interrupted(&self) -> bool {
            self.0 == 3
        }
    }
    let blueprint = blueprint();
    let (set, normalization) = images();
    let device = burn::tensor::Device::default().autodiff();
    let network = blueprint.network(&blueprint.space().smallest(), 0, &device).expect("a network");
    let mut observer = Stop(0);
    assert!(train(network, &set, &normalization, &settings(), 0, "test", &mut observer).expect("in memory").is_none());
    assert_eq!(observer.0, 3);
}
