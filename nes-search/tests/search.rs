//! The search, on the small MobileNetV2 and a few images: interrupted, resumed, split over devices, refused.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use elastic_layers::Macs;
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use nes_search::data::{Augment, ImageData, ImageSet, Normalization};
use nes_search::search::{Iteration, Start, Trials, Views};
use nes_search::searchers::{NesSettings, SearcherName};
use nes_search::{
    Blueprint, Budget, Estimator, Found, LEAST_SHARE, Limits, Observer, Penalty, Phi, Progress, Projection, Search,
    SearchError, SearchSettings, SgdSettings, Task, baselines,
};
use tempfile::tempdir;

const BUDGET: Macs = Macs(150_000);

struct Setting {
    blueprint: Blueprint<MobileNetV2>,
    train: ImageSet,
    evaluation: ImageSet,
    normalization: Normalization,
    devices: Vec<Device>,
    limits: Limits,
}

impl Setting {
    fn new(devices: usize) -> Self {
        let config = MobileNetV2Config::small(1, 28, 10);
        let blueprint =
            Blueprint::new([1, 28, 28], move |space, device| config.init(space, device)).expect("a network");
        let train = ImageData::embedded().train;
        let (_, few) = train.split_per_class(12, 1).expect("enough images");
        let (train, evaluation) = few.split_per_class(4, 1).expect("enough images");
        let normalization = Normalization::of(&train).expect("in memory");
        let limits = blueprint.limits(Budget::Macs(BUDGET), &[]).expect("a cost");
        Self { blueprint, train, evaluation, normalization, devices: vec![Device::default(); devices], limits }
    }

    fn search(&self, settings: &SearchSettings, seed: u64) -> Search<'_, MobileNetV2> {
        let Self { blueprint, train, evaluation, normalization, devices, limits } = self;
        let task = Task { blueprint, train, evaluation, normalization, limits, devices };
        Search::new(task, settings, seed).expect("a search")
    }
}

fn settings() -> SearchSettings {
    SearchSettings {
        warmup_steps: 3,
        outer_iterations: 2,
        weight_steps: 2,
        nes_iterations: 2,
        start: Start::Uniform,
        trials: Trials { candidates: 4, epochs: 3, seeds: 1 },
        searcher: SearcherName::Nes,
        evaluation_batch: 16,
        checkpoint_every: 1,
        checkpoint_seconds: 300.0,
        nes: NesSettings {
            sigma: 1.25,
            sigma_floor: 0.5,
            learning_rate: 1.0,
            estimator: Estimator::antithetic(4),
            ..NesSettings::default()
        },
        views: Views::ONE,
        sgd: SgdSettings {
            batch_size: 8,
            learning_rate: 0.05,
            warmup: 0.2,
            momentum: 0.9,
            weight_decay: 1e-4,
            gradient_norm: 1.0,
            label_smoothing: 0.1,
            augment: Augment { flip: true, shift: 1, random_resized_crop: false },
        },
    }
}

fn with_nes(change: impl FnOnce(&mut NesSettings)) -> SearchSettings {
    let mut settings = settings();
    change(&mut settings.nes);
    settings
}

/// Asks to stop before a step, those of trainings included.
struct StopBefore {
    step: usize,
    seen: usize,
}

impl Observer for StopBefore {
    fn progress(&mut self, _progress: Progress<'_>) {
        self.seen += 1;
    }

    fn interrupted(&self) -> bool {
        self.seen >= self.step
    }
}

fn history(directory: &Path) -> String {
    fs::read_to_string(directory.join("history.jsonl")).expect("a history")
}

fn assert_same(one: &Found, other: &Found) {
    assert_eq!(one.architecture, other.architecture);
    assert_eq!(one.uniform_joint, other.uniform_joint);
    assert_eq!((one.cost.images, one.cost.evaluations), (other.cost.images, other.cost.evaluations));
}

#[test]
fn a_search_that_was_interrupted_anywhere_ends_as_if_it_had_not_been() {
    assert_ends_the_same(&settings(), |all| {
        // The best of 15 resolutions, on three batches of the 40 images; then three epochs of ten steps, with 80 images in
        // batches of 8, for each of four rescalings.
        let after = 3 + 3 + 120;
        let in_the_end = all - (after + 8);
        assert!([30, 60].contains(&in_the_end), "one or two finalists are new: {in_the_end} steps");
        // In the warm-up, in what decides where H starts, amid the weights, before, between and after NES iterations, in
        // the trials of finalists.
        let before = [0, 2, 3, 5, 23, 78];
        let after = [0, 1, 3, 5, 7, 8, 9, 27].map(|step| after + step);
        [&before[..], &after].concat()
    });
}

