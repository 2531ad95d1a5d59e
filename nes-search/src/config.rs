//! The configuration of a run: presets, the TOML file, and what a field means.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::backbone::{self, BackboneSettings};
use crate::budget::Budget;
use crate::data::Augment;
use crate::nes::NesSettings;
use crate::projection::ALL_KINDS;
use crate::resource::Bound;
use crate::search::{Length, SearchSettings};
use crate::searchers::SearcherName;
use crate::settings::{SettingsError, check};
use crate::train::{SgdSettings, TrainSettings};

/// All that decides a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The network whose dimensions are searched.
    pub backbone: BackboneSettings,
    /// The directory of a data set; the embedded images, if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Height and width that images in folders are scaled to, in pixels; [`IMAGE_SIZE`](crate::data::IMAGE_SIZE), if there
    /// is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// What the found network may cost.
    pub budget: Budget,
    /// The latency table that a budget in milliseconds is measured by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_table: Option<PathBuf>,
    /// What else it may take at most.
    #[serde(default)]
    pub bounds: Vec<Bound>,
    /// The seed of the search, and of the first training.
    pub seed: u64,
    /// Trainings of each network, under consecutive seeds.
    pub seeds: usize,
    /// Threads that Burn computes with; as many as there are cores, if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Images of each class that are cut from the training images for the search to compare architectures on.
    pub evaluation_per_class: usize,
    /// The search.
    pub search: SearchSettings,
    /// Training from scratch.
    pub train: TrainSettings,
    /// Measurement of the exported files.
    pub bench: BenchSettings,
}

/// How exported files are measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchSettings {
    /// Seconds of measurement for each file and runtime.
    pub seconds: f64,
    /// Threads that a runtime computes with.
    pub threads: usize,
}

/// A named configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Preset {
    /// Minutes on two cores, on 10,000 small images.
    #[default]
    Laptop,
    /// The paper's Appendix B.
    Paper,
    /// The whole chain in seconds; its accuracies mean nothing.
    Smoke,
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no TOML, or has an unknown field or a value of another type.
    #[error("{}", .0.to_string().trim_end())]
    Toml(#[from] toml::de::Error),
    /// A value is out of its range.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl Config {
    /// The configuration of a preset.
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::Laptop => laptop(),
            Preset::Paper => paper(),
            Preset::Smoke => smoke(),
        }
    }

    /// A preset with the values of a TOML text in place of its own.
    ///
    /// # Errors
    /// If the text is no TOML, or a field is unknown, of another type or out of its range.
    pub fn from_toml(preset: Preset, text: &str) -> Result<Self, ConfigError> {
        let file: Table = text.parse()?;
        let mut merged = Table::try_from(Self::preset(preset)).expect("a preset has a form in TOML");
        merge(&mut merged, file);
        let config: Self = merged.try_into()?;
        config.check()?;
        Ok(config)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Naming the first field that is out of its range, and the range.
    pub fn check(&self) -> Result<(), SettingsError> {
        check("image_size", self.image_size.unwrap_or(1), 1..=8192)?;
        check("seeds", self.seeds, 1..=1000)?;
        // TOML has no larger integers.
        check("seed", self.seed, 0..=i64::MAX as u64 - 1000)?;
        check("threads", self.threads.unwrap_or(1), 1..=1024)?;
        check("evaluation_per_class", self.evaluation_per_class, 1..=1_000_000)?;
        self.backbone.check()?;
        self.search.check()?;
        self.train.check()?;
        check("bench.seconds", self.bench.seconds, 0.01..=3600.0)?;
        check("bench.threads", self.bench.threads, 1..=1024)
    }

    /// The configuration as a TOML text that explains every field.
    pub fn to_toml(&self) -> String {
        let plain = toml::to_string(self).expect("a configuration has a form in TOML");
        let mut table = String::new();
        let mut text = String::from("# Configuration of nes-search. What is left out keeps the value of the preset.\n");
        for line in plain.lines() {
            let name = if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                // An element of a list of tables has two brackets.
                let header = header.trim_matches(['[', ']']);
                table = format!("{header}.");
                header.to_string()
            } else {
                format!("{table}{}", line.split(" =").next().unwrap_or_default())
            };
            if let Some(comment) = comment(&name) {
                text.push_str(&format!("# {comment}\n"));
            }
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// The seeds of the trainings.
    pub fn training_seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.seed;
        (0..self.seeds as u64).map(move |offset| first + offset)
    }
}

