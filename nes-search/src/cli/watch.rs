//! The command `watch`.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use console::{Term, truncate_str};
use elastic_layers::{DimKind, ElasticDim, Macs};
use nes_search::nes::NesStep;
use nes_search::search::{HISTORY, Iteration, read_history};
use serde::Serialize;

use super::directory::{SEARCH, STATUS, TASK, read_json_if_there};
use super::job::TaskFile;
use super::progress::{Status, unix_seconds};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Silence after which it is mentioned.
const SILENCE_S: u64 = 10;
/// Width of a plot, in characters.
const PLOT: usize = 40;
/// Width of a dimension's bar, in characters.
const BAR: usize = 20;

/// Shows a search while it runs, or after it: H of each dimension, losses, R against the budget, and the time left.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nes-search watch runs/mine                   until the search is over, or Ctrl-C
  nes-search watch runs/mine --once            as it is now
  nes-search watch runs/mine --json            for programs

Where stdout is no terminal it prints once.")]
pub struct Watch {
    /// The directory of a run or a search.
    directory: PathBuf,
    /// Prints once, and does not wait for more.
    #[arg(long)]
    once: bool,
    /// Prints JSON, once.
    #[arg(long)]
    json: bool,
}

/// A search as it is at some moment.
#[derive(Serialize)]
struct View {
    /// Whether it is over.
    finished: bool,
    /// What the command that runs in the directory does; after the search perhaps something else.
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_macs: Option<Macs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_ms: Option<f64>,
    dimensions: Vec<ElasticDim>,
    /// The rounds so far.
    history: Vec<Iteration>,
}

impl Watch {
    pub fn run(self) -> anyhow::Result<()> {
        let view = View::read(&self.directory)?;
        if self.json {
            return super::print_json(&view);
        }
        let terminal = Term::stdout();
        if self.once || !std::io::stdout().is_terminal() {
            return super::print(&view.text(&self.directory));
        }
        let mut lines = show(&terminal, &view.text(&self.directory), 0)?;
        let mut finished = view.finished;
        while !finished {
            sleep(EVERY);
            let view = View::read(&self.directory)?;
            lines = show(&terminal, &view.text(&self.directory), lines)?;
            finished = view.finished;
        }
        Ok(())
    }
}

/// Replaces what was shown before, of so many lines, as far as the terminal is large enough; gives the new number.
fn show(terminal: &Term, text: &str, before: usize) -> anyhow::Result<usize> {
    let (rows, columns) = terminal.size();
    let lines: Vec<_> = text.lines().take(usize::from(rows).saturating_sub(1)).collect();
    terminal.clear_last_lines(before).context("terminal")?;
    for line in &lines {
        terminal.write_line(&truncate_str(line, columns.into(), "…")).context("terminal")?;
    }
    Ok(lines.len())
}

impl View {
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let Some(task) = read_json_if_there::<TaskFile>(&directory.join(TASK))? else {
            bail!("{}: expected the directory of a run or a search, found no {TASK} in it", directory.display())
        };
        let TaskFile { budget_macs, budget_ms, dimensions } = task;
        let history = read_history(directory)?;
        let fits = |record: &Iteration| {
            record.h.len() == dimensions.len() && record.architecture.dims().iter().copied().eq(dimensions.iter())
        };
        if !history.iter().all(fits) {
            bail!(
                "{}: expected rounds over the {} dimensions of {TASK}, found a history of another search",
                directory.join(HISTORY).display(),
                dimensions.len()
            );
        }
        Ok(Self {
            finished: directory.join(SEARCH).is_file(),
            status: read_json_if_there(&directory.join(STATUS))?,
            budget_macs,
            budget_ms,
            dimensions,
            history,
        })
    }

    fn text(&self, directory: &Path) -> String {
        let mut text = format!("{}: {}\n", directory.display(), self.state());
        let Some(last) = self.history.last() else {
            return text + "no round yet\n";
        };
        let _ = writeln!(
            text,
            "round {}, {:.0} % of the walk: R {} ({:.3}), budget of the moment {:.3}",
            last.iteration,
            last.done * 100.0,
            self.taken(last),
            last.ratio,
            last.budget
        );
        let losses: Vec<f64> = last.losses.iter().flatten().copied().collect();
        let least = losses.iter().copied().reduce(f64::min);
        let most = losses.iter().copied().reduce(f64::max);
        let _ =
            writeln!(text, "losses of candidates: mean {}, {} to {}", number(last.loss), number(least), number(most));
        if let Some(NesStep { sigma, learning_rate, gradient_norm, signal_to_noise }) = last.step {
            let _ = writeln!(
                text,
                "sigma {sigma:.3}, learning rate {learning_rate:.3}, gradient {gradient_norm:.3}, signal to noise \
                 {signal_to_noise:.3}"
            );
        }
        let _ = writeln!(text, "mean loss  {}", sparkline(self.history.iter().map(|record| record.loss)));
        let _ = writeln!(text, "R / R_t    {}\n", sparkline(self.history.iter().map(|record| Some(record.ratio))));
        text + &self.table(last) + "\n"
    }

    /// What the architecture of H takes, of the budget.
    fn taken(&self, last: &Iteration) -> String {
        match (self.budget_macs, self.budget_ms) {
            (_, Some(ms)) => format!("{:.3} of {ms} ms", last.ratio * ms),
            (Some(macs), None) => format!("{} of {} MACs", last.macs.0, macs.0),
            (None, None) => format!("{} MACs", last.macs.0),
        }
    }

    /// What is going on, in a few words.
    fn state(&self) -> String {
        if self.finished {
            return "the search is over".into();
        }
        let Some(status) = &self.status else { return "about to begin".into() };
        let Status { phase, done, total, message, seconds_left, unix_seconds: told } = status;
        let percent = 100 * done / (*total).max(1);
        let mut text = format!("{phase} {percent} %, {message}");
        if let Some(left) = seconds_left.filter(|_| done < total) {
            let _ = write!(text, ", about {} left of this phase", duration(left));
        }
        match unix_seconds().saturating_sub(*told) {
            silent if silent > SILENCE_S => text + &format!("; last heard of {} ago", duration(silent as f64)),
            _ => text,
        }
    }

    fn table(&self, last: &Iteration) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["dimension", "H", "value", "from", "to", "backbone", ""]);
        let start = &self.history[0].h;
        for (index, dim) in self.dimensions.iter().enumerate() {
            let h = last.h[index];
            table.add_row([
                dim.name.clone(),
                format!("{h:.2}"),
                last.architecture.values()[index].to_string(),
                dim.min.to_string(),
                dim.max.to_string(),
                dim.base.to_string(),
                bar(dim, h, start[index]),
            ]);
        }
        for column in table.column_iter_mut().skip(1).take(5) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// Where H is in a dimension (`#`), and where it began (`|`).
