//! What a block's time depends on, as numbers.

use elastic_layers::blocks::{Block, BlockActivation, BlockKind};
use serde::{Deserialize, Serialize};

/// Blocks whose times follow one law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Convolutions of one pixel.
    Pointwise,
    /// Other convolutions, but those below.
    Dense,
    /// Convolutions of each channel by itself.
    Depthwise,
    /// Linear layers.
    Linear,
    /// Means over each channel.
    GlobalPool,
    /// Means and maxima over windows.
    Pool,
    /// Resizes.
    Resize,
    /// Shortcuts.
    Add,
}

impl Family {
    /// All families, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Pointwise,
        Self::Dense,
        Self::Depthwise,
        Self::Linear,
        Self::GlobalPool,
        Self::Pool,
        Self::Resize,
        Self::Add,
    ];

    /// The family of a block.
    pub fn of(block: &Block) -> Self {
        match block.kind {
            BlockKind::Convolution if block.is_depthwise() => Self::Depthwise,
            BlockKind::Convolution if block.kernel.0 == [1, 1] => Self::Pointwise,
            BlockKind::Convolution => Self::Dense,
            BlockKind::Linear => Self::Linear,
            BlockKind::GlobalPool => Self::GlobalPool,
            BlockKind::AveragePool | BlockKind::MaxPool => Self::Pool,
            BlockKind::Resize => Self::Resize,
            BlockKind::Add => Self::Add,
        }
    }
}

/// Number of [`features`].
pub const FEATURES: usize = 13;

/// What the logarithm of a block's time is a function of: logarithms of its sizes, and how its channels fit into vectors
/// of 4, 8 and 16 numbers, for which runtimes have kernels and layouts of their own.
pub fn features(block: &Block) -> [f64; FEATURES] {
    let area = |[height, width]: [usize; 2]| (height as f64 * width as f64).ln();
    let fits = |channels: usize, vector: usize| f64::from(u8::from(channels.is_multiple_of(vector)));
    let waste = |channels: usize| (channels.next_multiple_of(16) as f64 / channels as f64).ln();
    let Block { inputs, outputs, .. } = *block;
    [
        (inputs as f64).ln(),
        (outputs as f64).ln(),
        area(block.size.0),
        area(block.output.0),
        area(block.kernel.0),
        (block.groups as f64).ln(),
        fits(inputs, 4),
        fits(outputs, 4),
        fits(inputs, 8),
        fits(outputs, 8),
        waste(inputs),
        waste(outputs),
        f64::from(u8::from(block.activation != BlockActivation::None)),
    ]
}

/// The logarithm of a block's work, in steps of which each takes about as long: multiply-accumulates, and elements that
/// are read and written.
pub fn log_work(block: &Block) -> f64 {
    let area = |[height, width]: [usize; 2]| height as f64 * width as f64;
    let (inputs, outputs) = (block.inputs as f64, block.outputs as f64);
    let written = outputs * area(block.output.0);
    let products = match block.kind {
        BlockKind::Convolution | BlockKind::Linear => written * inputs / block.groups as f64 * area(block.kernel.0),
        BlockKind::AveragePool | BlockKind::MaxPool => written * area(block.kernel.0),
        BlockKind::GlobalPool => inputs * area(block.size.0),
        BlockKind::Resize => 4.0 * written,
        BlockKind::Add => written,
    };
    // Starting an operator takes as long as some thousand steps.
    (products + inputs * area(block.size.0) + written + 1000.0).ln()
}
