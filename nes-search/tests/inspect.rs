//! The command `inspect`, from outside.

use std::process::{Command, Output};

fn inspect(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nes-search")).arg("inspect").args(arguments).output().expect("it starts")
}

#[test]
fn mobilenet_v2_has_its_published_cost() {
    let output = inspect(&["mobilenet-v2", "--size", "224", "--classes", "1000", "--json"]);
    assert!(output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["macs"], 300_774_272_u64);
    assert_eq!(report["parameters"], 3_504_872_u64);
    let dimensions = report["dimensions"].as_array().expect("a list");
    let count = |kind: &str| dimensions.iter().filter(|dim| dim["kind"] == kind).count();
    assert_eq!([count("channels"), count("resolution"), count("depth")], [8 + 17, 1, 1]);
    let depth = dimensions.iter().find(|dim| dim["name"] == "depth").expect("a depth");
    assert_eq!([&depth["min"], &depth["max"], &depth["value"]], [9, 19, 19]);
}

#[test]
fn the_table_counts_the_layers_as_the_cost_model_does() {
    let output = inspect(&["mobilenet-v2", "--size", "224", "--classes", "1000"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("MACs 300774272 "), "{text}");
    assert!(text.contains("parameters 3504872 "), "{text}");
}

#[test]
fn an_architecture_of_another_space_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("architecture.json");
    let file = r#"{"format":"nes-search/architecture","version":1,"space":"0","dimensions":[{"name":"x","kind":"depth","value":1}]}"#;
    std::fs::write(&path, file).expect("written");
    let output =
        inspect(&["mobilenet-v2-small", "--size", "28", "--classes", "10", "--architecture", &path.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    for part in ["architecture.json", "another search space", "\"resolution\"", "\"x\""] {
        assert!(message.contains(part), "{part} is missing in {message}");
    }
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    assert_eq!(inspect(&["mobilenet-v2", "--size", "0", "--classes", "10"]).status.code(), Some(2));
}
