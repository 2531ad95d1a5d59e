//! The whole chain, from outside: `run` with the preset `smoke`, and what it leaves in its directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use burn::module::{Module, ModuleMapper, Param};
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device, Tensor};
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use elastic_layers::{Architecture, Backbone};
use exporters::runtime::{RuntimeKind, available, require};
use exporters::{reference, verify};
use nes_search::data::{ImageData, Normalization, batch, batches};
use nes_search::search::Iteration;
use nes_search::{Blueprint, Config, LEAST_SHARE, Preset, evaluate};
use serde_json::Value;

fn command(arguments: &[&str], directory: &Path) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_nes-search"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn blueprint() -> Blueprint<MobileNetV2> {
    let config = MobileNetV2Config::small(1, 28, 10);
    Blueprint::new([1, 28, 28], move |space, device| config.init(space, device)).expect("a network")
}

/// The trained network of a directory.
fn network(directory: &Path) -> MobileNetV2 {
    let blueprint = blueprint();
    let architecture: Architecture =
        serde_json::from_value(json(&directory.join("architecture.json"))).expect("a file");
    blueprint.space().check(&architecture).expect("an architecture of the space");
    let bytes = Bytes::from_bytes_vec(fs::read(directory.join("weights.bpk")).expect("weights"));
    let record = ModuleRecord::from_bytes(bytes).expect("a record");
    blueprint.network(&architecture, 0, &Device::default()).expect("a network").load_record(record)
}

#[test]
fn run_leaves_a_checked_comparison_and_a_file_that_every_runtime_agrees_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a run");
    let output = command(&["run", "--preset", "smoke", "--seed", "3", "--out", "a run"], folder.path());
    let table = String::from_utf8(output.stdout).expect("text");
    check_summary(&out, &table);
    check_files(&out);
    check_runtimes(&out);
    check_export(folder.path(), &out);
    check_refused_export(folder.path(), &out);
    check_fidelity(folder.path(), &out);
    check_compare(folder.path());
    check_with_python(&out);
}

/// Searchers on the weights of the search, the same twice.
fn check_compare(folder: &Path) {
    let arguments = ["compare", "a run", "--evaluations", "100", "--seeds", "2", "--searchers", "nes,uniform-channel"];
    let table = String::from_utf8(command(&arguments, folder).stdout).expect("text");
    let printed = || command(&[&arguments[..], &["--json"]].concat(), folder).stdout;
    let first = printed();
    assert_eq!(first, printed());
    let rows: Value = serde_json::from_slice(&first).expect("JSON");
    for (row, name) in rows.as_array().expect("rows").iter().zip(["nes", "uniform-channel"]) {
        assert!(row["searcher"] == name && table.contains(name), "{row}, {table}");
        let list = |field: &str| row[field].as_array().expect("a list").iter().map(|value| value.as_f64()).collect();
        let (losses, shares, evaluations): (Vec<_>, Vec<_>, Vec<_>) =
            (list("losses"), list("shares"), list("evaluations"));
        assert_eq!(losses.len(), 2);
        let mean = losses.iter().flatten().sum::<f64>() / 2.0;
        assert!(table.contains(&format!("{mean:.4}")), "{mean} in: {table}");
        assert!(shares.iter().flatten().all(|share| (LEAST_SHARE..=1.0).contains(share)), "{row}");
        assert!(evaluations.iter().flatten().all(|&count| count <= 100.0), "{row}");
        // The rescaling has no randomness; NES has.
        assert_eq!(losses[0] == losses[1], name == "uniform-channel", "{row}");
    }
}

/// Pairs of losses and accuracies, of which more can be had later.
fn check_fidelity(folder: &Path, out: &Path) {
    let fidelity = |count: &str| -> Value {
        let arguments = ["fidelity", "a run", "--architectures", count, "--epochs", "1", "--json"];
        let printed = command(&arguments, folder).stdout;
        let file = json(&out.join("fidelity.json"));
        assert_eq!(serde_json::from_slice::<Value>(&printed).expect("JSON"), file);
        file
    };
    let few = fidelity("3");
    let pairs = few["pairs"].as_array().expect("pairs");
    assert_eq!(pairs.len(), 3);
    for pair in pairs {
        let share = pair["macs"].as_f64().expect("MACs") / 251_721.0;
        assert!((LEAST_SHARE..=1.0).contains(&share), "{pair}");
        assert!((0.0..=1.0).contains(&pair["trained_accuracy"].as_f64().expect("a share")), "{pair}");
        assert!(pair["shared_loss"].as_f64() > Some(0.0) && pair["trained_loss"].as_f64() > Some(0.0), "{pair}");
    }
    let more_file = fidelity("4");
    let more = more_file["pairs"].as_array().expect("pairs");
    assert!(more.len() == 4 && pairs.iter().all(|pair| more.contains(pair)), "{more:?} without one of {pairs:?}");
    assert_eq!(fidelity("2")["pairs"].as_array(), Some(more), "trained pairs were given up");
    let plot = fs::read_to_string(out.join("fidelity.svg")).expect("a plot");
    // One of each pair, and one in the legend.
    assert_eq!(plot.matches("<circle").count(), 4 + 1, "{plot}");
}

