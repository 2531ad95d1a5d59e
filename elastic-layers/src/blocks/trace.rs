//! Blocks from the operations of a captured forward.

use std::collections::HashMap;

use burn::backend::capture::TensorId;
use burn::backend::ir::{
    ActivationOperationIr, BaseOperationIr, Conv2dOpIr, FloatOperationIr, InterpolateModeIr, ModuleOperationIr,
    NumericOperationIr, OperationIr, TensorIr,
};

use super::block::{Block, BlockActivation, BlockKind, Pair};
use super::{BlocksError, ElasticBlock};
use crate::Size;
use crate::capture::CapturedModel;

/// A captured forward, and the axes of its parameters by their paths.
pub(super) struct Tracing<'a> {
    pub(super) captured: &'a CapturedModel,
    pub(super) axes: &'a HashMap<String, Vec<Size>>,
}

/// A tensor that depends on the input.
#[derive(Clone)]
struct Value {
    channels: Size,
    size: [usize; 2],
    /// The block that computes it, if a batch norm or an activation can still become part of that.
    open: Option<usize>,
    /// The axes that a mean was taken over, and the size before.
    means: Option<(usize, [usize; 2])>,
}

/// The blocks of a forward, in execution order.
pub(super) fn blocks_of(tracing: &Tracing<'_>) -> Result<Vec<ElasticBlock>, BlocksError> {
    let [input] = &tracing.captured.inputs[..] else {
        return Err(BlocksError::Unsupported(vec![format!("{} inputs", tracing.captured.inputs.len())]));
    };
    let image = Value {
        channels: Size::Fixed(input.shape[1]),
        size: [input.shape[2], input.shape[3]],
        open: None,
        means: None,
    };
    let mut walk = Walk { tracing, values: HashMap::from([(input.id, image)]), blocks: Vec::new() };
    let mut unsupported = Vec::new();
    for operation in &tracing.captured.operations {
        // What depends on parameters alone is folded into constants.
        let depends = operation.inputs().any(|tensor| walk.values.contains_key(&tensor.id));
        if depends && walk.operation(operation).is_none() {
            unsupported.push(name_of(operation));
            for output in operation.outputs() {
                walk.unknown(output);
            }
        }
    }
    unsupported.sort();
    unsupported.dedup();
    if unsupported.is_empty() { Ok(walk.blocks) } else { Err(BlocksError::Unsupported(unsupported)) }
}

