//! `nes-search inspect`: a backbone's search space, one architecture of it, and what it costs.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::Device;
use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use elastic_layers::capture::{CapturedModel, capture};
use elastic_layers::{Architecture, Backbone, Macs, SearchSpace, SpaceError};
use nes_search::data::ImageData;
use nes_search::latency::LatencyTable;
use nes_search::{AnyBackbone, BackboneName, BackboneSettings, Blueprint, Budget, Preset, Room};
use serde::Serialize;

use super::options::read_config;

/// Prints a backbone's search space, an architecture, and its MACs and parameters for each layer.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nes-search inspect mobilenet-v2 --size 224 --classes 1000 --json
  nes-search inspect --config mine.toml         the backbone, the images and the budget of a configuration")]
pub struct Inspect {
    /// The backbone.
    #[arg(required_unless_present = "config", requires_all = ["size", "classes"])]
    backbone: Option<BackboneName>,
    /// A configuration file, whose backbone, images and budget are taken.
    #[arg(long, value_name = "FILE", conflicts_with = "backbone")]
    config: Option<PathBuf>,
    /// Height and width of the images, in pixels.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=2048))]
    size: Option<u16>,
    /// Number of classes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    classes: Option<u32>,
    /// Channels of the images; by default 3, of a small MobileNet 1.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    image_channels: Option<u16>,
    /// What the smallest network is held against: a fraction of the backbone's MACs, or MACs; by default all of them.
    #[arg(long, value_name = "BUDGET")]
    budget: Option<Budget>,
    /// The architecture to show; by default the backbone itself.
    #[arg(long, value_name = "FILE")]
    architecture: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    macs: Macs,
    parameters: u64,
    smallest_of_budget: Room,
    dimensions: Vec<Dimension<'a>>,
}

#[derive(Serialize)]
struct Dimension<'a> {
    #[serde(flatten)]
    dim: &'a elastic_layers::ElasticDim,
    value: usize,
}

/// What is inspected.
struct Subject {
    backbone: BackboneSettings,
    /// Channels, height and width.
    image: [usize; 3],
    classes: usize,
    budget: Budget,
    table: Option<LatencyTable>,
}

impl Inspect {
    pub fn run(self) -> anyhow::Result<()> {
        let Subject { backbone, image, classes, budget, table } = self.subject()?;
        let build = move |space: &mut SearchSpace, device: &Device| backbone.init(image, classes, space, device);
        let blueprint = Blueprint::new(image, build.clone())?;
        let space = blueprint.space();
        let architecture = match &self.architecture {
            Some(path) => super::directory::read_architecture(space, path)?,
            None => space.base(),
        };
        let cost = blueprint.cost().cost(&architecture)?;
        let limits = blueprint.limits_by(budget, &[], table.as_ref())?;
        let room = Room::new(space, limits.budget())?;
        if self.json {
            let dimensions = space.dims().iter().zip(architecture.values());
            let report = Report {
                macs: cost.macs,
                parameters: cost.parameters,
                smallest_of_budget: room,
                dimensions: dimensions.map(|(dim, &value)| Dimension { dim, value }).collect(),
            };
            return super::print_json(&report);
        }
        let captured = captured(build, &architecture, image)?;
        super::print(&format!("{}{limits}\n{room}\n", text(space, &architecture, &captured)?))
    }

    fn subject(&self) -> anyhow::Result<Subject> {
        let (size, classes) = (self.size.map(usize::from), self.classes.map(|classes| classes as usize));
        let channels = self.image_channels.map(usize::from);
        if let (Some(backbone), Some(size), Some(classes)) = (self.backbone, size, classes) {
            let image = [channels.unwrap_or(backbone.image_channels()), size, size];
            let budget = self.budget.unwrap_or(Budget::Fraction(1.0));
            return Ok(Subject { backbone: backbone.into(), image, classes, budget, table: None });
        }
        let path = self.config.as_deref().context("expected a backbone or --config")?;
        let config = read_config(Preset::default(), path)?;
        let data = match &config.data {
            Some(directory) => ImageData::open(directory, config.image_size)?,
            None => ImageData::embedded().of_size(config.image_size)?,
        };
        let [_, own_channels, height, width] = data.train.shape();
        Ok(Subject {
            backbone: config.backbone,
            image: [channels.unwrap_or(own_channels), size.unwrap_or(height), size.unwrap_or(width)],
            classes: classes.unwrap_or(data.class_names.len()),
            budget: self.budget.unwrap_or(config.budget),
            table: config.latency_table.as_deref().map(LatencyTable::read).transpose()?,
        })
    }
}

/// The static network's forward, initialised where nothing is computed.
fn captured(
    build: impl Fn(&mut SearchSpace, &Device) -> Result<AnyBackbone, SpaceError>,
    architecture: &Architecture,
    [channels, height, width]: [usize; 3],
) -> anyhow::Result<CapturedModel> {
    // A first build says whether there is anything to capture.
    let build = |device: &Device| build(&mut SearchSpace::pinned(architecture), device);
    build(&Device::default())?;
    let build = |device: &Device| build(device).expect("it was built before");
    Ok(capture([1, channels, height, width], build, |model: &AnyBackbone, images| model.forward(images))?)
}

fn text(space: &SearchSpace, architecture: &Architecture, captured: &CapturedModel) -> anyhow::Result<String> {
    let mut text = format!("{space}\n\n{architecture}\n\n");
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["layer", "input", "output", "MACs", "parameters"]);
    for layer in captured.layers() {
        table.add_row([
            layer.name.clone(),
            shape(&layer.input),
            shape(&layer.output),
            layer.macs.0.to_string(),
            layer.parameters.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(text, "{table}\n")?;
    writeln!(text, "MACs {} (convolutions and linear layers, one image)", captured.macs().0)?;
    writeln!(text, "parameters {} (trainable, batch norms included)", captured.parameters())?;
    Ok(text)
}

/// A shape without its batch axis, as `16x14x14`.
fn shape(shape: &[usize]) -> String {
    shape.iter().skip(1).map(usize::to_string).collect::<Vec<_>>().join("x")
}
