//! The command, given wrong input, and interrupted.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nes_search::data::idx::{IdxImages, write_images, write_labels};
use nes_search::{Config, Preset};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

fn command(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nes-search")).args(arguments).current_dir(directory).output().expect("it starts")
}

/// The message of a command that fails, says why in one line, and leaves nothing behind.
fn refused(arguments: &[&str], directory: &Path) -> String {
    let output = command(arguments, directory);
    let message = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
    assert!(!directory.join("runs").exists() && !directory.join("out").exists(), "{arguments:?} left a directory");
    message
}

fn assert_tells(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

#[test]
fn a_configuration_with_a_mistake() {
    let directory = tempdir().unwrap();
    let file = |text: &str| {
        fs::write(directory.path().join("my.toml"), text).unwrap();
        refused(&["run", "--config", "my.toml"], directory.path())
    };
    assert_tells(&file("[search.nes]\nsigm = 2.0\n"), &["my.toml", "unknown field `sigm`", "`sigma`"]);
    assert_tells(&file("[search.nes]\nsigma = -2.0\n"), &["my.toml", "search.nes.sigma", "0.001 to 1000", "-2"]);
    assert_tells(&file("[search\n"), &["my.toml", "line 1"]);
    let missing = refused(&["search", "--config", "no.toml"], directory.path());
    assert_tells(&missing, &["no.toml", "No such file"]);
    let flag = refused(&["run", "--seeds", "0"], directory.path());
    assert_tells(&flag, &["seeds", "1 to 1000", "found 0"]);
}

/// A search and a training of another backbone than the default one, and the names of its parameters in the file.
#[test]
fn another_backbone_by_a_flag_or_by_the_configuration() {
    let directory = tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = command(arguments, directory.path());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    };
    let quick = "[search]\nlength = { iterations = 1 }\ntrials = 0\nweight_steps = 1\n";
    fs::write(directory.path().join("my.toml"), quick).unwrap();
    run(&["search", "--preset", "smoke", "--config", "my.toml", "--backbone", "mobilenet-v1-small", "--out", "found"]);
    let config = fs::read_to_string(directory.path().join("found/config.toml")).unwrap();
    assert_tells(&config, &["\nbackbone = \"mobilenet-v1-small\"\n"]);
    let architecture = fs::read_to_string(directory.path().join("found/architecture.json")).unwrap();
    assert_tells(&architecture, &["\"block13\""]);

    fs::write(directory.path().join("my.toml"), "backbone = \"mobilenet-v1-small\"\n").unwrap();
    let train = ["train", "--preset", "smoke", "--architecture", "found/architecture.json", "--out", "trained"];
    let refused = command(&train, directory.path());
    assert_tells(&String::from_utf8_lossy(&refused.stderr), &["another search space", "\"block1\""]);
    run(&[&train[..], &["--config", "my.toml"]].concat());
    let checklist = run(&["export", "trained", "--int8"]);
    let checklist = String::from_utf8_lossy(&checklist.stdout);
    let steps = [
        "[x] captured",
        "[x] lowered",
        "[x] structure valid",
        "[x] runs in rten",
        "[x] equal in rten",
        "[x] int8 in rten",
    ];
    assert_tells(&checklist, &steps);
    assert!(!checklist.contains("[ ]"), "{checklist}");
    assert!(directory.path().join("trained/model.int8.onnx").is_file());
    let onnx = fs::read(directory.path().join("trained/model.onnx")).unwrap();
    let text = String::from_utf8_lossy(&onnx);
    assert!(text.contains("blocks.12.mix.conv") && !text.contains("MobileNetV1"), "names of parameters");

    fs::write(directory.path().join("my.toml"), "backbone = \"vgg\"\n").unwrap();
    let message = self::refused(&["run", "--config", "my.toml"], directory.path());
    assert_tells(&message, &["my.toml", "unknown variant `vgg`", "`resnet-50`"]);
}