fn bar(dim: &ElasticDim, h: f64, start: f64) -> String {
    let place = |h: f64| ((h / dim.levels() as f64).clamp(0.0, 1.0) * (BAR - 1) as f64).round() as usize;
    let mut cells = vec!['-'; BAR];
    cells[place(start)] = '|';
    cells[place(h)] = '#';
    let unit = match dim.kind {
        DimKind::Channels => "",
        DimKind::Resolution => " pixels",
        DimKind::Depth => " blocks",
    };
    cells.into_iter().collect::<String>() + unit
}

/// The last values, or means of neighbours if there are many, as bars from the least to the greatest.
fn sparkline(values: impl Iterator<Item = Option<f64>>) -> String {
    let values: Vec<Option<f64>> = values.collect();
    let values: Vec<Option<f64>> = (values.chunks(values.len().div_ceil(PLOT)))
        .map(|chunk| {
            let finite: Vec<f64> = chunk.iter().flatten().copied().collect();
            (!finite.is_empty()).then(|| finite.iter().sum::<f64>() / finite.len() as f64)
        })
        .collect();
    let finite = || values.iter().flatten().copied();
    let (least, most) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let bars = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let plot: String = values
        .iter()
        .map(|value| match value {
            None => '?',
            Some(value) => {
                let share = if most > least { (value - least) / (most - least) } else { 0.0 };
                bars[(share * (bars.len() - 1) as f64).round() as usize]
            }
        })
        .collect();
    format!("{plot}  {} to {}", number(finite().reduce(f64::min)), number(finite().reduce(f64::max)))
}

fn number(value: Option<f64>) -> String {
    value.map_or("not finite".into(), |value| format!("{value:.3}"))
}

/// Seconds as `1 h 2 min`, `3 min 20 s` or `12 s`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_plotted_from_the_least_to_the_greatest() {
        assert_eq!(sparkline([Some(1.0), None, Some(2.0), Some(1.5)].into_iter()), "▁?█▅  1.000 to 2.000");
        assert_eq!(sparkline([Some(1.0)].into_iter()), "▁  1.000 to 1.000");
        assert_eq!(sparkline([None].into_iter()), "?  not finite to not finite");
        let long = sparkline((0..80).map(|value| Some(f64::from(value))));
        assert_eq!(long.split_whitespace().next().map(|plot| plot.chars().count()), Some(PLOT));
        assert!(long.ends_with("0.500 to 78.500"), "means of two: {long}");
    }

    #[test]
    fn a_bar_shows_where_h_is_and_where_it_began() {
        let dim = ElasticDim { name: "stem".into(), kind: DimKind::Channels, base: 8, min: 2, max: 11, step: 1 };
        assert_eq!(bar(&dim, 0.0, 10.0), "#------------------|");
        assert_eq!(bar(&dim, 10.0, 10.0), "-------------------#");
        assert_eq!(bar(&dim, 5.0, 0.0), "|---------#---------");
    }

    #[test]
    fn durations() {
        let shown = [12.4, 200.0, 3720.0].map(duration);
        assert_eq!(shown, ["12 s", "3 min 20 s", "1 h 2 min"]);
    }
}