#[test]
fn a_search_without_trials_that_was_interrupted_ends_as_if_it_had_not_been() {
    let settings = SearchSettings { trials: Trials { candidates: 0, ..settings().trials }, ..settings() };
    let setting = Setting::new(1);
    let space = setting.blueprint.space();
    let projection = Projection::new(space, &setting.limits).expect("within reach");
    let rescalings = baselines::uniform_all(space, &projection).expect("rescalings").len();
    assert_ends_the_same(&settings, |all| {
        // The best of 15 resolutions, all rescalings, and the last two, if these differ, on three batches.
        let after = 3 + 3 + rescalings;
        assert!([after + 8, after + 8 + 3].contains(&all), "{all} steps, {rescalings} rescalings");
        vec![4, 6, after - 9, after, after + 4, after + 7, all - 1]
    });
}

/// Interrupts a search before some of all its steps, and goes on.
fn assert_ends_the_same(settings: &SearchSettings, steps: impl Fn(usize) -> Vec<usize>) {
    let setting = Setting::new(1);
    let whole = tempdir().expect("a folder");
    let mut search = setting.search(settings, 8);
    let expected = search.run(Some(whole.path()), &mut ()).expect("no error").expect("not interrupted");
    let records: Vec<Iteration> =
        history(whole.path()).lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert_eq!(records.iter().map(|record| record.iteration).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let mut all = StopBefore { step: usize::MAX, seen: 0 };
    assert_same(
        &setting.search(settings, 8).run(None, &mut all).expect("no error").expect("not interrupted"),
        &expected,
    );
    for step in steps(all.seen) {
        let parts = tempdir().expect("a folder");
        let mut first = setting.search(settings, 8);
        let stopped = first.run(Some(parts.path()), &mut StopBefore { step, seen: 0 }).expect("no error");
        assert!(stopped.is_none(), "asked to stop before step {step}");
        drop(first);
        let mut second = setting.search(settings, 8).resume(parts.path(), &mut ()).expect("a checkpoint");
        let found = second.run(Some(parts.path()), &mut ()).expect("no error").expect("not interrupted");
        assert_same(&found, &expected);
        assert_eq!(second.params(), search.params(), "stopped before step {step}");
        assert_eq!(history(parts.path()), history(whole.path()), "stopped before step {step}");
        let checkpoints = fs::read_dir(parts.path().join("checkpoints"));
        assert_eq!(checkpoints.expect("a folder").count(), 2, "two checkpoints are kept");
    }
}

#[test]
fn records_after_the_checkpoint_are_written_again() {
    let setting = Setting::new(1);
    let directory = tempdir().unwrap();
    let path = directory.path();
    // The last checkpoint is the one before the second outer iteration, as after a power cut later on.
    let stop = &mut StopBefore { step: 3 + 3 + 120 + 4, seen: 0 };
    assert!(setting.search(&settings(), 5).run(Some(path), stop).unwrap().is_none());
    let unfinished = history(path);
    let whole = {
        let other = tempdir().unwrap();
        setting.search(&settings(), 5).run(Some(other.path()), &mut ()).unwrap();
        history(other.path())
    };
    assert!(whole.starts_with(&unfinished) && whole != unfinished);
    let mut again = setting.search(&settings(), 5).resume(directory.path(), &mut ()).expect("a checkpoint");
    fs::write(directory.path().join("history.jsonl"), whole.clone() + "{\"half a rec").unwrap();
    again.run(Some(directory.path()), &mut ()).unwrap();
    assert_eq!(history(directory.path()), whole);
}

#[test]
fn candidates_score_the_same_in_any_split_over_devices() {
    let run = |devices| {
        let setting = Setting::new(devices);
        let directory = tempdir().unwrap();
        let found = setting.search(&settings(), 2).run(Some(directory.path()), &mut ()).unwrap();
        (found.expect("not interrupted"), history(directory.path()))
    };
    let (one, expected) = run(1);
    for devices in [2, 3] {
        let (found, history) = run(devices);
        assert_same(&found, &one);
        assert_eq!(history, expected, "{devices} devices");
    }
}

#[test]
fn the_found_architecture_is_at_the_budget_in_the_papers_form_too() {
    let penalty = Penalty { rho: 1.0, phi: Phi::Square, apart: 0 };
    let settings = SearchSettings {
        warmup_steps: 0,
        start: Start::Base,
        trials: Trials { candidates: 0, epochs: 1, seeds: 1 },
        nes: NesSettings { estimator: Estimator::paper(5), ..NesSettings::paper(penalty) },
        ..settings()
    };
    let setting = Setting::new(1);
    let directory = tempdir().unwrap();
    let found = setting.search(&settings, 1).run(Some(directory.path()), &mut ()).unwrap().expect("not interrupted");
    let share = setting.blueprint.cost().cost(&found.architecture).unwrap().macs.ratio(BUDGET);
    assert!((LEAST_SHARE..=1.0).contains(&share), "{share}");
    let first: Iteration = serde_json::from_str(history(directory.path()).lines().next().unwrap()).unwrap();
    assert_eq!(first.h, setting.blueprint.space().base().params(), "H starts at the backbone");
    let step = first.step.expect("a step of H");
    assert_eq!((step.sigma, step.learning_rate), (1.25, 5.0));
    assert_eq!(first.losses.len(), 6, "five candidates, and H");
}

#[test]
fn a_seed_decides_everything() {
    let setting = Setting::new(1);
    let run = |seed| {
        let directory = tempdir().unwrap();
        setting.search(&settings(), seed).run(Some(directory.path()), &mut ()).unwrap();
        history(directory.path())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn a_sample_is_at_the_budget_and_scored_by_the_weights_that_a_search_ended_with() {
    let setting = Setting::new(1);
    let directory = tempdir().unwrap();
    let settings = settings();
    setting.search(&settings, 3).run(Some(directory.path()), &mut ()).unwrap();
    let sample = |count| setting.search(&settings, 3).resume(directory.path(), &mut ()).unwrap().sample(count).unwrap();
    let (few, more) = (sample(3), sample(5));
    for (one, other) in few.iter().zip(&more) {
        assert_eq!((&one.architecture, one.shared_loss), (&other.architecture, other.shared_loss));
    }
    for (index, scored) in more.iter().enumerate() {
        let share = setting.blueprint.cost().cost(&scored.architecture).unwrap().macs.ratio(BUDGET);
        assert!((LEAST_SHARE..=1.0).contains(&share), "{}: {share} of the budget", scored.architecture);
        assert!(more[..index].iter().all(|other| other.architecture != scored.architecture), "drawn twice");
    }
    let untrained = setting.search(&settings, 3).sample(3).unwrap();
    assert!(untrained.iter().zip(&few).all(|(untrained, trained)| untrained.shared_loss != trained.shared_loss));
    assert!(untrained.iter().all(|scored| scored.corrected_loss.is_none()), "there were no trials");
}

#[test]
fn a_checkpoint_of_something_else_is_refused() {
    let setting = Setting::new(1);
    let directory = tempdir().unwrap();
    let path = directory.path();
    let resume = |settings: &SearchSettings, seed| match setting.search(settings, seed).resume(path, &mut ()) {
        Err(SearchError::Checkpoint(error)) => error.to_string(),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it was resumed"),
    };
    let message = resume(&settings(), 1);
    assert!(message.contains("found none") && message.contains(path.to_str().unwrap()), "{message}");

    let stop = &mut StopBefore { step: 2, seen: 0 };
    setting.search(&settings(), 1).run(Some(path), stop).unwrap();
    let message = resume(&settings(), 2);
    assert!(message.ends_with("state.json: expected a search with seed 2, found seed 1"), "{message}");
    let message = resume(&with_nes(|nes| nes.sigma = 2.0), 1);
    assert!(
        message.ends_with("expected a search with settings.nes.sigma 2.0, found settings.nes.sigma 1.25"),
        "{message}"
    );
    let other = SearchSettings { checkpoint_every: 2, checkpoint_seconds: 1.0, ..settings() };
    assert!(setting.search(&other, 1).resume(path, &mut ()).is_ok(), "checkpoints decide nothing");
}

#[test]
fn settings_out_of_range_name_the_field_and_the_range() {
    let message = |settings: SearchSettings| settings.check().expect_err("out of range").to_string();
    assert_eq!(message(with_nes(|nes| nes.sigma = -1.0)), "search.nes.sigma: expected 0.001 to 1000, found -1");
    assert_eq!(
        message(with_nes(|nes| nes.estimator = Estimator::antithetic(3))),
        "search.nes.estimator.samples: expected an even number, for antithetic pairs, found 3"
    );
    let nan = with_nes(|nes| nes.learning_rate = f64::NAN);
    assert_eq!(message(nan), "search.nes.learning_rate: expected 0 to 1000, found NaN");
    let sgd = SgdSettings { momentum: 1.0, ..settings().sgd };
    assert_eq!(message(SearchSettings { sgd, ..settings() }), "search.sgd.momentum: expected 0 to 0.9999, found 1");
}
