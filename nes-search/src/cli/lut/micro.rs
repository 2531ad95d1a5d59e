//! Small networks around one fused block, and the times of blocks from theirs.
//!
//! A block by itself costs more than in a network: its input has to be brought into the runtime's layout and its output
//! out of it, and the runtime has to be called. So a block stands between two operators that produce and consume
//! tensors as the blocks of a network do, an *edge*: a convolution of one pixel that makes all channels from a single
//! one, and the mean over each channel. Half of the time of the edge by itself at the block's input, and half of that at
//! its output, is taken off. Whatever share the two operators have in an edge, it cancels along a chain of blocks: what
//! one block is charged too much for its output, the next one is charged too little for its input.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{AvgPool2dConfig, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor, activation};
use elastic_layers::blocks::{Block, BlockActivation, BlockKind, Pair};
use exporters::runtime::RuntimeKind;
use exporters::{OnnxExporter, OnnxModel};
use onnx_bench::latency::{Amount, BenchOptions, BenchReport, compare};

/// Least time of a block, in ms: its measurement is a difference, which noise can bring below zero.
const LEAST_MS: f64 = 2e-4;

/// The machine keeps its speed while the 90th percentile of the reference is below this multiple of its median.
const STEADY: f64 = 1.1;

/// Measurements of something until one is steady, or the last of so many.
const TRIES: usize = 3;

/// What is measured for a block.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Micro {
    /// The two operators around a block, at so many channels of a size.
    Edge(usize, Pair),
    /// A block between them; a linear layer or a mean is at the end of a network, and has nothing behind it.
    Within(Block),
    /// A convolution of one pixel, with or without a shortcut around it, between edges.
    Shortcut(Block, bool),
    /// A linear layer by itself.
    Linear(Block),
}

/// The networks that a block's time is a sum of, with their factors.
fn terms(block: &Block) -> Vec<(f64, Micro)> {
    let before = (-0.5, Micro::Edge(block.inputs, block.size));
    let behind = (-0.5, Micro::Edge(block.outputs, block.output));
    match block.kind {
        BlockKind::Linear => {
            let smallest = Block { inputs: 1, outputs: 1, ..*block };
            vec![(1.0, Micro::Linear(*block)), (-1.0, Micro::Linear(smallest))]
        }
        // The end of an edge is such a mean.
        BlockKind::GlobalPool => vec![(0.5, Micro::Edge(block.inputs, block.size))],
        BlockKind::Add => vec![(1.0, Micro::Shortcut(*block, true)), (-1.0, Micro::Shortcut(*block, false))],
        _ => vec![(1.0, Micro::Within(*block)), before, behind],
    }
}

/// What tells how fast the machine is at the moment: a convolution that is measured in turn with everything else.
const REFERENCE: Block = Block {
    kind: BlockKind::Convolution,
    activation: BlockActivation::None,
    inputs: 48,
    outputs: 48,
    groups: 1,
    size: Pair([14, 14]),
    output: Pair([14, 14]),
    kernel: Pair([3, 3]),
    stride: Pair([1, 1]),
    padding: [Pair([1, 1]); 2],
};

/// A runtime with the files that it measures.
pub struct Bench {
    pub runtime: RuntimeKind,
    pub threads: usize,
    /// The time of the reference, in ms, that all times are brought to.
    pub reference_ms: f64,
    folder: tempfile::TempDir,
}

/// A measured network.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The median of its time, in ms.
    pub ms: f64,
    /// The speed of the machine meanwhile: the reference's time over what it took.
    pub speed: f64,
}

impl Bench {
    /// A runtime at the speed at which the reference takes a time; by default the least of some measurements now.
    pub fn new(runtime: RuntimeKind, threads: usize, reference_ms: Option<f64>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a folder for measured files")?;
        let mut bench = Self { runtime, threads, reference_ms: 1.0, folder };
        export(&Micro::Within(REFERENCE))?.save(bench.reference())?;
        bench.reference_ms = match reference_ms {
            Some(ms) => ms,
            None => {
                let time = Duration::from_millis(50);
                let reports =
                    (0..8).map(|_| bench.reports(&[bench.reference()], time)).collect::<Result<Vec<_>, _>>()?;
                reports.iter().flatten().fold(f64::INFINITY, |least, report| least.min(report.p50_ms))
            }
        };
        Ok(bench)
    }

    fn reference(&self) -> PathBuf {
        self.folder.path().join("reference.onnx")
    }

    /// The runtime's version.
    pub fn version(&self) -> anyhow::Result<String> {
        Ok(exporters::runtime::load(self.runtime, &self.reference(), self.threads)?.version())
    }

    /// What a block adds to the time of a network, in ms, at the reference's speed.
    pub fn block_ms(&self, block: &Block, time: Duration) -> anyhow::Result<f64> {
        let terms = terms(block);
        let mut paths = Vec::new();
        for (index, (_, micro)) in terms.iter().enumerate() {
            let path = self.folder.path().join(format!("{index}.onnx"));
            export(micro).with_context(|| format!("cannot export {block}"))?.save(&path)?;
            paths.push(path);
        }
        let (times, speed) = self.with_speed(paths, time)?;
        let ms: f64 = terms.iter().zip(times).map(|((factor, _), ms)| factor * ms * speed).sum();
        Ok(ms.max(LEAST_MS))
    }

    /// The time of a network.
    pub fn network(&self, model: &OnnxModel, time: Duration) -> anyhow::Result<Measured> {
        let path = self.folder.path().join("network.onnx");
        model.save(&path)?;
        let (times, speed) = self.with_speed(vec![path], time)?;
        Ok(Measured { ms: times[0], speed })
    }