#[test]
fn a_flag_with_a_mistake_is_wrong_usage() {
    let directory = tempdir().unwrap();
    for arguments in [["run", "--budget", "lots"], ["run", "--preset", "huge"], ["bench", "--seconds", "1"]] {
        let output = command(&arguments, directory.path());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let output = command(&["run", "--budget", "lots"], directory.path());
    assert_tells(&String::from_utf8_lossy(&output.stderr), &["--budget", "\"lots\"", "250k"]);
}

#[test]
fn an_architecture_of_another_space() {
    let directory = tempdir().unwrap();
    let inspect = ["inspect", "mobilenet-v2-small", "--size", "28", "--classes", "10", "--json"];
    assert!(command(&inspect, directory.path()).status.success());
    let write = |text: &str| fs::write(directory.path().join("other.json"), text).unwrap();
    let train = || refused(&["train", "--architecture", "other.json", "--out", "out"], directory.path());
    write(r#"{"version": 1, "dimensions": []}"#);
    assert_tells(
        &train(),
        &["other.json", "another search space", "dimension 0 expected \"resolution\"", "found none"],
    );
    write(r#"{"version": 7, "dimensions": []}"#);
    assert_tells(&train(), &["other.json", "version: expected 1, found 7"]);
    write("{");
    assert_tells(&train(), &["other.json", "line 1"]);
    let inspect = [&inspect[..], &["--architecture", "other.json"]].concat();
    assert_tells(&refused(&inspect, directory.path()), &["other.json"]);
}

/// 24 images of two classes, 28 pixels, whose training images are cut off in the middle.
fn truncated_data(gzip: bool) -> TempDir {
    let directory = tempdir().expect("a file");
    let path = |name: &str| directory.path().join(name);
    let images = IdxImages { count: 24, height: 28, width: 28, pixels: vec![7; 24 * 28 * 28] };
    let labels: Vec<u8> = (0..24).map(|index| index % 2).collect();
    for split in ["train", "t10k"] {
        write_images(&path(&format!("{split}-images-idx3-ubyte")), &images).expect("a file");
        write_labels(&path(&format!("{split}-labels-idx1-ubyte")), &labels).expect("a file");
    }
    let file = path("train-images-idx3-ubyte");
    let plain = [&[0, 0, 8, 3, 0, 0, 0, 24, 0, 0, 0, 28, 0, 0, 0, 28], images.pixels.as_slice()].concat();
    let whole = if gzip { fs::read(&file).expect("a file") } else { plain };
    fs::write(file, &whole[..whole.len() / 2]).expect("a file");
    directory
}

#[test]
fn a_truncated_data_file() {
    let directory = tempdir().unwrap();
    let message = |data: &Path| refused(&["run", "--data", data.to_str().unwrap()], directory.path());
    let gzip = message(truncated_data(true).path());
    assert_tells(&gzip, &["train-images-idx3-ubyte", "byte ", "incomplete"]);
    let plain = message(truncated_data(false).path());
    assert_tells(&plain, &["train-images-idx3-ubyte", "expected 18832 bytes", "byte 9416"]);
    assert_tells(&message(Path::new("nowhere")), &["nowhere", "No such file"]);
}

#[test]
fn a_budget_out_of_reach() {
    let directory = tempdir().unwrap();
    let small = refused(&["run", "--budget", "10k", "--out", "out"], directory.path());
    assert_tells(&small, &["29,392", "10,000"]);
    let large = refused(&["search", "--budget", "1G"], directory.path());
    assert_tells(&large, &["at most", "1,000,000,000"]);
}

#[test]
fn a_run_directory_in_use() {
    let directory = tempdir().unwrap();
    let run = directory.path().join("mine");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("summary.json"), "precious").unwrap();
    fs::write(run.join("config.toml"), Config::preset(Preset::Smoke).to_toml()).unwrap();
    let message = refused(&["run", "--preset", "smoke", "--out", "mine"], directory.path());
    assert_tells(&message, &["mine", "new or an empty directory", "--overwrite"]);
    // As while another command writes into it.
    let lock = File::create(run.join(".lock")).unwrap();
    lock.try_lock().unwrap();
    let message = refused(&["run", "--preset", "smoke", "--out", "mine", "--overwrite"], directory.path());
    assert_tells(&message, &["mine", "in use"]);
    assert_eq!(fs::read_to_string(run.join("summary.json")).unwrap(), "precious");
}

#[test]
fn a_directory_without_a_run() {
    let directory = tempdir().unwrap();
    for command in ["run", "search"] {
        assert_tells(&refused(&[command, "--resume", "nothing"], directory.path()), &["nothing", "config.toml"]);
    }
    for command in ["export", "fidelity"] {
        assert_tells(&refused(&[command, "nothing"], directory.path()), &["nothing", "config.toml"]);
    }
}

#[test]
fn what_is_known_of_a_search_that_is_not_over() {
    let directory = tempdir().unwrap();
    let run = directory.path().join("mine");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("config.toml"), Config::preset(Preset::Smoke).to_toml()).unwrap();
    for command in ["fidelity", "compare"] {
        let message = refused(&[command, "mine"], directory.path());
        assert_tells(&message, &["mine", "expected the directory of a finished search", "search.json"]);
    }
    fs::write(run.join("search.json"), "{}").unwrap();
    for command in ["fidelity", "compare"] {
        assert_tells(&refused(&[command, "mine"], directory.path()), &["mine", "expected data.json", "found none"]);
    }
    fs::write(run.join("fidelity.json"), "{").unwrap();
    assert_eq!(command(&["fidelity", "mine", "--architectures", "1"], directory.path()).status.code(), Some(2));
    assert_eq!(fs::read_to_string(run.join("fidelity.json")).unwrap(), "{");
}

#[test]
fn a_damaged_fidelity_file() {
    let directory = tempdir().unwrap();
    let config = "[search]\nlength = { iterations = 1 }\ntrials = 0\nweight_steps = 1\nnes_iterations = 1\n";
    fs::write(directory.path().join("my.toml"), config).unwrap();
    let search = ["search", "--preset", "smoke", "--config", "my.toml", "--out", "mine"];
    assert!(command(&search, directory.path()).status.success());
    let file = directory.path().join("mine/fidelity.json");
    for (text, parts) in [
        ("{", ["fidelity.json", "EOF", "line 1"]),
        ("{\"epochs\": 1}", ["fidelity.json", "missing field", "`seed`"]),
        ("[[1, 2]]", ["fidelity.json", "invalid type", "line 1"]),
    ] {
        fs::write(&file, text).unwrap();
        assert_tells(&refused(&["fidelity", "mine", "--architectures", "2"], directory.path()), &parts);
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "it was replaced");
        assert!(!directory.path().join("mine/fidelity.svg").exists());
    }
    watched(directory.path());
}