/// `Matmul` of an operation's debug form `Float(F32, Matmul(...))`.
fn name_of(operation: &OperationIr) -> String {
    let text = format!("{operation:?}");
    let end = text.find("Ir {").or_else(|| text.find('{')).unwrap_or(text.len());
    text[..end].split(['(', ' ', ',']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

struct Walk<'a> {
    tracing: &'a Tracing<'a>,
    values: HashMap<TensorId, Value>,
    blocks: Vec<ElasticBlock>,
}

/// A block that leaves its input as it is.
fn plain(kind: BlockKind, size: [usize; 2], output: [usize; 2]) -> Block {
    let one = Pair([1, 1]);
    Block {
        kind,
        activation: BlockActivation::None,
        inputs: 1,
        outputs: 1,
        groups: 1,
        size: Pair(size),
        output: Pair(output),
        kernel: one,
        stride: one,
        padding: [Pair([0, 0]); 2],
    }
}

impl Walk<'_> {
    /// Takes an operation up; nothing, if it is no part of a block.
    fn operation(&mut self, operation: &OperationIr) -> Option<()> {
        use ModuleOperationIr as Module;
        match operation {
            OperationIr::Module(Module::Conv2d(op)) => self.convolution(op),
            OperationIr::Module(Module::BatchNorm(op)) => {
                let value = self.value(&op.x)?;
                let closed = |block: &ElasticBlock| block.widest.activation != BlockActivation::None;
                let open = value.open.filter(|&open| self.blocks[open].widest.kind == BlockKind::Convolution)?;
                if closed(&self.blocks[open]) {
                    return None;
                }
                self.set(&op.out, value)
            }
            OperationIr::Module(Module::Interpolate(op)) => {
                let bilinear = matches!(op.options.mode, InterpolateModeIr::Bilinear);
                self.same_channels(BlockKind::Resize, &op.x, &op.out).filter(|()| bilinear)
            }
            OperationIr::Module(Module::AdaptiveAvgPool2d(op)) if op.output_size == [1, 1] => {
                self.same_channels(BlockKind::GlobalPool, &op.x, &op.out)
            }
            OperationIr::Module(Module::MaxPool2d(op)) if !op.ceil_mode && op.dilation == [1, 1] => {
                self.pool(BlockKind::MaxPool, &op.x, &op.out, [op.kernel_size, op.stride, op.padding])
            }
            OperationIr::Module(Module::AvgPool2d(op)) if !op.ceil_mode => {
                self.pool(BlockKind::AveragePool, &op.x, &op.out, [op.kernel_size, op.stride, op.padding])
            }
            OperationIr::Module(Module::Linear(op)) => self.linear(&op.x, &op.weight, &op.out),
            OperationIr::Float(_, FloatOperationIr::Matmul(op)) => self.linear(&op.lhs, &op.rhs, &op.out),
            OperationIr::NumericFloat(_, NumericOperationIr::Add(op)) => self.add(&op.lhs, &op.rhs, &op.out),
            OperationIr::NumericFloat(_, NumericOperationIr::MeanDim(op)) => self.mean(&op.input, op.axis, &op.out),
            OperationIr::NumericFloat(_, NumericOperationIr::Clamp(op)) => {
                let range = [op.min.elem::<f32>(), op.max.elem::<f32>()];
                let relu6 = (range == [0.0, 6.0]).then_some(BlockActivation::Relu6)?;
                self.activation(relu6, &op.tensor, &op.out)
            }
            OperationIr::Activation(ActivationOperationIr::Relu(op)) => {
                self.activation(BlockActivation::Relu, &op.input, &op.out)
            }
            OperationIr::BaseFloat(BaseOperationIr::Reshape(op)) => self.flatten(&op.input, &op.out),
            OperationIr::Drop(_) => Some(()),
            _ => None,
        }
    }

    fn value(&self, tensor: &TensorIr) -> Option<Value> {
        self.values.get(&tensor.id).cloned()
    }

    fn set(&mut self, tensor: &TensorIr, value: Value) -> Option<()> {
        self.values.insert(tensor.id, value);
        Some(())
    }

    /// Stands for the output of an operation that is not known, so that those behind it are looked at.
    fn unknown(&mut self, tensor: &TensorIr) {
        let channels = Size::Fixed(tensor.shape.get(1).copied().unwrap_or(1));
        self.values.insert(tensor.id, Value { channels, size: spatial(tensor), open: None, means: None });
    }

    /// Appends a block that computes `out`.
    fn push(&mut self, widest: Block, inputs: Size, outputs: Size, per_group: Size, out: &TensorIr) -> Option<()> {
        let open = Some(self.blocks.len());
        let groups = inputs.max() / per_group.max().max(1);
        let widest = Block { inputs: inputs.max(), outputs: outputs.max(), groups, ..widest };
        self.set(out, Value { channels: outputs.clone(), size: widest.output.0, open, means: None });
        self.blocks.push(ElasticBlock { widest, inputs, outputs, per_group });
        Some(())
    }

    fn same_channels(&mut self, kind: BlockKind, x: &TensorIr, out: &TensorIr) -> Option<()> {
        let value = self.value(x)?;
        if kind == BlockKind::GlobalPool && value.size == [1, 1] {
            // The exporter leaves out a mean over one pixel.
            return self.set(out, value);
        }
        let channels = value.channels;
        self.push(plain(kind, value.size, spatial(out)), channels.clone(), channels.clone(), channels, out)
    }

    fn axes_of(&self, weight: &TensorIr, rank: usize) -> Option<&[Size]> {
        let parameter = self.tracing.captured.parameter_of(weight)?;
        self.tracing.axes.get(parameter.name).map(Vec::as_slice).filter(|axes| axes.len() == rank)
    }

    fn convolution(&mut self, op: &Conv2dOpIr) -> Option<()> {
        let value = self.value(&op.x)?;
        let axes = self.axes_of(&op.weight, 4)?;
        let (outputs, per_group) = (axes[0].clone(), axes[1].clone());
        let kernel = [axes[2].max(), axes[3].max()];
        let [rows, columns] = op.options.padding;
        if op.options.dilation != [1, 1] {
            return None;
        }
        let block = Block {
            kernel: Pair(kernel),
            stride: Pair(op.options.stride),
            padding: [Pair([rows.0, columns.0]), Pair([rows.1, columns.1])],
            ..plain(BlockKind::Convolution, value.size, spatial(&op.out))
        };
        self.push(block, value.channels, outputs, per_group, &op.out)
    }

    fn pool(&mut self, kind: BlockKind, x: &TensorIr, out: &TensorIr, window: [[usize; 2]; 3]) -> Option<()> {
        let value = self.value(x)?;
        let [kernel, stride, padding] = window.map(Pair);
        let block = Block { kernel, stride, padding: [padding; 2], ..plain(kind, value.size, spatial(out)) };
        self.push(block, value.channels.clone(), value.channels.clone(), value.channels, out)
    }

    fn linear(&mut self, x: &TensorIr, weight: &TensorIr, out: &TensorIr) -> Option<()> {
        let value = self.value(x).filter(|_| x.shape.len() == 2)?;
        let outputs = self.axes_of(weight, 2)?[1].clone();
        let inputs = value.channels;
        self.push(plain(BlockKind::Linear, [1, 1], [1, 1]), inputs.clone(), outputs, inputs, out)
    }

    /// A shortcut, or the bias of a linear layer.
    fn add(&mut self, lhs: &TensorIr, rhs: &TensorIr, out: &TensorIr) -> Option<()> {
        match (self.value(lhs), self.value(rhs)) {
            (Some(value), Some(_)) if lhs.shape == rhs.shape => {
                let channels = value.channels;
                let block = plain(BlockKind::Add, value.size, value.size);
                self.push(block, channels.clone(), channels.clone(), channels, out)
            }
            (Some(value), None) | (None, Some(value)) => {
                let block = &self.blocks[value.open?].widest;
                let linear = block.kind == BlockKind::Linear && block.activation == BlockActivation::None;
                linear.then(|| self.set(out, value))?
            }
            _ => None,
        }
    }

    /// A mean over rows and columns, one after the other.
    fn mean(&mut self, x: &TensorIr, axis: usize, out: &TensorIr) -> Option<()> {
        let value = self.value(x).filter(|_| x.shape.len() == 4 && (2..4).contains(&axis))?;
        match value.means {
            Some((other, size)) if other != axis => {
                let whole = Value { size, means: None, ..value };
                self.set(x, whole)?;
                self.same_channels(BlockKind::GlobalPool, x, out)
            }
            None => {
                let means = Some((axis, value.size));
                self.set(out, Value { size: spatial(out), open: None, means, ..value })
            }
            Some(_) => None,
        }
    }

    fn activation(&mut self, activation: BlockActivation, x: &TensorIr, out: &TensorIr) -> Option<()> {
        let value = self.value(x)?;
        let block = &mut self.blocks[value.open?].widest;
        let fuses = matches!(block.kind, BlockKind::Convolution | BlockKind::Linear | BlockKind::Add);
        if !fuses || block.activation != BlockActivation::None {
            return None;
        }
        block.activation = activation;
        self.set(out, Value { open: None, ..value })
    }

    /// `[batch, channels, height, width]` to `[batch, features]`.
    fn flatten(&mut self, x: &TensorIr, out: &TensorIr) -> Option<()> {
        let value = self.value(x)?;
        if x.shape == out.shape {
            return self.set(out, value);
        }
        let flat = x.shape.len() == 4 && out.shape.len() == 2;
        let channels = value.channels.clone() * (value.size[0] * value.size[1]);
        flat.then(|| self.set(out, Value { channels, size: [1, 1], open: None, means: None }))?
    }
}

/// Height and width of a tensor; 1 where it has none.
fn spatial(tensor: &TensorIr) -> [usize; 2] {
    [2, 3].map(|axis| tensor.shape.get(axis).copied().unwrap_or(1))
}