/// Puts the values of one table into another, table by table.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            // The tables of an enum's variants exclude each other, and so do changes to two backbones.
            (Some(Value::Table(into)), Value::Table(from)) if !["length", "backbone"].contains(&key.as_str()) => {
                merge(into, from)
            }
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

fn sgd() -> SgdSettings {
    SgdSettings {
        batch_size: 64,
        learning_rate: 0.2,
        warmup: 0.1,
        momentum: 0.9,
        weight_decay: 5e-4,
        gradient_norm: 1.0,
        label_smoothing: 0.0,
        augment: Augment { flip: false, shift: 1, random_resized_crop: false },
    }
}

fn laptop() -> Config {
    Config {
        backbone: BackboneSettings::default(),
        data: None,
        image_size: None,
        budget: Budget::Fraction(0.1),
        latency_table: None,
        bounds: Vec::new(),
        seed: 1,
        seeds: 1,
        threads: None,
        evaluation_per_class: 150,
        search: SearchSettings {
            searcher: SearcherName::Nes,
            dimensions: ALL_KINDS.to_vec(),
            length: Length::Cost(0.25),
            trials: 0.6,
            trial_length: 0.15,
            fall: 0.7,
            weight_steps: 60,
            views: 2,
            nes_iterations: 2,
            evaluation_batch: 256,
            checkpoint_seconds: 300.0,
            nes: NesSettings::default(),
            sgd: sgd(),
        },
        train: TrainSettings { epochs: 40.0, sgd: sgd(), average_decay: 0.99, recalibration_batches: 16 },
        bench: BenchSettings { seconds: 2.0, threads: 1 },
    }
}

/// Appendix B, for MobileNet.
fn paper() -> Config {
    let laptop = laptop();
    Config {
        search: SearchSettings {
            length: Length::Iterations(75),
            trials: 0.0,
            fall: 0.0,
            weight_steps: 2000,
            views: 1,
            nes_iterations: 20,
            evaluation_batch: 256,
            nes: NesSettings::paper(),
            sgd: SgdSettings { batch_size: 256, ..sgd() },
            ..laptop.search
        },
        ..laptop
    }
}

fn smoke() -> Config {
    let laptop = laptop();
    Config {
        evaluation_per_class: 20,
        search: SearchSettings {
            length: Length::Cost(0.5),
            trials: 0.4,
            trial_length: 0.1,
            weight_steps: 4,
            evaluation_batch: 50,
            nes: NesSettings { samples: 4, ..laptop.search.nes },
            sgd: SgdSettings { batch_size: 16, ..sgd() },
            ..laptop.search
        },
        train: TrainSettings { epochs: 1.0, recalibration_batches: 2, ..laptop.train },
        bench: BenchSettings { seconds: 0.1, threads: 1 },
        ..laptop
    }
}

