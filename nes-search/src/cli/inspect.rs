//! `nes-search inspect`: a backbone's search space, one architecture of it, and what it costs.

use std::fmt::Write;
use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use elastic_layers::capture::{CapturedModel, capture};
use elastic_layers::{Architecture, Backbone, Macs, SearchSpace, SpaceError};
use nes_search::{AnyBackbone, BackboneName, Blueprint};
use serde::Serialize;

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
    /// Channels of the images; by default 3, of a small MobileNet 1.
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
        let (backbone, classes) = (self.backbone, self.classes as usize);
        let channels = self.image_channels.map_or(backbone.image_channels(), usize::from);
        let image = [channels, self.size.into(), self.size.into()];
        let build = move |space: &mut SearchSpace, device: &Device| backbone.init(image, classes, space, device);
        let blueprint = Blueprint::new(image, build)?;
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
        let captured = captured(build, &architecture, image)?;
        super::print(&table(space, &architecture, &captured)?)
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
