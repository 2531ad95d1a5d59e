//! Training and inference on a CPU: the kernels, stock Burn, and PyTorch, in turn on the same networks and operations.
//!
//! `cargo run --release -p benchmarks --bin cpu-throughput -- --help`
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod checks;
mod measure;
mod networks;
mod operations;
mod roofline;
mod search;
mod torch;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use onnx_bench::machine::Machine;
use serde_json::{Value, json};

use measure::{Case, LAYOUTS, Seconds, measure};
use networks::{Network, Subject, Work};
use torch::Torch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Speed of training and inference: the kernels, stock Burn (flex), and PyTorch, default and channels-last.
#[derive(Parser, Debug)]
#[command(after_help = "\
Examples:
  cpu-throughput
  cpu-throughput --network resnet-20 --width 0.5 --only networks --json
  cpu-throughput --python target/python/bin/python --only losses")]
struct Arguments {
    /// Parts to run; all if none is named.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Networks; both if none is named.
    #[arg(long, value_enum)]
    network: Vec<Network>,
    /// Channels over those of the base; 1, 0.5 and 0.25 if none is named.
    #[arg(long, value_parser = width)]
    width: Vec<f64>,
    /// Images in a step of training.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    training_batch: u16,
    /// Images in a forward pass of inference.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    inference_batch: u16,
    /// Times that every column is measured.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Threads of every column.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Steps of a loss curve.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10000))]
    steps: u16,
    /// MACs of the views of `search`; 0.1, 0.25, 0.6 and 2.5 M if none is named.
    #[arg(long)]
    macs: Vec<u64>,
    /// Leaves stock Burn out.
    #[arg(long)]
    no_flex: bool,
    /// Operations whose names contain this.
    #[arg(long, default_value = "")]
    operation: String,
    /// The Python that has torch and numpy.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Prints JSON, one line for each row.
    #[arg(long)]
    json: bool,
    /// Trains the named network in this process only, and prints its memory: what `memory` starts.
    #[arg(long, hide = true)]
    memory_of_this_process: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Images per second of both networks.
    Networks,
    /// Every operation on its own.
    Operations,
    /// Peak memory of training.
    Memory,
    /// The losses of 50 steps beside PyTorch's, from the same weights on the same batches.
    Losses,
    /// Weight steps and scores of small views, on one thread and on several.
    Search,
    /// The machine's limits, and the share of them that every operation reaches.
    Roofline,
}

fn width(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(width) if (0.2..=1.5).contains(&width) => Ok(width),
        _ => Err("expected 0.2 to 1.5".into()),
    }
}

impl Arguments {
    fn runs(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn subjects(&self) -> Result<Vec<Subject>> {
        let all = [Network::MobilenetV2, Network::Resnet20];
        let networks = if self.network.is_empty() { &all[..] } else { &self.network };
        let widths = if self.width.is_empty() { &[1.0, 0.5, 0.25][..] } else { &self.width };
        networks.iter().flat_map(|network| widths.iter().map(|width| Subject::new(*network, *width))).collect()
    }

    fn batch(&self, work: Work) -> usize {
        match work {
            Work::Training => self.training_batch.into(),
            Work::Inference => self.inference_batch.into(),
        }
    }
}

/// Rows of one table, printed at its end; or as JSON, each at once.
struct Report {
    json: bool,
    title: &'static str,
    table: Table,
}

impl Report {
    fn new(json: bool, title: &'static str, header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(header.iter().copied());
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        Self { json, title, table }
    }

    fn row(&mut self, line: &Value, cells: Vec<String>) {
        if self.json {
            println!("{line}");
        } else {
            self.table.add_row(cells);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.json {
            println!("\n{}\n{}", self.title, self.table);
        }
    }
}

fn optional(value: Option<f64>, format: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), format)
}

