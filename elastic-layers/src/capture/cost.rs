//! What a captured forward costs: multiply-accumulates and parameters.

use std::collections::BTreeMap;

use burn::backend::ir::{FloatOperationIr, ModuleOperationIr, NumericOperationIr, OperationIr, TensorIr};
use serde::Serialize;

use super::{CapturedModel, rearranged};
use crate::{Cost, Macs};

/// Of one number of an activation.
pub(crate) const BYTES: u64 = 4;

/// What kind of layer a [`LayerCost`] describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// A convolution of one, two or three spatial dimensions, depthwise ones included.
    Convolution,
    /// A transposed convolution.
    TransposedConvolution,
    /// A linear layer, or a matrix product with a parameter.
    Linear,
}

/// One layer that multiplies: its shapes and its cost for one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerCost {
    /// The module path, such as `blocks.0.conv`; `conv_7` when the weight is not a parameter,
    /// with the operation's position.
    pub name: String,
    /// What kind of layer it is.
    pub kind: LayerKind,
    /// The shape of its input, batch dimension included.
    pub input: Vec<usize>,
    /// The shape of its output, batch dimension included.
    pub output: Vec<usize>,
    /// The kernel size per spatial dimension; empty for a linear layer.
    pub kernel: Vec<usize>,
    /// The stride per spatial dimension; empty for a linear layer.
    pub stride: Vec<usize>,
    /// The number of groups; 1 for a linear layer.
    pub groups: usize,
    /// Multiply-accumulates for one image.
    pub macs: Macs,
    /// Elements of the weight and the bias in use.
    pub parameters: u64,
}

impl CapturedModel {
    /// The parameter that is added to every row of `product`, where one is.
    fn bias_added_to(&self, product: &TensorIr) -> Option<&TensorIr> {
        let width = product.shape.last().copied()? as u64;
        self.operations.iter().find_map(|operation| {
            let OperationIr::NumericFloat(_, NumericOperationIr::Add(op)) = operation else { return None };
            let bias = match product.id {
                id if id == op.lhs.id => &op.rhs,
                id if id == op.rhs.id => &op.lhs,
                _ => return None,
            };
            self.parameter_of(bias).filter(|parameter| parameter.elements == width).map(|_| bias)
        })
    }

    /// The layers that multiply, in execution order.
    pub fn layers(&self) -> Vec<LayerCost> {
        self.operations
            .iter()
            .enumerate()
            .filter_map(|(index, operation)| Some(Product::of(self, operation)?.cost(self, index)))
            .collect()
    }

    /// What the forward costs for one image.
    pub fn cost(&self) -> Cost {
        Cost { macs: self.macs(), parameters: self.parameters(), activation_bytes: self.activation_bytes() }
    }

    /// Multiply-accumulates of all convolutions and linear layers for one image.
    pub fn macs(&self) -> Macs {
        self.layers().iter().map(|layer| layer.macs).sum()
    }

    /// The most that one of these layers takes for its input and output together, as 32-bit numbers for one image, in
    /// bytes.
    pub fn activation_bytes(&self) -> u64 {
        let elements = |shape: &[usize]| shape.iter().product::<usize>() as u64;
        let layers = self.layers().into_iter().map(|layer| elements(&layer.input) + elements(&layer.output));
        BYTES * layers.max().unwrap_or(0) / self.batch() as u64
    }

    /// Trainable parameters that the forward uses, counted as PyTorch does: weights, biases, gamma
    /// and beta, but no running statistics. A parameter used twice counts once; of a sliced one,
    /// the slice counts.
    pub fn parameters(&self) -> u64 {
        self.used_parameters().values().sum()
    }

    /// The elements in use of every trainable parameter that the forward uses, by module path.
    pub fn used_parameters(&self) -> BTreeMap<&str, u64> {
        let mut used: BTreeMap<&str, u64> = BTreeMap::new();
        for operation in &self.operations {
            if rearranged(operation).is_some() {
                continue;
            }
            for tensor in trainable_inputs(operation) {
                if let Some(parameter) = self.parameter_of(tensor)
                    && !is_running_statistic(parameter.name)
                {
                    let elements = used.entry(parameter.name).or_default();
                    *elements = (*elements).max(parameter.elements);
                }
            }
        }
        used
    }
}