/// What `watch` shows of a finished search, and says of damaged and foreign files.
fn watched(directory: &Path) {
    let watch = |flags: &[&str]| {
        let output = command(&[&["watch", "mine"], flags].concat(), directory);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let text = watch(&["--once"]);
    assert_tells(
        &text,
        &["mine: the search is over", "round 1, 0 % of the walk", "of 251721 MACs", "resolution", "backbone"],
    );
    // Where stdout is no terminal it does not wait.
    assert_eq!(watch(&[]), text);
    let view: Value = serde_json::from_str(&watch(&["--json"])).expect("JSON");
    let history = fs::read_to_string(directory.join("mine/history.jsonl")).expect("a file");
    let record: Value = serde_json::from_str(history.trim_end()).expect("one record");
    assert_eq!((&view["history"][0], &view["finished"]), (&record, &Value::from(true)));
    let dimensions = view["dimensions"].as_array().expect("dimensions");
    assert_eq!(dimensions.len(), record["h"].as_array().expect("H").len());
    for (dimension, value) in dimensions.iter().zip(record["architecture"]["dimensions"].as_array().expect("values")) {
        let row = text.lines().find(|line| line.trim_start().starts_with(dimension["name"].as_str().expect("a name")));
        assert_tells(row.expect("a row for each dimension"), &[&value["value"].to_string()]);
    }

    let write = |name: &str, text: &str| fs::write(directory.join("mine").join(name), text).expect("a file");
    let message = |parts: &[&str]| assert_tells(&refused(&["watch", "mine", "--once"], directory), parts);
    // What is being written has no end yet.
    write("history.jsonl", &(history.clone() + "{\"iteration\": 2, \"h"));
    assert_eq!(watch(&[]), text);
    write("history.jsonl", &history[1..]);
    message(&["history.jsonl", "NES iteration 1 in line 1", "invalid type"]);
    write("history.jsonl", &history.replace("\"iteration\":1", "\"iteration\":7"));
    message(&["history.jsonl", "NES iteration 1 in line 1", "found that of 7"]);
    write("history.jsonl", &history.replace("\"h\":[", "\"h\":[0.5,"));
    message(&["history.jsonl", "15 dimensions", "another search"]);
    write("history.jsonl", &history);
    write("task.json", "{}");
    message(&["task.json", "missing field"]);
    fs::remove_file(directory.join("mine/task.json")).expect("a file");
    message(&["mine", "expected the directory of a run or a search", "task.json"]);
    assert_tells(&refused(&["watch", "nowhere"], directory), &["nowhere", "expected the directory"]);
}

#[test]
fn every_command_has_an_example() {
    let directory = tempdir().unwrap();
    let help = |arguments: &[&str]| {
        let output = command(arguments, directory.path());
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).expect("text")
    };
    let all = help(&["--help"]);
    let names = all.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let names: Vec<_> =
        names.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() > 8 && names.contains(&"watch"), "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        assert_tells(&help(&[name, "--help"]), &["Example", &format!("nes-search {name}")]);
    }
}

