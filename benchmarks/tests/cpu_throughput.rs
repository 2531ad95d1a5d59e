//! The command `cpu-throughput`, from outside.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    // No Python: what is not run has to be said, and everything else has to be there.
    Command::new(env!("CARGO_BIN_EXE_cpu-throughput"))
        .args(["--python", "/nowhere/python", "--rounds", "1"])
        .args(arguments)
        .output()
        .unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_row_has_the_speed_of_what_could_be_run() {
    let network = ["--network", "resnet-20", "--width", "0.25", "--training-batch", "2", "--inference-batch", "2"];
    let output = run(&[&["--json", "--only", "networks"][..], &network].concat());
    let lines = lines(&output);
    assert_eq!(lines.len(), 3, "machine, training, inference");
    assert!(lines[0]["torch"].is_null());
    for (line, work) in lines[1..].iter().zip(["training", "inference"]) {
        assert_eq!((line["work"].as_str(), line["batch"].as_u64()), (Some(work), Some(2)));
        let seconds = &line["seconds"];
        assert!(seconds["kernels"].as_f64().unwrap() > 0.0 && seconds["flex"].as_f64().unwrap() > 0.0);
        assert!(seconds["torch"].is_null() && seconds["ratio"].is_null());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("not run: PyTorch") && complaint.contains("/nowhere/python"), "{complaint}");
}

/// The kernels' losses follow Burn's own.
#[test]
fn losses_are_those_of_stock_burn() {
    let output = run(&["--json", "--only", "losses", "--network", "resnet-20", "--width", "0.25", "--steps", "4"]);
    let lines = lines(&output);
    let curve = |name: &str| lines[1][name].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    let (ours, burns): (Vec<f64>, Vec<f64>) = (curve("kernels"), curve("flex"));
    assert_eq!(ours.len(), 4);
    for (step, (ours, burns)) in ours.iter().zip(&burns).enumerate() {
        // Rounding grows with the steps.
        assert!((ours - burns).abs() < 1e-4 * 3f64.powi(step as i32) * burns, "step {step}: {ours}, {burns}");
    }
    assert!(ours[3] < ours[0], "{ours:?}");
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for arguments in [["--width", "7"], ["--network", "vgg"], ["--rounds", "0"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_cpu-throughput")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}