fn rate_cells(name: String, images: usize, seconds: &Seconds) -> Vec<String> {
    let rate = |seconds: f64| format!("{:.0}", images as f64 / seconds);
    vec![
        name,
        rate(seconds.kernels),
        optional(seconds.flex, rate),
        optional(seconds.torch, rate),
        optional(seconds.torch_channels_last, rate),
        optional(seconds.flex.map(|flex| flex / seconds.kernels), |ratio| format!("{ratio:.2}")),
        optional(seconds.torch.map(|torch| torch / seconds.kernels), |ratio| format!("{ratio:.2}")),
        optional(seconds.ratio, |ratio| format!("{ratio:.2}")),
    ]
}

const COLUMNS: [&str; 7] =
    ["kernels", "flex", "PyTorch", "PyTorch channels_last", "over flex", "over PyTorch", "over channels_last"];

fn networks(arguments: &Arguments, torch: &mut Option<Torch>) -> Result<()> {
    let header = [&["images per second"][..], &COLUMNS].concat();
    let mut report = Report::new(arguments.json, "Networks", &header);
    for subject in arguments.subjects()? {
        for work in [Work::Training, Work::Inference] {
            let batch = arguments.batch(work);
            let [first, second] = LAYOUTS.map(|layout| subject.request(work, batch, layout));
            let mut case = Case { step: subject.step(work, batch)?, requests: [first?, second?] };
            let rounds = arguments.rounds.into();
            let seconds = measure(&mut case, torch.as_mut(), !arguments.no_flex, rounds)?;
            let line = json!({
                "part": "networks", "network": subject.network.name(), "width": subject.width, "macs": subject.macs,
                "work": work.name(), "batch": batch, "seconds": seconds,
            });
            let macs = subject.macs as f64 / 1e6;
            let name = format!("{} x{} ({macs:.1} M MACs), {}", subject.network.name(), subject.width, work.name());
            report.row(&line, rate_cells(name, batch, &seconds));
        }
    }
    Ok(())
}

fn operations(arguments: &Arguments, torch: &mut Option<Torch>) -> Result<()> {
    let header = [&["batches per second"][..], &COLUMNS].concat();
    let mut report = Report::new(arguments.json, "Operations, batch 64", &header);
    for operation in operations::all() {
        let name = operation.name();
        if !name.contains(&arguments.operation) {
            continue;
        }
        let requests = LAYOUTS.map(|layout| operation.request(layout));
        let mut case = Case { step: operation.step(), requests };
        let seconds = measure(&mut case, torch.as_mut(), !arguments.no_flex, arguments.rounds.into())?;
        let line = json!({ "part": "operations", "operation": name, "macs": operation.macs(), "seconds": seconds });
        report.row(&line, rate_cells(name, 1, &seconds));
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.memory_of_this_process {
        return checks::memory_of_this_process(&arguments);
    }
    rayon::ThreadPoolBuilder::new().num_threads(arguments.threads.into()).build_global()?;
    let mut torch = Torch::start(&arguments.python, arguments.threads.into())
        .inspect_err(|error| eprintln!("not run: PyTorch: {error:#} (see --python)"))
        .ok();
    let machine = Machine::describe();
    let level = format!("{:?}", elastic_layers::kernels::level());
    let version = torch.as_ref().map(|torch| torch.version.clone());
    if arguments.json {
        let threads = arguments.threads;
        println!(
            "{}",
            json!({ "part": "machine", "machine": machine, "level": level, "threads": threads, "torch": version })
        );
    } else {
        let load = optional(machine.load_average_1min, |load| format!("{load:.1}"));
        println!("{}, {} threads, {level}, load {load}", machine.cpu, arguments.threads);
        println!("PyTorch {}; medians of {} interleaved rounds", version.as_deref().unwrap_or("-"), arguments.rounds);
    }
    if arguments.runs(Part::Networks) {
        networks(&arguments, &mut torch)?;
    }
    if arguments.runs(Part::Operations) {
        operations(&arguments, &mut torch)?;
    }
    if arguments.runs(Part::Memory) {
        checks::memory(&arguments, torch.is_some())?;
    }
    if arguments.runs(Part::Losses) {
        checks::losses(&arguments, &mut torch)?;
    }
    if arguments.runs(Part::Search) {
        search::report(&arguments)?;
    }
    if arguments.runs(Part::Roofline) {
        roofline::report(&arguments)?;
    }
    Ok(())
}
