//! Compares searchers on a problem whose optimum is known: 25 channel numbers and a resolution, with noisy losses.

mod optimum;
mod problem;

use std::io::Write;

use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use elastic_layers::{Architecture, CostError};
use nes_search::rng::{Stream, stream};
use nes_search::searchers::{Searcher, SearcherName, spend};
use nes_search::{NesSettings, Projection, ProjectionError, baselines};
use onnx_bench::statistics::percentile;
use rayon::prelude::*;
use serde::Serialize;

use optimum::optimum;
use problem::Problem;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Channel numbers of a problem.
const CHANNELS: usize = 25;

/// Prints the regret of every searcher, and the share of the budget that what it found takes: median and quartiles over
/// problems, each with noise and a random stream of its own.
#[derive(Parser, Debug)]
#[command(after_help = "Example: cargo run --release -p benchmarks --bin searchers -- --json")]
struct Options {
    /// Evaluations that a searcher may spend.
    #[arg(long, value_delimiter = ',', default_values_t = [500, 1000, 4000])]
    evaluations: Vec<usize>,
    /// Problems.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    seeds: u64,
    /// The seed of the first problem.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A searcher under comparison.
#[derive(Clone, Debug)]
struct Contender {
    name: String,
    searcher: SearcherName,
    nes: NesSettings,
    /// Whether it begins at the best uniform rescaling, whose evaluations are the searcher's, or at the backbone.
    from_rescaling: bool,
}

/// Quartiles.
#[derive(Clone, Copy, Debug, Serialize)]
struct Quartiles {
    lower: f64,
    median: f64,
    upper: f64,
    most: f64,
    least: f64,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    searcher: String,
    evaluations: usize,
    /// 1 less the utility over the optimum's.
    regret: Quartiles,
    /// R / R_t.
    budget_share: Quartiles,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    seeds: u64,
    first_seed: u64,
    /// How well the optimum is known: the largest gap between what was reached and its bound, over the bound.
    optimum_gap: f64,
    rows: Vec<Row>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let seeds: Vec<u64> = (0..options.seeds).map(|offset| options.first_seed + offset).collect();
    let problems: Vec<(u64, Problem, optimum::Optimum)> = seeds
        .par_iter()
        .map(|&seed| {
            let problem = Problem::new(CHANNELS, seed)?;
            let known = optimum(&problem);
            Ok((seed, problem, known))
        })
        .collect::<anyhow::Result<_>>()?;
    let gap = |(_, _, known): &(u64, Problem, optimum::Optimum)| (known.bound - known.reached) / known.bound;
    let optimum_gap = problems.iter().map(gap).fold(0.0, f64::max);
    let mut rows = Vec::new();
    for contender in contenders() {
        for &evaluations in &options.evaluations {
            let results: Vec<(f64, f64)> = problems
                .par_iter()
                .map(|(seed, problem, known)| {
                    let (utility, share) = search(&contender, problem, evaluations, *seed)?;
                    Ok((1.0 - utility / known.bound, share))
                })
                .collect::<anyhow::Result<_>>()?;
            let (regrets, shares) = results.into_iter().unzip();
            rows.push(Row {
                searcher: contender.name.clone(),
                evaluations,
                regret: quartiles(regrets),
                budget_share: quartiles(shares),
            });
        }
    }
    let report = Report { seeds: options.seeds, first_seed: options.first_seed, optimum_gap, rows };
    let text = if options.json { serde_json::to_string_pretty(&report)? + "\n" } else { table(&report) };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Every searcher, and the paper's form of NES.
fn contenders() -> Vec<Contender> {
    let contender = |searcher: SearcherName| Contender {
        name: searcher.to_string(),
        searcher,
        nes: NesSettings::default(),
        from_rescaling: true,
    };
    let paper = Contender {
        name: "nes, the paper's".into(),
        nes: NesSettings::paper(),
        from_rescaling: false,
        ..contender(SearcherName::Nes)
    };
    let mut all: Vec<Contender> = SearcherName::ALL.into_iter().map(contender).collect();
    all.insert(1, paper);
    all
}

/// Utility of what a searcher finds, and its share of the budget.
fn search(
    contender: &Contender,
    problem: &Problem,
    evaluations: usize,
    seed: u64,
) -> Result<(f64, f64), ProjectionError> {
    let limits = problem.limits();
    let projection = Projection::new(problem.space(), &limits)?;
    let mut noise = stream(seed, Stream::EvaluationOrder);
    let mut left = evaluations;
    let mut start = problem.space().base().params();
    if contender.from_rescaling {
        let rescalings = baselines::uniform_all(&projection)?;
        let best = best(&rescalings, &problem.losses(&rescalings, &mut noise));
        left -= rescalings.len().min(left);
        start = best.params();
    }
    let rng = stream(seed, Stream::Perturbations);
    let mut searcher = contender.searcher.init(&contender.nes, &projection, &start, left, rng)?;
    spend(&mut searcher, &projection, left, |asked| Ok::<_, CostError>(problem.losses(asked, &mut noise)))?;
    let found = searcher.found(&projection)?;
    Ok((problem.utility(&found), projection.share(&found)?))
}

fn best<'a>(architectures: &'a [Architecture], losses: &[f64]) -> &'a Architecture {
    let order = architectures.iter().zip(losses).min_by(|(_, one), (_, other)| one.total_cmp(other));
    order.map(|(architecture, _)| architecture).expect("a rescaling at the budget")
}

fn quartiles(mut values: Vec<f64>) -> Quartiles {
    values.sort_by(f64::total_cmp);
    let at = |p| percentile(&values, p);
    Quartiles { lower: at(0.25), median: at(0.5), upper: at(0.75), most: at(1.0), least: at(0.0) }
}

fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["searcher", "evaluations", "regret %", "quartiles", "most", "R / R_t", "quartiles", "least"]);
    for Row { searcher, evaluations, regret, budget_share } in &report.rows {
        table.add_row([
            searcher.clone(),
            evaluations.to_string(),
            format!("{:.2}", 100.0 * regret.median),
            format!("{:.2} to {:.2}", 100.0 * regret.lower, 100.0 * regret.upper),
            format!("{:.2}", 100.0 * regret.most),
            format!("{:.4}", budget_share.median),
            format!("{:.4} to {:.4}", budget_share.lower, budget_share.upper),
            format!("{:.4}", budget_share.least),
        ]);
    }
    let known = 100.0 * report.optimum_gap;
    format!("{table}\n\n{} problems; their optimum is known to {known:.4} % of it\n", report.seeds)
}
