//! The command `fidelity`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::bail;
use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use elastic_layers::Macs;
use nes_search::search::Scored;
use nes_search::{Observer, TrainSettings, Trainer, Training, evaluate};
use onnx_bench::statistics::{kendall, spearman};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use super::directory::{FIDELITY, FIDELITY_PLOT, RunDirectory, SEARCH, read_json_if_there, write, write_json};
use super::job::Job;
use super::progress::{Terminal, note};

/// Tells how well the shared weights of a finished search rank architectures: some at the budget are trained from
/// scratch, and their losses by the shared weights compared with what that comes to, on the evaluation split.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nes-search fidelity runs/mine                        with the directory of a run or a search
  nes-search fidelity runs/mine --architectures 40     trains those that are missing
  nes-search fidelity runs/mine --epochs 5 --json      shorter trainings; results as JSON

The pairs are in fidelity.json and fidelity.svg of the directory. An interrupted command goes on where it was.")]
pub struct Fidelity {
    /// The run directory of a finished search.
    directory: PathBuf,
    /// How many architectures at least: those that were trained before for as many epochs count too.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    architectures: u32,
    /// Passes over the training images, instead of those of the configuration.
    #[arg(long, value_name = "N", value_parser = epochs)]
    epochs: Option<f64>,
    /// Prints the content of fidelity.json.
    #[arg(long)]
    json: bool,
}

/// The content of a `fidelity.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FidelityFile {
    /// Passes over the training images in each training.
    epochs: f64,
    /// The seed of each training.
    seed: u64,
    /// Of the losses by the shared weights with the trained networks' accuracies and losses.
    shared: Option<Correlations>,
    /// The architectures, as far as they have been trained.
    pairs: Vec<Pair>,
}

/// How alike two rankings are: 1 if they are the same.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Correlations {
    spearman_accuracy: f64,
    kendall_accuracy: f64,
    spearman_loss: f64,
    kendall_loss: f64,
}

/// One architecture: by the shared weights, and trained. A loss that is not finite is missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pair {
    architecture: Vec<usize>,
    macs: Macs,
    shared_loss: Option<f64>,
    trained_loss: Option<f64>,
    trained_accuracy: f64,
}

impl Fidelity {
    pub fn run(self) -> anyhow::Result<()> {
        let (directory, _) = RunDirectory::resume(&self.directory)?;
        let path = directory.path();
        if !path.join(SEARCH).is_file() {
            bail!("{}: expected the directory of a finished search, found no {SEARCH} in it", path.display());
        }
        let job = Job::of_directory(path)?;
        let epochs = self.epochs.unwrap_or(job.config.train.epochs);
        let settings = TrainSettings { epochs, ..job.config.train.clone() };
        let terminal = &mut Terminal::new(path)?;
        let Some(file) = job.fidelity(path, self.architectures as usize, &settings, terminal)? else {
            bail!(
                "interrupted; go on with: nes-search fidelity {} --architectures {} --epochs {epochs}",
                path.display(),
                self.architectures
            );
        };
        write(&path.join(FIDELITY_PLOT), plot(&file)?.as_bytes())?;
        if self.json {
            return super::print_json(&file);
        }
        note(&format!("pairs in {0}/{FIDELITY} and {0}/{FIDELITY_PLOT}", path.display()));
        super::print(&table(&file))
    }
}

impl Job {
    /// Trains architectures that the shared weights have scored, as far as the directory's file does not say how that
    /// ended; nothing, if interrupted.
    fn fidelity(
        &self,
        directory: &Path,
        count: usize,
        settings: &TrainSettings,
        observer: &mut (dyn Observer + Send),
    ) -> anyhow::Result<Option<FidelityFile>> {
        let scored = self.new_search()?.resume(directory, observer)?.sample(count)?;
        let path = directory.join(FIDELITY);
        let seed = self.config.seed;
        // Of more architectures than now are asked for, none is given up.
        let pairs = read_json_if_there::<FidelityFile>(&path)?
            .filter(|file| (file.epochs, file.seed) == (settings.epochs, seed))
            .map_or(Vec::new(), |file| file.pairs);
        let known = |scored: &Scored| pairs.iter().any(|pair| pair.architecture == scored.architecture.values());
        let waiting: Vec<Scored> = scored.into_iter().filter(|scored| !known(scored)).collect();
        let file = Mutex::new(FidelityFile { epochs: settings.epochs, seed, shared: None, pairs });
        let trainer = Trainer {
            blueprint: &self.blueprint,
            set: &self.train,
            normalization: &self.normalization,
            settings,
            devices: &self.devices,
        };
        let trainings = waiting.iter().zip(1..).map(|(Scored { architecture, .. }, number)| Training {
            name: format!("architecture {number}"),
            architecture: architecture.clone(),
            seed,
        });
        let trainings: Vec<Training> = trainings.collect();
        let finished = trainer.train_all("fidelity", &trainings, observer, |index, trained| -> anyhow::Result<()> {
            let (images, batch) = (&self.evaluation, self.config.search.evaluation_batch);
            let evaluation = evaluate(&trained.model, images, &self.normalization, batch, &self.devices[0])?;
            let Scored { architecture, shared_loss } = &waiting[index];
            let finite = |loss: f64| loss.is_finite().then_some(loss);
            let pair = Pair {
                architecture: architecture.values().to_vec(),
                macs: self.blueprint.cost().cost(architecture)?.macs,
                shared_loss: finite(*shared_loss),
                trained_loss: finite(evaluation.loss),
                trained_accuracy: evaluation.accuracy,
            };
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.pairs.push(pair);
            write_json(&path, &*file)
        })?;
        if finished.is_none() {
            return Ok(None);
        }
        let mut file = file.into_inner().unwrap_or_else(PoisonError::into_inner);
        // The order in which they were drawn would depend on which training ended first.
        file.pairs.sort_by(|one, other| one.architecture.cmp(&other.architecture));
        file.shared = correlations(&file.pairs, |pair| pair.shared_loss);
        write_json(&path, &file)?;
        Ok(Some(file))
    }
}

