//! The command with flags, configurations and directories at random. `FUZZ_CASES` says how many (1,000 by default).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nes_search::data::idx::{IdxImages, write_images, write_labels};
use proptest::prelude::*;
use proptest::sample::select;
use tempfile::{TempDir, tempdir};

/// A command that says nothing and writes no status for so long hangs; a machine that does other things is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration of next to no work, and files of the user that no command wrote.
const CONFIG: &str = "data = \"data\"\nevaluation_per_class = 2\nthreads = 1\n[search]\nevaluation_batch = 4\n\
                      weight_steps = 1\ntrials = 0.1\ntrial_length = 0.1\nlength = { cost = 0.05 }\n[search.sgd]\nbatch_size = 4\n[train.sgd]\nbatch_size = 4\n\
                      [bench]\nseconds = 0.01\n";
const PRECIOUS: [&str; 7] = [
    "old/notes.txt",
    "old/checkpoints/epoch90.pt",
    "others/config.toml",
    "others/model.onnx",
    "others/checkpoints/00000001/state.json",
    "others/weights.bpk",
    "linked.txt",
];

/// What is wrong in the directory that a command runs in.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Truncate(&'static str),
    Empty(&'static str),
    Remove(&'static str),
    Text(&'static str),
    Folder(&'static str),
}

fn setting() -> TempDir {
    let directory = tempdir().expect("a directory");
    let path = directory.path();
    let data = path.join("data");
    fs::create_dir(&data).expect("a directory");
    for (split, count) in [("train", 16), ("t10k", 4)] {
        let pixels = (0..count * 12 * 12).map(|index| (index * 7919 % 251) as u8).collect();
        let images = IdxImages { count, height: 12, width: 12, pixels };
        let labels: Vec<u8> = (0..count).map(|index| (index % 2) as u8).collect();
        write_images(&data.join(format!("{split}-images-idx3-ubyte")), &images).expect("a file");
        write_labels(&data.join(format!("{split}-labels-idx1-ubyte")), &labels).expect("a file");
    }
    let write = |name: &str, text: &str| {
        let file = path.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, text).expect("a file");
    };
    PRECIOUS.iter().for_each(|name| write(name, "precious"));
    write("my.toml", CONFIG);
    // As of a run that was killed at once.
    write("old/.lock", "");
    write("old/config.toml", &format!("# Configuration of nes-search.\n{CONFIG}"));
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../exporters/tests/fixtures/conv_relu_gemm.onnx");
    fs::copy(model, path.join("net.onnx")).expect("a copy");
    directory
}

fn apply(directory: &Path, damage: Damage) {
    let at = |name: &str| directory.join(name);
    // A damage of what an earlier one took away is none.
    let _ = match damage {
        Damage::Truncate(name) => {
            let bytes = fs::read(at(name)).unwrap_or_default();
            fs::write(at(name), &bytes[..bytes.len() / 2])
        }
        Damage::Empty(name) => fs::write(at(name), ""),
        Damage::Remove(name) => fs::remove_file(at(name)),
        Damage::Text(name) => fs::write(at(name), "\u{feff}{\"a\": [1e999, null, \"\u{0}\"]}"),
        Damage::Folder(name) => fs::remove_file(at(name)).and_then(|()| fs::create_dir(at(name))),
    };
}

fn damage() -> impl Strategy<Value = Damage> {
    let file = select(vec![
        "data/train-images-idx3-ubyte",
        "data/train-labels-idx1-ubyte",
        "data/t10k-labels-idx1-ubyte",
        "my.toml",
        "old/config.toml",
        "old/.lock",
        "old/architecture.json",
        "old/search.json",
        "old/training.json",
        "old/data.json",
        "old/task.json",
        "old/weights.bpk",
        "net.onnx",
        "table.json",
    ]);
    let kinds: Vec<fn(&'static str) -> Damage> =
        vec![Damage::Truncate, Damage::Empty, Damage::Remove, Damage::Text, Damage::Folder];
    (select(kinds), file).prop_map(|(kind, file)| kind(file))
}

/// A path or a number, good or bad.
fn value() -> impl Strategy<Value = String> {
    let values = [
        "data",
        "missing",
        "old",
        "others",
        "others/model.onnx",
        "my.toml",
        "net.onnx",
        "table.json",
        "new",
        "new/deeper",
        "linked.txt",
        "/dev/null",
        ".",
        "..",
        "",
        "0",
        "1",
        "2",
        "3",
        "-1",
        "0.1",
        "0.5",
        "1e309",
        "NaN",
        "250k",
        "5M",
        "0.1ms",
        "parameters=1k",
        "rten",
        "onnx-runtime",
        "burn-flex",
        "random",
        "mobilenet-v2-small",
        "resnet-20",
        "images=1x3x8x8",
        "x=0",
        "ä\u{202e}",
        "a b",
        "--",
        "18446744073709551616",
    ];
    select(values.map(String::from).to_vec())
}

fn arguments() -> impl Strategy<Value = Vec<String>> {
    let commands = [
        "run",
        "search",
        "train",
        "export",
        "bench",
        "lut show",
        "lut import",
        "lut check",
        "inspect",
        "watch --once",
        "fidelity",
        "compare",
        "config",
        "nothing",
    ];
    let flags = [
        "--out",
        "--overwrite",
        "--resume",
        "--data",
        "--budget",
        "--bound",
        "--backbone",
        "--searcher",
        "--latency-table",
        "--image-size",
        "--architecture",
        "--json",
        "--csv",
        "--int8",
        "--runtime",
        "--shape",
        "--compare",
        "--seed",
        "--help",
        "--machine",
        "--size",
        "--classes",
    ];
    let flag = (select(flags.to_vec()), value(), any::<bool>());
    (select(commands.to_vec()), prop::option::of(value()), prop::collection::vec(flag, 0..5)).prop_map(
        |(command, place, flags)| {
            let mut arguments: Vec<String> = command.split(' ').map(String::from).collect();
            let is_long = ["run", "search", "train"].contains(&command);
            if is_long && !flags.iter().any(|(flag, ..)| *flag == "--resume") {
                arguments.extend(["--preset", "smoke", "--config", "my.toml"].map(String::from));
            }
            arguments.extend(place.filter(|_| !is_long));
            for (flag, value, has_value) in flags {
                arguments.push(flag.into());
                arguments.extend(has_value.then_some(value));
            }
            // What is measured, shortly; the last value counts for no flag that is given twice.
            let brief: &[&str] = if command == "bench" { &["--iterations", "1", "--warmup", "0"] } else { &[] };
            arguments.extend(brief.iter().map(|text| (*text).to_owned()));
            arguments
        },
    )
}

/// What a command says and where it is, as texts of any length.
fn signs_of_life(directory: &Path) -> Vec<Vec<u8>> {
    let folders = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let runs = fs::read_dir(directory.join("runs")).into_iter().flatten().flatten().map(|entry| entry.path());
    let statuses = folders.chain(runs).map(|folder| folder.join("status.json"));
    let files = statuses.chain([directory.join("status.json"), directory.join(".said")]);
    files.filter_map(|file| fs::read(file).ok()).collect()
}

/// Runs the command to its end. Returns its exit code, if it has one, and what it said.
fn run(directory: &Path, arguments: &[String]) -> (Option<i32>, String) {
    let said = directory.join(".said");
    let log = fs::File::create(&said).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nes-search"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // A shared library that is looked for takes a fraction of a second.
    command.env("ORT_DYLIB_PATH", "/nonexistent");
    let mut child = command.spawn().expect("it starts");
    let (mut heard, mut sign) = (Instant::now(), None);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a process") {
            break Some(status);
        }
        if heard.elapsed() > PATIENCE / 10 && sign != Some(signs_of_life(directory)) {
            (heard, sign) = (Instant::now(), Some(signs_of_life(directory)));
        }
        if heard.elapsed() > PATIENCE {
            // It may have ended meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        sleep(Duration::from_millis(2));
    };
    let message = String::from_utf8_lossy(&fs::read(said).unwrap_or_default()).into_owned();
    (status.and_then(|status| status.code()), message)
}

fn cases() -> u32 {
    std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_panic_no_hang_no_other_exit_code_and_nothing_of_others_removed(
        damages in prop::collection::vec(damage(), 0..3), arguments in arguments(),
    ) {
        let directory = setting();
        damages.iter().for_each(|damage| apply(directory.path(), *damage));
        let (code, message) = run(directory.path(), &arguments);
        prop_assert!(matches!(code, Some(0..=2)), "{:?}: {:?}: {}", arguments, code, message);
        prop_assert!(!message.contains("panicked"), "{:?}: {}", arguments, message);
        prop_assert!(code != Some(1) || !message.trim().is_empty(), "{:?}: no word", arguments);
        for name in PRECIOUS {
            let path: PathBuf = directory.path().join(name);
            // A user may name one as an output: then it is replaced, which is what was asked for.
            if !arguments.iter().any(|argument| name.starts_with(argument.as_str()) && argument.len() > 8) {
                let content = fs::read_to_string(&path).unwrap_or_default();
                prop_assert!(content == "precious", "{:?}: {} is {:?}", arguments, name, content);
            }
        }
    }
}
