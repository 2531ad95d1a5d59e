//! Command line: flags, and a thin wrapper around the library for each command.

mod inspect;

use std::io::Write;

use clap::{Parser, Subcommand};

/// Searches channels, input resolution and depth of a Burn network under a budget.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Inspect(inspect) => inspect.run(),
        }
    }
}

/// Writes results to stdout. A reader that has gone (`nes-search ... | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes an error and its causes to stderr.
pub fn report(error: &anyhow::Error) {
    // There is nowhere left to say that stderr cannot be written.
    let _ = writeln!(std::io::stderr().lock(), "nes-search: {error:#}");
}
