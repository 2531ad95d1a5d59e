//! Damaged, foreign and older files of a run directory: never taken for whole ones, never a panic.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::{TempDir, tempdir};

use super::checkpoint::CheckpointError;
use super::test_setting::{Setting, Slope};
use super::{HISTORY, Search, SearchError, SearchSettings, Start, Trials};
use crate::observer::{Observer, Progress};

/// Remembers warnings, and asks to stop before a step.
#[derive(Default)]
struct Warned {
    messages: Vec<String>,
    stop_before: Option<usize>,
    seen: usize,
}

impl Observer for Warned {
    fn progress(&mut self, _progress: Progress<'_>) {
        self.seen += 1;
    }

    fn warning(&mut self, message: &str) {
        self.messages.push(message.into());
    }

    fn interrupted(&self) -> bool {
        self.stop_before.is_some_and(|step| self.seen >= step)
    }
}

/// A checkpoint before every step.
fn short(settings: &mut SearchSettings) {
    settings.start = Start::Base;
    settings.trials = Trials { candidates: 0, epochs: 1, seeds: 1 };
    settings.outer_iterations = 4;
    settings.weight_steps = 1;
    settings.nes_iterations = 1;
    settings.checkpoint_seconds = 0.0;
}

fn search(setting: &Setting) -> Search<'_, Slope> {
    setting.search(short)
}

/// A run directory with the checkpoints of five and six steps, and three records.
fn interrupted(setting: &Setting) -> TempDir {
    let directory = tempdir().expect("a directory");
    let stop = &mut Warned { stop_before: Some(6), ..Warned::default() };
    assert!(search(setting).run(Some(directory.path()), stop).expect("no error").is_none());
    directory
}

fn newest(directory: &Path) -> PathBuf {
    directory.join("checkpoints/00000006")
}

/// The files of a checkpoint, by name.
fn files_of(checkpoint: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(checkpoint).expect("a checkpoint").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Where a resumed search is, and what was said.
fn resumed(setting: &Setting, directory: &Path) -> Result<(usize, Vec<String>), SearchError> {
    let mut warned = Warned::default();
    let search = search(setting).resume(directory, &mut warned)?;
    Ok((search.state.position.step, warned.messages))
}

/// One change to a file: a bit, or the rest from some place on.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Bit { place: usize, bit: u8 },
    Cut { place: usize },
}

impl Damage {
    fn to(self, content: &[u8]) -> Vec<u8> {
        let mut content = content.to_vec();
        match self {
            Self::Bit { place, bit } => {
                let place = place % content.len();
                content[place] ^= 1 << bit;
            }
            Self::Cut { place } => content.truncate(place % content.len()),
        }
        content
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => (any::<usize>(), 0..8_u8).prop_map(|(place, bit)| Damage::Bit { place, bit }),
        1 => any::<usize>().prop_map(|place| Damage::Cut { place }),
    ]
}

#[test]
fn after_any_damage_the_search_goes_on_from_the_checkpoint_before_and_says_so() {
    let setting = Setting::new(0.4);
    let directory = interrupted(&setting);
    let path = directory.path();
    assert_eq!(resumed(&setting, path).expect("whole"), (6, vec![]));
    // The last record is one that the newest checkpoint speaks of, and the one before it does not.
    let mut files = files_of(&newest(path));
    assert_eq!(files.len(), 3);
    files.push(path.join(HISTORY));
    let history = fs::read(path.join(HISTORY)).expect("a history");
    let last_record = history[..history.len() - 1].iter().rposition(|&byte| byte == b'\n').expect("three records") + 1;
    for file in files {
        let whole = fs::read(&file).expect("a file");
        let kept = if file.ends_with(HISTORY) { last_record } else { 0 };
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(150) });
        let result = runner.run(&damage(), |damage| {
            let damaged = [&whole[..kept], &damage.to(&whole[kept..])].concat();
            fs::write(&file, damaged).expect("written");
            let (step, warnings) = resumed(&setting, path).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(step, 5);
            prop_assert_eq!(warnings.len(), 1);
            for part in [file.to_string_lossy(), "expected".into(), "going on from".into(), "00000005".into()] {
                prop_assert!(warnings[0].contains(&*part), "{} in {}", part, warnings[0]);
            }
            Ok(())
        });
        fs::write(&file, &whole).expect("written");
        result.unwrap_or_else(|failure| panic!("{}: {failure}", file.display()));
    }
}

#[test]
fn a_search_that_lost_its_newest_checkpoint_ends_as_without_that() {
    let setting = Setting::new(0.4);
    let whole = tempdir().unwrap();
    let mut undamaged = search(&setting);
    let expected = undamaged.run(Some(whole.path()), &mut ()).unwrap().expect("not interrupted");
    let directory = interrupted(&setting);
    fs::remove_file(newest(directory.path()).join("weight-optimizer.bpk")).unwrap();
    let mut search = search(&setting).resume(directory.path(), &mut ()).expect("the checkpoint before");
    let found = search.run(Some(directory.path()), &mut ()).unwrap().expect("not interrupted");
    assert_eq!(found.architecture, expected.architecture);
    assert_eq!(search.params(), undamaged.params());
    let history = |directory: &TempDir| fs::read(directory.path().join(HISTORY)).unwrap();
    assert_eq!(history(&directory), history(&whole));
    // The damaged one was written again on the way, and has given way to later ones.
    let steps = 8;
    assert_eq!(resumed(&setting, directory.path()).expect("whole"), (steps, vec![]));
    assert_eq!(fs::read_dir(directory.path().join("checkpoints")).unwrap().count(), 2);
}

