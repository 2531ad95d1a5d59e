//! The four columns, measured in turn.

use std::time::Instant;

use anyhow::{Context, Result};
use elastic_layers::kernels;
use onnx_bench::statistics::percentile;
use serde::Serialize;
use serde_json::{Value, json};

use crate::networks::Step;
use crate::torch::Torch;

/// Memory layouts of PyTorch, as its script names them.
pub const LAYOUTS: [&str; 2] = ["default", "channels_last"];

/// Medians of seconds; what could not be run is `None`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Seconds {
    /// Burn's flex backend with the kernels.
    pub kernels: f64,
    /// Burn's flex backend without them.
    pub flex: Option<f64>,
    /// PyTorch with contiguous tensors.
    pub torch: Option<f64>,
    /// PyTorch with channels-last tensors.
    pub torch_channels_last: Option<f64>,
    /// Median over the rounds of how often the kernels do what PyTorch with channels-last tensors does once.
    pub ratio: Option<f64>,
}

/// What one row is measured from.
pub struct Case {
    /// The work in this process.
    pub step: Step,
    /// The same in PyTorch's, for each layout.
    pub requests: [Value; 2],
}

/// Measures a case in rounds, of which each runs every column once.
///
/// # Errors
/// If a step fails.
pub fn measure(case: &mut Case, torch: Option<&mut Torch>, flex: bool, rounds: usize) -> Result<Seconds> {
    let mut torch = torch;
    if let Some(torch) = &mut torch {
        torch.ask(&json!({ "do": "drop" }))?;
        for (layout, request) in LAYOUTS.iter().zip(&case.requests) {
            let mut request = request.clone();
            request["do"] = "make".into();
            request["case"] = json!(layout);
            torch.ask(&request)?;
        }
    }
    let mut runs: Vec<[Option<f64>; 4]> = Vec::new();
    for round in 0..=rounds {
        let mut run = [None; 4];
        for (column, on) in [true, false].into_iter().enumerate().filter(|(_, on)| *on || flex) {
            kernels::set_enabled(on);
            let start = Instant::now();
            (case.step)()?;
            run[column] = Some(start.elapsed().as_secs_f64());
        }
        if let Some(torch) = &mut torch {
            for (column, layout) in LAYOUTS.iter().enumerate() {
                let answer = torch.ask(&json!({ "do": "run", "case": layout }))?;
                run[2 + column] = Some(answer["seconds"].as_f64().context("PyTorch's process gave no time")?);
            }
        }
        // The first is a warm-up.
        if round > 0 {
            runs.push(run);
        }
    }
    kernels::set_enabled(true);
    let column = |column: usize| median(runs.iter().filter_map(|run| run[column]).collect());
    let ratio = median(runs.iter().filter_map(|run| Some(run[3]? / run[0]?)).collect());
    let kernels = column(0).context("no rounds")?;
    Ok(Seconds { kernels, flex: column(1), torch: column(2), torch_channels_last: column(3), ratio })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then(|| percentile(&values, 0.5))
}
