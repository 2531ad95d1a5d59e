//! What people do with the command, and files that are not as they should be.
#![cfg(unix)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nes_search::data::idx::{IdxImages, write_images, write_labels};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// Two classes of images, brighter on the left or on the right; labels from `first` on.
fn write_data(directory: &Path, first: u8, train: usize) {
    fs::create_dir_all(directory).expect("a directory");
    for (split, count) in [("train", train), ("t10k", 6)] {
        let labels: Vec<u8> = (0..count).map(|index| first + (index % 2) as u8).collect();
        let noise = |index: usize| (index * 7919 % 101) as u8;
        let bright = |image: usize, pixel: usize| (pixel % 28 < 14) == image.is_multiple_of(2);
        let pixels = (0..count * 28 * 28)
            .map(|index| noise(index) + if bright(index / 784, index % 784) { 80 } else { 0 })
            .collect();
        let images = IdxImages { count, height: 28, width: 28, pixels };
        write_images(&directory.join(format!("{split}-images-idx3-ubyte")), &images).expect("a file");
        write_labels(&directory.join(format!("{split}-labels-idx1-ubyte")), &labels).expect("a file");
    }
}

const QUICK: &str = "evaluation_per_class = 3\nthreads = 2\n[search]\nevaluation_batch = 6\nweight_steps = 2\n\
                     [search.sgd]\nbatch_size = 4\n[train.sgd]\nbatch_size = 4\n[bench]\nseconds = 0.01\n";

/// A directory with data and a configuration of next to no work.
fn setting() -> TempDir {
    let directory = tempdir().expect("a directory");
    write_data(&directory.path().join("data"), 0, 24);
    fs::write(directory.path().join("my.toml"), QUICK).expect("a file");
    directory
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nes-search"));
    command.args(arguments).current_dir(directory);
    command
}

