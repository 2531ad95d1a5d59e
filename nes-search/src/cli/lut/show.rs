//! What is in a table.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use nes_search::latency::{Family, LatencyTable};

/// Prints what a table is of, how many blocks of each family it has, and its calibration; or all blocks as CSV.
#[derive(Args, Debug)]
#[command(after_help = "Example: nes-search lut show latency.json --csv > blocks.csv")]
pub struct Show {
    /// The table.
    table: PathBuf,
    /// Prints the measured blocks as CSV, which `lut import` reads.
    #[arg(long)]
    csv: bool,
    /// Prints the table as JSON.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
}

impl Show {
    pub fn run(&self) -> anyhow::Result<()> {
        let table = LatencyTable::read(&self.table)?;
        match (self.csv, self.json) {
            (true, _) => super::super::print(&table.to_csv()),
            (_, true) => super::super::print_json(&table),
            _ => super::super::print(&summary(&table)),
        }
    }
}

/// The table in some lines.
pub fn summary(table: &LatencyTable) -> String {
    let machine = table.machine.get("cpu").unwrap_or(&table.machine);
    let mut text = format!(
        "{} {}, {} threads, on {machine}\n{}\n",
        table.runtime, table.runtime_version, table.threads, table.built_for
    );
    for family in Family::ALL {
        let times: Vec<f64> =
            table.entries.iter().filter(|entry| Family::of(&entry.block) == family).map(|entry| entry.ms).collect();
        if !times.is_empty() {
            let (least, most) =
                times.iter().fold((f64::INFINITY, 0f64), |(least, most), &ms| (least.min(ms), most.max(ms)));
            // Writing to a text does not fail.
            let _ = writeln!(text, "{family:?}: {} blocks, {least:.4} to {most:.4} ms", times.len());
        }
    }
    let calibration = &table.calibration;
    let _ = writeln!(
        text,
        "networks: {:.4} ms + {:.4} times the sum of their blocks, by {} whole networks",
        calibration.intercept_ms,
        calibration.scale,
        calibration.networks.len()
    );
    text
}
