//! The search, on the small MobileNetV2 and a few images: interrupted, resumed, split over devices, refused.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use elastic_layers::Macs;
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use nes_search::data::{Augment, ImageData, ImageSet, Normalization};
use nes_search::search::{Iteration, Length};
use nes_search::searchers::SearcherName;
use nes_search::{
    Blueprint, Budget, Config, Found, LEAST_SHARE, Limits, NesSettings, Observer, Preset, Progress, Search,
    SearchError, SearchSettings, SgdSettings, Task, TrainSettings,
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
    recipe: TrainSettings,
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
        let recipe = TrainSettings { epochs: 3.0, sgd: settings().sgd, ..Config::preset(Preset::Smoke).train };
        let devices = vec![Device::default(); devices];
        Self { blueprint, train, evaluation, normalization, devices, limits, recipe }
    }

    fn search(&self, settings: &SearchSettings, seed: u64) -> Search<'_, MobileNetV2> {
        let Self { blueprint, train, evaluation, normalization, devices, limits, recipe } = self;
        let task = Task { blueprint, train, evaluation, normalization, limits, recipe, devices };
        Search::new(task, settings, seed).expect("a search")
    }
}

fn settings() -> SearchSettings {
    let smoke = Config::preset(Preset::Smoke).search;
    SearchSettings {
        length: Length::Cost(0.4),
        trials: 0.25,
        trial_length: 0.2,
        weight_steps: 2,
        nes_iterations: 2,
        evaluation_batch: 16,
        nes: NesSettings { sigma: 1.25, learning_rate: 1.0, samples: 4, ..NesSettings::default() },
        sgd: SgdSettings {
            batch_size: 8,
            learning_rate: 0.05,
            augment: Augment { flip: true, shift: 1, random_resized_crop: false },
            ..smoke.sgd
        },
        ..smoke
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
    assert_eq!((&one.uniform_joint, &one.start, &one.trials), (&other.uniform_joint, &other.start, &other.trials));
    assert_eq!((one.cost.macs, one.cost.evaluations), (other.cost.macs, other.cost.evaluations));
}

#[test]
fn a_search_that_was_interrupted_anywhere_ends_as_if_it_had_not_been() {
    let all = assert_ends_the_same(&settings(), |all| (0..all - 3).step_by(9).chain([1]).collect());
    assert!(all.trials.len() >= 6 + 2, "trials of candidates and of finalists: {}", all.trials.len());
}

#[test]
fn other_searchers_that_were_interrupted_end_as_if_they_had_not_been() {
    for searcher in [SearcherName::Evolution, SearcherName::CmaEs, SearcherName::Netadapt] {
        let settings = SearchSettings { searcher, trials: 0.0, ..settings() };
        assert_ends_the_same(&settings, |all| vec![2, all / 2, all - 2]);
    }
}

/// Interrupts a search before some of all its steps, those of trainings included, and goes on.
fn assert_ends_the_same(settings: &SearchSettings, steps: impl Fn(usize) -> Vec<usize>) -> Found {
    let setting = Setting::new(1);
    let whole = tempdir().expect("a folder");
    let mut search = setting.search(settings, 8);
    let expected = search.run(Some(whole.path()), &mut ()).expect("no error").expect("not interrupted");
    let records: Vec<Iteration> =
        history(whole.path()).lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert!(records.iter().map(|record| record.iteration).eq(1..=records.len()) && !records.is_empty());
    assert!(records.is_sorted_by(|one, other| one.done < other.done && one.budget >= other.budget), "{records:?}");
    // The budget falls from more than twice the target while NES trains weights; other searchers begin when it has.
    let first = records[0].budget;
    assert!(if settings.searcher == SearcherName::Nes { first > 2.0 } else { first == 1.0 }, "{first}");
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
        assert!(checkpoints.expect("a folder").count() <= 2, "two checkpoints are kept");
    }
    expected
}

