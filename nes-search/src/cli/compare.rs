//! The command `compare`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use nes_search::search::Compared;
use nes_search::searchers::SearcherName;
use onnx_bench::statistics::mean_and_sd;
use serde::Serialize;

use super::directory::{RunDirectory, SEARCH};
use super::job::Job;
use super::progress::Terminal;

/// Compares searchers on the shared weights of a finished search, which stay as they are: the same weights, evaluation
/// batches and number of evaluations for all. Weights trained for `--searcher random` favour none of them.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nes-search search --searcher random --out runs/shared
  nes-search compare runs/shared                            nes, random and evolution, five seeds
  nes-search compare runs/shared --searchers nes,cma-es --evaluations 1000 --json")]
pub struct Compare {
    /// The run directory of a finished search.
    directory: PathBuf,
    /// The searchers.
    #[arg(
        long,
        value_enum,
        value_name = "NAMES",
        value_delimiter = ',',
        default_values_t = [SearcherName::Nes, SearcherName::Random, SearcherName::Evolution]
    )]
    searchers: Vec<SearcherName>,
    /// Views that each of them may score.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    evaluations: u32,
    /// How many seeds, from 1 on.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What one searcher came to, one value for each seed.
#[derive(Debug, Serialize)]
struct Row {
    searcher: SearcherName,
    evaluations: Vec<usize>,
    /// Losses of the found architectures by the shared weights, over the whole evaluation split.
    losses: Vec<f64>,
    /// Shares of the budget that they take.
    shares: Vec<f64>,
    /// Values of their dimensions.
    architectures: Vec<Vec<usize>>,
}

impl Compare {
    pub fn run(self) -> anyhow::Result<()> {
        let (directory, _) = RunDirectory::resume(&self.directory)?;
        let path = directory.path();
        if !path.join(SEARCH).is_file() {
            bail!("{}: expected the directory of a finished search, found no {SEARCH} in it", path.display());
        }
        let job = Job::of_directory(path)?;
        let terminal = &mut Terminal::new(path)?;
        let mut search = job.new_search()?.resume(path, terminal)?;
        let mut rows = Vec::new();
        for &searcher in &self.searchers {
            let mut all: Vec<Compared> = Vec::new();
            for seed in 1..=u64::from(self.seeds) {
                match search.compare(searcher, self.evaluations as usize, seed, terminal)? {
                    Some(compared) => all.push(compared),
                    None => bail!("interrupted; a comparison begins anew"),
                }
            }
            rows.push(Row {
                searcher,
                evaluations: all.iter().map(|one| one.evaluations).collect(),
                losses: all.iter().map(|one| one.loss).collect(),
                shares: all.iter().map(|one| one.share).collect(),
                architectures: all.iter().map(|one| one.architecture.values().to_vec()).collect(),
            });
        }
        if self.json {
            return super::print_json(&rows);
        }
        super::print(&table(&rows))
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["searcher", "evaluations", "loss, mean ± SD", "of budget, least", "most"]);
    for row in rows {
        let (mean, sd) = mean_and_sd(&row.losses).unwrap_or((f64::NAN, f64::NAN));
        table.add_row([
            row.searcher.to_string(),
            row.evaluations.iter().max().map_or("-".into(), usize::to_string),
            format!("{mean:.4} ± {sd:.4}"),
            format!("{:.4}", row.shares.iter().copied().fold(f64::INFINITY, f64::min)),
            format!("{:.4}", row.shares.iter().copied().fold(0.0, f64::max)),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n\nlosses of the found architectures by the shared weights, over all evaluation images\n")
}
