//! The command `inspect`, from outside.

use std::process::{Command, Output};

fn inspect(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nes-search")).arg("inspect").args(arguments).output().expect("it starts")
}

#[test]
fn backbones_have_their_published_costs_and_the_spaces_of_the_paper() {
    for (backbone, size, classes, macs, parameters, dimensions) in [
        ("mobilenet-v1", "224", "1000", 568_740_352_u64, 4_231_976_u64, [13, 1, 0]),
        ("mobilenet-v2", "224", "1000", 300_774_272, 3_504_872, [8 + 17, 1, 1]),
        ("resnet-50", "224", "1000", 4_089_184_256, 25_557_032, [4 + 16, 0, 0]),
        ("resnet-20", "32", "10", 40_813_184, 272_474, [3 + 9, 1, 0]),
        ("resnet-56", "32", "10", 125_747_840, 855_770, [3 + 27, 1, 0]),
        ("mobilenet-v1-small", "28", "10", 2_895_136, 215_498, [13, 1, 0]),
        ("mobilenet-v2-small", "28", "10", 2_517_208, 33_674, [13, 1, 1]),
    ] {
        let output = inspect(&[backbone, "--size", size, "--classes", classes, "--json"]);
        assert!(output.status.success(), "{backbone}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["macs"], macs, "{backbone}");
        assert_eq!(report["parameters"], parameters, "{backbone}");
        let list = report["dimensions"].as_array().expect("a list");
        let count = |kind: &str| list.iter().filter(|dim| dim["kind"] == kind).count();
        assert_eq!(["channels", "resolution", "depth"].map(count), dimensions, "{backbone}");
        if let Some(depth) = list.iter().find(|dim| dim["name"] == "depth" && backbone == "mobilenet-v2") {
            assert_eq!([&depth["min"], &depth["max"], &depth["value"]], [9, 19, 19]);
        }
    }
}

#[test]
fn the_table_counts_the_layers_as_the_cost_model_does() {
    let output = inspect(&["mobilenet-v2", "--size", "224", "--classes", "1000"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("MACs 300774272 "), "{text}");
    assert!(text.contains("parameters 3504872 "), "{text}");
    // Images of one pixel and channel are enough for the largest network.
    let output = inspect(&["resnet-50", "--size", "1", "--classes", "1", "--image-channels", "1"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("stages.3.2.conv3.conv "), "{text}");
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