#[test]
fn a_search_keeps_to_its_share_of_a_training() {
    let setting = Setting::new(2);
    let (images, macs) = (120 * 3, setting.blueprint.cost().cost(&setting.blueprint.space().base()).unwrap().macs.0);
    for searcher in [SearcherName::Nes, SearcherName::Random, SearcherName::UniformJoint] {
        for trials in [0.0, 0.25] {
            let settings = SearchSettings { searcher, trials, ..settings() };
            let found = setting.search(&settings, 1).run(None, &mut ()).unwrap().expect("not interrupted");
            let share = found.cost.macs as f64 / (3 * images * macs) as f64;
            assert!((0.3..=0.41).contains(&share) || searcher == SearcherName::UniformJoint, "{searcher}: {share}");
            assert!(share <= 0.41, "{searcher}: {share}");
        }
    }
}

#[test]
fn records_after_the_checkpoint_are_written_again() {
    let setting = Setting::new(1);
    let directory = tempdir().unwrap();
    let path = directory.path();
    let settings = SearchSettings { trials: 0.0, ..settings() };
    // The last checkpoint is one amid the walk, as after a power cut later on.
    let stop = &mut StopBefore { step: 8, seen: 0 };
    assert!(setting.search(&settings, 5).run(Some(path), stop).unwrap().is_none());
    let unfinished = history(path);
    let whole = {
        let other = tempdir().unwrap();
        setting.search(&settings, 5).run(Some(other.path()), &mut ()).unwrap();
        history(other.path())
    };
    assert!(whole.starts_with(&unfinished) && whole != unfinished);
    let mut again = setting.search(&settings, 5).resume(directory.path(), &mut ()).expect("a checkpoint");
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
    let settings = SearchSettings {
        length: Length::Iterations(2),
        trials: 0.0,
        fall: 0.0,
        nes: NesSettings { samples: 5, ..NesSettings::paper() },
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
}

#[test]
fn a_checkpoint_of_something_else_is_refused() {
    let setting = Setting::new(1);
    let directory = tempdir().unwrap();
    let path = directory.path();
    let resume = |settings: &SearchSettings, seed| match setting.search(settings, seed).resume(path, &mut ()) {
        Err(error @ (SearchError::Checkpoint(_) | SearchError::NoCheckpoint(_))) => error.to_string(),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it was resumed"),
    };
    let message = resume(&settings(), 1);
    assert!(message.contains("found none") && message.contains(path.to_str().unwrap()), "{message}");

    let stop = &mut StopBefore { step: 2, seen: 0 };
    setting.search(&settings(), 1).run(Some(path), stop).unwrap();
    let message = resume(&settings(), 2);
    assert!(message.ends_with("expected one with seed 2, found seed 1"), "{message}");
    let message = resume(&with_nes(|nes| nes.sigma = 2.0), 1);
    assert!(message.ends_with("expected one with settings.nes.sigma 2.0, found settings.nes.sigma 1.25"), "{message}");
    let other = SearchSettings { checkpoint_seconds: 1.0, ..settings() };
    assert!(setting.search(&other, 1).resume(path, &mut ()).is_ok(), "checkpoints decide nothing");
}

#[test]
fn settings_out_of_range_name_the_field_and_the_range() {
    let message = |settings: SearchSettings| settings.check().expect_err("out of range").to_string();
    assert_eq!(message(with_nes(|nes| nes.sigma = -1.0)), "search.nes.sigma: expected 0.001 to 1000, found -1");
    assert_eq!(
        message(with_nes(|nes| nes.samples = 3)),
        "search.nes.samples: expected an even number, for antithetic pairs, found 3"
    );
    let nan = with_nes(|nes| nes.learning_rate = f64::NAN);
    assert_eq!(message(nan), "search.nes.learning_rate: expected 0 to 1000, found NaN");
    let sgd = SgdSettings { momentum: 1.0, ..settings().sgd };
    assert_eq!(message(SearchSettings { sgd, ..settings() }), "search.sgd.momentum: expected 0 to 0.9999, found 1");
}
