//! Runs what `generate` made of ONNX files, and compares with what the exported models computed.
//!
//!     REIMPORT_SOURCES=SOURCES cargo run --features compare --bin compare -- FILES
//!
//! `FILES/NAME.json` has the input and the expected output of `NAME`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;

include!(concat!(env!("REIMPORT_SOURCES"), "/networks.rs"));

/// The largest accepted difference, as a part of the largest output.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Case {
    input_shape: Vec<usize>,
    input: Vec<f32>,
    output_shape: Vec<usize>,
    output: Vec<f32>,
}

fn main() -> anyhow::Result<()> {
    let Some(files) = std::env::args_os().nth(1).map(PathBuf::from) else { bail!("expected the folder of the files") };
    ensure!(!NETWORKS.is_empty(), "no networks");
    for (name, run) in NETWORKS {
        let difference = compare(&files.join(format!("{name}.json")), *run).with_context(|| (*name).to_owned())?;
        println!("{name}: relative difference {difference:.1e}");
        ensure!(
            difference <= TOLERANCE,
            "{name}: expected a difference of at most {TOLERANCE:e}, found {difference:e}"
        );
    }
    Ok(())
}

fn compare(path: &Path, run: fn(TensorData, &Device) -> TensorData) -> anyhow::Result<f32> {
    let case: Case = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let found = run(TensorData::new(case.input, case.input_shape), &Device::default());
    ensure!(found.shape().to_vec() == case.output_shape, "shape {:?}", found.shape());
    let largest = case.output.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let differences = found.iter::<f32>().zip(&case.output).map(|(found, expected)| (found - expected).abs());
    Ok(differences.fold(0.0, |most: f32, x| if x.is_nan() { f32::INFINITY } else { most.max(x) }) / largest)
}