/// What a field means.
fn comment(name: &str) -> Option<&'static str> {
    if let Some(field) = name.strip_prefix("backbone.") {
        return backbone::comment(field);
    }
    let text = match name {
        "backbone" => {
            "The network whose dimensions are searched: a name (`nes-search inspect NAME` shows them), or a table with it and \
             changes: name = \"mobilenet-v2-small\", width = 2.0, min_resolution = 16, stem_channels, stem_stride, \
             head_channels, scales = { min = 0.1, max = 1.5, step = 0.03 }, \
             stages = [{ channels = 16, blocks = 2, stride = 2, expansion = 6 }, ...]."
        }
        "data" => {
            "Directory of a data set: IDX files, CIFAR-10 or CIFAR-100 binary files, or folders of images \
             (train/CLASS/*.jpg); without it, the embedded images."
        }
        "image_size" => {
            "Pixels that images in folders are scaled to, in height and width; without it, 224. In evaluation the shorter \
             side is scaled to 1 / 0.875 of it, and the centre cut out."
        }
        "budget" => "A fraction of the backbone's MACs (\"0.1\"), or MACs (\"250k\", \"2.5M\").",
        "latency_table" => "The latency table that a budget in milliseconds is measured by.",
        "bounds" => {
            "What else the found network may take at most: [\"parameters=5k\", \"activation-memory=64k\"], the second in \
             bytes for the input and output of one layer."
        }
        "seed" => "Seed of the search and of the first training.",
        "seeds" => "Trainings of each network, under consecutive seeds.",
        "threads" => "Threads that Burn computes with; without it, as many as there are cores.",
        "evaluation_per_class" => "Training images of each class that architectures are compared on in the search.",
        "search" => "The search (Algorithm 1 of the paper).",
        "search.searcher" => {
            "\"nes\", or for comparison \"random\", \"evolution\", \"cma-es\", \"netadapt\", \"uniform-channel\", \
             \"uniform-resolution\", \"uniform-joint\": these begin when the shared weights are trained."
        }
        "search.dimensions" => {
            "Kinds of dimensions that are searched: \"channels\", \"resolution\", \"depth\"; others stay at the backbone's."
        }
        "search.length" => {
            "How long the search is: { cost = 0.25 }, a share of the MACs of training the backbone, or { iterations = 75 }, \
             outer iterations."
        }
        "search.length.cost" => "Share of the MACs that training the backbone from scratch takes.",
        "search.length.iterations" => "K: outer iterations.",
        "search.trials" => {
            "Share of the cost for short trainings from scratch, which decide where H starts; with 0 it starts at the backbone."
        }
        "search.trial_length" => "Length of a short training, as a share of the final one's.",
        "search.fall" => {
            "Share of the walk in which the budget falls from the start's cost to the target; with 0 it is the target."
        }
        "search.weight_steps" => "N: weight steps in each outer iteration, on views drawn around H.",
        "search.views" => "Views in each weight step, each on a batch of its own.",
        "search.nes_iterations" => "NES iterations in each outer iteration.",
        "search.evaluation_batch" => "Evaluation images that all candidates of an NES iteration are scored on.",
        "search.checkpoint_seconds" => "Seconds between two checkpoints.",
        "search.nes" => "How NES moves H (equations 6, 7 and 9).",
        "search.nes.form" => {
            "\"projected\" (antithetic pairs, standardised losses, candidates on the budget) or \"paper\" (equations 2 and 7)."
        }
        "search.nes.samples" => "M: candidates of one gradient.",
        "search.nes.sigma" => {
            "Deviation of the candidates from H in the beginning, in steps, at most a fifth of a dimension's values."
        }
        "search.nes.sigma_floor" => "Deviation in the end, in steps.",
        "search.nes.learning_rate" => "Learning rate of H in the beginning; it falls linearly to 0.",
        "search.nes.rho" => "Weight of the penalty of the paper's form: rho * (R / R_t - 1)^2.",
        "search.sgd" => "How the shared weights are trained.",
        "search.sgd.augment" | "train.sgd.augment" => "Random changes to training images.",
        "train" => "Training of a network from scratch.",
        "train.epochs" => "Passes over the training images.",
        "train.average_decay" => "Decay of the running average of weights that is kept in the end; 0 keeps the last.",
        "train.recalibration_batches" => "Batches that batch-norm statistics are taken from in the end.",
        "train.sgd" => "Its optimizer.",
        "bench" => "Measurement of the exported files.",
        "bench.seconds" => "Seconds for each file and runtime.",
        "bench.threads" => "Threads that a runtime computes with.",
        _ => match name.split_once("sgd.").map(|(_, field)| field)? {
            "batch_size" => "Images in a batch.",
            "learning_rate" => "Learning rate at its peak, after a linear warm-up and before a cosine to 0.",
            "warmup" => "Share of the steps in which it rises.",
            "momentum" => "Nesterov momentum.",
            "weight_decay" => "Weight decay.",
            "gradient_norm" => "Largest norm of one parameter's gradient; a longer one is scaled down to it.",
            "label_smoothing" => "Label smoothing.",
            "augment.flip" => "Whether half of the images are mirrored left to right.",
            "augment.shift" => "Largest shift in each direction, in pixels; 0 with random_resized_crop.",
            "augment.random_resized_crop" => {
                "Whether a random window (0.08 to 1 of the area, aspect 3/4 to 4/3) is scaled to the training size."
            }
            _ => return None,
        },
    };
    Some(text)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
