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
    let file =
        r#"{"version":1,"dimensions":[{"name":"x","kind":"depth","base":1,"min":1,"max":1,"step":1,"value":1}]}"#;
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
    assert_eq!(inspect(&["mobilenet-v2", "--size", "28"]).status.code(), Some(2));
    assert_eq!(inspect(&["--size", "28", "--classes", "10"]).status.code(), Some(2));
}

#[test]
fn a_configuration_is_inspected_with_its_own_images_and_budget() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("wide.toml");
    let text = "budget = \"0.1\"\n[backbone]\nname = \"mobilenet-v2-small\"\nwidth = 2.0\n[backbone.scales]\nmin = 0.1\nstep = 0.03\n";
    std::fs::write(&path, text).expect("written");
    let output = inspect(&["--config", &path.to_string_lossy(), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    // Of the embedded images: 28 pixels, 10 classes.
    let resolution = report["dimensions"].as_array().expect("a list").first().expect("a dimension").clone();
    assert_eq!((resolution["name"].as_str(), resolution["base"].as_u64()), (Some("resolution"), Some(28)));
    let room = &report["smallest_of_budget"];
    let (full, whole) = (room["full"].as_f64().expect("a share"), room["whole"].as_f64().expect("a share"));
    assert!((0.03..0.04).contains(&whole) && (0.25..0.26).contains(&full), "{room}");

    let text = String::from_utf8(inspect(&["--config", &path.to_string_lossy()]).stdout).expect("text");
    assert!(text.contains(&format!("smallest network: {full:.3} of the budget")), "{text}");
    assert!(!text.contains("warning"), "{text}");
}

#[test]
fn little_room_is_warned_of() {
    let arguments = ["mobilenet-v2-small", "--size", "28", "--classes", "10", "--budget"];
    let of = |budget| String::from_utf8(inspect(&[arguments.as_slice(), &[budget]].concat()).stdout).expect("text");
    let crowded = of("0.1");
    assert!(crowded.contains("smallest network: 0.829 of the budget at full resolution and depth"), "{crowded}");
    assert!(crowded.contains("warning: above 0.5 there is little to choose"), "{crowded}");
    assert!(!of("0.5").contains("warning"));
}
