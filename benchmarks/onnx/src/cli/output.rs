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
    let lines: String = runtimes.into_iter().chain(noisy).collect();
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

/// One row for each report, with a header (RFC 4180).
pub(super) fn csv(file: &BenchFile) -> String {
    let line = |fields: Vec<String>| fields.join(",") + "\n";
    let names = file.reports.first().map(fields).into_iter();
    let header = names.map(|fields| line(fields.into_iter().map(|(name, _)| name.to_string()).collect()));
    let rows = file.reports.iter().map(|report| line(fields(report).iter().map(|(_, value)| quoted(value)).collect()));
    header.chain(rows).collect()
}

/// A field of CSV.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

fn fields(report: &BenchReport) -> Vec<(&'static str, String)> {
    let optional = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let shape: Vec<String> = report.input_shape.iter().map(ToString::to_string).collect();
    vec![
        ("file", report.file.clone()),
        ("file_bytes", report.file_bytes.to_string()),
        ("runtime", report.runtime.to_string()),
        ("runtime_version", report.runtime_version.clone()),
        ("runtime_options", report.runtime_options.clone()),
        ("threads", report.threads.to_string()),
        ("batch", report.batch.to_string()),
        ("input_shape", shape.join("x")),
        ("iterations", report.iterations.to_string()),
        ("first_ms", report.first_ms.to_string()),
        ("min_ms", report.min_ms.to_string()),
        ("mean_ms", report.mean_ms.to_string()),
        ("p50_ms", report.p50_ms.to_string()),
        ("p90_ms", report.p90_ms.to_string()),
        ("p95_ms", report.p95_ms.to_string()),
        ("p99_ms", report.p99_ms.to_string()),
        ("sd_ms", report.sd_ms.to_string()),
        ("throughput_per_s", report.throughput_per_s.to_string()),
        ("peak_memory_bytes", report.peak_memory_bytes.map(|bytes| bytes.to_string()).unwrap_or_default()),
        ("p50_ratio", optional(report.p50_ratio)),
        ("load_before", optional(report.load_before)),
        ("load_after", optional(report.load_after)),
        ("other_busy_cores", optional(report.other_busy_cores)),
        ("noisy", report.noisy.to_string()),
        ("noisy_reason", report.noisy_reason.clone().unwrap_or_default()),
    ]
}
