//! `nes-search inspect`: a backbone's search space, one architecture of it, and what it costs.

use std::fmt::Write;
use std::path::PathBuf;

use burn::tensor::Device;
use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use elastic_layers::capture::{CapturedModel, capture};
use elastic_layers::{Architecture, Backbone, Macs, SearchSpace};
use nes_search::Blueprint;
use serde::Serialize;

/// A backbone that the command knows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BackboneName {
    /// MobileNetV2 with the strides for images of about 28 pixels.
    MobilenetV2Small,
    /// MobileNetV2 as published.
    MobilenetV2,
}

/// Prints a backbone's search space, an architecture, and its MACs and parameters for each layer.
#[derive(Args, Debug)]
#[command(after_help = "Example: nes-search inspect mobilenet-v2 --size 224 --classes 1000 --json")]
pub struct Inspect {
    /// The backbone.
    backbone: BackboneName,
    /// Height and width of the images, in pixels.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=2048))]
    size: u16,
    /// Number of classes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    classes: u32,
    /// Channels of the images; by default 3, of the small backbone 1.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    image_channels: Option<u16>,
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
    dimensions: Vec<Dimension<'a>>,
}

#[derive(Serialize)]
struct Dimension<'a> {
    #[serde(flatten)]
    dim: &'a elastic_layers::ElasticDim,
    value: usize,
}

impl Inspect {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.config();
        let image = [config.image_channels, config.image_size, config.image_size];
        let for_blueprint = config.clone();
        let blueprint = Blueprint::new(image, move |space, device| for_blueprint.init(space, device))?;
        let space = blueprint.space();
        let architecture = match &self.architecture {
            Some(path) => super::directory::read_architecture(space, path)?,
            None => space.base(),
        };
        let cost = blueprint.cost().cost(&architecture)?;
        if self.json {
            let dimensions = space.dims().iter().zip(architecture.values());
            let report = Report {
                macs: cost.macs,
                parameters: cost.parameters,
                dimensions: dimensions.map(|(dim, &value)| Dimension { dim, value }).collect(),
            };
            return super::print_json(&report);
        }
        let captured = captured(&config, &architecture, image)?;
        super::print(&table(space, &architecture, &captured)?)
    }

    fn config(&self) -> MobileNetV2Config {
        let (size, classes) = (usize::from(self.size), self.classes as usize);
        let channels = |default| self.image_channels.map_or(default, usize::from);
        match self.backbone {
            BackboneName::MobilenetV2Small => MobileNetV2Config::small(channels(1), size, classes),
            BackboneName::MobilenetV2 => {
                let published = MobileNetV2Config::imagenet(classes);
                // Table 4 of the paper: 96 to 224 pixels; of another size, the same share of it.
                let min_resolution = (size * published.min_resolution).div_ceil(published.image_size);
                MobileNetV2Config { image_channels: channels(3), image_size: size, min_resolution, ..published }
            }
        }
    }
}

/// The static network's forward, initialised where nothing is computed.
fn captured(
    config: &MobileNetV2Config,
    architecture: &Architecture,
    [channels, height, width]: [usize; 3],
) -> anyhow::Result<CapturedModel> {
    // A first build says whether there is anything to capture.
    let build = |device: &Device| config.init(&mut SearchSpace::pinned(architecture), device);
    build(&Device::default())?;
    let build = |device: &Device| build(device).expect("it was built before");
    Ok(capture([1, channels, height, width], build, |model: &MobileNetV2, images| model.forward(images))?)
}

fn table(space: &SearchSpace, architecture: &Architecture, captured: &CapturedModel) -> anyhow::Result<String> {
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
