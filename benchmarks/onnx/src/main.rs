//! The command `onnx-bench`: measures ONNX files on a target machine, with no training stack in it.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use exporters::runtime::{self, Runtime, RuntimeError, RuntimeKind};
use onnx_bench::cli::{BenchArguments, Host};

/// Measures ONNX files, by any exporter, on every runtime that this machine has.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "\
Examples:
  onnx-bench model.onnx
  onnx-bench a.onnx b.onnx --compare --runtime onnx-runtime --threads 2 --json"
)]
struct Cli {
    #[command(flatten)]
    bench: BenchArguments,
}

/// A program that has files alone.
struct Alone;

impl Host for Alone {
    fn prefix(&self) -> &[&str] {
        &[]
    }

    fn has_network(&self, _: &Path) -> bool {
        false
    }

    fn load(&mut self, kind: RuntimeKind, path: &Path, threads: usize) -> Result<Box<dyn Runtime>, RuntimeError> {
        runtime::load_any(kind, path, threads)
    }
}

fn main() -> ExitCode {
    // A usage error exits with 2 here.
    let cli = Cli::parse();
    if let Some(complaint) = runtime::complaint() {
        say(&format!("warning: {complaint}"));
    }
    let output = match cli.bench.run(&mut Alone) {
        Ok(output) => output,
        Err(error) => {
            say(&format!("onnx-bench: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // There is nowhere left to say that an output cannot be written.
    let _ = std::io::stdout().lock().write_all(output.text.as_bytes());
    match output.incomplete {
        None => ExitCode::SUCCESS,
        Some(error) => {
            say(&format!("onnx-bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A line on stderr.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