fn check_summary(out: &Path, table: &str) {
    let summary = json(&out.join("summary.json"));
    let budget = summary["budget_macs"].as_u64().expect("MACs");
    assert_eq!(budget, 251_721);
    let search = summary["search"].as_object().expect("an object");
    assert_eq!(search.keys().collect::<Vec<_>>(), ["evaluations", "images", "macs", "seconds"]);
    // One epoch of the 10,000 images, in batches of 64.
    assert_eq!(summary["training_images"], 9984);
    assert_eq!(summary["training_macs"], 3_u64 * 2_517_208 * 9984);
    let share = search["macs"].as_f64().expect("a number") / (3.0 * 2_517_208.0 * 9984.0);
    assert!(table.contains(&format!("search: {share:.3} of the MACs")), "{share} in: {table}");
    let seconds =
        search["seconds"].as_f64().expect("a number") / summary["training_seconds"].as_f64().expect("measured");
    assert!(table.contains(&format!(", {seconds:.3} of the ")), "{seconds} in: {table}");
    let rows = summary["rows"].as_array().expect("rows");
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["uniform-channel", "uniform-joint", "found", "backbone"]);
    for (row, name) in rows.iter().zip(&names) {
        assert!(table.contains(name), "{name} in: {table}");
        assert!(table.contains(&row["macs"].to_string()), "{row} in: {table}");
        assert!(row["onnx_p50_ms"].as_f64() > Some(0.0) && row["onnx_p90_ms"].as_f64() >= row["onnx_p50_ms"].as_f64());
        let share = row["macs"].as_f64().expect("MACs") / budget as f64;
        let accuracy = row["accuracy"].as_array().expect("a list");
        if *name == "backbone" {
            assert!(accuracy.is_empty() && row["macs"] == 2_517_208 && row["parameters"] == 33_674);
        } else {
            assert!((LEAST_SHARE..=1.0).contains(&share), "{name} takes {share} of the budget");
            assert!(accuracy.len() == 1 && accuracy[0].as_f64() > Some(0.2), "{name}: {accuracy:?}");
        }
    }
    assert!(table.contains("not trained"), "{table}");
}

fn check_files(out: &Path) {
    let config = fs::read_to_string(out.join("config.toml")).expect("a configuration");
    let expected = Config { seed: 3, ..Config::preset(Preset::Smoke) };
    assert_eq!(Config::from_toml(Preset::Laptop, &config).expect("a configuration"), expected);
    let history = fs::read_to_string(out.join("history.jsonl")).expect("a history");
    let records: Vec<Iteration> = history.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert!(records.len() > 5, "{} rounds", records.len());
    let bench = json(&out.join("bench.json"));
    let files: BTreeSet<_> = bench["reports"]
        .as_array()
        .expect("reports")
        .iter()
        .map(|report| report["file"].as_str().expect("text"))
        .collect();
    let models = ["backbone/model.onnx", "model.onnx", "uniform-channel/model.onnx", "uniform-joint/model.onnx"];
    assert_eq!(files, models.into());

    // The accuracy in the summary is that of the weights in the directory, on the test images.
    let data = ImageData::embedded();
    let normalization = Normalization::of(&data.train).expect("in memory");
    for (row, directory) in [(0, out.join("uniform-channel")), (2, out.to_path_buf())] {
        let again =
            evaluate(&network(&directory), &data.test, &normalization, 100, &Device::default()).expect("in memory");
        let told = json(&out.join("summary.json"))["rows"][row]["accuracy"][0].as_f64().expect("a number");
        assert!((again.accuracy - told).abs() < 1e-3, "{} and {told}", again.accuracy);
    }
}

