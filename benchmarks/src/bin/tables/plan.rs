//! Which cells a table has.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use elastic_layers::DimKind;
use nes_search::searchers::SearcherName;
use serde::{Deserialize, Serialize};

use super::Options;
use super::cell::Cell;

/// A table of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Table {
    /// MobileNetV1.
    #[value(name = "1")]
    MobileNetV1,
    /// MobileNetV2.
    #[value(name = "2")]
    MobileNetV2,
    /// ResNet.
    #[value(name = "3")]
    ResNet,
}

impl Table {
    pub fn number(self) -> u8 {
        match self {
            Self::MobileNetV1 => 1,
            Self::MobileNetV2 => 2,
            Self::ResNet => 3,
        }
    }

    /// The backbone, as a configuration has it: wide enough that small budgets leave something to choose.
    pub fn backbone(self) -> &'static str {
        match self {
            Self::MobileNetV1 => {
                "name = \"mobilenet-v1-small\"\nwidth = 2.0\nscales = { min = 0.1, max = 1.5, step = 0.03 }\n"
            }
            Self::MobileNetV2 => {
                "name = \"mobilenet-v2-small\"\nwidth = 2.0\nscales = { min = 0.1, max = 1.5, step = 0.03 }\n"
            }
            Self::ResNet => "name = \"resnet-20\"\n",
        }
    }
}

/// A way to find an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// All channels by one factor.
    UniformChannel,
    /// The resolution alone, as far as that goes.
    UniformInput,
    /// Channels and resolution together, the best pair by short trainings.
    UniformJoint,
    /// NetAdapt on shared weights.
    Netadapt,
    /// Evolution on shared weights, as MetaPruning searches.
    Evolution,
    /// Random search on shared weights.
    Random,
    /// CMA-ES on shared weights.
    CmaEs,
    /// The default search, in channels alone.
    OursChannel,
    /// The default search, in channels and resolution.
    OursChannelInput,
    /// The default search, in channels, resolution and depth.
    Ours,
}

impl Row {
    /// The searcher.
    pub fn searcher(self) -> SearcherName {
        match self {
            Self::UniformChannel => SearcherName::UniformChannel,
            Self::UniformInput => SearcherName::UniformResolution,
            Self::UniformJoint => SearcherName::UniformJoint,
            Self::Netadapt => SearcherName::Netadapt,
            Self::Evolution => SearcherName::Evolution,
            Self::Random => SearcherName::Random,
            Self::CmaEs => SearcherName::CmaEs,
            Self::OursChannel | Self::OursChannelInput | Self::Ours => SearcherName::Nes,
        }
    }

    /// The dimensions that it may change.
    pub fn kinds(self) -> &'static [DimKind] {
        use DimKind::{Channels, Depth, Resolution};
        match self {
            Self::OursChannel => &[Channels],
            Self::OursChannelInput => &[Channels, Resolution],
            _ => &[Channels, Resolution, Depth],
        }
    }

    /// Whether short trainings decide where it starts, or what it is. The others get their cost for shared weights.
    pub fn has_trials(self) -> bool {
        matches!(self, Self::UniformJoint | Self::OursChannel | Self::OursChannelInput | Self::Ours)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// A data set by name, and its folder.
#[derive(Clone, Debug)]
pub struct Data {
    pub name: DataName,
    pub folder: PathBuf,
}

/// The data sets, with their recipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DataName {
    /// Characters, of `benchmarks/python/glyphs.py`.
    Glyphs,
    /// The full Fashion-MNIST.
    FashionMnist,
}

impl DataName {
    /// Passes over the training images.
    pub fn epochs(self) -> f64 {
        match self {
            Self::Glyphs => 4.0,
            Self::FashionMnist => 5.0,
        }
    }

    /// Training images of each class that architectures are compared on.
    pub fn evaluation_per_class(self) -> usize {
        match self {
            Self::Glyphs => 20,
            Self::FashionMnist => 300,
        }
    }
}

impl std::fmt::Display for DataName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

impl FromStr for Data {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (name, folder) = text.split_once('=')?;
            Some(Self { name: DataName::from_str(name, true).ok()?, folder: folder.into() })
        };
        read().ok_or_else(|| "expected glyphs=DIR or fashion-mnist=DIR".into())
    }
}

/// All cells that the options ask for: seed by seed, so that what there is so far can be read as a table.
pub fn cells(options: &Options) -> Vec<Cell> {
    let rows = if options.rows.is_empty() { Row::value_variants() } else { &options.rows };
    let mut cells = Vec::new();
    for seed in 1..=options.seeds {
        for data in &options.data {
            // The smallest budget first: that is where architectures differ most.
            for &budget in options.budgets.iter().rev() {
                let cell = |&row: &Row| Cell { table: options.table.number(), data: data.name, budget, row, seed };
                cells.extend(rows.iter().map(cell));
            }
        }
    }
    cells
}