#[test]
fn a_search_in_a_directory_of_train() {
    let directory = tempdir().unwrap();
    let run = directory.path().join("trained");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("config.toml"), Config::preset(Preset::Smoke).to_toml()).unwrap();
    fs::write(run.join("architecture.json"), "precious").unwrap();
    for command in ["run", "search"] {
        let message = refused(&[command, "--resume", "trained"], directory.path());
        assert_tells(&message, &["trained", "expected a directory of run or search", "train"]);
    }
    assert_eq!(fs::read_to_string(run.join("architecture.json")).unwrap(), "precious");
}

#[test]
fn the_printed_configuration_is_the_preset() {
    let directory = tempdir().unwrap();
    for (name, preset) in [("laptop", Preset::Laptop), ("paper", Preset::Paper), ("smoke", Preset::Smoke)] {
        let output = command(&["config", "--preset", name], directory.path());
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(Config::from_toml(Preset::Smoke, &text).unwrap(), Config::preset(preset));
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_from_which_the_search_ends_as_without() {
    let directory = tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_nes-search");
    let config = "[search]\nlength = { cost = 1.0 }\n";
    fs::write(directory.path().join("my.toml"), config).unwrap();
    let search = ["search", "--preset", "smoke", "--config", "my.toml", "--out"];
    let spawn = |out: &str| {
        let mut command = Command::new(binary);
        command.args(search).arg(out).current_dir(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    };
    let interrupted = spawn("interrupted");
    // The search begins after its directory is made.
    while !directory.path().join("interrupted/history.jsonl").exists() {
        sleep(Duration::from_millis(20));
    }
    sleep(Duration::from_millis(200));
    let kill = Command::new("kill").args(["-INT", &interrupted.id().to_string()]).status().expect("kill starts");
    assert!(kill.success());
    let output = interrupted.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_tells(&message, &["interrupted", "nes-search search --resume interrupted"]);
    assert!(!directory.path().join("interrupted/architecture.json").exists(), "it was not interrupted");

    let resumed = command(&["search", "--resume", "interrupted", "--json"], directory.path());
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert!(spawn("whole").wait().unwrap().success());
    for name in ["architecture.json", "history.jsonl", "config.toml"] {
        let read = |run: &str| fs::read_to_string(directory.path().join(run).join(name)).unwrap();
        assert_eq!(read("interrupted"), read("whole"), "{name}");
    }
    let architecture = fs::read(directory.path().join("whole/architecture.json")).unwrap();
    assert_eq!(String::from_utf8_lossy(&resumed.stdout), String::from_utf8_lossy(&architecture));
}
