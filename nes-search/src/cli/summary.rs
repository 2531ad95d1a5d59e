//! The result of a run: for programs, and as a table.

use std::fmt::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use elastic_layers::Macs;
use exporters::runtime::RuntimeKind;
use nes_search::search::SearchCost;
use onnx_bench::report::{BenchFile, BenchReport};
use onnx_bench::statistics::mean_and_sd;
use serde::{Deserialize, Serialize};

/// The runtime whose latencies are in the rows: the one that is always there.
pub const RUNTIME: RuntimeKind = RuntimeKind::Rten;

/// The content of a `summary.json`. Names and units of the fields are stable.
#[derive(Debug, Serialize, Deserialize)]
pub struct Summary {
    /// R_t.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_macs: Option<Macs>,
    /// The budget, where it is a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<f64>,
    /// Seeds of the trainings, in the order of each row's accuracies.
    pub seeds: Vec<u64>,
    /// What the search took.
    pub search: SearchCost,
    /// Images that one training from scratch processes; of any network, the backbone too.
    pub training_images: u64,
    /// MACs that one training of the backbone from scratch processes: 1 for a forward, 3 for a training step.
    pub training_macs: u64,
    /// Seconds that one training of the backbone from scratch takes on this machine, by some of its steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_seconds: Option<f64>,
    /// The runtime that latencies are of, with one thread and one image.
    pub onnx_runtime: RuntimeKind,
    /// The networks that were compared.
    pub rows: Vec<Row>,
}

/// One network.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub macs: Macs,
    /// The share of the budget that it takes.
    pub of_budget: f64,
    pub parameters: u64,
    /// Share of the test images classified rightly, one for each seed, `null` where the training diverged; none, if it was
    /// not trained.
    pub accuracy: Vec<Option<f64>>,
    /// None, if the file could not be made or measured.
    pub onnx_p50_ms: Option<f64>,
    pub onnx_p90_ms: Option<f64>,
    /// What is wrong with the network, such as "seed 1: diverged at step 12".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Summary {
    /// The table that people read.
    pub fn table(&self, bench: &BenchFile) -> anyhow::Result<String> {
        let mut table = Table::new();
        table.load_style(NOTHING);
        let runtimes = runtimes(bench);
        let mut header: Vec<String> =
            ["network", "MACs", "of budget", "parameters", "test accuracy", "search MACs", "search s"]
                .map(String::from)
                .into();
        for runtime in &runtimes {
            header.extend([format!("{runtime} p50 ms"), format!("{runtime} p90 ms")]);
        }
        table.set_header(header);
        for row in &self.rows {
            let searched = row.name == "found";
            let or_dash = |text: String| if searched { text } else { "-".into() };
            let mut cells = vec![
                row.name.clone(),
                row.macs.0.to_string(),
                format!("{:.3}", row.of_budget),
                row.parameters.to_string(),
                accuracy(&row.accuracy),
                or_dash(Macs(self.search.macs).short()),
                or_dash(format!("{:.0}", self.search.seconds)),
            ];
            for &runtime in &runtimes {
                let report = report_of(bench, &row.name, runtime);
                let cell =
                    |time: fn(&BenchReport) -> f64| report.map_or("-".into(), |report| format!("{:.3}", time(report)));
                cells.extend([cell(|report| report.p50_ms), cell(|report| report.p90_ms)]);
            }
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{table}\n\n");
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let budget = match (self.budget_macs, self.budget_ms) {
            (Some(macs), _) => format!("{} MACs", macs.0),
            (None, ms) => format!("{} ms by the latency table", ms.unwrap_or(f64::NAN)),
        };
        writeln!(text, "budget {budget}; trained from scratch with seed {}", seeds.join(", "))?;
        let share = self.search.macs as f64 / self.training_macs as f64;
        write!(text, "search: {share:.3} of the MACs that training the backbone from scratch takes")?;
        match self.training_seconds {
            Some(seconds) => writeln!(text, ", {:.3} of the {seconds:.0} s", self.search.seconds / seconds)?,
            None => writeln!(text)?,
        }
        writeln!(
            text,
            "latency: {} thread, batch 1, {}",
            bench.reports.first().map_or(1, |report| report.threads),
            bench.machine.cpu
        )?;
        for (row, problem) in self.rows.iter().filter_map(|row| Some((row, row.problem.as_ref()?))) {
            writeln!(text, "{}: {problem}", row.name)?;
        }
        for report in bench.reports.iter().filter(|report| report.noisy) {
            let reason = report.noisy_reason.as_deref().unwrap_or("no reason given");
            writeln!(text, "noisy: {} on {}: {reason}", row_of(report), report.runtime)?;
        }
        Ok(text)
    }
}

/// Mean and standard deviation over the seeds that did not diverge, in percent.
fn accuracy(values: &[Option<f64>]) -> String {
    let finite: Vec<f64> = values.iter().copied().flatten().collect();
    match (mean_and_sd(&finite), finite.len()) {
        (None, _) if values.is_empty() => "not trained".into(),
        (None, _) => "diverged".into(),
        (Some((mean, _)), 1) => format!("{:.2} %", mean * 100.0),
        (Some((mean, sd)), _) => format!("{:.2} ± {:.2} %", mean * 100.0, sd * 100.0),
    }
}

fn runtimes(bench: &BenchFile) -> Vec<RuntimeKind> {
    RuntimeKind::ALL.into_iter().filter(|kind| bench.reports.iter().any(|report| report.runtime == *kind)).collect()
}

/// The name of the row that a report is of: the directory of its file, below the run's.
fn row_of(report: &BenchReport) -> &str {
    report.file.rsplit_once('/').map_or("found", |(row, _)| row)
}

/// The report of a row on a runtime.
pub fn report_of<'a>(bench: &'a BenchFile, row: &str, runtime: RuntimeKind) -> Option<&'a BenchReport> {
    bench.reports.iter().find(|report| report.runtime == runtime && row_of(report) == row)
}
