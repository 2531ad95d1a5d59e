//! What a fused block is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a [`Block`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockKind {
    /// A convolution, with the batch norm behind it folded in.
    Convolution,
    /// A linear layer.
    Linear,
    /// The mean over each channel.
    GlobalPool,
    /// Means over windows.
    AveragePool,
    /// Maxima over windows.
    MaxPool,
    /// A bilinear resize.
    Resize,
    /// The sum of two tensors: a shortcut.
    Add,
}

/// The function at the end of a [`Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockActivation {
    /// None.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

/// What an exported file computes in one go: an operator with the batch norm and the activation behind it, and all sizes
/// that its time depends on. Two blocks with the same sizes take the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// What it computes.
    pub kind: BlockKind,
    /// The function at its end.
    pub activation: BlockActivation,
    /// Channels of its input; features, of a linear layer.
    pub inputs: usize,
    /// Channels of its output.
    pub outputs: usize,
    /// Groups of a convolution; 1 for the others.
    pub groups: usize,
    /// Height and width of its input; 1 for a linear layer.
    pub size: Pair,
    /// Height and width of its output.
    pub output: Pair,
    /// Height and width of its window; 1 where there is none.
    pub kernel: Pair,
    /// Steps of the window, down and to the right; 1 where there is none.
    pub stride: Pair,
    /// Padding before the first row and column, and behind the last ones: 0 where there is none.
    pub padding: [Pair; 2],
}

impl Block {
    /// The largest number in a block that is taken from a file: more is a damaged file.
    pub const LARGEST: usize = 1 << 20;

    /// Whether a network can contain the block: no size is 0, and the output is what the window makes of the input.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        let Self { inputs, outputs, groups, size, output, kernel, stride, padding, .. } = self;
        let numbers = [&[*inputs, *outputs, *groups][..], &size.0, &output.0, &kernel.0, &stride.0].concat();
        let in_range = |number: &&usize| !(1..=Self::LARGEST).contains(*number);
        if let Some(found) = numbers.iter().find(in_range) {
            return Err(format!("expected sizes of 1 to {}, found {found}", Self::LARGEST));
        }
        if padding.iter().flat_map(|pad| pad.0).any(|pad| pad > Self::LARGEST) {
            return Err(format!("expected a padding of at most {}", Self::LARGEST));
        }
        let elements =
            [inputs * size.0[0], outputs * output.0[0]].map(|rows| rows.saturating_mul(size.0[1].max(output.0[1])));
        if elements.iter().any(|&elements| elements > 1 << 30) {
            return Err("expected at most 2^30 elements in a tensor".into());
        }
        if !inputs.is_multiple_of(*groups) || !outputs.is_multiple_of(*groups) {
            return Err(format!("expected channels in {groups} equal groups, found {inputs} and {outputs}"));
        }
        let windowed = match self.kind {
            BlockKind::Convolution | BlockKind::AveragePool | BlockKind::MaxPool => {
                let padded = |axis: usize| size.0[axis] + padding[0].0[axis] + padding[1].0[axis];
                if let Some(axis) = [0, 1].into_iter().find(|&axis| padded(axis) < kernel.0[axis]) {
                    return Err(format!("expected a window of at most {}, found {}", padded(axis), kernel.0[axis]));
                }
                Pair([0, 1].map(|axis| (padded(axis) - kernel.0[axis]) / stride.0[axis] + 1))
            }
            BlockKind::Linear | BlockKind::GlobalPool => Pair([1, 1]),
            BlockKind::Resize => *output,
            BlockKind::Add => *size,
        };
        if windowed != *output {
            return Err(format!("expected an output of {windowed}, found {output}"));
        }
        let same_channels = !matches!(self.kind, BlockKind::Convolution | BlockKind::Linear);
        if same_channels && (inputs != outputs || *groups != 1) {
            return Err(format!("expected as many outputs as inputs in 1 group, found {inputs}, {outputs}, {groups}"));
        }
        if self.kind == BlockKind::Linear && *size != Pair([1, 1]) {
            return Err(format!("expected a size of 1x1, found {size}"));
        }
        Ok(())
    }

    /// Whether it is a convolution of each channel by itself.
    pub fn is_depthwise(&self) -> bool {
        self.kind == BlockKind::Convolution && self.groups > 1 && self.groups == self.inputs
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inputs, outputs, groups, size, output, kernel, stride, .. } = self;
        let kind = match self.kind {
            BlockKind::Convolution => "convolution",
            BlockKind::Linear => "linear",
            BlockKind::GlobalPool => "global-pool",
            BlockKind::AveragePool => "average-pool",
            BlockKind::MaxPool => "max-pool",
            BlockKind::Resize => "resize",
            BlockKind::Add => "add",
        };
        write!(f, "{kind} {inputs}x{size} -> {outputs}x{output}")?;
        if *kernel != Pair([1, 1]) || *stride != Pair([1, 1]) {
            write!(f, ", window {kernel}, stride {stride}")?;
        }
        if *groups > 1 {
            write!(f, ", groups {groups}")?;
        }
        match self.activation {
            BlockActivation::None => Ok(()),
            BlockActivation::Relu => f.write_str(", relu"),
            BlockActivation::Relu6 => f.write_str(", relu6"),
        }
    }
}

/// Height and width, in files as `28x28`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pair(pub [usize; 2]);

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.0[0], self.0[1])
    }
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let numbers = text.split_once('x').and_then(|(first, second)| Some([number(first)?, number(second)?]));
        numbers.map(Self).ok_or_else(|| format!("expected a height and a width, such as 28x28, found {text:?}"))
    }
}

impl TryFrom<String> for Pair {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pair> for String {
    fn from(pair: Pair) -> Self {
        pair.to_string()
    }
}
