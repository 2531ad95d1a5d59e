//! Command line: flags, and a thin wrapper around the library for each command.

mod bench;
mod compare;
mod comparison;
mod data_file;
mod directory;
mod export;
mod fidelity;
mod inspect;
mod int8;
mod job;
mod lut;
mod networks;
mod options;
mod progress;
mod run;
mod summary;
mod training;
mod watch;

use std::io::Write;

pub use progress::keep_ignored_signals;

use clap::{Args, Parser, Subcommand};
use nes_search::{Config, Preset};
use serde::Serialize;

/// Searches channels, input resolution and depth of a Burn network under a budget.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Search(run::SearchCommand),
    Train(run::Train),
    Export(export::Export),
    Bench(bench::Bench),
    Lut(lut::Lut),
    Inspect(inspect::Inspect),
    Watch(watch::Watch),
    Fidelity(fidelity::Fidelity),
    Compare(compare::Compare),
    Config(ConfigCommand),
}

/// Prints a configuration file with all fields, explained.
#[derive(Args, Debug)]
#[command(after_help = "Example: nes-search config > mine.toml; nes-search run --config mine.toml")]
struct ConfigCommand {
    /// Whose values.
    #[arg(long, value_enum, default_value_t)]
    preset: Preset,
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Search(search) => search.run(),
            Command::Train(train) => train.run(),
            Command::Export(export) => export.run(),
            Command::Bench(bench) => bench.run(),
            Command::Lut(lut) => lut.run(),
            Command::Inspect(inspect) => inspect.run(),
            Command::Watch(watch) => watch.run(),
            Command::Fidelity(fidelity) => fidelity.run(),
            Command::Compare(compare) => compare.run(),
            Command::Config(ConfigCommand { preset }) => print(&Config::preset(preset).to_toml()),
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

/// Writes a result for programs to stdout.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes an error and its causes to stderr.
pub fn report(error: &anyhow::Error) {
    // There is nowhere left to say that stderr cannot be written.
    let _ = writeln!(std::io::stderr().lock(), "nes-search: {}", words(error));
}

/// An error with its causes. Some errors say their cause themselves: it is not said twice.
fn words(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.is_empty() {
            true => cause,
            false if text.contains(&cause) => text,
            false => format!("{text}: {cause}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::words;

    #[test]
    fn no_cause_is_said_twice() {
        let cause = std::io::Error::other("no room");
        let error = Err::<(), _>(cause).context("file: no room").context("job").expect_err("an error");
        assert_eq!(words(&error), "job: file: no room");
        let error = Err::<(), _>(std::io::Error::other("no room")).context("file").expect_err("an error");
        assert_eq!(words(&error), "file: no room");
    }
}