    /// The medians of files, and the speed of the machine meanwhile.
    fn with_speed(&self, mut paths: Vec<PathBuf>, time: Duration) -> anyhow::Result<(Vec<f64>, f64)> {
        paths.push(self.reference());
        let mut tries = 0;
        loop {
            tries += 1;
            let mut reports = self.reports(&paths, time)?;
            let reference = reports.pop().ok_or_else(|| anyhow!("nothing was measured"))?;
            // A machine that changes its speed meanwhile has none.
            if tries == TRIES || reference.p90_ms < STEADY * reference.p50_ms {
                let times = reports.iter().map(|report| report.p50_ms).collect();
                return Ok((times, self.reference_ms / reference.p50_ms));
            }
        }
    }

    fn reports(&self, paths: &[PathBuf], time: Duration) -> anyhow::Result<Vec<BenchReport>> {
        let options = BenchOptions {
            threads: self.threads,
            warmup: Amount::Iterations(3),
            measure: Amount::Time(time),
            turn: time / 4,
            ..BenchOptions::default()
        };
        let entries: Vec<(&Path, RuntimeKind)> = paths.iter().map(|path| (path.as_path(), self.runtime)).collect();
        Ok(compare(&entries, &options, None)?)
    }
}

/// Layers with weights of a small network.
#[derive(Module, Debug)]
struct Layers {
    before: Option<Conv2d>,
    convolution: Option<Conv2d>,
    linear: Option<Linear>,
}

fn pointwise(channels: [usize; 2]) -> Conv2d {
    Conv2dConfig::new(channels, [1, 1]).init(&Device::default())
}

fn convolution(block: &Block) -> Conv2d {
    let [before, behind] = block.padding.map(|pad| pad.0);
    Conv2dConfig::new([block.inputs, block.outputs], block.kernel.0)
        .with_stride(block.stride.0)
        .with_groups(block.groups)
        .with_padding(PaddingConfig2d::Explicit(before[0], before[1], behind[0], behind[1]))
        .init(&Device::default())
}

fn export(micro: &Micro) -> anyhow::Result<OnnxModel> {
    let exporter = |[height, width]: [usize; 2]| OnnxExporter::new([1, 1, height, width]).with_symbolic_batch(false);
    let layers = |channels, convolution| Layers { before: Some(pointwise([1, channels])), convolution, linear: None };
    match *micro {
        Micro::Edge(channels, size) => {
            Ok(exporter(size.0).export(&layers(channels, None), |layers, x| pooled(entered(layers, x)))?)
        }
        Micro::Within(block) => {
            let inner = (block.kind == BlockKind::Convolution).then(|| convolution(&block));
            let forward = |layers: &Layers, x| pooled(applied(layers, &block, entered(layers, x)));
            Ok(exporter(block.size.0).export(&layers(block.inputs, inner), forward)?)
        }
        Micro::Shortcut(block, with) => {
            let inner = Some(pointwise([block.inputs, block.outputs]));
            let forward = |layers: &Layers, x| {
                let x = entered(layers, x);
                let y = convolved(layers, x.clone());
                pooled(if with { activated(x + y, block.activation) } else { y })
            };
            Ok(exporter(block.size.0).export(&layers(block.inputs, inner), forward)?)
        }
        Micro::Linear(block) => {
            let linear = LinearConfig::new(block.inputs, block.outputs).init(&Device::default());
            let layers = Layers { before: None, convolution: None, linear: Some(linear) };
            let exporter = OnnxExporter::new([1, block.inputs]).with_symbolic_batch(false);
            let forward = |layers: &Layers, x: Tensor<2>| match &layers.linear {
                Some(linear) => activated(linear.forward(x), block.activation),
                None => x,
            };
            Ok(exporter.export(&layers, forward)?)
        }
    }
}

fn entered(layers: &Layers, x: Tensor<4>) -> Tensor<4> {
    match &layers.before {
        Some(before) => before.forward(x),
        None => x,
    }
}

fn convolved(layers: &Layers, x: Tensor<4>) -> Tensor<4> {
    match &layers.convolution {
        Some(convolution) => convolution.forward(x),
        None => x,
    }
}

fn pooled(x: Tensor<4>) -> Tensor<4> {
    x.mean_dims(&[2, 3])
}

fn activated<const D: usize>(x: Tensor<D>, function: BlockActivation) -> Tensor<D> {
    match function {
        BlockActivation::None => x,
        BlockActivation::Relu => activation::relu(x),
        BlockActivation::Relu6 => x.clamp(0.0, 6.0),
    }
}

/// The operator of a block that has one input.
fn applied(layers: &Layers, block: &Block, x: Tensor<4>) -> Tensor<4> {
    let (kernel, stride, padding) = (block.kernel.0, block.stride.0, block.padding.map(|pad| pad.0));
    let padding = PaddingConfig2d::Explicit(padding[0][0], padding[0][1], padding[1][0], padding[1][1]);
    match block.kind {
        BlockKind::Convolution => activated(convolved(layers, x), block.activation),
        BlockKind::Resize => {
            let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(false);
            interpolate(x, options.with_output_size(block.output.0))
        }
        BlockKind::MaxPool => MaxPool2dConfig::new(kernel).with_strides(stride).with_padding(padding).init().forward(x),
        BlockKind::AveragePool => {
            AvgPool2dConfig::new(kernel).with_strides(stride).with_padding(padding).init().forward(x)
        }
        BlockKind::Linear | BlockKind::GlobalPool | BlockKind::Add => x,
    }
}