#[test]
fn without_a_good_checkpoint_the_message_names_both() {
    let setting = Setting::new(0.4);
    let directory = interrupted(&setting);
    let checkpoints = directory.path().join("checkpoints");
    fs::write(checkpoints.join("00000006/supernet.bpk"), "no weights").unwrap();
    fs::write(checkpoints.join("00000005/state.json"), "{").unwrap();
    let message = resumed(&setting, directory.path()).expect_err("both are damaged").to_string();
    for part in ["00000006/supernet.bpk", "a file of the hash", "cannot be used either", "00000005/state.json"] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
}

/// What an earlier version left, as far as that is read.
#[test]
fn a_checkpoint_of_another_version_is_refused_with_the_reason() {
    let setting = Setting::new(0.4);
    let directory = tempdir().unwrap();
    let checkpoint = directory.path().join("checkpoints/00000700");
    fs::create_dir_all(&checkpoint).unwrap();
    for (text, parts) in [
        (include_str!("checkpoint_version_5.json"), ["expected version 9, found version 5", "other", "began"]),
        (r#"{"format": "other", "version": 9}"#, ["nes-search/checkpoint", "found other", "state.json"]),
        (r#"{"version": 9}"#, ["missing field `format`", "state.json", "nes-search/checkpoint"]),
    ] {
        fs::write(checkpoint.join("state.json"), text).unwrap();
        let error = resumed(&setting, directory.path()).expect_err("another version");
        assert!(matches!(error, SearchError::Checkpoint(_)));
        for part in parts {
            assert!(error.to_string().contains(part), "{part:?} in {error}");
        }
    }
    fs::remove_dir_all(checkpoint).unwrap();
    let error = resumed(&setting, directory.path()).expect_err("nothing there");
    assert!(matches!(error, SearchError::Checkpoint(CheckpointError::Missing(_))), "{error}");
}

#[test]
fn what_a_killed_process_was_writing_goes_with_the_next_checkpoint() {
    let setting = Setting::new(0.4);
    let directory = interrupted(&setting);
    let checkpoints = directory.path().join("checkpoints");
    fs::create_dir(checkpoints.join(".writing-abc")).unwrap();
    fs::write(checkpoints.join(".writing-abc/supernet.bpk"), "half").unwrap();
    let mut search = search(&setting).resume(directory.path(), &mut ()).expect("a checkpoint");
    search.run(Some(directory.path()), &mut ()).unwrap();
    let mut names: Vec<_> = fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["00000007", "00000008"]);
}

mod trials {
    use super::*;

    /// Interrupted in the last of four trials.
    fn interrupted(setting: &Setting) -> (TempDir, Vec<u8>) {
        let directory = tempdir().unwrap();
        // One epoch of ten steps in each.
        let stop = &mut Warned { stop_before: Some(35), ..Warned::default() };
        assert!(search(setting).run(Some(directory.path()), stop).unwrap().is_none());
        let log = fs::read(directory.path().join("trials.json")).expect("the trials that were over");
        (directory, log)
    }

    fn search(setting: &Setting) -> Search<'_, Slope> {
        setting.search(|settings| {
            settings.trials = Trials { candidates: 4, epochs: 1, seeds: 1 };
            settings.outer_iterations = 1;
            settings.nes_iterations = 1;
        })
    }

    /// Trainings that a resumed search makes, and what was said.
    fn goes_on(setting: &Setting, directory: &Path) -> (Vec<super::super::Trial>, usize, Vec<String>) {
        let mut warned = Warned::default();
        let mut search = search(setting).resume(directory, &mut warned).expect("a checkpoint");
        let found = search.run(Some(directory), &mut warned).unwrap().expect("not interrupted");
        warned.messages.retain(|message| message.contains("trials"));
        (found.trials, warned.seen, warned.messages)
    }

    #[test]
    fn those_that_were_over_are_not_made_again() {
        let setting = Setting::new(0.25);
        let mut steps = Warned::default();
        let whole = tempdir().unwrap();
        let expected = search(&setting).run(Some(whole.path()), &mut steps).unwrap().expect("not interrupted");
        let (directory, _) = interrupted(&setting);
        let (trials, steps_after, warnings) = goes_on(&setting, directory.path());
        assert_eq!(trials, expected.trials);
        assert_eq!(steps_after, steps.seen - 30, "three of them had been over");
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn damaged_ones_are_made_again_with_a_warning() {
        let setting = Setting::new(0.25);
        let (directory, log) = interrupted(&setting);
        let file = directory.path().join("trials.json");
        let whole = log.clone();
        let (trials, steps, _) = goes_on(&setting, directory.path());
        let at_loss = String::from_utf8(log.clone()).unwrap().find("\"loss\":").expect("a loss") + 12;
        let mut flipped = log.clone();
        flipped[at_loss] ^= 1;
        for damaged in [flipped, log[..log.len() / 2].to_vec(), b"{\"format\":\"other\",\"version\":1}".to_vec()] {
            let (directory, _) = interrupted(&setting);
            fs::write(directory.path().join("trials.json"), damaged).unwrap();
            let (again, steps_again, warnings) = goes_on(&setting, directory.path());
            assert_eq!((again, steps_again), (trials.clone(), steps + 30));
            assert!(warnings.len() == 1 && warnings[0].contains("trials.json"), "{warnings:?}");
            assert!(warnings[0].contains("made again"), "{warnings:?}");
        }
        // Every change to the file is seen.
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(300) });
        runner
            .run(&damage(), |damage| {
                fs::write(&file, damage.to(&whole)).expect("written");
                let mut warned = Warned::default();
                let mut search = search(&setting);
                search.open_trial_log(directory.path(), &mut warned).expect("a warning at most");
                prop_assert_eq!(search.trial_log.made().len(), 0);
                prop_assert_eq!(warned.messages.len(), 1);
                Ok(())
            })
            .unwrap_or_else(|failure| panic!("{failure}"));
    }
}
