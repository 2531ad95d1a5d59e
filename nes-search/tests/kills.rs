//! The command, killed: at any moment, and asked to stop in each phase.
#![cfg(unix)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nes_search::data::idx::{IdxImages, write_images, write_labels};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// Two classes of 40 training images and 10 test images, brighter on the left or on the right, and a short search in
/// which a checkpoint is written before every step.
fn setting() -> TempDir {
    let directory = tempdir().expect("a directory");
    let data = directory.path().join("data");
    fs::create_dir(&data).expect("a directory");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (split, count) in [("train", 80), ("t10k", 20)] {
        let labels: Vec<u8> = (0..count).map(|index| index % 2).collect();
        let bright = |label: u8, column: usize| (column < 14) == (label == 0);
        let mut pixels = Vec::new();
        for &label in &labels {
            pixels.extend(
                (0..28 * 28).map(|pixel| rng.random_range(0..100_u8) + if bright(label, pixel % 28) { 80 } else { 0 }),
            );
        }
        let images = IdxImages { count: labels.len(), height: 28, width: 28, pixels };
        write_images(&data.join(format!("{split}-images-idx3-ubyte")), &images).expect("a file");
        write_labels(&data.join(format!("{split}-labels-idx1-ubyte")), &labels).expect("a file");
    }
    let config = "data = \"data\"\nevaluation_per_class = 10\nthreads = 2\n\
                  [search]\nlength = { cost = 1.0 }\ntrials = 0.2\ntrial_length = 0.2\nweight_steps = 6\n\
                  checkpoint_seconds = 0.0\nevaluation_batch = 20\n[search.sgd]\nbatch_size = 8\n\
                  [train]\nepochs = 3\n[train.sgd]\nbatch_size = 8\n[bench]\nseconds = 0.4\n";
    fs::write(directory.path().join("my.toml"), config).expect("a file");
    directory
}

fn start(directory: &Path, command: &str, out: &str) -> Child {
    let begun = directory.join(out).join("config.toml").exists();
    let place: &[&str] = if begun { &["--resume"] } else { &["--preset", "smoke", "--config", "my.toml", "--out"] };
    let mut process = Command::new(env!("CARGO_BIN_EXE_nes-search"));
    process.arg(command).args(place).arg(out).current_dir(directory).stdout(Stdio::null()).stderr(Stdio::piped());
    process.spawn().expect("it starts")
}

fn finish(mut process: Child) {
    let mut message = String::new();
    process.stderr.take().expect("piped").read_to_string(&mut message).expect("text");
    assert!(process.wait().expect("it ends").success(), "{message}");
    assert!(!message.contains("going on from"), "a checkpoint was damaged: {message}");
}

/// All files below a directory but those that are being written.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let whole = paths.filter(|path| !path.file_name().expect("a name").to_string_lossy().starts_with('.'));
    whole.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Every file has all of its content, whenever the process that wrote it was killed. Only the history, which grows, may
/// have a last line without an end.
fn assert_nothing_is_half_written(directory: &Path) {
    for path in files(directory) {
        let content = fs::read(&path).expect("a file");
        let at = path.display();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => {
                drop(serde_json::from_slice::<Value>(&content).unwrap_or_else(|error| panic!("{at}: {error}")))
            }
            Some("jsonl") => {
                for line in content.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
                    serde_json::from_slice::<Value>(line).unwrap_or_else(|error| panic!("{at}: {error}"));
                }
            }
            Some("toml") => drop(String::from_utf8(content).expect("text").parse::<toml::Table>().expect("TOML")),
            Some("bpk" | "onnx") => assert!(content.len() > 100, "{at}"),
            None if path.ends_with("blake3") => assert_eq!(content.len(), 64, "{at}"),
            _ => panic!("{at}: what is this?"),
        }
    }
    for checkpoint in fs::read_dir(directory.join("checkpoints")).into_iter().flatten() {
        let path = checkpoint.expect("an entry").path();
        if !path.file_name().expect("a name").to_string_lossy().starts_with('.') {
            let mut names: Vec<_> =
                files(&path).iter().filter_map(|file| file.file_name().map(OsStr::to_owned)).collect();
            names.sort();
            assert_eq!(names, ["blake3", "state.json", "supernet.bpk", "weight-optimizer.bpk"], "{}", path.display());
        }
    }
}

/// What a run came to, but for times: its table, and the exported weights of every network.
fn results_of_run(directory: &Path) -> (Value, Vec<Vec<u8>>) {
    let text = fs::read_to_string(directory.join("summary.json")).expect("a table");
    let mut summary: Value = serde_json::from_str(&text).expect("JSON");
    summary["search"]["seconds"] = Value::Null;
    summary["training_seconds"] = Value::Null;
    for row in summary["rows"].as_array_mut().expect("rows") {
        row["onnx_p50_ms"] = Value::Null;
        row["onnx_p90_ms"] = Value::Null;
    }
    let files = ["model.onnx", "uniform-channel/model.onnx", "uniform-joint/model.onnx", "training.json"];
    (summary, files.map(|file| fs::read(directory.join(file)).expect("a file")).into())
}

