//! Figures as a table and as CSV.

use std::collections::BTreeSet;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::machine::Machine;
use crate::report::{BenchFile, BenchReport};

const MEGABYTE: f64 = 1e6;

/// The table for a terminal, with what the figures were measured on.
pub(super) fn table(file: &BenchFile) -> String {
    let compared = file.reports.iter().any(|report| report.p50_ratio.is_some());
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut header = vec![
        "file", "runtime", "threads", "batch", "first ms", "min ms", "mean ms", "p50 ms", "p90 ms", "p95 ms", "p99 ms",
        "images/s", "file MB", "peak MB",
    ];
    header.extend(compared.then_some("ratio"));
    header.push("");
    table.set_header(header);
    for report in &file.reports {
        table.add_row(row(report));
    }
    for failure in &file.failures {
        table.add_row([failure.file.clone(), failure.runtime.to_string(), "failed".into()]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let runtimes: BTreeSet<String> = file
        .reports
        .iter()
        .map(|report| format!("{} {}: {}\n", report.runtime, report.runtime_version, report.runtime_options))
        .collect();
    let noisy: BTreeSet<String> = file
        .reports
        .iter()
        .filter_map(|report| {
            Some(format!("noisy: {} on {}: {}\n", report.file, report.runtime, report.noisy_reason.as_ref()?))
        })
        .collect();
    let failed = file
        .failures
        .iter()
        .map(|failure| format!("failed: {} on {}: {}\n", failure.file, failure.runtime, failure.reason));
    let lines: String = runtimes.into_iter().chain(noisy).chain(failed).collect();
    format!("{table}\n\n{}\n{lines}", machine(&file.machine))
}

fn row(report: &BenchReport) -> Vec<String> {
    let ms = |value: f64| format!("{value:.3}");
    let mut row = vec![
        report.file.clone(),
        format!("{} {}", report.runtime, report.runtime_version),
        report.threads.to_string(),
        report.batch.to_string(),
    ];
    row.extend(
        [report.first_ms, report.min_ms, report.mean_ms, report.p50_ms, report.p90_ms, report.p95_ms, report.p99_ms]
            .map(ms),
    );
    row.push(format!("{:.0}", report.throughput_per_s));
    row.push(format!("{:.2}", report.file_bytes as f64 / MEGABYTE));
    row.push(report.peak_memory_bytes.map_or("-".into(), |bytes| format!("{:.1}", bytes as f64 / MEGABYTE)));
    row.extend(report.p50_ratio.map(ms));
    row.push(if report.noisy { "noisy".into() } else { String::new() });
    row
}

/// The machine in a line or two.
fn machine(machine: &Machine) -> String {
    let cores = match machine.physical_cores {
        Some(cores) => format!("{cores} cores, {} hardware threads", machine.logical_cores),
        None => format!("{} hardware threads", machine.logical_cores),
    };
    let mut parts = vec![
        machine.cpu.clone(),
        format!("{cores}, {} usable", machine.available_cores),
        format!("governor {}", machine.governor.as_deref().unwrap_or("unknown")),
    ];
    parts.extend(machine.frequency_mhz.map(|mhz| format!("{mhz} MHz")));
    parts.extend(machine.max_frequency_mhz.map(|mhz| format!("at most {mhz} MHz")));
    parts.extend(machine.load_average_1min.map(|load| format!("load {load:.2}")));
    format!("{}\n{} ({})", parts.join("; "), machine.os, machine.cpu_features.join(" "))
}

/// One row for each report and each failure, with a header (RFC 4180). A failure has no figures, but a reason in the last
/// column.
pub(super) fn csv(file: &BenchFile) -> String {
    let line = |fields: &[String]| fields.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(",") + "\n";
    let header = line(&COLUMNS.map(String::from));
    let reports = file.reports.iter().map(|report| line(&fields(report)));
    let failures = file.failures.iter().map(|failure| {
        let cell = |name: &str| match name {
            "file" => failure.file.clone(),
            "runtime" => failure.runtime.to_string(),
            "error" => failure.reason.clone(),
            _ => String::new(),
        };
        line(&COLUMNS.map(cell))
    });
    std::iter::once(header).chain(reports).chain(failures).collect()
}

const COLUMNS: [&str; 26] = [
    "file",
    "file_bytes",
    "runtime",
    "runtime_version",
    "runtime_options",
    "threads",
    "batch",
    "input_shape",
    "iterations",
    "first_ms",
    "min_ms",
    "mean_ms",
    "p50_ms",
    "p90_ms",
    "p95_ms",
    "p99_ms",
    "sd_ms",
    "throughput_per_s",
    "peak_memory_bytes",
    "p50_ratio",
    "load_before",
    "load_after",
    "other_busy_cores",
    "noisy",
    "noisy_reason",
    "error",
];

/// A field of CSV.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

/// The cells of a report, in the order of the columns.
fn fields(report: &BenchReport) -> [String; 26] {
    let optional = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let shape: Vec<String> = report.input_shape.iter().map(ToString::to_string).collect();
    [
        report.file.clone(),
        report.file_bytes.to_string(),
        report.runtime.to_string(),
        report.runtime_version.clone(),
        report.runtime_options.clone(),
        report.threads.to_string(),
        report.batch.to_string(),
        shape.join("x"),
        report.iterations.to_string(),
        report.first_ms.to_string(),
        report.min_ms.to_string(),
        report.mean_ms.to_string(),
        report.p50_ms.to_string(),
        report.p90_ms.to_string(),
        report.p95_ms.to_string(),
        report.p99_ms.to_string(),
        report.sd_ms.to_string(),
        report.throughput_per_s.to_string(),
        report.peak_memory_bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
        optional(report.p50_ratio),
        optional(report.load_before),
        optional(report.load_after),
        optional(report.other_busy_cores),
        report.noisy.to_string(),
        report.noisy_reason.clone().unwrap_or_default(),
        String::new(),
    ]
}