/// The inputs of an operation that may hold trainable values: all but a batch norm's statistics.
fn trainable_inputs(operation: &OperationIr) -> Vec<&TensorIr> {
    match operation {
        OperationIr::Module(ModuleOperationIr::BatchNorm(op)) => vec![&op.gamma, &op.beta],
        operation => operation.inputs().collect(),
    }
}

fn is_running_statistic(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("running_mean" | "running_var"))
}

/// An operation that multiplies activations by a weight.
struct Product<'a> {
    kind: LayerKind,
    input: &'a TensorIr,
    weight: &'a TensorIr,
    bias: Option<&'a TensorIr>,
    output: &'a TensorIr,
    stride: Vec<usize>,
    groups: usize,
}

macro_rules! convolution {
    ($kind:ident, $op:expr) => {
        Some(Product {
            kind: LayerKind::$kind,
            input: &$op.x,
            weight: &$op.weight,
            bias: $op.bias.as_ref(),
            output: &$op.out,
            stride: $op.options.stride.to_vec(),
            groups: $op.options.groups,
        })
    };
}

impl<'a> Product<'a> {
    fn of(model: &'a CapturedModel, operation: &'a OperationIr) -> Option<Self> {
        use ModuleOperationIr as Op;
        match operation {
            OperationIr::Module(Op::Conv1d(op)) => convolution!(Convolution, op),
            OperationIr::Module(Op::Conv2d(op)) => convolution!(Convolution, op),
            OperationIr::Module(Op::Conv3d(op)) => convolution!(Convolution, op),
            OperationIr::Module(Op::ConvTranspose1d(op)) => convolution!(TransposedConvolution, op),
            OperationIr::Module(Op::ConvTranspose2d(op)) => convolution!(TransposedConvolution, op),
            OperationIr::Module(Op::ConvTranspose3d(op)) => convolution!(TransposedConvolution, op),
            OperationIr::Module(Op::Linear(op)) => Some(Self::linear(&op.x, &op.weight, op.bias.as_ref(), &op.out)),
            // Burn records a linear layer as a matrix product and an addition.
            OperationIr::Float(_, FloatOperationIr::Matmul(op)) => model
                .parameter_of(&op.rhs)
                .map(|_| Self::linear(&op.lhs, &op.rhs, model.bias_added_to(&op.out), &op.out)),
            _ => None,
        }
    }

    fn linear(input: &'a TensorIr, weight: &'a TensorIr, bias: Option<&'a TensorIr>, output: &'a TensorIr) -> Self {
        let kind = LayerKind::Linear;
        Self { kind, input, weight, bias, output, stride: Vec::new(), groups: 1 }
    }

    /// Multiply-accumulates for the whole batch.
    fn macs(&self) -> u64 {
        let (positions, per_position) = match self.kind {
            // Weight [out, in / groups, k...]: every output element sums over in / groups * k.
            LayerKind::Convolution => (self.output, self.weight.shape[1..].iter().product()),
            // Weight [in, out / groups, k...]: every input element feeds out / groups * k.
            LayerKind::TransposedConvolution => (self.input, self.weight.shape[1..].iter().product()),
            LayerKind::Linear => (self.output, self.input.shape.last().copied().unwrap_or(1)),
        };
        positions.shape.num_elements() as u64 * per_position as u64
    }

    fn cost(&self, model: &CapturedModel, index: usize) -> LayerCost {
        let elements = |tensor: &TensorIr| tensor.shape.num_elements() as u64;
        let name = match model.parameter_of(self.weight) {
            Some(weight) => weight.name.strip_suffix(".weight").unwrap_or(weight.name).to_string(),
            None if self.kind == LayerKind::Linear => format!("linear_{index}"),
            None => format!("conv_{index}"),
        };
        LayerCost {
            name,
            kind: self.kind,
            input: self.input.shape.to_vec(),
            output: self.output.shape.to_vec(),
            kernel: match self.kind {
                LayerKind::Linear => Vec::new(),
                _ => self.weight.shape[2..].to_vec(),
            },
            stride: self.stride.clone(),
            groups: self.groups,
            macs: Macs(self.macs() / model.batch() as u64),
            parameters: elements(self.weight) + self.bias.map_or(0, elements),
        }
    }
}