/// What a search came to, but for the time that it took.
fn results(directory: &Path) -> (String, String, Value) {
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut search: Value = serde_json::from_str(&read("search.json")).expect("JSON");
    search["cost"]["seconds"] = Value::Null;
    search["training_seconds"] = Value::Null;
    (read("architecture.json"), read("history.jsonl"), search)
}

/// The folders of the networks that a run trains.
const NETWORKS: [&str; 3] = ["", "uniform-channel", "uniform-joint"];

#[test]
fn a_run_killed_at_25_random_moments_ends_as_if_it_had_not_been() {
    let directory = setting();
    let path = directory.path();
    let begin = Instant::now();
    finish(start(path, "run", "whole"));
    let duration = begin.elapsed();
    let whole = path.join("whole");
    let expected = (results(&whole), results_of_run(&whole));
    let mut rng = ChaCha8Rng::seed_from_u64(25);
    let (mut kills, mut runs, mut in_search, mut in_training) = (0, 0, 0, 0);
    while kills < 25 {
        let out = path.join(format!("killed-{runs}"));
        loop {
            let mut process = start(path, "run", &format!("killed-{runs}"));
            let in_trainings = || NETWORKS.iter().any(|name| out.join(name).join("trainings").exists());
            // The first kills amid the search, the next amid trainings, and the rest anywhere.
            let (begun, within): (&dyn Fn() -> bool, f64) = match kills {
                0..8 => (&|| out.join("checkpoints").exists(), 0.1),
                8..16 => (&in_trainings, 0.02),
                16..25 => (&|| true, 0.5),
                _ => (&|| true, f64::INFINITY),
            };
            while !begun() && process.try_wait().expect("a process").is_none() {
                sleep(Duration::from_millis(1));
            }
            let wait = if within.is_finite() { rng.random_range(0.0..within) } else { 1e3 };
            let end = Instant::now() + duration.mul_f64(wait);
            while Instant::now() < end && process.try_wait().expect("a process").is_none() {
                sleep(Duration::from_millis(1));
            }
            if process.try_wait().expect("a process").is_some() {
                finish(process);
                break;
            }
            process.kill().expect("SIGKILL");
            process.wait().expect("it ends");
            kills += 1;
            in_search += usize::from(out.join("checkpoints").exists() && !out.join("search.json").exists());
            in_training += usize::from(in_trainings());
            assert_nothing_is_half_written(&out);
        }
        assert!((results(&out), results_of_run(&out)) == expected, "{}, after {kills} kills", out.display());
        assert_eq!(fs::read_dir(out.join("checkpoints")).expect("a folder").count(), 2);
        runs += 1;
    }
    assert!(in_search >= 3 && in_training >= 3, "{in_search} kills in a search, {in_training} in trainings");
}

/// Reads the notes of a command until one begins like this.
fn wait_for(stderr: &mut BufReader<ChildStderr>, begin: &str) -> String {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).expect("text") > 0, "no {begin:?} in: {seen}");
        seen += &line;
        if line.starts_with(begin) {
            return seen;
        }
    }
}

#[test]
fn a_run_that_is_asked_to_stop_in_any_phase_goes_on_there() {
    let directory = setting();
    let path = directory.path();
    finish(start(path, "run", "whole"));
    // After the end of one phase, within the next.
    for (phase, signal) in [("out: budget", "INT"), ("search: ", "TERM"), ("train: ", "INT"), ("export: ", "TERM")] {
        let mut process = start(path, "run", "out");
        let mut stderr = BufReader::new(process.stderr.take().expect("piped"));
        wait_for(&mut stderr, phase);
        sleep(Duration::from_millis(30));
        let id = process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().expect("kill starts").success());
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).expect("text");
        match process.wait().expect("it ends").code() {
            Some(1) => {
                assert!(rest.contains("interrupted; go on with: nes-search run --resume out"), "{phase}: {rest}")
            }
            // A measurement is not stopped half-way: another would take its time again.
            code => assert!(code == Some(0) && phase == "export: ", "{phase}: {code:?}, {rest}"),
        }
        assert_nothing_is_half_written(&path.join("out"));
    }
    finish(start(path, "run", "out"));
    assert!(results(&path.join("out")) == results(&path.join("whole")), "another search");
    for file in ["training.json", "model.onnx", "uniform-channel/model.onnx"] {
        let read = |out: &str| fs::read(path.join(out).join(file)).expect("a file");
        assert!(read("out") == read("whole"), "{file}");
    }
}
