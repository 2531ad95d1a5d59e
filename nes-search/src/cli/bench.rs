//! The command `bench`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use exporters::runtime::{RuntimeKind, available};
use onnx_bench::latency::{Amount, BenchOptions, compare};
use onnx_bench::machine::Machine;
use onnx_bench::report::BenchFile;

/// Measures ONNX files, by any exporter, on rten and, where its library is found, on ONNX Runtime.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nes-search bench model.onnx
  nes-search bench a.onnx b.onnx --runtime onnx-runtime --threads 2 --json")]
pub struct Bench {
    /// Files, which are run in turn.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// One runtime instead of all that this machine has.
    #[arg(long)]
    runtime: Option<RuntimeName>,
    /// Threads that a runtime computes with.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Images in one run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch: u32,
    /// Seconds of measurement for each file and runtime.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RuntimeName {
    Rten,
    OnnxRuntime,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected 0.01 to 3600".into()),
    }
}

impl Bench {
    pub fn run(self) -> anyhow::Result<()> {
        let runtimes = match self.runtime {
            Some(RuntimeName::Rten) => vec![RuntimeKind::Rten],
            Some(RuntimeName::OnnxRuntime) => vec![RuntimeKind::OnnxRuntime],
            None => available(),
        };
        let options = BenchOptions {
            threads: self.threads.into(),
            batch: self.batch as usize,
            measure: Amount::Time(Duration::from_secs_f64(self.seconds)),
            ..BenchOptions::default()
        };
        let mut reports = Vec::new();
        for runtime in runtimes {
            let entries: Vec<(&Path, RuntimeKind)> = self.files.iter().map(|file| (file.as_path(), runtime)).collect();
            reports.extend(compare(&entries, &options, None)?);
        }
        let file = BenchFile { machine: Machine::describe(), reports };
        if self.json { super::print_json(&file) } else { super::print(&table(&file)) }
    }
}

fn table(file: &BenchFile) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["file", "runtime", "threads", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", ""]);
    for report in &file.reports {
        table.add_row([
            report.file.clone(),
            format!("{} {}", report.runtime, report.runtime_version),
            report.threads.to_string(),
            report.batch.to_string(),
            format!("{:.3}", report.p50_ms),
            format!("{:.3}", report.p90_ms),
            format!("{:.3}", report.p99_ms),
            format!("{:.0}", report.throughput_per_s),
            if report.noisy { "noisy".into() } else { String::new() },
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let noisy = file.reports.iter().filter_map(|report| report.noisy_reason.as_deref());
    let reasons: String = noisy.map(|reason| format!("noisy: {reason}\n")).collect();
    format!("{table}\n\n{}\n{reasons}", file.machine.cpu)
}