/// 200 test images, in batches of 1 and 7.
fn check_runtimes(out: &Path) {
    if std::env::var_os("REQUIRE_ONNX_RUNTIME").is_some_and(|value| value == "1") {
        require(RuntimeKind::OnnxRuntime).expect("REQUIRE_ONNX_RUNTIME is set");
    }
    let data = ImageData::embedded();
    let normalization = Normalization::of(&data.train).expect("in memory");
    let positions: Vec<usize> = (0..200).map(|index| index * data.test.len() / 200).collect();
    let images = data.test.subset(&positions).expect("positions of the set");
    let network = network(out);
    for size in [1, 7] {
        let references: Vec<_> = batches(&images, size)
            .map(|indices| {
                let input =
                    batch(&images, &indices, &normalization, None, &Device::default()).expect("in memory").images;
                reference(input.clone(), network.forward(input))
            })
            .collect();
        let report = verify(&out.join("model.onnx"), &references, &available(), 1e-4);
        assert!(report.passed(), "batch {size}: {report:?}");
        for runtime in available() {
            let images: usize =
                report.entries.iter().filter(|entry| entry.runtime == runtime).map(|entry| entry.images).sum();
            assert_eq!(images, 200, "batch {size} on {runtime}: {report:?}");
        }
    }
}

fn check_export(folder: &Path, out: &Path) {
    command(&["export", "a run", "--out", "again.onnx"], folder);
    assert!(
        fs::read(folder.join("again.onnx")).expect("a file") == fs::read(out.join("model.onnx")).expect("a file"),
        "other bytes"
    );
    let output = command(&["bench", "again.onnx", "--seconds", "0.05", "--json"], folder);
    let bench: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let runtimes = |bench: &Value| -> Vec<String> {
        let reports = bench["reports"].as_array().expect("reports").iter();
        reports.map(|report| report["runtime"].as_str().expect("a name").to_string()).collect()
    };
    assert!(bench["reports"][0]["file"] == "again.onnx" && !runtimes(&bench).contains(&"burn-flex".into()), "{bench}");
    // Beside its weights, the network itself is measured too.
    let output = command(&["bench", "a run/model.onnx", "--compare", "--seconds", "0.05", "--json"], folder);
    let bench: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(runtimes(&bench).last().map(String::as_str), Some("burn-flex"), "{bench}");
}

/// Of a network whose file cannot agree with it, since nothing is equal to what is not a number, no file is left.
fn check_refused_export(folder: &Path, out: &Path) {
    struct NoNumbers;
    impl ModuleMapper for NoNumbers {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|values| values * f32::NAN)
        }
    }
    let broken = folder.join("broken");
    fs::create_dir(&broken).expect("a folder");
    for name in ["config.toml", "architecture.json", "data.json"] {
        fs::copy(out.join(name), broken.join(name)).expect("a file");
    }
    let weights = network(out).map(&mut NoNumbers).into_record().into_bytes().expect("a record");
    fs::write(broken.join("weights.bpk"), &*weights).expect("a file");
    fs::write(broken.join("model.onnx"), "before").expect("a file");
    let refused = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nes-search"));
        let output = command.args(arguments).current_dir(folder).output().expect("it starts");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && message.contains("does not agree with Burn"), "{message}");
    };
    refused(&["export", "broken"]);
    assert_eq!(fs::read(broken.join("model.onnx")).expect("a file"), b"before");
    refused(&["export", "broken", "--out", "broken.onnx"]);
    let left = |folder: &Path| fs::read_dir(folder).expect("a folder").count();
    assert!(!folder.join("broken.onnx").exists());
    assert_eq!((left(&broken), left(folder)), (5, 3), "only the run, its copy, and the file exported before");
}

/// The checker, the simplifier, and a count of MACs and parameters from the file's own shapes.
fn check_with_python(out: &Path) {
    let python = |arguments: &[&std::ffi::OsStr]| Command::new("python3").args(arguments).output();
    let tools = python(&["-c".as_ref(), "import onnx, onnxslim".as_ref()]);
    if !tools.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("REQUIRE_ONNX_TOOLS").is_none_or(|value| value != "1"), "no onnx and onnxslim");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../exporters/tests/python/check_onnx.py");
    let output = python(&[script.as_os_str(), out.join("model.onnx").as_os_str()]).expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let row = &json(&out.join("summary.json"))["rows"][2];
    for key in ["macs", "parameters"] {
        assert!(stdout.contains(&row[key].to_string()), "{key} {} in: {stdout}", row[key]);
    }
}