fn run(directory: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(directory, arguments).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// What a command that succeeds says on stderr.
fn succeeds(directory: &Path, arguments: &[&str]) -> String {
    let (code, _, message) = run(directory, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {message}");
    message
}

/// The message of a command that fails, which has all parts.
fn fails(directory: &Path, arguments: &[&str], parts: &[&str]) {
    let (code, stdout, message) = run(directory, arguments);
    assert!(code == Some(1) && stdout.is_empty(), "{arguments:?}: {code:?}, {message}");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

const SEARCH: [&str; 7] = ["search", "--preset", "smoke", "--config", "my.toml", "--data", "data"];

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn only_what_a_run_wrote_is_overwritten() {
    let directory = setting();
    let path = directory.path();
    let others = ["mine/checkpoints/epoch90.pt", "mine/backbone/resnet.py", "mine/config.toml", "mine/model.onnx"];
    for file in others {
        let file = path.join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, "precious").expect("a file");
    }
    let overwrite = |out: &'static str| [&SEARCH[..], &["--overwrite", "--out", out]].concat();
    fails(path, &overwrite("mine"), &["mine", "expected the directory of an earlier run", "such as"]);
    for file in others {
        assert_eq!(fs::read_to_string(path.join(file)).expect("a file"), "precious");
    }
    assert!(!path.join("mine/.lock").exists(), "a lock is left");

    // In a run's directory, files of others stay, in the folders of the run too.
    succeeds(path, &overwrite("out"));
    let kept = ["out/notes.txt", "out/checkpoints/epoch90.pt", "out/uniform-joint/table.csv"];
    for file in kept {
        let file = path.join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, "precious").expect("a file");
    }
    fs::write(path.join("out/weights.bpk"), "of the run").expect("a file");
    succeeds(path, &overwrite("out"));
    for file in kept {
        assert_eq!(fs::read_to_string(path.join(file)).expect("a file"), "precious");
    }
    assert!(!path.join("out/weights.bpk").exists(), "a file of the earlier run is left");
}

#[test]
fn everything_is_checked_before_an_earlier_run_is_removed() {
    let directory = setting();
    let path = directory.path();
    let out = ["--overwrite", "--out", "out"];
    succeeds(path, &[&SEARCH[..], &out].concat());
    let names = || {
        let entries =
            fs::read_dir(path.join("out")).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    };
    let before = names();
    // A path that a configuration cannot hold.
    let odd = OsStr::from_bytes(b"d\xff");
    fs::rename(path.join("data"), path.join(odd)).expect("renamed");
    let mut search = command(path, &[&SEARCH[..5], &out].concat());
    let output = search.arg("--data").arg(odd).output().expect("it starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && message.contains("data: expected a path in UTF-8"), "{message}");
    fs::rename(path.join(odd), path.join("data")).expect("renamed");
    // More images for a batch than there are.
    fs::write(path.join("my.toml"), QUICK.replace("evaluation_batch = 6", "evaluation_batch = 60")).expect("a file");
    fails(path, &[&SEARCH[..], &out].concat(), &["evaluation split", "60", "found 6"]);
    fails(path, &[&SEARCH[..], &["--out", "new"]].concat(), &["evaluation split"]);
    assert!(!path.join("new").exists(), "a refused start left a directory");
    assert_eq!(names(), before);
}

#[test]
fn data_that_has_changed_is_told_and_the_weights_keep_their_own() {
    let directory = setting();
    let path = directory.path();
    let run_it = [&["run"], &SEARCH[1..], &["--out", "out"]].concat();
    succeeds(path, &run_it);
    let metadata = |file: &str| {
        let bytes = fs::read(path.join(file)).expect("a file");
        let at = bytes.windows(8).position(|window| window == b"{\"mean\":").expect("a normalisation");
        bytes[at..at + 60].to_vec()
    };
    let before = metadata("out/model.onnx");
    let weights = fs::read(path.join("out/weights.bpk")).expect("weights");
    fs::remove_file(path.join("out/summary.json")).expect("a file");

    write_data(&path.join("data"), 0, 30);
    let changed = "the data has changed since the run began: training images: expected 24, found 30";
    fails(path, &["run", "--resume", "out"], &[changed]);
    fails(path, &["export", "out", "--int8"], &[changed]);
    let message = succeeds(path, &["export", "out", "--out", "again.bin"]);
    assert!(message.contains(changed) && metadata("again.bin") == before, "{message}");

    // Without any data: the file, and whose network it is.
    fs::remove_dir_all(path.join("data")).expect("a folder");
    succeeds(path, &["export", "out", "--out", "third.onnx"]);
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("../exporters/tests/fixtures/conv_relu_gemm.onnx");
    fs::copy(other, path.join("out/other.onnx")).expect("a copy");
    fs::copy(path.join("out/model.onnx"), path.join("out/copy.onnx")).expect("a copy");
    for (file, expected) in [("out/model.onnx", true), ("out/copy.onnx", true), ("out/other.onnx", false)] {
        let (code, csv, message) = run(path, &["bench", file, "--seconds", "0.01", "--warmup", "0", "--csv"]);
        assert_eq!((code, csv.contains("burn-flex")), (Some(0), expected), "{file}: {message}");
    }
    assert_eq!(fs::read(path.join("out/weights.bpk")).expect("weights"), weights);
}

#[test]
fn a_budget_that_was_edited_is_no_longer_that_of_the_search() {
    let directory = setting();
    let path = directory.path();
    succeeds(path, &[&SEARCH[..], &["--out", "out"]].concat());
    let config = fs::read_to_string(path.join("out/config.toml")).expect("a file");
    let edited = config.replace("budget = \"0.1\"", "budget = \"0.2\"");
    assert_ne!(edited, config);
    fs::write(path.join("out/config.toml"), edited).expect("a file");
    fails(path, &["run", "--resume", "out"], &["task.json", "a budget of", "as config.toml says"]);
}

#[test]
fn labels_without_an_image_are_used_with_a_note() {
    let directory = setting();
    let path = directory.path();
    write_data(&path.join("data"), 1, 24);
    let message = succeeds(path, &[&["run"], &SEARCH[1..], &["--out", "out"]].concat());
    assert!(message.contains("training images: classes without an image: 1, such as 0"), "{message}");
    assert_eq!(json(&path.join("out/data.json"))["classes"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_small_data_set_fits_the_numbers_that_nobody_chose() {
    let directory = setting();
    let path = directory.path();
    let quick = QUICK.replace("evaluation_per_class = 3\n", "").replace("evaluation_batch = 6\n", "");
    fs::write(path.join("my.toml"), quick).expect("a file");
    let message = succeeds(path, &[&SEARCH[..], &["--out", "out"]].concat());
    assert!(message.contains("evaluation_per_class: 2 instead of 20"), "{message}");
    let config = fs::read_to_string(path.join("out/config.toml")).expect("a file");
    assert!(config.contains("\nevaluation_per_class = 2\n"), "{config}");
    fs::write(path.join("my.toml"), QUICK.replace("class = 3", "class = 13")).expect("a file");
    fails(path, &[&SEARCH[..], &["--out", "new"]].concat(), &["class 0", "evaluation_per_class", "found 12"]);
}

#[test]
fn files_may_begin_with_a_mark_of_their_byte_order() {
    let directory = setting();
    let path = directory.path();
    let mark = |file: &str| {
        let text = fs::read_to_string(path.join(file)).expect("a file");
        fs::write(path.join(file), format!("\u{feff}{text}")).expect("a file");
    };
    mark("my.toml");
    succeeds(path, &[&SEARCH[..], &["--out", "out"]].concat());
    mark("out/architecture.json");
    let train = ["train", "--architecture", "out/architecture.json", "--preset", "smoke", "--data", "data"];
    succeeds(path, &[&train[..], &["--config", "my.toml", "--out", "trained"]].concat());
}

#[test]
fn two_runs_that_begin_at_once_have_directories_of_their_own() {
    let directory = setting();
    let path = directory.path();
    let spawn = || command(path, &SEARCH).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut both: [Child; 2] = [spawn(), spawn()];
    assert!(both.iter_mut().all(|child| child.wait().expect("it ends").success()));
    let runs: Vec<_> = fs::read_dir(path.join("runs")).expect("a folder").map(|entry| entry.unwrap().path()).collect();
    assert!(runs.len() == 2 && runs.iter().all(|run| run.join("search.json").exists()), "{runs:?}");
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let directory = setting();
    let path = directory.path();
    fs::write(path.join("my.toml"), format!("{QUICK}[train]\nepochs = 60.0\n")).expect("a file");
    succeeds(path, &[&SEARCH[..], &["--out", "found"]].concat());
    let train =
        "exec \"$0\" train --architecture found/architecture.json --preset smoke --config my.toml --data data --out";
    let begin = |trap: &str, out: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{trap} {train} {out}"), env!("CARGO_BIN_EXE_nes-search")]).current_dir(path);
        let child = shell.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        while !path.join(out).join("status.json").exists() {
            sleep(Duration::from_millis(5));
        }
        let hang_up = ["-HUP", &child.id().to_string()];
        assert!(Command::new("kill").args(hang_up).status().expect("kill starts").success());
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = begin("trap '' HUP;", "ignored");
    assert_eq!(code, Some(0), "{message}");
    let (code, message) = begin("", "heeded");
    assert!(code == Some(1) && message.contains("kept: network, seed 1, "), "{code:?}: {message}");
    // What was kept is gone on with, and comes to the same.
    succeeds(path, &["train", "--resume", "heeded"]);
    for out in ["ignored", "heeded"] {
        succeeds(path, &["export", out]);
    }
    for file in ["training.json", "model.onnx"] {
        let read = |out: &str| fs::read(path.join(out).join(file)).expect("a file");
        assert!(read("ignored") == read("heeded"), "{file}");
    }
    assert!(!path.join("heeded/trainings").exists(), "the state of a training that is over is left");
}
