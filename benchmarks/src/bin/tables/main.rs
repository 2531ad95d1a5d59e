//! The paper's tables in small: accuracy of networks at equal MACs, by the way in which they were found.

mod cell;
mod plan;
mod report;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use cell::{Cell, Outcome};
use plan::{Data, Row, Table};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Finds an architecture by every method at three budgets, trains it from scratch, and prints accuracies: mean, standard
/// deviation, and the paired difference to uniform scaling of channels and resolution with its 95 % interval. Every seed
/// is another search and another training. Every row has the same recipe and, where it searches, the same cost.
#[derive(Parser, Debug)]
#[command(after_help = "\
Examples:
  tables --table 2 --data glyphs=DIR                    MobileNetV2 on the glyphs; goes on where it was
  tables --table 2 --data glyphs=DIR --print            what there is so far
  tables --table 2 --data glyphs=DIR --rows ours,uniform-joint --budgets 0.08 --seeds 2

glyphs: benchmarks/python/glyphs.py. fashion-mnist: the folder of Debian's package dataset-fashion-mnist.
Cells are written to OUT/table-N.jsonl as they end.")]
pub struct Options {
    /// 1: MobileNetV1, 2: MobileNetV2, 3: ResNet.
    #[arg(long, value_enum)]
    table: Table,
    /// A data set and its folder: glyphs=DIR or fashion-mnist=DIR; several times for several.
    #[arg(long = "data", value_name = "NAME=DIR", required = true)]
    data: Vec<Data>,
    /// Rows, instead of all.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Budgets, as shares of the backbone's MACs.
    #[arg(long, value_delimiter = ',', default_values_t = [0.5, 0.2, 0.05])]
    budgets: Vec<f64>,
    /// Seeds, from 1 on.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Folder of the results.
    #[arg(long, default_value = "runs/tables")]
    out: PathBuf,
    /// Prints what there is, and computes nothing.
    #[arg(long)]
    print: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let path = options.out.join(format!("table-{}.jsonl", options.table.number()));
    let cells = plan::cells(&options);
    let known = read(&path)?;
    let waiting: Vec<&Cell> = cells.iter().filter(|cell| known.iter().all(|outcome| outcome.cell != **cell)).collect();
    if !options.print && !waiting.is_empty() {
        fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
        compute(&options, &waiting, &path)?;
    }
    let outcomes: Vec<Outcome> = read(&path)?.into_iter().filter(|outcome| cells.contains(&outcome.cell)).collect();
    if outcomes.is_empty() {
        bail!("{}: expected finished cells, found none", path.display());
    }
    fs::write(path.with_extension("svg"), report::plot(&outcomes)?).with_context(|| path.display().to_string())?;
    let text = match options.json {
        true => serde_json::to_string_pretty(&report::lines(&outcomes))? + "\n",
        false => report::markdown(&outcomes),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// The finished cells of a file; a last line without an end is of a cell that was being written.
fn read(path: &Path) -> anyhow::Result<Vec<Outcome>> {
    let Ok(file) = File::open(path) else { return Ok(Vec::new()) };
    let mut outcomes = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| path.display().to_string())?;
        match serde_json::from_str(&line) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => bail!("{}, line {}: expected a finished cell, found {error}", path.display(), number + 1),
        }
    }
    Ok(outcomes)
}

/// Computes cells, one on each core, and writes each as it ends.
fn compute(options: &Options, waiting: &[&Cell], path: &Path) -> anyhow::Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(path).with_context(|| path.display().to_string())?;
    let bar = ProgressBar::new(waiting.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} cells  {elapsed}, {eta} left  {msg}")?);
    let (next, file, begin) = (Mutex::new(waiting.iter()), Mutex::new(file), Instant::now());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || -> anyhow::Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        loop {
            let Some(cell) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { return Ok(()) };
            let data = options.data.iter().find(|data| data.name == cell.data).context("a data set of the options")?;
            let outcome = pool.install(|| cell.compute(&data.folder))?;
            let line = serde_json::to_string(&outcome)? + "\n";
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(line.as_bytes()).and_then(|()| file.sync_data())?;
            bar.inc(1);
            bar.println(format!("{:6.0} s  {cell}: {:.2} %", begin.elapsed().as_secs_f64(), 100.0 * outcome.accuracy));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers.min(waiting.len())).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    bar.finish();
    Ok(())
}