/// Passes over the training images, or a part of one, as a flag has them.
fn epochs(text: &str) -> Result<f64, String> {
    let range = 1e-4..=1e6;
    let found = text.parse().ok().filter(|epochs| range.contains(epochs));
    found.ok_or_else(|| format!("expected {} to {}", range.start(), range.end()))
}

/// Nothing, if all of them are equal in one of the rankings.
fn correlations(pairs: &[Pair], loss: impl Fn(&Pair) -> Option<f64>) -> Option<Correlations> {
    // What diverged is the worst.
    let worst = f64::INFINITY;
    let with = |trained: fn(&Pair) -> f64| -> Vec<(f64, f64)> {
        pairs.iter().map(|pair| (loss(pair).unwrap_or(worst), trained(pair))).collect()
    };
    // Of two losses of a network the smaller is the better one, of two accuracies the larger.
    let accuracies = with(|pair| -pair.trained_accuracy);
    let losses = with(|pair| pair.trained_loss.unwrap_or(f64::INFINITY));
    Some(Correlations {
        spearman_accuracy: spearman(&accuracies)?,
        kendall_accuracy: kendall(&accuracies)?,
        spearman_loss: spearman(&losses)?,
        kendall_loss: kendall(&losses)?,
    })
}

fn table(file: &FidelityFile) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["ranking by", "Spearman, accuracy", "Kendall, accuracy", "Spearman, loss", "Kendall, loss"]);
    let rows = [("shared weights", file.shared)];
    for (name, correlations) in rows.into_iter().filter_map(|(name, row)| Some((name, row?))) {
        let Correlations { spearman_accuracy, kendall_accuracy, spearman_loss, kendall_loss } = correlations;
        let cells = [spearman_accuracy, kendall_accuracy, spearman_loss, kendall_loss];
        table.add_row([name.to_string()].into_iter().chain(cells.map(|value| format!("{value:.3}"))));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let FidelityFile { epochs, seed, pairs, .. } = file;
    format!(
        "{table}\n\n{} architectures trained from scratch for {epochs} epochs with seed {seed}; 1 is the same order of \
         the evaluation images' accuracies or losses, 0 none\n",
        pairs.len()
    )
}

/// The losses by the shared weights against the accuracies of the trained networks, as SVG.
fn plot(file: &FidelityFile) -> anyhow::Result<String> {
    let points = |loss: fn(&Pair) -> Option<f64>| -> Vec<(f64, f64)> {
        file.pairs.iter().filter_map(|pair| Some((loss(pair)?, pair.trained_accuracy * 100.0))).collect()
    };
    let series = [("shared weights", points(|pair| pair.shared_loss), BLUE)];
    let all = || series.iter().flat_map(|(_, points, _)| points);
    let (x, y) = (range(all().map(|point| point.0)), range(all().map(|point| point.1)));
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (720, 480)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart =
            ChartBuilder::on(&root).margin(16).x_label_area_size(44).y_label_area_size(56).build_cartesian_2d(x, y)?;
        let description = format!("accuracy after {} epochs from scratch, %", file.epochs);
        chart.configure_mesh().x_desc("evaluation loss in the search").y_desc(description).draw()?;
        for (name, points, color) in &series {
            if !points.is_empty() {
                let circle = |&point| Circle::new(point, 4, color.filled());
                let legend = |point| Circle::new(point, 4, color.filled());
                chart.draw_series(points.iter().map(circle))?.label(*name).legend(legend);
            }
        }
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
        root.present()?;
    }
    Ok(text)
}

/// All values with a margin; something, where there is nothing or all are equal.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
    let margin = (0.05 * (most - least)).max(1e-3);
    if margin.is_finite() { least - margin..most + margin } else { 0.0..1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_shared_weights_prefer_and_training_too_correlates_by_1() {
        let pair = |shared_loss, trained_loss, trained_accuracy| Pair {
            architecture: Vec::new(),
            macs: Macs(1),
            shared_loss,
            trained_loss,
            trained_accuracy,
        };
        let pairs = [pair(Some(0.5), Some(0.3), 0.9), pair(Some(0.7), Some(0.4), 0.8), pair(None, None, 0.1)];
        let same = correlations(&pairs, |pair| pair.shared_loss).expect("different ones");
        let all = [same.spearman_accuracy, same.kendall_accuracy, same.spearman_loss, same.kendall_loss];
        assert!(all.iter().all(|value| (value - 1.0).abs() < 1e-12), "{same:?}");
    }
}
